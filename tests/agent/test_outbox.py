"""The outbox: every update that was added has exactly one fate, whatever dies."""

import hashlib
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent.outbox
import agent.outbox_tables
from agent.outbox import Entry, Memory, Offer, Outbox, Settlement, UpdateId
from wire.errors import SettingsError
from wire.messages import CONFLICT, TERMINAL, Receipt

WRITER = """
import sys
from pathlib import Path
from agent.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), 10**9)
while True:
    made = outbox.add(0, 7, lambda _, at: (b"header %d" % at, b"content %d" % at * 5000))
    print(made.sequence, flush=True)
"""


def outbox_at(path: Path | str = ":memory:", quota_bytes: int = 1 << 30) -> Outbox:
    return Outbox(path, quota_bytes)


def add(outbox: Outbox, size: int = 100, version: int = 1) -> int:
    made = outbox.add(0, version, lambda _, at: (b"header %d" % at, bytes([at % 256]) * size))
    assert made.incarnation == outbox.incarnation
    return made.sequence


def own(outbox: Outbox, sequence: int) -> UpdateId:
    return UpdateId(outbox.incarnation, sequence)


def still_open(outbox: Outbox) -> list[int]:
    assert {at.incarnation for at in outbox.open_updates()} <= {outbox.incarnation}
    return [at.sequence for at in outbox.open_updates()]


def receipt(outbox: Outbox, sequence: int, status: str, **more: object) -> Receipt:
    fields = {"incarnation": outbox.incarnation, "sequence": sequence, "status": status} | more
    return Receipt(**fields)  # type: ignore[arg-type]


def test_sequences_start_at_one_and_have_no_gap() -> None:
    outbox = outbox_at()
    assert [add(outbox) for _ in range(4)] == [1, 2, 3, 4]
    assert outbox.produced == 4
    assert still_open(outbox) == [1, 2, 3, 4]


def test_a_sequence_is_not_used_again_after_everything_was_settled(tmp_path: Path) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    for _ in range(3):
        add(outbox)
    outbox.settle(tuple(receipt(outbox, at, "folded", version=2) for at in (1, 2, 3)), 1)
    outbox.close()
    assert add(outbox_at(tmp_path / "outbox.db")) == 4


def test_a_failed_build_uses_no_sequence() -> None:
    outbox = outbox_at()

    def fail(_incarnation: str, _sequence: int) -> tuple[bytes, bytes]:
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
    at = own(outbox, sequence)
    offered = outbox.offer(at)
    assert offered == Offer(own(outbox, 1), b"header 1", bytes([1]) * 100)
    outbox.settle((receipt(outbox, 1, "later"), receipt(outbox, 1, "wanted", wanted=b"\x01")), 1)
    outbox.settle((receipt(outbox, 1, "committed"),), 2)
    outbox.close()
    assert outbox_at(tmp_path / "outbox.db").offer(at) == offered


def test_committed_then_folded_settles_once_and_keeps_the_version() -> None:
    outbox = outbox_at()
    add(outbox)
    assert outbox.settle((receipt(outbox, 1, "committed"),), 1) == Settlement([], [])
    assert outbox.counts() == {"committed": 1}
    assert outbox.settle((receipt(outbox, 1, "folded", version=9),), 2).settled == [own(outbox, 1)]
    (entry,) = outbox.account()
    assert (entry.sequence, entry.status, entry.base_version, entry.version) == (1, "folded", 1, 9)
    assert outbox.offer(own(outbox, 1)) is None
    assert still_open(outbox) == []


def test_only_the_first_terminal_receipt_counts() -> None:
    outbox = outbox_at()
    add(outbox)
    receipts = (
        receipt(outbox, 1, "refused", reason="lineage"),
        receipt(outbox, 1, "folded"),
        receipt(outbox, 1, "committed"),
    )
    assert outbox.settle(receipts, 1) == Settlement([own(outbox, 1)], [])
    assert outbox.counts() == {"refused": 1}


