"""A replay as a source: samples of files, in original or accelerated time.

Responsible for pace, for the shift to the present, and for remembering how far it came; files are
read in a thread, one bounded batch at a time.  Ends when everything was given; waits for ever for
files that are not there yet.  It gives each row at least once: what the receiver took is noted
when the receiver asks for more.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

from agent.sensors.replay.pace import Pace
from agent.sensors.replay.part import Findings, moved_in_time
from agent.sensors.replay.position import (
    Position,
    position_path,
    read_position,
    write_position,
)
from agent.sensors.replay.settings import ReplaySettings
from agent.sensors.replay.steps import Step, find_files, steps
from agent.sensors.source import Blocks, SourceContext, SourceReport
from agent.signals.block import EMPTY, Block
from wire.errors import SettingsError

RETRY_S = 5.0
ALIVE_S = 1.0
"""Longest silence while the next row is not due yet."""
TICK_S = 0.02
"""Rows that are due within it are given together."""
SAVE_S = 3.0


async def replay_blocks(
    settings: ReplaySettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """Yield the samples of one `[[source.replay]]`; ends with the state `finished`."""
    replay = _Replay(settings, context, report)
    try:
        async with aclosing(replay.blocks()) as blocks:
            async for block in blocks:
                yield block
    finally:
        replay.save()


class _Replay:
    def __init__(
        self, settings: ReplaySettings, context: SourceContext, report: SourceReport
    ) -> None:
        self._settings, self._folder, self._report = settings, context.config_dir, report
        self._position_path = (
            position_path(settings, context.state_dir) if settings.resume else None
        )
        self._position = self._saved = Position()
        self._saved_s = time.monotonic()
        self._pace = Pace(settings.speed)
        self._shift_us = 0 if settings.time == "original" else None
        self._samples = 0
        self._given_s = time.monotonic()
        self._failure = ""

    async def blocks(self) -> AsyncGenerator[Block, None]:
        """Everything, in order."""
        self._restore()
        while True:
            files = await asyncio.to_thread(find_files, self._settings.file, self._folder)
            if files:
                self._report.state = "reading"
                begun_at = self._position
                async with aclosing(self._play(files)) as blocks:
                    async for block in blocks:
                        yield block
                if self._samples or not self._failure:
                    break
                self._position = begun_at  # nothing was read: all files are tried again
            missing = f"no file {self._folder / self._settings.file}"
            self._report.state = f"waiting: {self._failure or missing}"
            yield EMPTY
            await asyncio.sleep(RETRY_S)
        self._report.state = "finished"

    def save(self) -> None:
        """Note where the replay is."""
        path, position = self._position_path, self._position
        if path is not None and position != self._saved:
            self._write(path, position)

    async def _play(self, files: list[tuple[str, Path]]) -> AsyncGenerator[Block, None]:
        self._failure = ""
        reading = steps(self._settings, files, self._position)
        try:
            while (step := await _next(reading)) is not None:
                self._note(step.part.findings)
                async with aclosing(self._step(step)) as blocks:
                    async for block in blocks:
                        yield block
        finally:
            with suppress(ValueError):  # a thread that was cancelled twice may still be reading
                reading.close()  # type: ignore[attr-defined]

    async def _step(self, step: Step) -> AsyncGenerator[Block, None]:
        """The blocks of a step, each when it is due."""
        part = step.part
        if not len(part.row_us):
            if part.block.gaps:
                yield self._in_time(part.block)
            self._position = step.position(0)
            return
        due_s = self._pace.due_s(part.row_us, time.monotonic())
        rows, given = len(part.row_us), 0
        while given < rows:
            async for alive in _until(float(due_s[given])):
                yield alive
            until = int(due_s.searchsorted(time.monotonic() + TICK_S / 2, "right"))
            until = max(until, given + 1)
            block = part.block_between(given, until)
            self._samples += block.samples
            if block.samples or block.gaps or time.monotonic() > self._given_s + ALIVE_S:
                yield self._in_time(block)
                self._given_s = time.monotonic()
            given = until
            self._position = step.position(given)
            await self._save_at_times()

    def _in_time(self, block: Block) -> Block:
        if self._shift_us is None:
            stamps = [
                *block.source_timestamp_us[:1].tolist(),
                *(each.source_timestamp_us for each in block.arrays[:1]),
            ]
            if not stamps:
                return block
            self._shift_us = time.time_ns() // 1000 - min(stamps)
        return moved_in_time(block, self._shift_us) if self._shift_us else block

    def _note(self, findings: Findings) -> None:
        self._report.problems.update(findings.problems)
        for name, by in findings.counters.items():
            self._report.count(name, by)
        if findings.counters.get("bad_files"):
            self._failure = next(iter(findings.problems.values()))

    def _restore(self) -> None:
        if self._position_path is None:
            return
        try:
            self._position = self._saved = read_position(self._position_path)
        except SettingsError as error:
            self._report.problems["resume"] = str(error)

    async def _save_at_times(self) -> None:
        path, position = self._position_path, self._position
        if path is None or time.monotonic() < self._saved_s + SAVE_S or position == self._saved:
            return
        self._saved_s = time.monotonic()
        await asyncio.to_thread(self._write, path, position)

    def _write(self, path: Path, position: Position) -> None:
        try:
            write_position(path, position)
        except SettingsError as error:
            self._report.problems["resume"] = str(error)
        else:
            self._saved = position
            self._report.problems.pop("resume", None)


async def _next(reading: Iterator[Step]) -> Step | None:
    """The next step, read in a thread; when cancelled, it waits for the thread to leave."""
    future = asyncio.get_running_loop().run_in_executor(None, next, reading, None)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


async def _until(moment_s: float) -> AsyncGenerator[Block, None]:
    """Wait for a moment, and say meanwhile that the source is alive."""
    while (wait_s := moment_s - time.monotonic()) > 0:
        await asyncio.sleep(min(max(wait_s, TICK_S), ALIVE_S))
        if wait_s > ALIVE_S:
            yield EMPTY
