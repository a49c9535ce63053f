"""Pace, repetition, and going on after a restart."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.replay import ReplaySettings, problems, replay_blocks, source
from agent.sensors.replay.pace import Pace
from agent.sensors.replay.position import Position
from agent.sensors.replay.steps import Step, steps
from agent.sensors.source import SourceContext, SourceReport
from tests.agent.replaying import T0, channels, replayed, settings_of

SECONDS = 1_700_000_000


def written(folder: Path, rows: range, name: str = "a.csv", step_s: float = 1.0) -> Path:
    path = folder / name
    lines = [f"{SECONDS + at * step_s},{at}" for at in rows]
    path.write_text("time,a\n" + "\n".join(lines) + "\n")
    return path


def test_a_row_is_due_in_proportion_to_its_source_time() -> None:
    pace = Pace(60.0)
    first = pace.due_s(np.array([-1, T0, T0 + 60_000_000, T0 + 30_000_000]), 5.0)
    assert first.tolist() == [5.0, 5.0, 6.0, 6.0]
    later = pace.due_s(np.array([-1, T0 + 120_000_000]), 99.0)
    assert later.tolist() == [6.0, 7.0]
    assert Pace(0.0).due_s(np.array([T0, T0 + 60_000_000]), 5.0).tolist() == [5.0, 5.0]


@given(st.lists(st.one_of(st.just(-1), st.integers(T0, T0 + 10**9)), max_size=20))
def test_due_moments_never_decrease(stamps: list[int]) -> None:
    due = Pace(2.0).due_s(np.array(stamps, np.int64), 1.0)
    assert (np.diff(due) >= 0).all()
    assert (due >= 1.0).all()


def test_an_accelerated_replay_takes_its_time_and_gives_rows_when_they_are_due(
    tmp_path: Path,
) -> None:
    written(tmp_path, range(31))
    some = settings_of(file="a.csv", time_column="time", speed=60.0, channel=channels("a"))
    began = time.monotonic()
    got = replayed(tmp_path, some)
    assert time.monotonic() - began >= 0.45
    assert got.values() == list(range(31))


def test_while_a_row_is_not_due_the_source_says_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ALIVE_S", 0.05)
    written(tmp_path, range(2), step_s=86_400)
    some = settings_of(file="a.csv", time_column="time", speed=1.0, channel=channels("a"))
    got = replayed(tmp_path, some, until=lambda blocks: len(blocks) == 4)
    assert [block.samples for block in got.blocks] == [1, 0, 0, 0]


def test_shifted_to_the_present_the_first_sample_is_now(tmp_path: Path) -> None:
    written(tmp_path, range(3))
    some = settings_of(file="a.csv", time_column="time", time="now", channel=channels("a"))
    before_us = time.time_ns() // 1000
    got = replayed(tmp_path, some)
    after_us = time.time_ns() // 1000
    stamps = [us + T0 for *_, us in got.rows()]
    assert before_us <= stamps[0] <= after_us
    assert np.diff(stamps).tolist() == [1_000_000, 1_000_000]
    assert not any(block.is_replayed for block in got.blocks)


def test_a_repetition_follows_the_one_before_in_time(tmp_path: Path) -> None:
    written(tmp_path, range(3), "a.csv")
    written(tmp_path, range(3, 4), "b.csv")
    some = settings_of(file="*.csv", time_column="time", repeat=3, channel=channels("a"))
    got = replayed(tmp_path, some)
    assert got.values() == [0, 1, 2, 3] * 3
    assert got.times_s().tolist() == list(range(12))


def test_without_an_end_it_repeats_until_it_is_closed(tmp_path: Path) -> None:
    written(tmp_path, range(3))
    some = settings_of(file="a.csv", time_column="time", repeat=0, channel=channels("a"))
    got = replayed(tmp_path, some, until=lambda blocks: len(blocks) == 50)
    assert got.values() == [0, 1, 2] * 50


def test_a_file_without_any_sample_is_not_repeated_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,tag,value\n1700000000,B,1\n")
    some = settings_of(
        file="a.csv", layout="long", time_column="time", repeat=0, channel=channels("a")
    )
    got = replayed(tmp_path, some)
    assert got.report.state == "finished"
    assert got.report.counters == {"other_tags": 1}


def test_files_that_come_later_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RETRY_S", 0.02)
    some = settings_of(file="*.csv", time_column="time", channel=channels("a"))
    (tmp_path / "a.csv").write_text("nothing,yet\n")
    report = SourceReport("replay")

    async def run() -> tuple[str, list[float]]:
        values: list[float] = []
        said = ""
        async for block in replay_blocks(some, SourceContext(tmp_path, tmp_path, "a"), report):
            if not block.samples and not said:
                said = report.state
                written(tmp_path, range(3))
            values += block.value.tolist()
        return said, values

    said, values = asyncio.run(run())
    assert said.startswith("waiting: ")
    assert "no column 'time'; the file has nothing, yet" in said
    assert values == [0, 1, 2]
    assert report.state == "finished"


def test_a_replay_that_stopped_goes_on_with_the_first_row_that_nobody_took(
    tmp_path: Path,
) -> None:
    written(tmp_path, range(100), "a.csv", 0.01)
    written(tmp_path, range(100, 200), "b.csv", 0.01)
    some = settings_of(
        file="*.csv", time_column="time", speed=4.0, resume=True, channel=channels("a")
    )
    values: list[float] = []
    for _ in range(30):
        got = replayed(tmp_path, some, until=lambda blocks: len(blocks) >= 5)
        # The last block was not followed by a question for more: it comes once more.
        taken = got.blocks if got.report.state == "finished" else got.blocks[:-1]
        values += [float(value) for block in taken for value in block.value]
        if got.report.state == "finished":
            break
    assert values == list(range(200))
    again = replayed(tmp_path, some)
    assert again.values() == []
    assert again.report.state == "finished"


_KILLED = """
import asyncio, sys
from pathlib import Path
from agent.sensors.replay import source
from agent.sensors.source import SourceContext, SourceReport
from tests.agent.replaying import channels, settings_of

