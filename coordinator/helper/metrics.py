"""What `/metrics` of a helper tells.  Pure.

Only how much there was: no agent, no site, no number of a model.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from coordinator.helper.counting import Figures
from coordinator.helper.store import Known
from wire.exposition import Kind, Sample, family

_RESULTS = ("accepted", "refused")


def metric_lines(
    figures: Figures, known: Known, counts: dict[str, int], alarms: Iterable[tuple[str, str, int]]
) -> Iterator[str]:
    """All families.

    Args:
      figures: of this run.
      known: what the store says of itself.
      counts: of the store's reports.
      alarms: of the store.
    """
    yield from _one("connected", "gauge", "1 while it is connected.", figures.is_up)
    text = "1 when the store is an old copy: it endorses nothing any more."
    yield from _one("restored", "gauge", text, bool(known.restored))
    yield from _one("session", "gauge", "Connections of this store so far.", known.session)
    yield from _one("endorsed_manifests", "gauge", "Manifests it promised to.", known.endorsed)
    states = [({"state": name}, float(number)) for name, number in counts.items()]
    text = "Reports in the store, and sums whose masks were given."
    yield from _family("reports", "gauge", text, states)
    for name, counter, text in (
        ("verdicts", figures.verdicts, "Reports it was shown."),
        ("endorsements", figures.endorsements, "Manifests it was shown."),
        ("releases", figures.releases, "Masks it was asked for."),
    ):
        yield from _family(f"{name}_total", "counter", text, _results(counter))
    ignored = [({"topic": topic}, float(number)) for topic, number in figures.ignored.items()]
    text = "Messages that deserved no answer."
    yield from _family("ignored_messages_total", "counter", text, ignored or [({}, 0.0)])
    yield from _one("masks_bytes_total", "counter", "Masks published.", figures.masks_bytes)
    text = "Time that sums of masks took."
    yield from _one("computing_seconds_total", "counter", text, figures.computing_s)
    found = [({"kind": kind}, float(number)) for kind, _, number in alarms]
    text = "What an operator should look at: journeyman-helper status."
    yield from _family("alarms_total", "counter", text, found or [({}, 0.0)])


def _results(counter: Counter[str]) -> list[Sample]:
    return [({"result": result}, float(counter[result])) for result in _RESULTS]


def _one(name: str, kind: Kind, text: str, value: float) -> Iterator[str]:
    return _family(name, kind, text, [({}, float(value))])


def _family(name: str, kind: Kind, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    return family(f"journeyman_helper_{name}", kind, text, samples)