def test_receipts_of_another_incarnation_or_of_unknown_updates_change_nothing() -> None:
    outbox = outbox_at()
    add(outbox)
    foreign = Receipt(incarnation="0" * 16, sequence=1, status="folded")
    assert outbox.settle((foreign, receipt(outbox, 2, "folded")), 5) == Settlement([], [])
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
        at.sequence
        for counter, (sequence, status) in enumerate(arriving)
        for at in outbox.settle((receipt(outbox, sequence, status),), counter).settled
    ]
    first: dict[int, str] = {}
    for sequence, status in arriving:
        if status in TERMINAL and sequence <= 3:
            first.setdefault(sequence, status)
    assert settled == list(first)
    assert {at.sequence: at.status for at in outbox.account() if at.status in TERMINAL} == first
    assert still_open(outbox) == [at for at in (1, 2, 3) if at not in first]
    assert sum(outbox.counts().values()) == outbox.produced == 3
    outbox.close()


def test_the_oldest_pending_updates_go_until_the_quota_is_met() -> None:
    outbox = outbox_at(quota_bytes=350)
    for _ in range(5):
        add(outbox)
    outbox.settle((receipt(outbox, 1, "committed"),), 1)
    victims = outbox.over_quota()
    assert [(at.id.sequence, at.reason, at.header) for at in victims] == [(2, "quota", b"header 2")]
    outbox.bury(own(outbox, 2), b"tombstone")
    assert outbox.over_quota() == []
    assert outbox.offer(own(outbox, 2)) == Offer(own(outbox, 2), b"tombstone", None)
    assert outbox.offer(own(outbox, 3)) == Offer(own(outbox, 3), b"header 3", bytes([3]) * 100)


def test_a_buried_update_stays_open_until_the_coordinator_counts_it_as_dropped() -> None:
    outbox = outbox_at()
    add(outbox)
    outbox.bury(own(outbox, 1), b"tombstone")
    assert still_open(outbox) == [1]
    assert outbox.settle((receipt(outbox, 1, "dropped", reason="quota"),), 1).settled == [
        own(outbox, 1)
    ]
    assert outbox.counts() == {"dropped": 1}


def test_a_committed_update_is_never_buried() -> None:
    outbox = outbox_at()
    add(outbox)
    outbox.settle((receipt(outbox, 1, "committed"),), 1)
    outbox.bury(own(outbox, 1), b"tombstone")
    assert outbox.offer(own(outbox, 1)) == Offer(own(outbox, 1), b"header 1", bytes([1]) * 100)


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
        assert still_open(outbox) == list(range(1, outbox.produced + 1))
        for at in still_open(outbox):
            named = own(outbox, at)
            assert outbox.offer(named) == Offer(named, b"header %d" % at, b"content %d" % at * 5000)
        outbox.close()


def digest_of(outbox: Outbox, sequence: int) -> bytes:
    offer = outbox.offer(own(outbox, sequence))
    assert offer is not None
    assert offer.content is not None
    return hashlib.sha256(offer.content).digest()


def test_a_receipt_settles_only_the_content_that_it_names() -> None:
    outbox = outbox_at()
    add(outbox)
    foreign = receipt(outbox, 1, "folded", digest=bytes(32))
    assert outbox.settle((foreign,), 1) == Settlement([], [own(outbox, 1)])
    assert outbox.counts() == {"pending": 1}
    right = receipt(outbox, 1, "folded", digest=digest_of(outbox, 1))
    assert outbox.settle((right,), 2) == Settlement([own(outbox, 1)], [])
    assert outbox.counts() == {"folded": 1}


def test_an_update_refused_because_of_a_copys_content_is_settled_and_tells_of_the_copy() -> None:
    outbox = outbox_at()
    add(outbox)
    refused = receipt(
        outbox, 1, "refused", reason=f"{CONFLICT}: another hash", digest=digest_of(outbox, 1)
    )
    assert outbox.settle((refused,), 1) == Settlement([own(outbox, 1)], [own(outbox, 1)])
    assert outbox.counts() == {"refused": 1}


def test_a_conflict_is_seen_even_after_the_update_was_settled() -> None:
    outbox = outbox_at()
    add(outbox)
    outbox.settle((receipt(outbox, 1, "folded"),), 1)
    again = receipt(outbox, 1, "folded", digest=bytes(32))
    assert outbox.settle((again,), 2).conflicts == [own(outbox, 1)]


