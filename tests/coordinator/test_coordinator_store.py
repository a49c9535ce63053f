"""The store: what is remembered about updates, agents, versions and contents."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coordinator.aggregate import Member
from coordinator.store import KnownAgent, Store
from tests.coordinator.small_federation import Site, evaluation
from wire.chunks import describe
from wire.messages import Outcome, VersionRef

BASE = VersionRef(version=0, content=describe(b"weights"))


MEMBER = Member(agent="press-1", site="site-a", base_version=0, weight=5, coefficient=5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def test_the_boot_number_grows_with_every_start(tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        store = Store(tmp_path / "coordinator.db")
        numbers.append(store.next_boot())
        store.close()
    assert numbers == [1, 2, 3]


def test_what_is_promised_is_on_the_disk(store: Store) -> None:
    database = vars(store)["_db"]
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_update_id_is_recorded_only_once(store: Store) -> None:
    header = Site().update(BASE).header
    with store.transaction():
        store.add_update(header, "committed", "", MEMBER, 1.0)
    with pytest.raises(sqlite3.IntegrityError), store.transaction():
        store.add_update(header, "committed", "", MEMBER, 2.0)


def test_the_same_sequence_of_another_incarnation_is_another_update(store: Store) -> None:
    header = Site().update(BASE).header
    wiped = msgspec.structs.replace(header, incarnation="f" * 16)
    with store.transaction():
        store.add_update(header, "committed", "", MEMBER, 1.0)
        assert store.known_update(wiped) is None
        store.add_update(wiped, "refused", "why", None, 1.0)
    known = store.known_update(wiped)
    assert known is not None
    assert (known.status, known.reason) == ("refused", "why")


def test_only_committed_updates_become_folded(store: Store) -> None:
    site = Site()
    committed = site.update(BASE).header
    folded = ("press-1", site.incarnation, 1, committed.content.digest)
    with store.transaction():
        store.add_update(committed, "committed", "", MEMBER, 1.0)
        store.add_update(site.update(BASE).header, "refused", "why", None, 1.0)
        assert store.settle_committed("folded", "", 3) == [folded]
        assert store.settle_committed("folded", "", 4) == []
    assert store.memberships() == [(3, "press-1", site.incarnation, 1, 5)]


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    header = Site().update(BASE).header

    def fail() -> None:
        with store.transaction():
            store.add_update(header, "committed", "", MEMBER, 1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.known_update(header) is None


def test_an_agent_is_replaced_by_its_newest_birth(store: Store) -> None:
    store.keep_agent(KnownAgent("press-1", "a", bytes(32), 1, "0" * 16, 4), "online")
    newer = KnownAgent("press-1", "a", bytes([1] * 32), 2, "1" * 16, 1)
    store.keep_agent(newer, "offline")
    assert store.agent("press-1") == newer
    assert store.agents() == [("press-1", "a", "offline")]
    assert store.agent("nobody") is None


def test_a_newer_judgement_replaces_the_older_one_of_the_same_reporter(store: Store) -> None:
    digest = bytes([3] * 32)
    store.keep_evaluations("a/p", (evaluation(digest, 0.0, 40),))
    newest = evaluation(digest, 3.0, 80)
    store.keep_evaluations("a/p", (newest,))
    assert store.evaluations(digest) == {"a/p": newest}


def test_missing_content_is_an_error_with_its_digest(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="content abababababababab is missing"):
        store.content(bytes([0xAB] * 32))


def test_published_topics_are_remembered_until_they_are_cleared(store: Store) -> None:
    store.set_published({"a", "b"}, set())
    store.set_published({"b", "c"}, {"a"})
    assert store.published() == {"b", "c"}


def test_an_order_is_due_until_a_birth_tells_its_outcome(store: Store) -> None:
    assert store.order("press-1", "pause") == 1
    assert store.order("press-1", "configure", "[training]\npause_s = 1.0\n", 60) == 2
    [(agent, command)] = store.due_orders()
    assert (agent, command.name, command.number) == ("press-1", "configure", 2)
    store.set_order_sent("press-1", 1)
    assert store.due_orders(), "an older order was sent, not this one"
    store.set_order_sent("press-1", 2)
    assert not store.due_orders()
    store.answered("press-1", Outcome(number=1))
    assert store.due_orders(), "the agent has not heard of it"
    store.answered("press-1", Outcome(number=2, status="undone", reason="no link"))
    assert not store.due_orders()
    assert store.orders() == [("press-1", "configure", 2, "undone", "no link")]


def test_a_restored_store_numbers_its_orders_above_what_the_agent_knows(store: Store) -> None:
    store.order("press-1", "train")
    store.set_order_sent("press-1", 1)
    store.answered("press-1", Outcome(number=7))
    [(_, command)] = store.due_orders()
    assert command.number == 8
    store.answered("press-1", Outcome(number=8))
    assert not store.due_orders()
    assert store.orders()[0][2:4] == (8, "done")
