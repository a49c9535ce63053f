"""Blocks between the subscription and whoever takes them: bounded, and honest about the bound.

When the consumer is slower than the machine, the oldest samples go; each channel that lost some
gets a gap from the last sample that was handed over to the next one that is.

Invariant: samples put = samples taken + samples counted in `lost` gaps + samples that wait.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from agent.sensors.opcua.timeline import NEVER_US
from agent.sensors.source import SourceReport
from agent.signals.block import ArraySample, Block, Gap

_TOO_SLOW: Final = "the agent was too slow and dropped samples"
_MAX_EMPTY: Final = 1


class Pending:
    """A queue of blocks that drops the oldest; for one producer and one consumer.

    Args:
      channels: how many the source has.
      max_samples: that may wait; each element of an array counts.
      report: where drops are counted.
    """

    def __init__(self, channels: int, max_samples: int, report: SourceReport) -> None:
        self._blocks: deque[Block] = deque()
        self._weight = 0
        self.capacity = max_samples
        self._report = report
        self._handed_us = np.full(channels, NEVER_US, np.int64)
        self._dropped = np.zeros(channels, np.int64)
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()
        self._is_closed = False

    def put(self, block: Block) -> None:
        """Append a block; never waits."""
        if not block.samples and not block.gaps and len(self._blocks) >= _MAX_EMPTY:
            return  # others wait already: they say as well that the source is alive
        self._blocks.append(block)
        self._weight += _weight(block)
        if block.gaps:
            self._report.count("gaps", len(block.gaps))
        while self._weight > self.capacity and len(self._blocks) > 1:
            self._drop(self._blocks.popleft())
        self._arrived.set()

    async def room(self) -> None:
        """Wait until half of it is free: for samples that can wait, as those of a history."""
        while self._weight > self.capacity / 2:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Nothing more comes: `get` raises once all is taken."""
        self._is_closed = True
        self._arrived.set()

    async def get(self) -> Block:
        """The oldest block that waits.

        Raises:
          EOFError: it was closed, and nothing waits.
        """
        while not self._blocks:
            if self._is_closed:
                raise EOFError
            self._arrived.clear()
            await self._arrived.wait()
        block = self._blocks.popleft()
        self._weight -= _weight(block)
        self._taken.set()
        if self._dropped.any():
            block = self._marked(block)
        self._handed_us[block.channel] = block.source_timestamp_us
        for sample in block.arrays:
            self._handed_us[sample.channel] = sample.source_timestamp_us
        return block

    def _drop(self, block: Block) -> None:
        self._weight -= _weight(block)
        np.add.at(self._dropped, block.channel, 1)
        for sample in block.arrays:
            self._dropped[sample.channel] += 1
        self._report.count("dropped_samples", block.samples)

    def _marked(self, block: Block) -> Block:
        """The block with a gap for each of its channels that lost samples before it."""
        firsts = dict(
            zip(block.channel[::-1].tolist(), block.source_timestamp_us[::-1].tolist(), strict=True)
        )
        for sample in reversed(block.arrays):
            firsts[sample.channel] = sample.source_timestamp_us
        gaps: list[Gap] = []
        for channel, until_us in sorted(firsts.items()):
            lost = int(self._dropped[channel])
            if lost:
                from_us = int(self._handed_us[channel])
                from_us = until_us if from_us == NEVER_US else from_us
                gaps.append(Gap(channel, from_us, until_us, _TOO_SLOW, lost))
                self._dropped[channel] = 0
        self._report.count("gaps", len(gaps))
        kept = tuple(
            gap for gap in block.gaps if gap.channel not in {each.channel for each in gaps}
        )
        return replace(block, gaps=(*kept, *gaps)) if gaps else block


def weight_of(arrays: Iterable[ArraySample]) -> int:
    """How many elements arrays have."""
    return sum(each.value.size for each in arrays)


def _weight(block: Block) -> int:
    return len(block) + weight_of(block.arrays)