def test_a_new_incarnation_counts_from_one_and_the_old_ones_updates_are_still_offered(
    tmp_path: Path,
) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    sessions = [outbox.next_session()]
    for _ in range(3):
        add(outbox)
    old = outbox.incarnation
    outbox.settle((receipt(outbox, 1, "folded"),), 7)
    new = outbox.renew("restored from a backup")
    assert new == outbox.incarnation != old
    assert (outbox.produced, outbox.highest(old), outbox.highest("f" * 16)) == (0, 3, 0)
    assert add(outbox) == 1
    sessions.append(outbox.next_session())
    outbox.close()

    found = outbox_at(tmp_path / "outbox.db")
    ids = [UpdateId(old, 2), UpdateId(old, 3), UpdateId(new, 1)]
    assert found.incarnation == new
    assert found.open_updates() == ids
    assert [(found.offer(at) or Offer(at, b"", b"")).header for at in ids] == [
        b"header 2",
        b"header 3",
        b"header 1",
    ]
    assert found.receipt_counter == 7
    assert [*sessions, found.next_session()] == [1, 2, 3]
    late = Receipt(incarnation=old, sequence=2, status="folded", version=4)
    assert found.settle((late,), 8).settled == [UpdateId(old, 2)]
    assert [(at.incarnation, at.sequence) for at in found.account()] == [
        (old, 1),
        (old, 2),
        (old, 3),
        (new, 1),
    ]
    assert found.made_from(0, 1) == 4


def test_the_header_of_an_open_update_can_be_replaced_and_nothing_else(tmp_path: Path) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    for _ in range(3):
        add(outbox)
    outbox.bury(own(outbox, 2), b"tombstone")
    outbox.settle((receipt(outbox, 3, "folded"),), 1)
    assert [outbox.replace_header(own(outbox, at), b"smaller") for at in (1, 2, 3, 4)] == [
        True,
        False,
        False,
        False,
    ]
    at = own(outbox, 1)
    assert outbox.offer(at) == Offer(at, b"smaller", bytes([1]) * 100)
    assert outbox.offer(own(outbox, 2)) == Offer(own(outbox, 2), b"tombstone", None)
    assert outbox.offer(own(outbox, 3)) is None


def test_an_update_larger_than_the_quota_goes_at_once() -> None:
    outbox = outbox_at(quota_bytes=50)
    add(outbox)
    assert [at.id.sequence for at in outbox.over_quota()] == [1]


def test_tombstones_may_take_the_quota_once_more_and_then_the_outbox_is_full() -> None:
    outbox = outbox_at(quota_bytes=30)
    for sequence in (1, 2, 3):
        add(outbox)
        outbox.bury(own(outbox, sequence), b"t" * 10)
        assert not outbox.is_full
    add(outbox)
    outbox.bury(own(outbox, 4), b"t" * 10)
    assert outbox.is_full
    outbox.settle((receipt(outbox, 1, "dropped"),), 1)
    assert not outbox.is_full


def test_old_settled_updates_become_counts_and_recent_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.outbox, "_KEPT_ROWS", 20)
    monkeypatch.setattr(agent.outbox, "_KEPT_SLACK", 5)
    outbox = outbox_at(tmp_path / "outbox.db")
    stuck = add(outbox, version=1)
    for version in range(2, 102):
        sequence = add(outbox, version=version)
        status = "folded" if version % 2 else "refused"
        outbox.settle((receipt(outbox, sequence, status),), version)
    outbox.close()
    found = outbox_at(tmp_path / "outbox.db")
    assert found.counts() == {"folded": 50, "refused": 50, "pending": 1}
    assert found.produced == 101
    assert 20 <= len(found.account()) <= 26
    assert still_open(found) == [stuck]
    assert [found.made_from(0, version) for version in (1, 100, 101)] == [1, 1, 1]
    assert add(found) == 102


