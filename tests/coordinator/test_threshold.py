"""Thresholds of alarms: what the counts of all sites say, and that a federation follows them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.federation import Federation
from coordinator.store import Store
from coordinator.threshold import (
    LEAST_COUNTED,
    error_of_share,
    renewed,
    threshold_of,
    words_of,
)
from tests.coordinator.secure_world import HELPERS, World
from tests.coordinator.small_federation import (
    MANIFEST,
    Site,
    enrol,
    evaluation,
    open_federation,
)
from wire.bins import error_border, error_place, score_border, score_place
from wire.errors import MalformedError
from wire.evaluation import add, evaluate, evaluate_reconstruction
from wire.manifest import Alarm
from wire.messages import BINS, Evaluation, Report
from wire.tally import Tally, tally_of

DIGEST = bytes(32)
COST, SHARE = Alarm(missed_cost=20.0, false_cost=1.0), Alarm(share=0.01)
GATED = "[strategy]\ngoal = 2\n[gate]\nevery = 1\nquorum = 2\npatience = 99\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def _binary(seed: int, rows: int, quality: float = 2.0) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    random = np.random.default_rng(seed)
    labels = random.random(rows) < 0.1
    return labels, 1 / (1 + np.exp(-random.normal(-3, 1.5, rows) - quality * labels))


def _rebuilt(digest: bytes, errors: NDArray[np.float64]) -> Evaluation:
    return evaluate_reconstruction(digest, errors, counts_errors=True)


# Pure


@given(st.integers(0, 10_000), st.floats(0.2, 200.0), st.floats(0.1, 10.0))
def test_no_border_costs_less_and_none_that_costs_the_same_alarms_less(
    seed: int, missed_cost: float, false_cost: float
) -> None:
    alarm = Alarm(missed_cost=missed_cost, false_cost=false_cost)
    labels, scores = _binary(seed, 400)
    found = threshold_of(tally_of(evaluate(DIGEST, labels, scores)), alarm)
    if labels.sum() < LEAST_COUNTED:
        assert found is None
        return
    assert found is not None

    def cost(threshold: float) -> float:
        rings = scores >= threshold
        return missed_cost * float((labels & ~rings).sum()) + false_cost * float(
            (~labels & rings).sum()
        )

    costs = np.array([cost(score_border(number)) for number in range(BINS + 1)])
    best = costs.min()
    assert cost(found) == pytest.approx(best)
    cheapest = np.flatnonzero(np.isclose(costs, best))
    assert found == score_border(int(cheapest[-1]))


@given(st.lists(st.integers(50, 400), min_size=1, max_size=5), st.integers(0, 1000))
def test_counts_of_sites_give_the_error_that_the_share_of_all_rows_reaches(
    sizes: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    sites = [random.lognormal(random.normal(-3, 1), 1.0, size) for size in sizes]
    everything, share = np.concatenate(sites), 0.05
    pooled = threshold_of(tally_of(_rebuilt(DIGEST, everything)), Alarm(share=share))
    summed = threshold_of(add(_rebuilt(DIGEST, each) for each in sites), Alarm(share=share))
    assert summed == pooled
    if len(everything) * share < LEAST_COUNTED:
        assert summed is None
        return
    assert summed is not None
    largest_first = np.sort(everything)[::-1]
    above, below = (largest_first[int(share * len(everything)) + step] for step in (-1, 1))
    assert error_place(float(below)) - 1.0 <= error_place(summed) <= error_place(float(above)) + 1.0


def test_inside_a_bin_the_error_is_interpolated() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[[40, 100]] = 60, 40
    found = [error_of_share(counts, share) for share in (0.1, 0.2, 0.4, 0.7)]
    assert found == pytest.approx([error_border(at) for at in (100.75, 100.5, 41, 40.5)])


def test_errors_that_no_bin_resolves_have_no_threshold_and_none_at_all_the_least() -> None:
    assert error_of_share(tally_of(_rebuilt(DIGEST, np.full(9, 1e9))).by_error, 0.1) is None
    diverged = np.array([0.1] * 90 + [np.nan, np.inf] * 10)
    assert error_of_share(tally_of(_rebuilt(DIGEST, diverged)).by_error, 0.1) is None
    silent = tally_of(_rebuilt(DIGEST, np.zeros(9)))
    assert error_of_share(silent.by_error, 0.1) == 2**-19.875


def test_too_few_failures_or_rows_say_nothing() -> None:
    labels = np.arange(400) < LEAST_COUNTED
    scores = np.where(labels, 0.8, 0.1)
    assert threshold_of(tally_of(evaluate(DIGEST, labels, scores)), COST) is not None
    few = evaluate(DIGEST, labels & (np.arange(400) > 0), scores)
    assert threshold_of(tally_of(few), COST) is None
    errors = np.linspace(0.01, 1, 1000)
    assert threshold_of(tally_of(_rebuilt(DIGEST, errors)), SHARE) is not None
    assert threshold_of(tally_of(_rebuilt(DIGEST, errors[1:])), SHARE) is None
    assert threshold_of(Tally(), COST) is None
    assert threshold_of(Tally(), SHARE) is None


def test_where_no_alarm_pays_none_is_raised_and_where_all_do_every_row_is() -> None:
    labels = np.arange(100) % 5 == 0
    same = tally_of(evaluate(DIGEST, labels, np.full(100, 0.3)))
    assert threshold_of(same, Alarm(missed_cost=1.0)) == 1.0
    below = threshold_of(same, Alarm(missed_cost=100.0))
    assert below is not None
    assert below <= 0.3
    flooded = tally_of(evaluate(DIGEST, labels, np.zeros(100)))
    assert threshold_of(flooded, Alarm(missed_cost=100.0)) == 0.0


def test_a_threshold_stays_until_it_moves_by_more_than_a_bin() -> None:
    before = score_border(100)
    assert renewed(None, None, COST) is None
    assert renewed(None, before, COST) == before
    assert renewed(before, None, COST) == before
    assert renewed(before, score_border(101), COST) == before
    assert renewed(before, score_border(102), COST) == score_border(102)
    assert renewed(0.5, 0.5 * 2**0.12, SHARE) == 0.5
    assert renewed(0.5, 0.5 * 2**0.13, SHARE) == 0.5 * 2**0.13
    assert score_place(score_border(77)) == pytest.approx(77)


def test_the_words_count_what_the_threshold_does() -> None:
    labels, scores = _binary(3, 2000)
    tally = tally_of(evaluate(DIGEST, labels, scores))
    found = threshold_of(tally, COST)
    assert found is not None
    rings = scores >= found
    missed, false = int((labels & ~rings).sum()), int((~labels & rings).sum())
    assert words_of(found, tally, COST) == (
        f"alarms from {found:.4g}: {false} false ones and {missed} of {labels.sum()} failures "
        "missed on 2000 held-out rows, where a missed failure costs 20 and a false alarm 1"
    )
    rebuilt = tally_of(_rebuilt(DIGEST, np.full(2000, 0.25)))
    assert words_of(0.27, rebuilt, SHARE) == "alarms from 0.27: 1.00% of 2000 held-out rows"


# In a federation


def _asking(monkeypatch: pytest.MonkeyPatch, alarm: Alarm) -> None:
    """The small federation's bundle asks for this."""
    is_rebuilt = alarm.share is not None
    changed = msgspec.structs.replace(
        MANIFEST,
        alarm=alarm,
        loss="reconstruction" if is_rebuilt else MANIFEST.loss,
        label=None if is_rebuilt else MANIFEST.label,
    )
    monkeypatch.setattr("tests.coordinator.small_federation.MANIFEST", changed)


