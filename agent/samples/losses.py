"""What could not be stored and is marked in no record yet, by channel and reason.

Pure.  Invariant: every sample that was noted lies strictly inside the gap of its channel that
`gaps` makes, and is counted in it.
"""

from dataclasses import dataclass

import numpy as np

from agent.samples.columns import Int64s
from agent.samples.segment import NEVER
from agent.signals.block import Block, Gap

_NONE_YET = (1 << 63) - 1


@dataclass(frozen=True, eq=False)
class _Span:
    """Of one reason; int64 (C,) each: oldest and newest source timestamp, and samples."""

    from_us: Int64s
    until_us: Int64s
    lost: Int64s


class Losses:
    """Losses of C channels.

    Args:
      channels: C.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._of: dict[str, _Span] = {}

    def note(self, block: Block, reason: str) -> None:
        """Add a block that is lost; its gaps keep their own reasons."""
        if block.samples:
            span = self._span(reason)
            np.minimum.at(span.from_us, block.channel, block.source_timestamp_us)
            np.maximum.at(span.until_us, block.channel, block.source_timestamp_us)
            np.add.at(span.lost, block.channel, 1)
        for sample in block.arrays:
            at_us = sample.source_timestamp_us
            self._widen(reason, sample.channel, at_us, at_us, 1)
        for gap in block.gaps:
            self._widen(gap.reason, gap.channel, gap.from_us, gap.until_us, gap.lost or 0)

    def add(self, others: "Losses") -> None:
        """Add losses that were taken out and could not be written."""
        for reason, other in others._of.items():  # noqa: SLF001 - the same class
            span = self._span(reason)
            np.minimum(span.from_us, other.from_us, out=span.from_us)
            np.maximum(span.until_us, other.until_us, out=span.until_us)
            np.add(span.lost, other.lost, out=span.lost)

    def gaps(self, last_us: Int64s) -> list[Gap]:
        """The markers; `last_us`: newest source timestamp of each channel in the ring, or NEVER."""
        return [
            Gap(
                at,
                _begin(int(span.from_us[at]), int(last_us[at])),
                int(span.until_us[at]) + 1,
                reason,
                int(span.lost[at]) or None,
            )
            for reason, span in self._of.items()
            for at in np.flatnonzero(span.from_us != _NONE_YET).tolist()
        ]

    def _widen(self, reason: str, channel: int, from_us: int, until_us: int, lost: int) -> None:
        span = self._span(reason)
        span.from_us[channel] = min(int(span.from_us[channel]), from_us)
        span.until_us[channel] = max(int(span.until_us[channel]), until_us)
        span.lost[channel] += lost

    def _span(self, reason: str) -> _Span:
        if reason not in self._of:
            count = self._channels
            self._of[reason] = _Span(
                np.full(count, _NONE_YET), np.full(count, NEVER), np.zeros(count, np.int64)
            )
        return self._of[reason]


def _begin(from_us: int, last_us: int) -> int:
    """The newest sample that is there, if it is older than what was lost."""
    return last_us if NEVER < last_us < from_us else from_us - 1