FIRST_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation TEXT NOT NULL,
  session INTEGER NOT NULL,
  receipt_counter INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS updates (
  sequence INTEGER PRIMARY KEY,
  lineage INTEGER NOT NULL,
  base_version INTEGER NOT NULL,
  status TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  version INTEGER,
  made_at REAL NOT NULL,
  settled_at REAL,
  bytes INTEGER NOT NULL,
  header BLOB,
  content BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS open_updates ON updates (sequence) WHERE header IS NOT NULL;
INSERT INTO identity VALUES (1, '00112233445566aa', 9, 77);
INSERT INTO updates VALUES
  (1, 0, 5, 'folded', '', 6, 1000.5, 1001.5, 20, NULL, NULL),
  (2, 0, 6, 'pending', '', NULL, 1002.5, NULL, 20, x'6832', x'6332'),
  (3, 0, 6, 'pending', '', NULL, 1003.5, NULL, 5, x'746f6d62', NULL),
  (4, 0, 7, 'committed', '', NULL, 1004.5, NULL, 20, x'6834', x'6334');
"""
FIRST = "00112233445566aa"


def first_file(path: Path) -> None:
    """A file as the first version of this program made it."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.executescript(FIRST_SCHEMA)
    database.close()


def test_a_file_of_the_first_schema_is_taken_over_with_every_id(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first_file(path)
    for _ in range(2):  # the second time it is already of today's schema
        outbox = outbox_at(path)
        assert (outbox.incarnation, outbox.produced, outbox.receipt_counter) == (FIRST, 4, 77)
        assert still_open(outbox) == [2, 3, 4]
        assert outbox.offer(own(outbox, 2)) == Offer(own(outbox, 2), b"h2", b"c2")
        assert outbox.offer(own(outbox, 3)) == Offer(own(outbox, 3), b"tomb", None)
        assert outbox.account()[0] == Entry(FIRST, 1, "folded", 5, 6, 1000.5, 1001.5)
        assert outbox.made_from(0, 6) == 2
        outbox.close()
    outbox = outbox_at(path)
    digest = hashlib.sha256(b"c4").digest()
    assert outbox.settle((receipt(outbox, 4, "folded", digest=bytes(32)),), 78).conflicts
    assert outbox.settle((receipt(outbox, 4, "folded", digest=digest),), 79).settled
    assert outbox.next_session() == 10
    assert add(outbox) == 5


def test_a_migration_cut_short_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    first_file(path)

    def power_cut(database: sqlite3.Connection, _row: object) -> bool:
        assert database.in_transaction
        raise KeyboardInterrupt

    monkeypatch.setattr(agent.outbox_tables, "_take", power_cut)
    with pytest.raises(KeyboardInterrupt):
        outbox_at(path)
    monkeypatch.undo()
    assert still_open(outbox_at(path)) == [2, 3, 4]


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox_at(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(SettingsError, match="format 99"):
        outbox_at(path)
    assert path.exists()


# What the next update depends on


def add_with(outbox: Outbox, memory: Memory) -> int:
    made = outbox.add(0, 1, lambda _, at: (b"header %d" % at, b"content %d" % at), memory)
    return made.sequence


def calibrate(outbox: Outbox, sequence: int, status: str) -> bytes | None:
    """Give an update this outcome; return what is remembered then."""
    outbox.settle((receipt(outbox, sequence, status),), sequence)
    return outbox.remembered("calibration")


def test_nothing_is_remembered_before_the_first_update() -> None:
    outbox = outbox_at()
    assert outbox.remembered("residual") is None
    assert outbox.remembered("calibration") is None


def test_a_residual_comes_and_goes_with_the_update_that_left_it(tmp_path: Path) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    add_with(outbox, Memory(residual=b"left by 1"))
    assert outbox.remembered("residual") == b"left by 1"

    def fail(_incarnation: str, _sequence: int) -> tuple[bytes, bytes]:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        outbox.add(0, 1, fail, Memory(residual=b"left by an update that was not made"))
    assert outbox.remembered("residual") == b"left by 1"
    assert add_with(outbox, Memory(residual=b"left by 2")) == 2
    outbox.close()
    assert outbox_at(tmp_path / "outbox.db").remembered("residual") == b"left by 2"


def test_an_update_that_the_disk_did_not_take_leaves_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = outbox_at(path)
    add_with(outbox, Memory(residual=b"left by 1"))
    with closing(sqlite3.connect(path)) as database:  # the memory is written after the update
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON remembered BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(sqlite3.IntegrityError):
        add_with(outbox, Memory(residual=b"left by 2"))
    assert (outbox.produced, still_open(outbox)) == (1, [1])
    assert outbox.remembered("residual") == b"left by 1"


def test_a_residual_does_not_wait_for_an_outcome() -> None:
    outbox = outbox_at()
    add_with(outbox, Memory(residual=b"left by 1"))
    outbox.settle((receipt(outbox, 1, "refused"),), 1)
    assert outbox.remembered("residual") == b"left by 1"
    add_with(outbox, Memory())
    assert outbox.remembered("residual") == b"left by 1"


@pytest.mark.parametrize("status", STATUSES)
def test_what_calibration_remembers_moves_only_when_the_update_was_folded(status: str) -> None:
    outbox = outbox_at()
    add_with(outbox, Memory(calibration=b"after 1"))
    assert outbox.remembered("calibration") is None
    assert calibrate(outbox, 1, "folded") == b"after 1"
    add_with(outbox, Memory(calibration=b"after 2"))
    assert outbox.remembered("calibration") == b"after 1"
    assert calibrate(outbox, 2, status) == (b"after 2" if status == "folded" else b"after 1")
    if status not in TERMINAL:  # and its outcome may still come
        assert calibrate(outbox, 2, "folded") == b"after 2"
    elif status != "folded":  # and that was its outcome
        assert calibrate(outbox, 2, "folded") == b"after 1"


def test_a_receipt_for_another_content_or_a_second_one_moves_nothing() -> None:
    outbox = outbox_at()
    add_with(outbox, Memory(calibration=b"after 1"))
    outbox.settle((receipt(outbox, 1, "folded", digest=bytes(32)),), 1)
    assert outbox.remembered("calibration") is None
    assert calibrate(outbox, 1, "folded") == b"after 1"
    add_with(outbox, Memory(calibration=b"after 2"))
    assert calibrate(outbox, 1, "folded") == b"after 1"


def test_an_outcome_that_comes_after_a_restart_and_a_new_incarnation_still_counts(
    tmp_path: Path,
) -> None:
    outbox = outbox_at(tmp_path / "outbox.db")
    add_with(outbox, Memory(calibration=b"after 1"))
    late = receipt(outbox, 1, "folded")
    outbox.close()
    outbox = outbox_at(tmp_path / "outbox.db")
    outbox.renew("a test")
    outbox.settle((receipt(outbox, 1, "folded"),), 1)  # of an update that was never made
    assert outbox.remembered("calibration") is None
    outbox.settle((late,), 2)
    assert outbox.remembered("calibration") == b"after 1"
    outbox.close()
    assert outbox_at(tmp_path / "outbox.db").remembered("calibration") == b"after 1"


def test_a_tombstone_of_a_committed_update_leaves_the_outcome_to_the_coordinator() -> None:
    outbox = outbox_at(quota_bytes=10)
    for sequence, status in ((1, "dropped"), (2, "folded")):
        add_with(outbox, Memory(calibration=b"after %d" % sequence))
        assert outbox.bury(own(outbox, sequence), b"tombstone")
        expected = b"after 2" if status == "folded" else None
        assert calibrate(outbox, sequence, status) == expected


KILLED = """
import sys
from pathlib import Path
from agent.outbox import Memory, Outbox
from wire.messages import Receipt
outbox = Outbox(Path(sys.argv[1]), 10**9)
while True:
    number = outbox.produced + 1
    memory = Memory(b"residual %d" % number * 500, b"calibration %d" % number * 500)
    made = outbox.add(0, 7, lambda _, at: (b"header %d" % at, b"content %d" % at * 500), memory)
    told = Receipt(incarnation=made.incarnation, sequence=made.sequence, status="folded")
    print(number, flush=True)
    outbox.settle((told,), number)
"""


def test_memories_and_updates_are_one_after_kills_at_random_moments(
    tmp_path: Path, repository: Path
) -> None:
    path, rng = tmp_path / "outbox.db", random.Random(3)
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 30)):
                writer.stdout.readline()
            writer.kill()
        outbox = outbox_at(path)
        newest, folded = outbox.produced, outbox.counts().get("folded", 0)
        assert newest > 0
        assert newest - folded in (0, 1)
        assert outbox.remembered("residual") == b"residual %d" % newest * 500
        expected = b"calibration %d" % folded * 500 if folded else None
        assert outbox.remembered("calibration") == expected
        for at in still_open(outbox):  # the one whose outcome the kill cut off comes to it now
            assert calibrate(outbox, at, "folded") == b"calibration %d" % at * 500
        outbox.close()


VERSION_1 = """
CREATE TABLE identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation TEXT NOT NULL,
  session INTEGER NOT NULL,
  receipt_counter INTEGER NOT NULL
) STRICT;
CREATE TABLE incarnations (
  incarnation TEXT PRIMARY KEY,
  highest INTEGER NOT NULL,
  began_at REAL NOT NULL,
  reason TEXT NOT NULL
) STRICT;
CREATE TABLE updates (
  place INTEGER PRIMARY KEY,
  incarnation TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  lineage INTEGER NOT NULL,
  base_version INTEGER NOT NULL,
  digest BLOB NOT NULL,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  version INTEGER,
  made_at REAL NOT NULL,
  settled_at REAL,
  bytes INTEGER NOT NULL,
  header_digest BLOB NOT NULL,
  header BLOB,
  content BLOB,
  UNIQUE (incarnation, sequence)
) STRICT;
CREATE INDEX open_updates ON updates (place) WHERE header IS NOT NULL;
CREATE INDEX updates_by_base ON updates (lineage, base_version);
CREATE TABLE forgotten (
  incarnation TEXT NOT NULL,
  status TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (incarnation, status)
) STRICT;
PRAGMA user_version = 1;
INSERT INTO incarnations VALUES ('ffeeddccbbaa9988', 2, 900.0, 'first start');
INSERT INTO incarnations VALUES ('00112233445566aa', 3, 1000.0, 'a restored card');
INSERT INTO forgotten VALUES ('ffeeddccbbaa9988', 'folded', 40);
INSERT INTO identity VALUES (1, '00112233445566aa', 9, 77);
"""


def version_1_file(path: Path) -> None:
    """A file as the agent before sparse and calibrated updates made it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(VERSION_1)
        for place, (incarnation, at, status) in enumerate(
            (("ffeeddccbbaa9988", 2, "pending"), (FIRST, 2, "committed"), (FIRST, 3, "folded"))
        ):
            is_open = status != "folded"
            header, content = b"header %d" % place, b"content %d" % place
            database.execute(
                "INSERT INTO updates VALUES"
                " (?, ?, ?, 0, 6, ?, ?, '', NULL, 1.5, NULL, 20, ?, ?, ?)",
                (
                    place + 1,
                    incarnation,
                    at,
                    hashlib.sha256(content).digest(),
                    status,
                    hashlib.sha256(header).digest(),
                    header if is_open else None,
                    content if is_open else None,
                ),
            )
        database.commit()


def test_a_file_of_version_1_keeps_every_update_and_can_remember_from_then_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    version_1_file(path)
    for _ in range(2):  # the second time it is already of today's version
        outbox = outbox_at(path)
        old, new = UpdateId("ffeeddccbbaa9988", 2), UpdateId(FIRST, 2)
        assert outbox.open_updates() == [old, new]
        assert outbox.offer(old) == Offer(old, b"header 0", b"content 0")
        assert outbox.offer(new) == Offer(new, b"header 1", b"content 1")
        assert outbox.counts() == {"pending": 1, "committed": 1, "folded": 41}
        assert (outbox.incarnation, outbox.produced, outbox.receipt_counter) == (FIRST, 3, 77)
        assert outbox.highest("ffeeddccbbaa9988") == 2
        assert outbox.remembered("residual") is None
        outbox.close()
    outbox = outbox_at(path)
    assert outbox.next_session() == 10
    assert add_with(outbox, Memory(b"left by 4", b"after 4")) == 4
    assert calibrate(outbox, 4, "folded") == b"after 4"
    assert outbox.remembered("residual") == b"left by 4"
    assert not outbox.set_aside
