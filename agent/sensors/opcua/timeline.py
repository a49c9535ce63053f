"""What is known about each channel's time: its last sample, and whether some are missing after it.

Turns decoded samples into blocks, in which every loss that is known is a gap: a connection that was
lost, a sequence number that could not be had again, a queue of the server that overflowed.

Pure.  Invariants: a gap is opened before the first sample after it and closed by that sample, so
each is marked once; a repetition is dropped only where one is expected, as the first value of a
created item, so that a machine whose clock goes back is never silent.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.signals.block import ArraySample, Block, Gap, block_of

NEVER_US: Final = np.iinfo(np.int64).min
"""Instead of the source timestamp of a channel that has given nothing yet."""
OVERFLOW: Final = 0x0480
"""InfoType DataValue with the bit Overflow (OPC 10000-4, 7.39): the queue lost samples here."""
_OVERFLOWED: Final = "the server's queue overflowed"


class Timeline:
    """The channels of one source.

    Attributes:
      last_us: int64 (channels,), source timestamp of the last sample of each; or `NEVER_US`.
    """

    def __init__(self, channels: int) -> None:
        self.last_us = np.full(channels, NEVER_US, np.int64)
        self._open: dict[int, str] = {}
        self._may_repeat = np.zeros(channels, np.bool_)

    def open_gaps(self, channels: Iterable[int], reason: str) -> None:
        """From here samples are missing, until the next one of each channel comes.

        A gap that is open keeps its first reason; a channel without a sample yet has none to miss.
        """
        for channel in channels:
            if self.last_us[channel] != NEVER_US:
                self._open.setdefault(channel, reason)

    def close_gap(self, channel: int) -> None:
        """Nothing is missing: all samples since the last were had from elsewhere."""
        self._open.pop(channel, None)

    def is_open(self, channel: int) -> bool:
        """Whether samples of this channel are missing."""
        return channel in self._open

    def expect_repetition(self, channels: Iterable[int]) -> None:
        """The next sample of these may be the last one again: the first of a created item."""
        self._may_repeat[list(channels)] = True

    def place(
        self,
        channel: NDArray[np.uint32],
        value: NDArray[np.float64],
        status: NDArray[np.uint32],
        source_timestamp_us: NDArray[np.int64],
        *,
        is_replayed: bool = False,
    ) -> list[Block]:
        """Blocks of these numbers: without repetitions, with gaps.

        Usually one; more where samples are missing between two of one channel, because a gap of a
        block ends before the samples of its channel.
        """
        if self._may_repeat.any():
            kept = self._without_repetitions(channel, source_timestamp_us)
            channel, value, status = channel[kept], value[kept], status[kept]
            source_timestamp_us = source_timestamp_us[kept]
        if not len(channel):
            return []
        overflowed = np.flatnonzero((status & OVERFLOW) == OVERFLOW)
        bounds = _bounds(channel, overflowed)
        blocks: list[Block] = []
        for begin, end in pairwise(bounds):
            here = slice(begin, end)
            found = overflowed[(begin <= overflowed) & (overflowed < end)]
            gaps = self._gaps(channel[here], source_timestamp_us[here], found - begin)
            columns = channel[here], value[here], status[here], source_timestamp_us[here]
            blocks.append(block_of(*columns, gaps=gaps, is_replayed=is_replayed))
            self.last_us[channel[here]] = source_timestamp_us[here]
        return blocks

    def place_array(self, sample: ArraySample, *, is_replayed: bool = False) -> list[Block]:
        """A block of one array, unless it is a repetition; with its gap."""
        channel = np.array([sample.channel], np.uint32)
        times_us = np.array([sample.source_timestamp_us], np.int64)
        if not self._without_repetitions(channel, times_us)[0]:
            return []
        overflowed = np.array([0] if sample.status & OVERFLOW == OVERFLOW else [], np.intp)
        gaps = self._gaps(channel, times_us, overflowed)
        self.last_us[sample.channel] = sample.source_timestamp_us
        block = block_of((), (), (), (), arrays=(sample,), gaps=gaps, is_replayed=is_replayed)
        return [block]

    def _without_repetitions(
        self, channel: NDArray[np.uint32], times_us: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which samples are new: bool (N,)."""
        firsts = np.zeros(len(channel), np.bool_)
        firsts[np.unique(channel, return_index=True)[1]] = True
        repeated = firsts & self._may_repeat[channel] & (times_us == self.last_us[channel])
        self._may_repeat[channel] = False
        for each in channel[repeated].tolist():
            self.close_gap(each)  # unchanged since: nothing is missing
        fresh: NDArray[np.bool_] = ~repeated
        return fresh

    def _gaps(
        self,
        channel: NDArray[np.uint32],
        times_us: NDArray[np.int64],
        overflowed: NDArray[np.intp],
    ) -> tuple[Gap, ...]:
        reasons: dict[int, str] = {}
        if self._open:
            present = set(channel.tolist())
            reasons = {each: self._open.pop(each) for each in present & self._open.keys()}
        for at in overflowed.tolist():
            reasons.setdefault(int(channel[at]), _OVERFLOWED)
        gaps: list[Gap] = []
        for each, reason in reasons.items():
            until_us = int(times_us[int(np.argmax(channel == each))])
            last_us = int(self.last_us[each])
            gaps.append(Gap(each, until_us if last_us == NEVER_US else last_us, until_us, reason))
        return tuple(gaps)


def _bounds(channel: NDArray[np.uint32], overflowed: Sequence[int] | NDArray[np.intp]) -> list[int]:
    """Where blocks begin and end: each overflow is the first of its channel in its block."""
    bounds = [0]
    for at in overflowed:
        if np.any(channel[bounds[-1] : at] == channel[at]):
            bounds.append(int(at))
    return [*bounds, len(channel)]
