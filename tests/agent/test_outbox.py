"""The outbox: every update that was added has exactly one fate, whatever dies."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import Offer, Outbox
from wire.messages import TERMINAL, Receipt

WRITER = """
import sys
from pathlib import Path
from agent.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), 10**9)
while True:
    sequence = outbox.add(0, 7, lambda at: (b"header %d" % at, b"content %d" % at * 5000))
    print(sequence, flush=True)
"""


def outbox_at(path: Path | str = ":memory:", quota_bytes: int = 1 << 30) -> Outbox:
    return Outbox(path, quota_bytes)


def add(outbox: Outbox, size: int = 100, version: int = 1) -> int:
    return outbox.add(0, version, lambda at: (b"header %d" % at, bytes([at % 256]) * size))


def receipt(outbox: Outbox, sequence: int, status: str, **more: object) -> Receipt:
    fields = {"incarnation": outbox.incarnation, "sequence": sequence, "status": status} | more
    return Receipt(**fields)  # type: ignore[arg-type]


def test_sequences_start_at_one_and_have_no_gap() -> None:
    outbox = outbox_at()
    assert [add(outbox) for _ in range(4)] == [1, 2, 3, 4]
    assert outbox.produced == 4
    assert outbox.open_sequences() == [1, 2, 3, 4]


def test_a_sequence_is_not_used_again_after_everything_was_settled(tmp_path: Path) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    for _ in range(3):
        add(outbox)
    outbox.settle(tuple(receipt(outbox, at, "folded", version=2) for at in (1, 2, 3)), 1)
    outbox.close()
    assert add(outbox_at(tmp_path / "outbox.db")) == 4


def test_a_failed_build_uses_no_sequence() -> None:
    outbox = outbox_at()

    def fail(_sequence: int) -> tuple[bytes, bytes]:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        outbox.add(0, 1, fail)
    assert outbox.produced == 0
    assert add(outbox) == 1


def test_every_file_has_an_incarnation_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, second = outbox_at(tmp_path / "1.db"), outbox_at(tmp_path / "2.db")
    assert first.incarnation != second.incarnation
    assert len(first.incarnation) == 16
    first.close()
    assert outbox_at(tmp_path / "1.db").incarnation == first.incarnation


def test_session_numbers_grow_over_restarts(tmp_path: Path) -> None:
    sessions = []
    for _ in range(3):
        outbox = outbox_at(tmp_path / "outbox.db")
        sessions += [outbox.next_session(), outbox.next_session()]
        outbox.close()
    assert sessions == [1, 2, 3, 4, 5, 6]


def test_the_bytes_of_an_offer_never_change(tmp_path: Path) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    sequence = add(outbox)
    offered = outbox.offer(sequence)
    assert offered == Offer(1, b"header 1", bytes([1]) * 100)
    outbox.settle((receipt(outbox, 1, "later"), receipt(outbox, 1, "wanted", wanted=b"\x01")), 1)
    outbox.settle((receipt(outbox, 1, "committed"),), 2)
    outbox.close()
    assert outbox_at(tmp_path / "outbox.db").offer(sequence) == offered


def test_committed_then_folded_settles_once_and_keeps_the_version() -> None:
    outbox = outbox_at()
    add(outbox)
    assert outbox.settle((receipt(outbox, 1, "committed"),), 1) == []
    assert outbox.counts() == {"committed": 1}
    assert outbox.settle((receipt(outbox, 1, "folded", version=9),), 2) == [1]
    (entry,) = outbox.account()
    assert (entry.sequence, entry.status, entry.base_version, entry.version) == (1, "folded", 1, 9)
    assert outbox.offer(1) is None
    assert outbox.open_sequences() == []


def test_only_the_first_terminal_receipt_counts() -> None:
    outbox = outbox_at()
    add(outbox)
    receipts = (
        receipt(outbox, 1, "refused", reason="lineage"),
        receipt(outbox, 1, "folded"),
        receipt(outbox, 1, "committed"),
    )
    assert outbox.settle(receipts, 1) == [1]
    assert outbox.counts() == {"refused": 1}


def test_receipts_of_another_incarnation_or_of_unknown_updates_change_nothing() -> None:
    outbox = outbox_at()
    add(outbox)
    foreign = Receipt(incarnation="0" * 16, sequence=1, status="folded")
    assert outbox.settle((foreign, receipt(outbox, 2, "folded")), 5) == []
    assert outbox.counts() == {"pending": 1}
    assert outbox.receipt_counter == 5


STATUSES = ("wanted", "later", "committed", *TERMINAL)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(STATUSES)), max_size=30))
def test_any_receipts_in_any_order_give_each_update_at_most_one_outcome(
    arriving: list[tuple[int, str]],
) -> None:
    outbox = outbox_at()
    for _ in range(3):
        add(outbox)
    settled = [
        sequence
        for at, (sequence, status) in enumerate(arriving)
        for sequence in outbox.settle((receipt(outbox, sequence, status),), at)
    ]
    first: dict[int, str] = {}
    for sequence, status in arriving:
        if status in TERMINAL and sequence <= 3:
            first.setdefault(sequence, status)
    assert settled == list(first)
    assert {at.sequence: at.status for at in outbox.account() if at.status in TERMINAL} == first
    assert outbox.open_sequences() == [at for at in (1, 2, 3) if at not in first]
    assert sum(outbox.counts().values()) == outbox.produced == 3
    outbox.close()


def test_the_oldest_pending_updates_go_until_the_quota_is_met() -> None:
    outbox = outbox_at(quota_bytes=350)
    for _ in range(5):
        add(outbox)
    outbox.settle((receipt(outbox, 1, "committed"),), 1)
    victims = outbox.over_quota()
    assert victims == [(2, b"header 2")]
    outbox.bury(2, b"tombstone")
    assert outbox.over_quota() == []
    assert outbox.offer(2) == Offer(2, b"tombstone", None)
    assert outbox.offer(3) == Offer(3, b"header 3", bytes([3]) * 100)


def test_a_buried_update_stays_open_until_the_coordinator_counts_it_as_dropped() -> None:
    outbox = outbox_at()
    add(outbox)
    outbox.bury(1, b"tombstone")
    assert outbox.open_sequences() == [1]
    assert outbox.settle((receipt(outbox, 1, "dropped", reason="quota"),), 1) == [1]
    assert outbox.counts() == {"dropped": 1}


def test_a_committed_update_is_never_buried() -> None:
    outbox = outbox_at()
    add(outbox)
    outbox.settle((receipt(outbox, 1, "committed"),), 1)
    outbox.bury(1, b"tombstone")
    assert outbox.offer(1) == Offer(1, b"header 1", bytes([1]) * 100)


def test_updates_are_counted_for_each_base_version() -> None:
    outbox = outbox_at()
    for version in (1, 1, 2):
        add(outbox, version=version)
    assert [outbox.made_from(0, version) for version in (0, 1, 2)] == [0, 2, 1]
    assert outbox.made_from(1, 1) == 0


def test_every_add_that_returned_survives_kills_at_random_moments(
    tmp_path: Path, repository: Path
) -> None:
    path = tmp_path / "outbox.db"
    rng = random.Random(8)
    incarnation = outbox_at(path).incarnation
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 30)):
                writer.stdout.readline()
            writer.kill()
            promised = [int(line) for line in writer.stdout.read().split()]
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
        outbox = outbox_at(path)
        assert outbox.incarnation == incarnation
        assert outbox.produced >= max(promised, default=1)
        assert outbox.open_sequences() == list(range(1, outbox.produced + 1))
        for at in outbox.open_sequences():
            assert outbox.offer(at) == Offer(at, b"header %d" % at, b"content %d" % at * 5000)
        outbox.close()
