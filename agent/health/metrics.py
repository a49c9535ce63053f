"""What `/metrics` tells: the agent's work in figures.  Pure.

A name ends in `_total` if and only if the figure can not fall while the process lives, so that
`rate()` is right.  Labels hold words of our own and what the configuration names: tasks, sources,
outputs, channels; no agent and no site, which the one who asks knows by the address.  All of them
are bounded in number, and with them the size of the answer.

Refuses to tell what was measured or scored: figures about the work go to monitoring systems, and
those may be far away from the plant.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agent.budget import BudgetReport
from agent.devices import DeviceReport
from agent.privacy import PrivacyReport
from agent.samples import StoreCounters
from agent.serve.score import OK
from agent.signals.quality import ChannelQuality
from agent.status import Status
from wire.exposition import Kind, Sample, distinct, family

_OUTCOMES: Final = ("folded", "refused", "void", "dropped")
_OPEN: Final = ("pending", "committed")
_MOST_SOURCES: Final = 200
_MOST_COUNTERS: Final = 50
"""Of one source, and reasons of the store; the drivers know about ten."""
_MICROSECONDS: Final = 1e6


def status_lines(status: Status, software: str) -> Iterator[str]:
    """Families of what the status says, without channels.

    Args:
      status: as the status file has it.
      software: name and version of this program.
    """
    info = {"federation": status.federation, "software": software}
    yield from _family("info", "gauge", "What this is.", [(info, 1)])
    yield from _samples(status)
    yield from _sources(status)
    if status.store is not None:
        yield from _store(status.store)
    yield from _learning(status)
    if status.budget is not None:
        yield from _budget(status.budget)
    yield from _privacy(status.privacy or PrivacyReport())
    yield from _scores(status)
    if status.devices:
        yield from _devices(status.devices)


def channel_lines(channels: Sequence[ChannelQuality], most: int) -> Iterator[str]:
    """Families of channels, in figures about their samples, never their values.

    Args:
      channels: all.
      most: so many, the first ones, have figures of their own.
    """
    shown = channels[:most]
    names = distinct(channel.name for channel in shown)
    labels = [{"channel": name} for name in names]
    yield from _one("channels", "gauge", "Configured channels.", len(channels))
    yield from _one("channels_shown", "gauge", "Those with figures of their own.", len(shown))
    skewed = sum(channel.is_skewed for channel in channels)
    yield from _one("channels_skewed", "gauge", "Those whose source's clock is off.", skewed)
    counters = (
        ("samples", "Samples, Bad ones too.", [each.samples for each in shown]),
        ("bad_samples", "Samples that were not usable.", [each.bad for each in shown]),
        ("uncertain_samples", "Samples of Uncertain quality.", [each.uncertain for each in shown]),
        ("lost_samples", "Samples that are known to be missing.", [each.lost for each in shown]),
        ("gaps", "How often samples are or may be missing.", [each.gaps for each in shown]),
    )
    for name, text, values in counters:
        rows = zip(labels, values, strict=True)
        yield from _family(f"channel_{name}_total", "counter", text, rows)
    newest = [
        (label, each.source_timestamp_us / _MICROSECONDS)
        for label, each in zip(labels, shown, strict=True)
        if each.source_timestamp_us is not None
    ]
    text = "Newest source timestamp, Unix time."
    yield from _family("channel_timestamp_seconds", "gauge", text, newest)
    skews = [
        (label, each.skew_s)
        for label, each in zip(labels, shown, strict=True)
        if each.skew_s is not None
    ]
    text = "By how much the source's clock is behind this one at most; negative: ahead."
    yield from _family("channel_clock_skew_seconds", "gauge", text, skews)


def _family(name: str, kind: Kind, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    return family(f"journeyman_agent_{name}", kind, text, samples)


def _one(name: str, kind: Kind, text: str, value: float | None) -> Iterator[str]:
    """A family of one sample; none where there is no such figure now."""
    return _family(name, kind, text, [] if value is None else [({}, value)])


def _samples(status: Status) -> Iterator[str]:
    counters = (
        ("samples", "Samples that came.", status.samples),
        ("uncertain_samples", "Samples of Uncertain quality.", status.uncertain),
        ("bad_samples", "Samples that were not usable.", status.bad),
        ("gaps", "How often samples are or may be missing.", status.gaps),
        ("late_samples", "Samples that came after their row was cut.", status.late),
        ("incomplete_rows", "Rows for which channels were missing.", status.incomplete_rows),
        ("dropped_rows", "Rows that nobody could take in time.", status.rows_dropped),
        ("unkept_rows", "Rows that the disk did not take.", status.rows_not_kept),
    )
    for name, text, value in counters:
        yield from _one(f"{name}_total", "counter", text, value)
    yield from _one("history_rows", "gauge", "Rows in the history.", status.rows)
    clocks_ok = status.clocks == OK
    yield from _one("clocks_ok", "gauge", "1 while no source's clock is off.", clocks_ok)
    storage_ok = status.storage == OK
    yield from _one("storage_ok", "gauge", "1 while disk and files are well.", storage_ok)


def _sources(status: Status) -> Iterator[str]:
    sources = status.sources[:_MOST_SOURCES]
    labels = [{"source": name} for name in distinct(source.name for source in sources)]
    well = [(label, float(each.is_well)) for label, each in zip(labels, sources, strict=True)]
    text = "1 while the source gives what it should."
    yield from _family("source_well", "gauge", text, well)
    problems = [(label, len(each.problems)) for label, each in zip(labels, sources, strict=True)]
    text = "Channels, devices and other things of the source that are not well."
    yield from _family("source_problems", "gauge", text, problems)
    events = [
        ({**label, "event": event}, each.counters[event])
        for label, each in zip(labels, sources, strict=True)
        for event in sorted(each.counters)[:_MOST_COUNTERS]
    ]
    text = "What happened at the source, by the names in its driver's README.md."
    yield from _family("source_events_total", "counter", text, events)


def _store(store: StoreCounters) -> Iterator[str]:
    yield from _one("store_samples_total", "counter", "Samples put in the store.", store.stored)
    lost = [({"reason": reason}, store.lost[reason]) for reason in sorted(store.lost)]
    text = "Samples that did not come into the store, or were damaged in it."
    yield from _family("store_lost_samples_total", "counter", text, lost[:_MOST_COUNTERS])
    gauges = (
        ("waiting_samples", "Samples that wait for the disk.", store.waiting),
        ("bytes", "Bytes of the store's files.", store.bytes_used),
        ("written_today_bytes", "Bytes given to the disk today, UTC.", store.written_today),
        ("damaged_files", "Files that were damaged.", store.damaged),
    )
    for name, text, value in gauges:
        yield from _one(f"store_{name}", "gauge", text, value)
    oldest = None if store.oldest_us is None else store.oldest_us / _MICROSECONDS
    text = "Source timestamp at which it begins, Unix time."
    yield from _one("store_oldest_timestamp_seconds", "gauge", text, oldest)


def _learning(status: Status) -> Iterator[str]:
    gauges = (
        ("link_up", "1 while connected to the broker.", status.link == "up"),
        ("coordinator_online", "1 while it is.", status.coordinator == "online"),
        ("session", "Number of the connection, over restarts.", status.session),
        ("training", "1 while training.", status.learning == "training"),
        ("head_sequence", "Sequence of the head in use; 0: none yet.", status.head),
        ("train_version", "Version that is trained from.", status.train_version),
        ("serve_version", "Version that is served, or would be.", status.serve_version),
        ("base_version", "Version that the last update was made from.", status.base_version),
    )
    for name, text, value in gauges:
        yield from _one(name, "gauge", text, value)
    text = "When the certificate for the broker ends, Unix time."
    ends = status.certificate_ends
    yield from _one("certificate_expiry_timestamp_seconds", "gauge", text, ends)
    yield from _one("revoked", "gauge", "1 once the authority revoked it.", bool(status.revoked))
    serving = [({"model": status.serving}, 1)] if status.serve_version is not None else []
    yield from _family("serving", "gauge", "Kind of the model that scores.", serving)
    closed = [({"outcome": each}, status.outcomes.get(each, 0)) for each in _OUTCOMES]
    yield from _family("updates_total", "counter", "Client updates by outcome.", closed)
    waiting = [({"state": each}, status.outcomes.get(each, 0)) for each in _OPEN]
    text = "Client updates in the outbox: pending, or with the coordinator and not folded yet."
    yield from _family("updates_open", "gauge", text, waiting)


def _budget(budget: BudgetReport) -> Iterator[str]:
    withheld = bool(budget.reason)
    yield from _one("training_withheld", "gauge", "1 while the gateway can not spare it.", withheld)
    seconds = [({"reason": kind}, budget.withheld_s[kind]) for kind in sorted(budget.withheld_s)]
    text = "How long the gateway could not spare a training, by reason."
    yield from _family("training_withheld_seconds_total", "counter", text, seconds)
    gauges = (
        ("temperature_celsius", "Of the hottest thermal zone.", budget.temperature_c),
        ("load_per_core", "Load of others than training.", budget.load_per_core),
        ("free_memory_bytes", "Of the machine or the service.", budget.free_memory_bytes),
    )
    for name, text, value in gauges:
        yield from _one(name, "gauge", text, value)
    percents = sorted(budget.pressure_percent.items())
    shares = [({"resource": resource}, percent / 100) for resource, percent in percents]
    text = "Share of the time in which others than training wait for it."
    yield from _family("pressure", "gauge", text, shares)


def _privacy(privacy: PrivacyReport) -> Iterator[str]:
    gauges = (
        ("epsilon", "Spent on client updates so far, at the site's delta.", privacy.epsilon),
        ("epsilon_budget", "That this site allows; 0: no limit.", privacy.budget),
        ("refused", "1 while no update is made because of it.", bool(privacy.refused)),
    )
    for name, text, value in gauges:
        yield from _one(f"privacy_{name}", "gauge", text, value)
    text = "Client updates that were charged."
    yield from _one("privacy_releases_total", "counter", text, privacy.releases)


def _scores(status: Status) -> Iterator[str]:
    yield from _one("scores_total", "counter", "Scores that were made.", status.scored)
    yield from _one("alarms_total", "counter", "Scores that reached the threshold.", status.alarms)
    outputs = status.outputs[:_MOST_SOURCES]
    labels = [{"output": name} for name in distinct(output.name for output in outputs)]
    sent = [(label, each.sent) for label, each in zip(labels, outputs, strict=True)]
    yield from _family("output_scores_total", "counter", "Scores that arrived there.", sent)
    dropped = [(label, each.dropped) for label, each in zip(labels, outputs, strict=True)]
    text = "Scores that did not, because it was away or too slow."
    yield from _family("output_dropped_scores_total", "counter", text, dropped)
    problems = [(label, len(each.problems)) for label, each in zip(labels, outputs, strict=True)]
    text = "Nodes and other things of the output that are not well."
    yield from _family("output_problems", "gauge", text, problems)


def _devices(devices: Sequence[DeviceReport]) -> Iterator[str]:
    """Microcontrollers with a model; how far apart scores are is told in bounds, not in values."""
    shown = devices[:_MOST_SOURCES]
    labels = [{"device": name} for name in distinct(device.name for device in shown)]
    pairs = list(zip(labels, shown, strict=True))
    confirmed = [(label, float(each.stage == "confirmed")) for label, each in pairs]
    text = "1 while the device runs a confirmed model of this agent."
    yield from _family("device_confirmed", "gauge", text, confirmed)
    compared = [(label, each.compared) for label, each in pairs]
    text = "Scores of the device's model that were compared."
    yield from _family("device_compared_scores_total", "counter", text, compared)
    differing = [(label, each.rows - each.bits_equal) for label, each in pairs]
    text = "Newest compared scores that differ from the int8 reference."
    yield from _family("device_differing_scores", "gauge", text, differing)
    shares = [(label, each.largest / each.bound) for label, each in pairs if each.bound]
    text = "Largest difference from the float model among the newest scores, over its bound."
    yield from _family("device_difference_ratio", "gauge", text, shares)
    rejected = [(label, each.rejections) for label, each in pairs]
    text = "Models that were refused or taken back."
    yield from _family("device_rejections_total", "counter", text, rejected)