source.SAVE_S = 0.02
folder = Path(sys.argv[1])
some = settings_of(
    file="a.csv", time_column="time", speed=4.0, resume=True, channel=channels("a")
)

async def run():
    context = SourceContext(folder, folder / "state", "agent-1")
    async for block in source.replay_blocks(some, context, SourceReport("replay")):
        for value in block.value:
            print(int(value), flush=True)

asyncio.run(run())
"""


def test_after_a_killed_process_every_row_has_come_and_only_the_last_ones_twice(
    tmp_path: Path,
) -> None:
    written(tmp_path, range(1000), step_s=0.01)
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        before: list[int] = []
        for line in process.stdout:
            before.append(int(line))
            if len(before) == 150:
                process.kill()
    some = settings_of(
        file="a.csv", time_column="time", speed=0.0, resume=True, channel=channels("a")
    )
    after = [int(value) for value in replayed(tmp_path, some).values()]
    assert before == list(range(len(before)))
    assert after == list(range(after[0], 1000))
    assert 0 < after[0] <= len(before)


def test_rows_that_were_appended_after_the_end_are_read_after_a_restart(tmp_path: Path) -> None:
    path = written(tmp_path, range(300))
    some = settings_of(file="a.csv", time_column="time", resume=True, channel=channels("a"))
    assert len(replayed(tmp_path, some).values()) == 300
    with path.open("a") as file:
        file.write(f"{SECONDS + 300},300\n")
    assert replayed(tmp_path, some).values() == [300]


def test_another_file_of_the_same_name_is_read_from_its_beginning(tmp_path: Path) -> None:
    written(tmp_path, range(5))
    some = settings_of(file="a.csv", time_column="time", resume=True, channel=channels("a"))
    replayed(tmp_path, some)
    written(tmp_path, range(10, 12))
    got = replayed(tmp_path, some)
    assert got.values() == [10, 11]
    assert got.report.counters == {"changed_files": 1}


def test_a_position_that_can_not_be_read_or_written_is_reported_and_survived(
    tmp_path: Path,
) -> None:
    written(tmp_path, range(3))
    some = settings_of(file="a.csv", time_column="time", resume=True, channel=channels("a"))
    replayed(tmp_path, some)
    (position,) = (tmp_path / "state" / "sources" / "replay").iterdir()
    assert json.loads(position.read_bytes())["point"]["row"] == 3
    position.write_text('{"turn": -1}')
    assert replayed(tmp_path, some).values() == [0, 1, 2]
    position.unlink()
    position.mkdir()
    got = replayed(tmp_path, some)
    assert got.values() == [0, 1, 2]
    assert str(position) in got.report.problems["resume"]


def test_reading_a_slow_disk_does_not_hold_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, range(3))
    some = settings_of(file="a.csv", time_column="time", channel=channels("a"))
    is_reading, is_turning = threading.Event(), threading.Event()
    turned: list[bool] = []

    def slow(
        settings: ReplaySettings, files: list[tuple[str, Path]], position: Position
    ) -> Iterator[Step]:
        is_reading.set()
        turned.append(is_turning.wait(10))
        yield from steps(settings, files, position)

    async def turn() -> None:
        await asyncio.to_thread(is_reading.wait, 10)
        is_turning.set()

    async def read() -> None:
        context = SourceContext(tmp_path, tmp_path, "a")
        async for _ in replay_blocks(some, context, SourceReport("replay")):
            pass

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn())
            tasks.create_task(read())

    monkeypatch.setattr(source, "steps", slow)
    asyncio.run(run())
    assert turned == [True]


def test_a_cancelled_replay_ends_and_leaves_no_thread_in_the_file(tmp_path: Path) -> None:
    written(tmp_path, range(20_000))
    some = settings_of(file="a.csv", time_column="time", repeat=0, channel=channels("a"))

    async def run() -> bool:
        async def read() -> None:
            context = SourceContext(tmp_path, tmp_path, "a")
            async for _ in replay_blocks(some, context, SourceReport("replay")):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        return task.cancelled()

    assert asyncio.run(run())


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"file": "a.dat"}, "file"),
        ({"time_column": ""}, "time_column"),
        ({"interval_s": 1.0}, "time_column"),
        ({"time_column": "", "interval_s": 1.0}, "start"),
        ({"start": "2026-01-01T00:00:00Z"}, "start"),
        ({"time_format": "minutes"}, "time_format"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"delimiter": '"'}, "delimiter"),
        ({"decimal": ","}, "delimiter"),
        ({"layout": "long", "channel": channels("a", "a")}, "channel[1].column"),
        ({"channel": [{"name": "A", "column": "a", "shape": [2]}]}, "channel[0].shape"),
        (
            {"layout": "long", "channel": [{"name": "A", "column": "a", "quality_column": "q"}]},
            "channel[0].quality_column",
        ),
    ],
)
def test_settings_that_contradict_themselves_are_named_by_key(
    keys: dict[str, object], key: str
) -> None:
    table = {"file": "a.csv", "time_column": "time", "channel": channels("a"), **keys}
    found = dict(problems(msgspec.convert(table, ReplaySettings)))
    assert key in found