def _fill(federation: Federation, site: Site) -> None:
    train, lineage = federation.head.train, federation.head.lineage
    federation.commit([site.update(train, lineage=lineage) for _ in range(2)], 1.0)


def _told(federation: Federation, reports: dict[str, tuple[Evaluation, ...]]) -> None:
    for site, evaluations in reports.items():
        report = Report(head=federation.head.sequence, evaluations=evaluations)
        federation.on_report(f"agent-{site}", site, report, 2.0)


def _promote(federation: Federation, *sites: str) -> Evaluation:
    """The candidate is better; what was said of it."""
    candidate = federation.head.candidate
    assert candidate is not None
    better = evaluation(candidate.content.digest, 2.0)
    served = evaluation(federation.head.serve.content.digest, 0.5)
    _told(federation, dict.fromkeys(sites, (better, served)))
    assert federation.head.serve.version == candidate.version
    return better


def _threshold(federation: Federation) -> float | None:
    return federation.head.threshold


def _decided(store: Store) -> list[tuple[int, str]]:
    return [
        (version, reason)
        for version, _, verdict, reason in store.record.decisions()
        if verdict == "alarm threshold"
    ]


def test_a_promoted_version_is_served_with_the_threshold_of_all_sites_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, COST)
    federation = open_federation(store, GATED)
    assert _threshold(federation) is None
    _fill(federation, Site())
    said = _promote(federation, "ulm", "linz")
    tally = add([said, said])
    threshold = threshold_of(tally, COST)
    assert threshold is not None
    assert _threshold(federation) == threshold
    assert _decided(store) == [(1, f"{words_of(threshold, tally, COST)} of 2 sites")]
    again = open_federation(store, GATED)
    assert again.head == federation.head


