"""A camera command: a real child process that prints frames, dies, hangs, or prints nonsense."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.sensors.images import ImagesSettings, camera, command, images_blocks, problems
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import ArraySample, Block, Gap

GRAY = {"name": "Image", "shape": [1, 1, 1]}
PRINT = """
import sys, time, os
def show(level, comment=b""):
    sys.stdout.buffer.write(b"P5 " + comment + b"1 1 255 " + bytes([level]))
    sys.stdout.buffer.flush()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FIRST_RESTART_S", 0.02)
    monkeypatch.setattr(command, "ALIVE_S", 0.1)


def settings_of(script: str, **keys: Any) -> ImagesSettings:
    table = {"command": [sys.executable, "-S", "-c", PRINT + script], "channel": [GRAY], **keys}
    settings = msgspec.convert(table, ImagesSettings)
    assert list(problems(settings)) == []
    return settings


class Filmed:
    def __init__(self, report: SourceReport) -> None:
        self.report = report
        self.blocks: list[Block] = []
        self.said: list[str] = []

    @property
    def samples(self) -> list[ArraySample]:
        return [each for block in self.blocks for each in block.arrays]

    @property
    def gaps(self) -> list[Gap]:
        return [gap for block in self.blocks for gap in block.gaps]

    @property
    def levels(self) -> list[int]:
        return [round(each.value.item() * 255) for each in self.samples]


def filmed(folder: Path, settings: ImagesSettings, enough: Callable[[Filmed], bool]) -> Filmed:
    """Run the source until there is enough."""
    film = Filmed(SourceReport("images"))

    async def run() -> None:
        context = SourceContext(folder, folder, "agent-1")
        source = images_blocks(settings, context, film.report)
        async with asyncio.timeout(30), aclosing(source) as some:
            async for block in some:
                film.blocks.append(block)
                film.said.append(film.report.problems.get("command", ""))
                if enough(film):
                    return

    asyncio.run(run())
    return film


def are_gone(pids: list[int]) -> bool:
    """Whether processes end soon; one that nobody has waited for yet has ended too."""

    def is_gone(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    deadline = time.monotonic() + 20
    while not all(is_gone(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return all(is_gone(pid) for pid in pids)


def test_frames_come_in_order_stamped_at_their_arrival(tmp_path: Path) -> None:
    script = "for level in range(5): show(level); time.sleep(0.02)\ntime.sleep(60)"
    before_us = time.time_ns() // 1000
    film = filmed(tmp_path, settings_of(script), lambda film: len(film.samples) == 5)
    assert film.levels == [0, 1, 2, 3, 4]
    stamps = [each.source_timestamp_us for each in film.samples]
    assert before_us < stamps[0] <= stamps[-1] <= time.time_ns() // 1000
    assert stamps == sorted(stamps)
    assert film.gaps == []
    assert film.report.state == "reading"
    assert film.report.problems == {}


def test_a_camera_may_stamp_its_frames_itself(tmp_path: Path) -> None:
    script = 'show(1, b"# time 1700000000.25\\n"); show(2); time.sleep(60)'
    some = settings_of(script, time="comment", time_pattern=r"time (?P<time>\S+)")
    film = filmed(tmp_path, some, lambda film: len(film.samples) == 2)
    assert film.samples[0].source_timestamp_us == 1_700_000_000_250_000
    assert [each.status for each in film.samples] == [0, 0x40000000]
    assert film.report.problems == {"time": "no time in ''"}


def test_a_command_that_dies_is_started_again_and_the_gap_is_marked(tmp_path: Path) -> None:
    script = 'show(os.getpid() % 256); print("no light", file=sys.stderr); sys.exit(3)'
    film = filmed(tmp_path, settings_of(script), lambda film: len(film.samples) == 3)
    assert film.report.counters["restarts"] == 2
    reason = f"{sys.executable} ended (status 3): no light"
    assert reason in film.said
    stamps = [each.source_timestamp_us for each in film.samples]
    assert [(gap.from_us, gap.until_us, gap.reason, gap.lost) for gap in film.gaps] == [
        (stamps[0], stamps[1], reason, None),
        (stamps[1], stamps[2], reason, None),
    ]


def test_a_command_that_dies_within_a_frame_gives_no_half_frame(tmp_path: Path) -> None:
    script = """
show(7)
sys.stdout.buffer.write(b"P5 100 100 255 half")
"""
    film = filmed(tmp_path, settings_of(script), lambda film: len(film.samples) == 2)
    assert film.levels == [7, 7]
    assert film.report.counters["bad_frames"] == 1
    assert any("ended within a frame, after 19 bytes" in text for text in film.said)


def test_a_command_that_hangs_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera, "_GOODBYE_S", 0.2)
    script = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path / "pids")!r}, "a").write(f"{{os.getpid()}}\\n")
