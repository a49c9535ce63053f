"""`/metrics`: a view in Prometheus' text format 0.0.4.

Format: prometheus.io/docs/instrumenting/exposition_formats.  A name ends in `_total` if and only if
the figure can not fall, so that `rate()` is right; what comes of a table that shrinks is a gauge.
Labels hold only words of our own (models, verdicts, statuses), never an agent's name: their number
is bounded, and with it the size of the answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from coordinator.view import View
from wire.exposition import CONTENT_TYPE, escaped, line

__all__ = ["CONTENT_TYPE", "metrics_text"]

_STALENESS: Final = (0, 1, 2, 3, 5, 8, 13, 20, 50, 100)
"""Upper bounds of the histogram's buckets, in versions; a staleness cap is 20 by default."""
_TERMINAL: Final = ("folded", "refused", "void", "dropped")
_STATUSES: Final = ("online", "offline")

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


def metrics_text(view: View) -> str:
    """The whole answer; ends with a newline, as the format asks for."""
    lines = [
        *_state(view),
        *_updates(view),
        *_staleness(view.updates.staleness),
        *_quality(view),
        *_events(view),
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP journeyman_{name} {escaped(text)}"
    yield f"# TYPE journeyman_{name} {kind}"
    for labels, value in samples:
        yield _line(name, labels, value)


def _line(name: str, labels: Labels, value: float) -> str:
    return line(f"journeyman_{name}", labels, value)


def _one(name: str, kind: str, text: str, value: float | None) -> Iterator[str]:
    """A family of one sample; none where there is no such figure now."""
    return _family(name, kind, text, [] if value is None else [({}, value)])


def _state(view: View) -> Iterator[str]:
    about, buffer = view.about, view.buffer
    labels = {"federation": about.federation, "bundle": about.bundle, "strategy": about.strategy}
    labels["revision"] = str(about.revision)
    yield from _family("info", "gauge", "What is learned, and how.", [(labels, 1)])
    yield from _one("version", "gauge", "Newest version.", view.version)
    yield from _one(
        "version_timestamp_seconds", "gauge", "When it was made, Unix time.", view.version_at
    )
    yield from _one("serve_version", "gauge", "Version that is served.", view.serve)
    yield from _one("candidate_version", "gauge", "Version that is judged.", view.candidate)
    yield from _one("lineage", "gauge", "Present lineage.", view.lineage)
    yield from _one("head_sequence", "gauge", "Sequence of the head.", view.head)
    yield from _one("runs_total", "counter", "Starts of the coordinator.", view.run)
    is_open = float(view.training == "open")
    yield from _one("training_open", "gauge", "1 while agents may train.", is_open)
    yield from _one("buffer_members", "gauge", "Updates in the buffer.", buffer.members)
    yield from _one("buffer_goal", "gauge", "Updates that complete it.", buffer.goal)
    age = max(0.0, view.read_at - buffer.oldest_at) if buffer.oldest_at is not None else 0.0
    yield from _one("buffer_age_seconds", "gauge", "Age of the oldest update in it.", age)
    statuses = {**dict.fromkeys(_STATUSES, 0), **view.statuses}
    agents: list[Sample] = [({"status": key}, number) for key, number in statuses.items()]
    yield from _family("agents", "gauge", "Known agents by the state of their link.", agents)
    yield from _one("sites", "gauge", "Distinct sites of known agents.", view.site_count)
    yield from _one("view_read_seconds", "gauge", "Time to read the database.", view.read_s)


def _updates(view: View) -> Iterator[str]:
    samples: list[Sample] = [
        ({"outcome": outcome}, view.updates.outcomes.get(outcome, 0)) for outcome in _TERMINAL
    ]
    yield from _family("updates_total", "counter", "Client updates by outcome.", samples)
    duplicates = view.updates.duplicates
    yield from _one("duplicates_total", "counter", "Updates offered again.", duplicates)


def _staleness(found: Mapping[int, int]) -> Iterator[str]:
    """A histogram whose buckets are cumulative, as the format wants them."""
    text = "Versions between an update's base and its folding."
    yield from _family("staleness_versions", "histogram", text, [])
    total = sum(found.values())
    for bound in _STALENESS:
        number = sum(n for staleness, n in found.items() if staleness <= bound)
        yield _line("staleness_versions_bucket", {"le": str(bound)}, number)
    yield _line("staleness_versions_bucket", {"le": "+Inf"}, total)
    summed = sum(staleness * number for staleness, number in found.items())
    yield _line("staleness_versions_sum", {}, summed)
    yield _line("staleness_versions_count", {}, total)


def _quality(view: View) -> Iterator[str]:
    quality = view.quality
    newest = [
        point
        for model in ("train", "candidate", "serve", "chosen")
        if (point := quality.newest(model, view.serve if model in ("serve", "chosen") else None))
    ]
    values: list[Sample] = [
        ({"model": point.model, "metric": quality.metric}, point.value) for point in newest
    ]
    text = "Newest quality on the sites' held-out rows, pooled over the sites that reported."
    yield from _family("quality", "gauge", text, values)
    sites: list[Sample] = [({"model": point.model}, point.sites) for point in newest]
    yield from _family("quality_sites", "gauge", "Sites behind that figure.", sites)


def _events(view: View) -> Iterator[str]:
    verdicts: list[Sample] = [({"verdict": key}, n) for key, n in sorted(view.verdicts.items())]
    text = "Decisions about candidates and rollbacks, by verdict."
    yield from _family("gate_decisions_total", "counter", text, verdicts)
    alarms: list[Sample] = [({"kind": key}, n) for key, n in sorted(view.alarm_counts.items())]
    yield from _family("alarms_total", "counter", "Alarms raised, by kind.", alarms)
