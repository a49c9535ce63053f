"""A lineage that got worse is abandoned, and an operator can go back; nothing worse is served."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.small_federation import (
    Site,
    buffer_in,
    evaluation,
    memory_of,
    open_federation,
)
from wire.messages import Receipt, Report

GATED = """
[strategy]
goal = 2
[server_optimizer]
name = "momentum"
[gate]
every = 1
quorum = 2
patience = 2
abandon_below = 0.3
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def fill(federation: Federation, site: Site) -> None:
    """One version more."""
    train = federation.head.train
    lineage = federation.head.lineage
    federation.commit([site.update(train, lineage=lineage) for _ in range(2)], 1.0)


def judge(federation: Federation, candidate: float, serve: float) -> list[tuple[str, Receipt]]:
    """Both sites report; the larger the number, the better the model."""
    named = federation.head.candidate
    assert named is not None
    evaluations = (
        evaluation(named.content.digest, candidate),
        evaluation(federation.head.serve.content.digest, serve),
    )
    receipts = []
    for agent, at in (("p", "a"), ("q", "b")):
        report = Report(head=federation.head.sequence, evaluations=evaluations)
        receipts += federation.on_report(agent, at, report, 2.0).receipts
    return receipts


def test_a_candidate_far_worse_than_served_opens_a_new_lineage_from_what_is_served(
    store: Store,
) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    judge(federation, 3.0, 1.0)
    served = federation.head.serve
    fill(federation, site)
    pending = site.update(federation.head.train)
    federation.commit([pending], 2.0)
    receipts = judge(federation, -1.0, 3.0)
    head = federation.head
    assert (head.lineage, head.serve, head.candidate) == (1, served, None)
    assert (head.train.version, head.train.content) == (3, served.content)
    [(agent, outcome)] = receipts
    assert (agent, outcome.sequence, outcome.status) == ("press-1", 5, "refused")
    assert outcome.reason.startswith("lineage 0 was abandoned: PR-AUC")
    assert buffer_in(federation).members == ()
    assert [verdict for _, _, verdict, _ in store.record.decisions()] == [
        "promoted",
        "kept back",
        "abandoned",
    ]


def test_one_worse_candidate_is_kept_back_and_training_goes_on_in_its_lineage(
    store: Store,
) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    train = federation.head.train
    assert judge(federation, 1.6, 1.9) == []
    assert (federation.head.lineage, federation.head.train) == (0, train)
    assert federation.saved.worse == 1


def test_as_many_worse_candidates_in_a_row_as_patience_allows_open_a_new_lineage(
    store: Store,
) -> None:
    federation, site = open_federation(store, GATED), Site()
    for _ in range(2):
        fill(federation, site)
        judge(federation, 1.6, 1.9)
    assert federation.head.lineage == 1
    assert federation.saved.worse == 0


def test_a_promotion_in_between_makes_patience_count_anew(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    for candidate, serve in ((1.6, 1.9), (3.0, 1.0), (1.6, 1.9)):
        fill(federation, site)
        judge(federation, candidate, serve)
    assert (federation.head.lineage, federation.saved.worse) == (0, 1)


def test_updates_of_an_abandoned_lineage_are_refused_and_those_of_the_new_one_fold(
    store: Store,
) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    old = federation.head
    judge(federation, -1.0, 3.0)
    [(_, late)] = federation.commit([site.update(old.train)], 3.0).receipts
    assert (late.status, late.reason) == ("refused", "lineage 0 was abandoned")
    fill(federation, site)
    assert (federation.head.train.version, federation.head.lineage) == (3, 1)
    assert federation.saved.averaged == 1


def test_the_optimizer_forgets_the_abandoned_lineage(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    assert any(memory_of(federation)["optimizer"])  # type: ignore[arg-type]
    judge(federation, -1.0, 3.0)
    assert not any(memory_of(federation)["optimizer"])  # type: ignore[arg-type]


def test_an_abandoned_lineage_survives_a_restart(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    judge(federation, -1.0, 3.0)
    assert memory_of(open_federation(store, GATED)) == memory_of(federation)


def test_an_operator_goes_back_to_weights_that_were_served_before(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    for _ in range(2):
        fill(federation, site)
        judge(federation, 3.0, 1.0)
    assert federation.head.serve.version == 2
    first = store.record.served()[1]
    store.request_rollback(1)
    assert federation.tick(3.0).head_moved
    head = federation.head
    assert (head.serve.version, head.serve.content.digest) == (1, first.digest)
    assert (head.lineage, head.train.content.digest) == (1, first.digest)
    assert store.record.decisions()[-1][2] == "rolled back"
    assert store.rollback is None
    assert not federation.tick(4.0).head_moved


def test_a_rollback_to_weights_that_are_gone_changes_nothing(store: Store) -> None:
    federation = open_federation(store, GATED)
    before = federation.head
    store.request_rollback(7)
    assert not federation.tick(3.0).head_moved
    assert federation.head == before
    assert store.rollback is None


def test_the_weights_a_rollback_may_need_are_kept_though_no_head_names_them(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    digests = [federation.head.serve.content.digest]
    for _ in range(4):
        fill(federation, site)
        judge(federation, 3.0, 1.0)
        digests.append(federation.head.serve.content.digest)
    kept = [served.digest for served in store.record.served()]
    assert kept == digests[:-4:-1]
    assert all(store.has_content(digest) for digest in kept)
    assert not store.has_content(digests[0])


def test_a_report_that_can_not_be_true_changes_nothing(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    fill(federation, site)
    named = federation.head.candidate
    assert named is not None
    lie = msgspec.structs.replace(evaluation(named.content.digest, 3.0), alarms=(10_000, 0))
    report = Report(head=federation.head.sequence, evaluations=(lie,))
    with pytest.raises(Exception, match="alarms"):
        federation.on_report("p", "a", report, 2.0)
    assert store.evaluations(named.content.digest) == {}