show(1)
time.sleep(60)
"""
    some = settings_of(script, frame_timeout_s=0.5)
    film = filmed(tmp_path, some, lambda film: len(film.samples) == 2)
    assert any("gave no frame for 0.5 s and was ended" in text for text in film.said)
    assert len(film.gaps) == 1
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) >= 2
    assert are_gone(pids)


def test_a_command_that_prints_nonsense_is_started_again_with_the_reason(tmp_path: Path) -> None:
    script = 'show(1); print("frame dropped"); sys.stdout.flush(); time.sleep(60)'
    film = filmed(tmp_path, settings_of(script), lambda film: len(film.samples) == 2)
    assert any("printed no frame: not a P5 or P6 header: b'frame dropped" in t for t in film.said)


def test_a_command_that_is_not_there_is_tried_for_ever(tmp_path: Path) -> None:
    some = msgspec.structs.replace(settings_of(""), command=("./no-such-camera",))
    film = filmed(tmp_path, some, lambda film: film.report.counters.get("restarts", 0) == 3)
    assert film.samples == []
    assert film.report.state.startswith("waiting: can not start ./no-such-camera: ")


def test_a_slow_receiver_gets_the_newest_frames_and_a_gap_that_counts_the_others(
    tmp_path: Path,
) -> None:
    script = """
def wait_for(name):
    while not os.path.exists(name): time.sleep(0.01)
show(0)
wait_for("busy")
for level in range(1, 100): show(level)
open("shown", "w").close()
wait_for("ready")
show(200)
time.sleep(60)
"""

    def enough(film: Filmed) -> bool:
        if film.levels == [0]:  # busy, until the camera has shown all
            (tmp_path / "busy").touch()
            while not (tmp_path / "shown").exists():
                time.sleep(0.01)
        if film.levels[-1:] == [99]:
            (tmp_path / "ready").touch()
        return film.levels[-1:] == [200]

    film = filmed(tmp_path, settings_of(script, queue=2), enough)
    assert film.levels == [0, 98, 99, 200]
    assert film.report.counters["dropped_frames"] == 97
    assert [(gap.lost, gap.reason) for gap in film.gaps] == [
        (97, "the receiver was slower than the camera")
    ]
    assert film.gaps[0].from_us == film.samples[0].source_timestamp_us
    assert film.gaps[0].until_us == film.samples[1].source_timestamp_us


def test_while_no_frame_comes_the_source_says_that_it_is_alive(tmp_path: Path) -> None:
    film = filmed(
        tmp_path, settings_of("show(1); time.sleep(60)"), lambda film: len(film.blocks) == 4
    )
    assert sum(len(block.arrays) for block in film.blocks) == 1


def test_when_the_source_is_closed_nothing_that_it_started_is_left(tmp_path: Path) -> None:
    script = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
show(1)
time.sleep(60)
"""
    filmed(tmp_path, settings_of(script), lambda film: len(film.samples) == 1)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert are_gone(pids)


def test_the_command_runs_without_a_shell_in_the_folder_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/secret")
    script = """
show(int(os.getcwd() == sys.argv[1]) + 2 * int(sys.argv[2] == "$HOME; ls *"))
show(len([name for name in os.environ if name.startswith("CREDENTIALS")]))
time.sleep(60)
"""
    some = settings_of(script)
    arguments = (*some.command, str(tmp_path), "$HOME; ls *")
    some = msgspec.structs.replace(some, command=arguments)
    film = filmed(tmp_path, some, lambda film: len(film.samples) == 2)
    assert film.levels == [3, 0]


def test_motion_jpeg_is_read(tmp_path: Path) -> None:
    script = """
sys.stdout.buffer.write(open("frame.jpg", "rb").read() * 3)
sys.stdout.buffer.flush()
time.sleep(60)
"""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (16, 16), (100, 100, 100)).save(tmp_path / "frame.jpg", "JPEG")
    some = settings_of(script, frames="mjpeg")
    film = filmed(tmp_path, some, lambda film: len(film.samples) == 3)
    assert all(abs(level - 100) <= 2 for level in film.levels)


def test_cancelling_the_source_ends_the_command(tmp_path: Path) -> None:
    script = f"""
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}}")
show(1)
time.sleep(60)
"""

    async def run() -> None:
        first = asyncio.Event()

        async def take() -> None:
            context = SourceContext(tmp_path, tmp_path, "agent-1")
            source = images_blocks(settings_of(script), context, SourceReport("images"))
            async with aclosing(source) as some:
                async for block in some:
                    if block.arrays:
                        first.set()

        task = asyncio.create_task(take())
        async with asyncio.timeout(20):
            await first.wait()
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()

    asyncio.run(run())
    assert are_gone([int((tmp_path / "pids").read_text())])