def test_later_reports_move_the_threshold_with_the_next_head_only_beyond_a_bin(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, COST)
    federation, site = open_federation(store, GATED), Site()
    _fill(federation, site)
    said = _promote(federation, "ulm", "linz")
    before, sequence = _threshold(federation), federation.head.sequence
    _told(federation, {"bonn": (said,)})
    _fill(federation, site)
    assert federation.head.sequence > sequence
    assert _threshold(federation) == before
    assert len(_decided(store)) == 1
    labels = np.arange(4000) % 4 == 0
    other = evaluate(said.digest, labels, np.where(labels, 0.9, 0.7))
    _told(federation, {"graz": (other,)})
    assert _threshold(federation) == before
    _fill(federation, site)
    moved = threshold_of(add([said, said, said, other]), COST)
    assert _threshold(federation) == moved != before
    assert len(_decided(store)) == 2


def test_reports_after_the_last_head_move_the_threshold_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, COST)
    federation = open_federation(store, GATED)
    _fill(federation, Site())
    said = _promote(federation, "ulm", "linz")
    first, sequence = _threshold(federation), federation.head.sequence
    labels = np.arange(4000) % 4 == 0
    other = evaluate(said.digest, labels, np.where(labels, 0.9, 0.7))
    _told(federation, {"bonn": (said,), "graz": (other,)})
    for now_s in (90.0, 91.0, 200.0):
        assert federation.tick(now_s).head_moved is (now_s == 90.0)
    assert federation.head.sequence == sequence + 1
    assert _threshold(federation) == threshold_of(add([said, said, said, other]), COST) != first


def test_fewer_sites_than_the_charter_asks_for_set_no_threshold(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, COST)
    gated = GATED.replace("goal = 2", "goal = 3")
    federation, sites = open_federation(store, gated, k_min=3), [Site("a"), Site("b"), Site("c")]
    for name in "abc":
        enrol(store, name, f"site-{name}")
    train = federation.head.train
    federation.commit([each.update(train) for each in sites], 1.0)
    _promote(federation, "ulm", "linz")
    assert _threshold(federation) is None
    assert _decided(store) == []


def test_a_bundle_that_asks_for_none_has_none(store: Store) -> None:
    federation = open_federation(store, GATED)
    _fill(federation, Site())
    _promote(federation, "ulm", "linz")
    assert _threshold(federation) is None
    assert _decided(store) == []


def test_counts_by_error_are_refused_where_they_are_not_asked_for_and_missed_where_they_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, SHARE)
    federation = open_federation(store, GATED)
    digest = federation.head.serve.content.digest
    errors = np.linspace(0.1, 1, 50)
    _told(federation, {"ulm": (_rebuilt(digest, errors),)})
    with pytest.raises(MalformedError, match="does not count rows by error"):
        _told(federation, {"ulm": (evaluate_reconstruction(digest, errors),)})
    assert len(store.evaluations(digest)) == 1


def test_under_masks_the_sum_of_errors_by_bin_sets_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asking(monkeypatch, SHARE)
    world = World(tmp_path, "[strategy]\ngoal = 5\n[gate]\nevery = 1\nquorum = 3\n")
    agents = world.sites(5)
    world.online(*HELPERS)
    world.commit([world.update(agent) for agent in agents])
    world.settle()
    head = world.federation.head
    assert head.candidate is not None
    digest, random = head.candidate.content.digest, np.random.default_rng(4)
    errors = [random.lognormal(-2.0, 1.0, 400) for _ in agents]
    for agent, of_site in zip(agents, errors, strict=True):
        served = _rebuilt(head.serve.content.digest, 2 * of_site)
        world.report(agent, [served, _rebuilt(digest, of_site)])
    world.turn(6)
    now = world.federation.head
    assert now.serve.content.digest == digest
    (known_sum,) = world.store.evaluations(digest).values()
    assert sum(known_sum.rows_by_error) == 2000
    pooled = np.concatenate(errors)
    assert now.threshold == threshold_of(tally_of(_rebuilt(digest, pooled)), SHARE)
    assert now.threshold is not None
    assert (pooled >= now.threshold).mean() == pytest.approx(0.01, abs=0.002)
