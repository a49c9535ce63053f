"""A watched folder: whole files only, each once, in order, also after a restart."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.sensors.images import ImagesSettings, images_blocks, problems, watch
from agent.sensors.images.folder import Found, Settling, look_into
from agent.sensors.images.seen import Seen
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import ArraySample, Block

GRAY = {"name": "Image", "shape": [1, 2, 2]}
T0 = 1_700_000_000


def settings_of(**keys: Any) -> ImagesSettings:
    table = {"folder": "in", "poll_s": 0.02, "settle_s": 0.0, "channel": [GRAY], **keys}
    settings = msgspec.convert(table, ImagesSettings)
    assert list(problems(settings)) == []
    return settings


def pgm(level: int, size: int = 2) -> bytes:
    return b"P5 %d %d 255\n" % (size, size) + bytes([level]) * (size * size)


def put(folder: Path, name: str, data: bytes, time_s: float) -> Path:
    """Rename a whole file into place, with a time of last change."""
    (folder / "in").mkdir(exist_ok=True)
    path = folder / "in" / name
    path.parent.mkdir(exist_ok=True)
    hidden = path.with_name(f".{path.name}.part")
    hidden.write_bytes(data)
    os.utime(hidden, (time_s, time_s))
    return hidden.rename(path)


def watched(
    folder: Path,
    settings: ImagesSettings,
    enough: Callable[[list[ArraySample]], bool],
    meanwhile: Callable[[list[ArraySample]], None] = lambda _: None,
    report: SourceReport | None = None,
) -> tuple[list[ArraySample], SourceReport]:
    """Watch until there is enough; `meanwhile` is called between the blocks."""
    report = report or SourceReport("images")

    async def run() -> list[ArraySample]:
        samples: list[ArraySample] = []
        context = SourceContext(folder, folder / "state", "agent-1")
        async with asyncio.timeout(20), aclosing(images_blocks(settings, context, report)) as some:
            async for block in some:
                if enough(samples):
                    break
                samples += block.arrays
                meanwhile(samples)
        return samples

    return asyncio.run(run()), report


def levels(samples: list[ArraySample]) -> list[int]:
    return [round(float(each.value.mean()) * 255) for each in samples]


def test_files_are_given_in_order_of_their_times_with_these_as_source_timestamps(
    tmp_path: Path,
) -> None:
    put(tmp_path, "z.pgm", pgm(10), T0)
    put(tmp_path, "a.pgm", pgm(20), T0 + 1.5)
    put(tmp_path, "notes.txt", b"no picture", T0)
    got, report = watched(tmp_path, settings_of(), lambda samples: len(samples) == 2)
    assert levels(got) == [10, 20]
    assert [each.source_timestamp_us for each in got] == [T0 * 10**6, T0 * 10**6 + 1_500_000]
    assert got[0].value.dtype == np.float32
    assert report.state == "reading"
    assert report.counters == {"frames": 2}
    assert report.problems == {}


def test_every_channel_has_its_own_cut_of_a_frame(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", b"P5 2 1 255 " + bytes([0, 255]), T0)
    table = [
        {"name": "Left", "shape": [1, 1, 1], "crop": [0, 0, 1, 1]},
        {"name": "Color", "shape": [3, 1, 2]},
        {"name": "Gone", "shape": [1, 1, 1], "crop": [0, 0, 9, 9]},
    ]
    got, report = watched(tmp_path, settings_of(channel=table), lambda samples: len(samples) == 3)
    assert got[0].value.tolist() == [[[0]]]
    assert got[1].value.tolist() == [[[0, 1]]] * 3
    assert got[2].status == 0x80070000
    assert list(report.problems) == ["Gone"]


def test_a_damaged_file_is_a_bad_sample_and_does_not_stop_the_others(tmp_path: Path) -> None:
    put(tmp_path, "1.pgm", pgm(1)[:-1], T0)
    put(tmp_path, "2.png", b"\x89PNG\r\n\x1a\n" + bytes(50), T0 + 1)
    seen: list[str] = []
    report = SourceReport("images")

    def look(samples: list[ArraySample]) -> None:
        seen.extend(report.problems.values())
        if len(samples) == 2:
            put(tmp_path, "3.pgm", pgm(3), T0 + 2)

    got, _ = watched(tmp_path, settings_of(), lambda samples: len(samples) == 3, look, report)
    assert [each.status for each in got] == [0x80070000, 0x80070000, 0]
    assert np.isnan(got[0].value).all()
    assert got[0].source_timestamp_us == T0 * 10**6
    assert seen[0] == "1.pgm: the picture ends after 14 bytes"
    assert any(text.startswith("2.png: ") for text in seen)
    assert report.problems == {}
    assert report.counters == {"frames": 3, "bad_frames": 2}


def test_a_file_that_is_still_written_is_not_taken() -> None:
    settling = Settling(1.0)
    small, large = Found("a.pgm", (1, 10)), Found("a.pgm", (2, 20))
    assert settling.whole([small], 0.0) == []
    assert settling.whole([small], 0.9) == []
    assert settling.whole([large], 1.0) == []
    assert settling.whole([large], 1.9) == []
    assert settling.whole([large], 2.0) == [large]
    assert settling.whole([], 3.0) == []


def test_a_file_that_never_stops_changing_is_reported() -> None:
    settling = Settling(1.0)
    for at in range(25):
        assert settling.whole([Found("latest.pgm", (at, 10))], float(at) / 2) == []
    assert settling.restless == ["latest.pgm"]
    assert settling.whole([Found("latest.pgm", (24, 10))], 99.0) != []
    assert settling.restless == []


def test_a_file_written_in_two_halves_is_given_once_and_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.pgm"
    path.write_bytes(pgm(9)[:-2])
    rest: list[bytes] = [pgm(9)[-2:]]
    looks = 0

    def write_the_rest(samples: list[ArraySample]) -> None:
        nonlocal looks
        looks += 1
        if rest and looks == 2:
            with path.open("ab") as file:
                file.write(rest.pop())

    some = settings_of(settle_s=0.4)
    got, report = watched(tmp_path, some, bool, write_the_rest)
    assert levels(got) == [9]
    assert report.counters == {"frames": 1}


def test_a_file_is_given_once_over_restarts_and_again_when_it_changes(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)
    put(tmp_path, "b.pgm", pgm(2), T0 + 1)
    first, _ = watched(tmp_path, settings_of(), lambda samples: len(samples) == 2)
    assert levels(first) == [1, 2]
    put(tmp_path, "c.pgm", pgm(3), T0 - 5)
    put(tmp_path, "a.pgm", pgm(4), T0 + 2)
    second, _ = watched(tmp_path, settings_of(), lambda samples: len(samples) == 2)
    assert levels(second) == [3, 4]


def test_a_frame_that_the_receiver_did_not_finish_comes_again(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)

    async def take_one() -> list[Block]:
        context = SourceContext(tmp_path, tmp_path / "state", "agent-1")
        source = images_blocks(settings_of(), context, SourceReport("images"))
        async with asyncio.timeout(20), aclosing(source) as some:
            async for block in some:
                if block.arrays:
                    return [block]
        return []

    assert levels(list(asyncio.run(take_one())[0].arrays)) == [1]
    assert levels(list(asyncio.run(take_one())[0].arrays)) == [1]


@pytest.mark.parametrize("after", ["delete", "move"])
def test_files_that_were_taken_are_deleted_or_moved_without_replacing_others(
    tmp_path: Path, after: str
) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a.pgm").write_bytes(b"another one")
    keys = {"after": after} | ({"move_to": "done"} if after == "move" else {})
    watched(tmp_path, settings_of(**keys), bool)
    assert list((tmp_path / "in").iterdir()) == []
    moved = {path.name: path.read_bytes() for path in (tmp_path / "done").iterdir()}
    assert moved["a.pgm"] == b"another one"
    assert moved.get("a-1.pgm") == (pgm(1) if after == "move" else None)


def test_a_file_that_can_not_be_moved_is_reported_and_not_given_twice(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)
    (tmp_path / "done").write_text("a file, not a folder")
    some = settings_of(after="move", move_to="done")

    def later(samples: list[ArraySample]) -> None:
        if len(samples) == 1 and not (tmp_path / "in" / "b.pgm").exists():
            put(tmp_path, "b.pgm", pgm(2), T0 + 1)

    got, report = watched(tmp_path, some, lambda samples: len(samples) == 2, later)
    assert levels(got) == [1, 2]
    assert report.problems["move"].startswith("b.pgm was taken but stays: ")


def test_files_that_were_there_first_can_be_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "old.pgm", pgm(1), T0)
    looks = 0

    def later(samples: list[ArraySample]) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            put(tmp_path, "new.pgm", pgm(2), T0 + 1)

    some = settings_of(existing="skip")
    got, _ = watched(tmp_path, some, bool, later)
    assert levels(got) == [2]
    put(tmp_path, "while_down.pgm", pgm(3), T0 + 2)
    got, _ = watched(tmp_path, some, bool)
    assert levels(got) == [3]


def test_a_folder_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    report = SourceReport("images")

    def later(samples: list[ArraySample]) -> None:
        said.append(report.state)
        if len(said) == 2:
            put(tmp_path, "a.pgm", pgm(1), T0)

    got, _ = watched(tmp_path, settings_of(), bool, later, report)
    assert levels(got) == [1]
    assert said[0] == f"waiting: {tmp_path / 'in'}: No such file or directory"


def test_folders_below_are_looked_into_when_the_pattern_says_so(tmp_path: Path) -> None:
    put(tmp_path, "day1/a.pgm", pgm(1), T0)
    put(tmp_path, "b.pgm", pgm(2), T0 + 1)
    look = look_into(tmp_path / "in", "**/*.pgm", lambda *_: False, -1)
    assert sorted(found.name for found in look.new) == ["b.pgm", "day1/a.pgm"]
    assert [found.name for found in look_into(tmp_path / "in", "*", lambda *_: False, -1).new] == [
        "b.pgm"
    ]


def test_the_time_may_stand_in_the_name(tmp_path: Path) -> None:
    put(tmp_path, "cam2_20231114-231325.pgm", pgm(1), T0 + 100)
    put(tmp_path, "cam1_20231114-231320.pgm", pgm(2), T0 + 200)
    put(tmp_path, "cam1_unknown.pgm", pgm(3), T0 + 300)
    some = settings_of(
        time="name",
        time_pattern=r"_(?P<time>\d{8}-\d{6})",
        time_format="%Y%m%d-%H%M%S",
        time_zone="Europe/Berlin",
    )
    got, report = watched(tmp_path, some, lambda samples: len(samples) == 3)
    assert levels(got) == [2, 1, 3]
    assert [each.source_timestamp_us // 10**6 - T0 for each in got] == [0, 5, 300]
    assert [each.status for each in got] == [0, 0, 0x40000000]
    assert report.problems == {"time": "no time in 'cam1_unknown.pgm'"}


def test_a_file_over_the_cap_is_bad_and_not_read(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1, 100), T0)
    got, report = watched(tmp_path, settings_of(max_bytes=5000), bool)
    assert [each.status for each in got] == [0x80070000]
    assert report.problems["Image"] == "a.pgm: more than 5000 bytes"


def test_what_was_taken_is_remembered_in_bounded_space(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen.db", 100)
    for at in range(1000):
        seen.add(f"{at}.pgm", (at, 10))
        if at % 90 == 0:
            seen.flush()
    seen.close()
    again = Seen(tmp_path / "seen.db", 100)
    assert all(again.is_done(f"{at}.pgm", (at, 10)) for at in range(1000))
    assert not again.is_done("999.pgm", (999, 11))
    assert not again.is_done("1000.pgm", (1000, 10))
    again.close()
    with sqlite3.connect(tmp_path / "seen.db") as database:
        ((rows,),) = database.execute("SELECT count(*) FROM seen")
    assert rows <= 110


def test_old_files_that_come_late_are_reported_when_they_are_not_taken(tmp_path: Path) -> None:
    some = settings_of(existing="skip")
    put(tmp_path, "a.pgm", pgm(1), T0)
    report = SourceReport("images")
    said: list[str] = []

    def later(samples: list[ArraySample]) -> None:
        said.append(report.problems.get("folder", ""))
        if len(said) == 2:
            put(tmp_path, "older.pgm", pgm(2), T0 - 1)
        if len(said) > 2 and said[-1]:
            put(tmp_path, "new.pgm", pgm(3), T0 + 1)

    got, _ = watched(tmp_path, some, bool, later, report)
    assert levels(got) == [3]
    assert said[-1].startswith("1 or more files were not taken")


def test_without_a_disk_for_its_memory_the_source_goes_on_and_says_so(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)
    (tmp_path / "state").write_text("not a folder")
    report = SourceReport("images")
    said: list[str] = []
    got, _ = watched(
        tmp_path,
        settings_of(),
        lambda _: len(said) >= 3,
        lambda _: said.append(report.problems.get("memory", "")),
        report,
    )
    assert levels(got) == [1]
    assert any(text.startswith("files that were taken are not remembered") for text in said)


def test_a_damaged_memory_is_set_aside(tmp_path: Path) -> None:
    put(tmp_path, "a.pgm", pgm(1), T0)
    watched(tmp_path, settings_of(), bool)
    (memory,) = (tmp_path / "state" / "sources" / "images").glob("*.db")
    memory.write_bytes(b"rotten" * 1000)
    got, _ = watched(tmp_path, settings_of(), bool)
    assert levels(got) == [1]
    assert list(memory.parent.glob("*.damaged-1"))


def test_a_backlog_is_marked_as_replayed_and_a_new_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SAVE_S", 0.0)
    put(tmp_path, "old.pgm", pgm(1), T0)

    async def run() -> list[bool]:
        flags: list[bool] = []
        context = SourceContext(tmp_path, tmp_path / "state", "agent-1")
        source = images_blocks(settings_of(), context, SourceReport("images"))
        async with asyncio.timeout(20), aclosing(source) as some:
            async for block in some:
                flags += [block.is_replayed] * len(block.arrays)
                if len(flags) == 1:
                    put(tmp_path, "new.pgm", pgm(2), 4_000_000_000)
                if len(flags) == 2:
                    break
        return flags

    assert asyncio.run(run()) == [True, False]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"folder": ""}, "folder"),
        ({"command": ["camera"]}, "folder"),
        ({"glob": "*.tiff"}, "glob"),
        ({"after": "move"}, "move_to"),
        ({"move_to": "x"}, "move_to"),
        ({"after": "move", "move_to": "in"}, "move_to"),
        ({"after": "move", "move_to": "in/done", "glob": "**/*.pgm"}, "move_to"),
        ({"time": "name"}, "time_pattern"),
        ({"time_pattern": "("}, "time_pattern"),
        ({"time_pattern": r"(\d+)"}, "time_pattern"),
        ({"time_format": "hours"}, "time_format"),
        ({"time_zone": "Nowhere"}, "time_zone"),
        ({"folder": "", "command": ["camera"], "time": "mtime"}, "time"),
        ({"channel": [{"name": "A", "shape": [2, 4, 4]}]}, "channel[0].shape"),
        ({"channel": [{"name": "A"}]}, "channel[0].shape"),
        ({"channel": [GRAY | {"crop": [1, 1, 0, 5]}]}, "channel[0].crop"),
    ],
)
def test_settings_that_contradict_themselves_are_named_by_key(
    keys: dict[str, Any], key: str
) -> None:
    table = {"folder": "in", "channel": [GRAY], **keys}
    assert key in dict(problems(msgspec.convert(table, ImagesSettings)))
