"""Reads one source, and changes over to other settings while it goes on.

    before  ───────────────────────────────┤ ended
    after      ├── first samples ── reached by it ──┴── taken from where that one ended ──►

What the new session brings meanwhile is held back, so that each channel's samples stay in order,
and what both brought is taken once.  Where a machine allows one session only, as a serial port
does, the new one gives nothing in time: the old one ends, and what is missed is a marked gap.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block, Gap
from agent.sources import ConfiguredSource
from wire.progress import Progress

logger = logging.getLogger(__name__)

_SILENT_S = 900.0
"""A source says every few seconds that it is alive, by an empty block if need be, also while it
tries in vain; a slow server with ten thousand items may take minutes for its answers."""
_PATIENCE_S = 10.0
"""How long the new session may take for its first samples."""
_LINGER_S = 5.0
"""How long at most the old one goes on beside it, for what is still on its way."""
_LOOK_S = 0.05
_NEVER_US = np.iinfo(np.int64).min


@dataclass(eq=False)
class _Session:
    """One run of a source.

    Attributes:
      source: by which settings.
      report: what it says of itself.
      held: its blocks, while another session is still taken from; None once its own are taken.
      has_samples: set with its first ones.
    """

    source: ConfiguredSource
    report: SourceReport
    held: list[Block] | None = None
    has_samples: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class Reading:
    """Owner of one source's sessions.

    Args:
      source: of the configuration.
      context: what sources are given.
      progress: where its sessions are watched.
      take: takes a block, its channels numbered among all of the agent's.
      newest_us: the newest source timestamp of each channel that has given samples.
    """

    def __init__(
        self,
        source: ConfiguredSource,
        context: SourceContext,
        progress: Progress,
        take: Callable[[Block], None],
        newest_us: Callable[[], Mapping[int, int]],
    ) -> None:
        self.source = source
        self._context, self._progress = context, progress
        self._take, self._newest_us = take, newest_us
        self._changed = asyncio.Event()
        self._session = _Session(source, SourceReport(source.title))
        self._channels = range(source.first, source.first + len(source.channels))
        self._missed_us: dict[int, int] = {}
        self._taken_us: dict[int, int] = {}
        """What the old session gave, until the new one is past it or some seconds are over."""
        self._taken_until_s = 0.0

    @property
    def report(self) -> SourceReport:
        """What its newest session says."""
        return self._session.report

    def change(self, source: ConfiguredSource) -> None:
        """Read by other settings from now on; the channels stay what they are."""
        self.source = source
        self._changed.set()

    async def run(self) -> None:
        """Read until cancelled; what fails ends this with its error."""
        session = self._begin(self._session)
        try:
            while True:
                await self._until_changed(session)
                self._changed.clear()
                report = SourceReport(self.source.title, counters=dict(session.report.counters))
                following = self._session = _Session(self.source, report, [])
                self._begin(following)
                try:
                    await self._overlap(session, following)
                finally:
                    await _end(session)
                self._change_over(following)
                session = following
        finally:
            await _end(session)
            await _end(self._session)

    def _begin(self, session: _Session) -> _Session:
        session.task = asyncio.create_task(self._read(session), name=session.source.key)
        return session

    async def _until_changed(self, session: _Session) -> None:
        """Wait for other settings; a session that ended in peace needs nothing meanwhile."""
        await _first(session, self._changed, None)
        if session.task is not None and session.task.done():
            session.task.result()
            await self._changed.wait()

    async def _overlap(self, session: _Session, following: _Session) -> None:
        """Let the old session go on until the new one has all that is current."""
        if await _first(following, following.has_samples, _PATIENCE_S):
            ends_s = time.monotonic() + _LINGER_S
            while not self._has_reached(following) and time.monotonic() < ends_s:
                await _first(session, asyncio.Event(), _LOOK_S)
            return
        newest_us = self._newest_us()
        self._missed_us = {each: newest_us[each] for each in self._channels if each in newest_us}

    def _has_reached(self, following: _Session) -> bool:
        """Whether all was taken that came before what the new session begins with."""
        newest_us = self._newest_us()
        firsts = _first_us(following.held or [])
        return all(newest_us.get(at, _NEVER_US) >= time_us for at, time_us in firsts.items())

    def _change_over(self, session: _Session) -> None:
        """Take what the new session brought and the old one did not."""
        newest_us = self._newest_us()
        self._taken_us = {each: newest_us[each] for each in self._channels if each in newest_us}
        self._taken_until_s = time.monotonic() + _PATIENCE_S
        held, session.held = session.held or [], None
        for block in held:
            self._give(block)

    async def _read(self, session: _Session) -> None:
        source, report = session.source, session.report
        name = source.key if session.held is None else f"{source.key}, changed"
        with contextlib.ExitStack() as stack:
            while name in self._progress.silences():
                name += "'"
            beat = stack.enter_context(self._progress.watching(name, _SILENT_S + source.silent_s))
            async with contextlib.aclosing(source.open(self._context, report)) as blocks:
                async for block in blocks:
                    beat()
                    shifted = block.shifted(source.first)
                    if session.held is None:
                        self._give(shifted)
                    else:
                        session.held.append(shifted)
                    if block.samples:
                        session.has_samples.set()
        logger.info("%s: %s", report.name, report.state)

    def _give(self, block: Block) -> None:
        if self._taken_us and block.samples:
            block = _newer(block, self._taken_us)
            passed = {*block.channel.tolist(), *(each.channel for each in block.arrays)}
            for channel in passed & self._taken_us.keys():
                del self._taken_us[channel]
            if time.monotonic() > self._taken_until_s:
                self._taken_us.clear()
        self._take(self._marked(block))

    def _marked(self, block: Block) -> Block:
        """The first samples of channels for which samples were missed, with the gap before them."""
        if not self._missed_us or not block.samples:
            return block
        firsts = _first_us([block])
        gaps = [
            Gap(channel, from_us, firsts[channel], "the configuration was changed")
            for channel in sorted(firsts.keys() & self._missed_us.keys())
            if (from_us := self._missed_us.pop(channel)) < firsts[channel]
        ]
        return replace(block, gaps=(*gaps, *block.gaps))


def _first_us(blocks: Sequence[Block]) -> dict[int, int]:
    """Source timestamp of the first sample of each channel."""
    firsts: dict[int, int] = {}
    for block in reversed(blocks):
        firsts |= {each.channel: each.source_timestamp_us for each in reversed(block.arrays)}
        times_us = block.source_timestamp_us.tolist()
        firsts |= dict(zip(reversed(block.channel.tolist()), reversed(times_us), strict=True))
    return firsts


async def _first(session: _Session, event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for an event, the session's end or the time; returns whether it was the event."""
    waiting = asyncio.create_task(event.wait())
    awaited = {waiting} if session.task is None else {waiting, session.task}
    try:
        await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return event.is_set()


async def _end(session: _Session) -> None:
    """End a session; an error that it ended with by itself is raised."""
    task = session.task
    if task is None:
        return
    is_over = task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if is_over and not task.cancelled():
        session.task = None
        task.result()


def _newer(block: Block, newest_us: Mapping[int, int]) -> Block:
    """The samples of a block that come after what was taken of their channels."""
    known = np.array([newest_us.get(each, _NEVER_US) for each in block.channel.tolist()], np.int64)
    new = block.source_timestamp_us > known
    arrays = tuple(
        each
        for each in block.arrays
        if each.source_timestamp_us > newest_us.get(each.channel, _NEVER_US)
    )
    return replace(
        block,
        channel=block.channel[new],
        value=block.value[new],
        status=block.status[new],
        source_timestamp_us=block.source_timestamp_us[new],
        arrays=arrays,
    )
