"""Acquisition: every source's blocks become rows, and nothing that came in goes unaccounted.

    sources ─ blocks ─┬─► statistics of every channel
                      ├─► sample store (durable ring)
                      └─► row cutter ─► rows, for scoring and the history

One task for each source: a source that hangs holds up nobody else.  Blocks are taken in one step
without waiting, so the row cutter needs no lock; when rows are taken away too slowly the oldest go,
and are counted.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

from agent.health import Beat, Progress, no_beat, until
from agent.reading import Reading
from agent.samples import SampleStore
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block
from agent.signals.cutting import RowCutter
from agent.signals.quality import Quality
from agent.signals.rows import Rows, joined
from agent.sources import ConfiguredSource
from agent.status import Status

logger = logging.getLogger(__name__)

_CUT_S = 0.05
_WRITE_S = 1.0
_MAX_WAITING_ROWS = 100_000
_CUT_SILENT_S = 30.0
_WRITE_SILENT_S = 300.0
"""A card that is worn out may take minutes for what it is given."""


class Acquisition:
    """Owner of the way from the sources to rows.

    Args:
      sources: of the configuration.
      context: what they are given.
      cutter: makes rows.
      store: keeps samples.
      quality: statistics of every channel.
      status: what people see; the counters of samples are this task's.
      progress: where its tasks are watched.
    """

    def __init__(
        self,
        sources: Sequence[ConfiguredSource],
        context: SourceContext,
        cutter: RowCutter,
        store: SampleStore,
        quality: Quality,
        status: Status,
        progress: Progress | None = None,
    ) -> None:
        self._cutter, self.store, self.quality = cutter, store, quality
        self._status = status
        self._progress = progress or Progress()
        self._reading = [
            Reading(source, context, self._progress, self._take, quality.newest_us)
            for source in sources
        ]
        self._waiting: deque[Rows] = deque()
        self._waiting_rows = 0
        self._has_rows = asyncio.Event()

    @property
    def reports(self) -> list[SourceReport]:
        """What each source says of itself."""
        return [reading.report for reading in self._reading]

    async def run(self) -> None:
        """Read all sources until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for reading in self._reading:
                    tasks.create_task(reading.run(), name=f"reading {reading.source.key}")
                tasks.create_task(self._cut(), name="acquisition clock")
                tasks.create_task(self._write(), name="sample store")
        finally:
            self.store.close()

    async def rows(self, beat: Beat = no_beat) -> Rows:
        """Wait for rows, and beat meanwhile; take all there are, one or more."""
        await until(self._has_rows, beat)
        return self.rows_now()

    def rows_now(self) -> Rows:
        """Take all rows there are now."""
        parts = list(self._waiting) or [self._cutter.no_rows()]
        self._waiting.clear()
        self._waiting_rows = 0
        self._has_rows.clear()
        return joined(parts)

    def change(self, at: int, source: ConfiguredSource) -> None:
        """Read a source by other settings from now on, while all others go on."""
        self._reading[at].change(source)

    def _take(self, block: Block) -> None:
        if not block.samples and not block.gaps:
            return
        self._status.samples += block.samples
        self._status.uncertain += int(block.is_uncertain.sum())
        self._status.bad += len(block) - int(block.is_usable.sum())
        self._status.gaps += len(block.gaps)
        self.quality.note(block, time.time_ns() // 1000)
        self.store.append(block)
        self._give(self._cutter.push(block, time.monotonic()))

    async def _cut(self) -> None:
        """Cut rows whose grace time is over."""
        with self._progress.watching("acquisition clock", _CUT_SILENT_S) as beat:
            while True:
                await asyncio.sleep(_CUT_S)
                self._give(self._cutter.cut(time.monotonic()))
                beat()

    async def _write(self) -> None:
        """Write the samples that are due; in a thread, because a card may take its time."""
        with self._progress.watching("sample store", _WRITE_SILENT_S) as beat:
            while True:
                await asyncio.sleep(_WRITE_S)
                await asyncio.to_thread(self.store.tick)
                beat()

    def _give(self, rows: Rows) -> None:
        if not len(rows):
            return
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        while self._waiting_rows > _MAX_WAITING_ROWS and len(self._waiting) > 1:
            gone = len(self._waiting.popleft())
            self._waiting_rows -= gone
            self._status.rows_dropped += gone
            self._waiting[0].follows[0] = False
        self._has_rows.set()
