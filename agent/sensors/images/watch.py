"""A folder as a source of frames: each file once, over restarts too.

Responsible for reading a file only when it is whole, and for noting it as taken (and moving or
deleting it) only after the receiver has asked for more.  Never changes a file that was not taken.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from agent.sensors.images.folder import Found, Settling, look_into
from agent.sensors.images.frames import Decoded, FrameDecoder, RawFrame, report_frame
from agent.sensors.images.seen import Seen
from agent.sensors.images.settings import ImagesSettings
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import EMPTY, Block, block_of

SAVE_S = 2.0
ALIVE_S = 1.0
_LOOK_SHARE = 10.0
"""A look that took a second is followed by ten without: large folders on slow disks."""
_FOLDER = "folder"


class Watch:
    """Watches the folder of settings that have no problems."""

    def __init__(
        self, settings: ImagesSettings, context: SourceContext, report: SourceReport, seen: Seen
    ) -> None:
        self._settings, self._report, self._seen = settings, report, seen
        self._folder = context.config_dir / settings.folder
        self._move_to = context.config_dir / settings.move_to
        self._decoder = FrameDecoder(settings)
        self._settling = Settling(settings.settle_s if settings.complete == "stable" else 0.0)
        self._saved_s = -SAVE_S
        self._began_us = time.time_ns() // 1000

    async def blocks(self) -> AsyncGenerator[Block, None]:
        """Yield each new frame, and an empty block for each look that found none."""
        while True:
            began_s = time.monotonic()
            whole = await self._look()
            next_s = began_s + max(
                self._settings.poll_s, _LOOK_SHARE * (time.monotonic() - began_s)
            )
            async with aclosing(self._frames(whole)) as blocks:
                async for block in blocks:
                    yield block
            if not whole:
                yield EMPTY
            self._save_at_times()
            while (wait_s := next_s - time.monotonic()) > 0:
                await asyncio.sleep(min(wait_s, ALIVE_S))
                if wait_s > ALIVE_S:
                    yield EMPTY

    async def _look(self) -> list[Found]:
        """Whole new files, in order of their times."""
        seen, settings = self._seen, self._settings
        try:
            look = await asyncio.to_thread(
                look_into, self._folder, settings.glob, seen.is_done, seen.horizon_ns
            )
        except OSError as error:
            self._report.state = f"waiting: {self._folder}: {error.strerror}"
            return []
        self._report.state = "reading"
        if seen.is_first and settings.existing == "skip":
            seen.skip(look.newest_ns, look.count)
            seen.is_first = False
            seen.flush()
            return []
        whole = self._settling.whole(look.new, time.monotonic())
        self._report_folder(look.old)
        return sorted(whole, key=lambda found: (self._time_us(found), found.name))

    def _report_folder(self, old: int) -> None:
        problems = self._report.problems
        problems.pop(_FOLDER, None)
        if old > self._seen.forgotten:
            problems[_FOLDER] = (
                f"{old - self._seen.forgotten} or more files were not taken: they are older than "
                "what is remembered as taken; give them a new time (touch), or raise remember"
            )
        if restless := self._settling.restless:
            problems[_FOLDER] = (
                f"{restless[0]} changes all the time and is never whole; let its writer rename "
                "whole files into place and set complete = 'renamed'"
            )

    def _time_us(self, found: Found) -> int:
        if self._settings.time != "name":
            return found.time_us
        try:
            return self._decoder.name_time_us(found.name)
        except ValueError:
            return found.time_us

    async def _frames(self, whole: list[Found]) -> AsyncGenerator[Block, None]:
        for found in whole:
            try:
                decoded = await asyncio.to_thread(self._read, found)
            except OSError as error:
                self._report.count("unread_files")
                self._report.problems[_FOLDER] = f"{found.name}: {error.strerror}"
                continue
            report_frame(decoded, self._settings, self._report)
            is_late = found.time_us < self._began_us
            yield block_of((), (), (), (), arrays=decoded.samples, is_replayed=is_late)
            await asyncio.to_thread(self._finish, found)
            self._seen.add(found.name, found.mark)
            self._save_at_times()

    def _read(self, found: Found) -> Decoded:
        with (self._folder / found.name).open("rb") as file:
            data = file.read(self._settings.max_bytes + 1)
        time_us = time.time_ns() // 1000 if self._settings.time == "arrival" else found.time_us
        frame = RawFrame(data, found.name, time_us)
        if len(data) > self._settings.max_bytes:
            return self._decoder.refuse(frame, f"more than {self._settings.max_bytes} bytes")
        return self._decoder.decode(frame)

    def _finish(self, found: Found) -> None:
        """Do with a file that was taken what the settings say."""
        path = self._folder / found.name
        try:
            if self._settings.after == "delete":
                path.unlink(missing_ok=True)
            elif self._settings.after == "move":
                self._move_to.mkdir(parents=True, exist_ok=True)
                path.rename(_free(self._move_to / path.name))
        except OSError as error:
            reason = f"{found.name} was taken but stays: {error.strerror}"
            self._report.problems[self._settings.after] = reason
        else:
            self._report.problems.pop(self._settings.after, None)

    def _save_at_times(self) -> None:
        if time.monotonic() < self._saved_s + SAVE_S:
            return
        self._saved_s = time.monotonic()
        self._seen.flush()
        if self._seen.problem:
            self._report.problems["memory"] = self._seen.problem
        else:
            self._report.problems.pop("memory", None)


def _free(path: Path) -> Path:
    """A name that no file has: another file of this name is never replaced."""
    if not path.exists():
        return path
    names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
