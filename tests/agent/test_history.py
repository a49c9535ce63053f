"""The durable ring of rows."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.history import History, is_held_out
from agent.signals.rows import Rows, joined, rows_of

CHANNELS = ["torque", "failure"]
WRITER = """
import sys
from pathlib import Path
from agent.history import History
from agent.signals.rows import rows_of
history = History(Path(sys.argv[1]), ["torque", "failure"], 10**6, 0.0)
at = history.count
while True:
    stamps = range(at, at + 5)
    history.append(rows_of([(float(i), 1.0) for i in stamps], stamps))
    at += 5
    print(at, flush=True)
"""


def history_at(path: Path, capacity_rows: int = 1000, share: float = 0.0) -> History:
    return History(path / "history.db", CHANNELS, capacity_rows, share)


def rows(first: int, last: int) -> Rows:
    stamps = range(first, last)
    return rows_of([(float(at), at % 2) for at in stamps], stamps)


def one_row(at: int, *values: float) -> Rows:
    return rows_of([values], [at])


def test_a_row_is_kept_once_whatever_is_replayed(tmp_path: Path) -> None:
    history = history_at(tmp_path)
    assert history.append(rows(0, 10)) == 10
    assert history.append(joined([one_row(9, -1.0, 0.0), rows(5, 12)])) == 2
    assert history.count == 12
    assert np.array_equal(history.read(held_out=False).values, rows(0, 12).values)


def test_the_ring_forgets_the_oldest_rows_when_it_is_full(tmp_path: Path) -> None:
    history = history_at(tmp_path, capacity_rows=10)
    history.append(rows(0, 8))
    history.append(rows(8, 15))
    assert history.count == 10
    assert history.read(held_out=False).values[:, 0].tolist() == list(range(5, 15))


def test_rows_that_came_out_of_order_are_read_oldest_first(tmp_path: Path) -> None:
    history = history_at(tmp_path)
    for at in reversed(range(20)):
        history.append(rows(at, at + 1))
    assert history.read(held_out=False).values[:, 0].tolist() == list(range(20))


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_more_rows_than_are_read_at_once_come_whole_and_in_order(
    tmp_path: Path, count: int
) -> None:
    turned = History(tmp_path / "history.db", CHANNELS[::-1], 10_000, 0.0)
    turned.append(rows_of([(at % 2, float(at)) for at in range(700)], range(700)))
    turned.close()
    history = history_at(tmp_path, capacity_rows=10_000)
    history.append(rows(700, count))
    found, expected = history.read(held_out=False), rows(0, count)
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.source_timestamp_us, expected.source_timestamp_us)


def test_a_restart_finds_every_row_and_the_same_split(tmp_path: Path) -> None:
    first = history_at(tmp_path, share=0.2)
    first.append(rows(0, 500))
    before = [first.read(held_out=side) for side in (True, False)]
    first.close()
    second = history_at(tmp_path, share=0.2)
    assert second.count == 500
    for side, held in zip((True, False), before, strict=True):
        assert np.array_equal(second.read(held_out=side).values, held.values)
    assert second.training_rows() == len(before[1])


@pytest.mark.parametrize("step_us", [1, 1000, 1_000_000, 60_000_000])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_held_out_share_is_met_whatever_the_cadence(step_us: int, share: float) -> None:
    start = 1_700_000_000_000_000
    held = sum(is_held_out(start + at * step_us, share) for at in range(20_000))
    assert abs(held / 20_000 - share) < 0.02


@given(st.integers(0, 1 << 62), st.floats(0, 0.5))
def test_a_larger_share_only_adds_held_out_rows(at_us: int, share: float) -> None:
    assert not is_held_out(at_us, 0.0)
    if is_held_out(at_us, share):
        assert is_held_out(at_us, 0.5)


def test_reordered_channels_do_not_mix_up_the_past(tmp_path: Path) -> None:
    history_at(tmp_path).append(one_row(1, 40.0, 1.0))
    turned = History(tmp_path / "history.db", ["failure", "torque"], 1000, 0.0)
    turned.append(one_row(2, 0.0, 50.0))
    assert turned.read(held_out=False).values.tolist() == [[1.0, 40.0], [0.0, 50.0]]


def test_rows_without_one_of_todays_channels_are_left_out(tmp_path: Path) -> None:
    history_at(tmp_path).append(rows(0, 5))
    wider = History(tmp_path / "history.db", [*CHANNELS, "speed"], 1000, 0.0)
    wider.append(one_row(100, 1.0, 2.0, 3.0))
    assert wider.read(held_out=False).values.tolist() == [[1.0, 2.0, 3.0]]
    assert wider.training_rows() == 1
    narrow = History(tmp_path / "history.db", ["torque"], 1000, 0.0)
    assert narrow.read(held_out=False).values[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 1.0]


def test_a_kill_while_appending_loses_at_most_the_open_transaction(
    tmp_path: Path, repository: Path
) -> None:
    path = tmp_path / "history.db"
    rng = random.Random(5)
    promised = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(3, 40)):
                promised = int(writer.stdout.readline())
            writer.kill()
            promised = max([promised, *map(int, writer.stdout.read().split())])
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
        history = History(path, CHANNELS, 10**6, 0.0)
        assert history.count in (promised, promised + 5)
        assert history.read(held_out=False).values[:, 0].tolist() == list(range(history.count))
        history.close()


def test_the_readable_rows_of_a_damaged_ring_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    first = history_at(tmp_path, capacity_rows=10_000, share=0.2)
    first.append(rows(0, 3000))
    first.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    history = history_at(tmp_path, capacity_rows=10_000, share=0.2)
    assert history.set_aside == [tmp_path / "history.db.damaged-1"]
    assert history.set_aside[0].read_bytes() == data
    assert 2000 < history.count < 3000
    kept = np.concatenate([history.read(held_out=side).values for side in (True, False)])
    assert len(kept) == history.count
    assert {tuple(row) for row in kept} <= {tuple(row) for row in rows(0, 3000).values}
    assert {0.0, 2999.0} <= set(kept[:, 0])
    assert history.append(rows(0, 3001)) == 3001 - len(kept)


def test_a_ring_that_is_no_database_is_replaced_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"certainly not a database" * 100)
    history = history_at(tmp_path)
    assert history.count == 0
    assert history.append(rows(0, 3)) == 3
    assert [path.name for path in history.set_aside] == ["history.db.damaged-1"]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_rots_a_ring_can_be_read_and_written(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "history.db"
    first = history_at(tmp_path)
    first.append(rows(0, 500))
    first.close()
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 6)):
        length = rng.choice([1, 1, 16, 512, 4096])
        at = rng.randrange(len(data) - length)
        data[at : at + length] = rng.randbytes(length)
    path.write_bytes(data)
    history = history_at(tmp_path)
    assert history.append(rows(10_000, 10_010)) == 10
    found = history.read(held_out=False).values
    assert found.shape == (len(found), 2)
    assert {float(at) for at in range(10_000, 10_010)} <= set(found[:, 0])
    history.training_rows()
    history.close()


def test_arrays_are_kept_beside_the_numbers_and_found_by_name(tmp_path: Path) -> None:
    waves = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    first = History(tmp_path / "history.db", ["count", "wave"], 1000, 0.0, shapes={1: (2, 3)})
    first.append(rows_of([(1.0, 0.0), (2.0, 0.0)], [1, 2], arrays={1: waves}))
    first.close()
    turned = History(tmp_path / "history.db", ["wave", "count"], 1000, 0.0, shapes={0: (2, 3)})
    found = turned.read(held_out=False)
    assert np.array_equal(found.arrays[0], waves)
    assert found.values.tolist() == [[0.0, 1.0], [0.0, 2.0]]
    other = History(tmp_path / "history.db", ["count", "wave"], 1000, 0.0, shapes={1: (6,)})
    assert len(other.read(held_out=False)) == 0


def test_a_ring_of_large_rows_is_bounded_by_bytes(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db", CHANNELS, 1000, 0.0, capacity_bytes=10 * 2 * 8)
    history.append(rows(0, 25))
    assert history.count == 10


def test_whether_a_row_follows_the_one_before_is_kept(tmp_path: Path) -> None:
    history = history_at(tmp_path)
    told = np.array([False, True, True, False, True])
    history.append(rows_of([(0.0, 0.0)] * 5, range(5), follows=told))
    assert history.read(held_out=False).follows.tolist() == told.tolist()


def test_for_windows_whole_stretches_are_held_out_and_no_run_crosses_a_border(
    tmp_path: Path,
) -> None:
    history = History(tmp_path / "history.db", CHANNELS, 10_000, 0.3, holdout_stretch_s=10e-6)
    history.append(rows(0, 1000))
    sides = [history.read(held_out=side, in_stretches=True) for side in (True, False)]
    assert [len(side) for side in sides] == [1000 - len(sides[1]), 1000 - len(sides[0])]
    assert 150 < len(sides[0]) < 450
    assert history.training_rows(in_stretches=True) == len(sides[1])
    for side in sides:
        stretches = side.source_timestamp_us // 10
        assert {int(n) for n in np.bincount(stretches) if n} == {10}
        assert (np.diff(side.source_timestamp_us)[side.follows[1:]] == 1).all()
        assert not side.follows[1:][np.diff(side.source_timestamp_us) > 1].any()


def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute(
            "CREATE TABLE layouts (layout INTEGER PRIMARY KEY, channels TEXT NOT NULL UNIQUE)"
            " STRICT"
        )
        database.execute(
            "CREATE TABLE rows (source_timestamp_us INTEGER PRIMARY KEY, held_out INTEGER NOT NULL,"
            " layout INTEGER NOT NULL REFERENCES layouts, row_values BLOB NOT NULL) STRICT"
        )
        database.execute("""INSERT INTO layouts VALUES (1, '["torque", "failure"]')""")
        old = np.array([40.0, 1.0], "<f8").tobytes()
        database.execute("INSERT INTO rows VALUES (7, 0, 1, ?)", (old,))
    database.close()
    history = history_at(tmp_path)
    history.append(one_row(8, 50.0, 0.0))
    found = history.read(held_out=False)
    assert found.values.tolist() == [[40.0, 1.0], [50.0, 0.0]]
    assert found.follows.tolist() == [False, True]
