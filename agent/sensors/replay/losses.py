"""Gaps for rows that were in the file and could not be read.

A loss becomes a `Gap` of its channel when the next sample of that channel comes, because only then
both of its ends are known.  Pure but for its own memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.signals.block import Gap


@dataclass(frozen=True)
class Loss:
    """One row that could not be read.

    Attributes:
      before: index, in the batch, of the next row that could.
      reason: where it stands and what is wrong.
      channel: whose sample is lost; None for all, or for nobody knows whose.
      is_counted: exactly one sample of each such channel is lost.
    """

    before: int
    reason: str
    channel: int | None = None
    is_counted: bool = True


@dataclass(frozen=True, eq=False)
class Series:
    """Samples of one batch in order of their rows, arrays included.

    Attributes:
      channel: (N,)
      row: index of its row in the batch (N,), ascending.
      source_timestamp_us: (N,)
    """

    channel: NDArray[np.int64]
    row: NDArray[np.int64]
    source_timestamp_us: NDArray[np.int64]

    def between(self, first: int, until: int) -> "Series":
        """The samples of rows `first` to `until`, without the latter."""
        low, high = np.searchsorted(self.row, (first, until))
        here = slice(int(low), int(high))
        return Series(self.channel[here], self.row[here], self.source_timestamp_us[here])


@dataclass(frozen=True)
class _Open:
    reason: str
    lost: int | None


class Losses:
    """What is lost and not marked yet."""

    def __init__(self, channels: int) -> None:
        self._last = np.full(channels, -1, np.int64)
        self._open: dict[int, _Open] = {}

    def gaps(self, series: Series, losses: Iterable[Loss], rows: int) -> list[tuple[int, Gap]]:
        """The gaps that end in a batch, each with the index of the row at which it ends."""
        found: list[tuple[int, Gap]] = []
        first = 0
        for loss in losses:
            found += self._pass(series.between(first, loss.before))
            first = loss.before
            self.note(loss)
        found += self._pass(series.between(first, rows))
        return found

    def note(self, loss: Loss) -> None:
        """Remember one, until the next samples of its channels."""
        channels = range(len(self._last)) if loss.channel is None else (loss.channel,)
        for channel in channels:
            known = self._open.get(channel, _Open(loss.reason, 0))
            lost = known.lost + 1 if loss.is_counted and known.lost is not None else None
            self._open[channel] = _Open(known.reason, lost)

    def close(self) -> list[Gap]:
        """The gaps that no sample will end."""
        gaps = []
        for channel, loss in self._open.items():
            last = int(self._last[channel])
            if last >= 0:
                gaps.append(Gap(channel, last, last, loss.reason, loss.lost))
        self._open.clear()
        return gaps

    def _pass(self, series: Series) -> list[tuple[int, Gap]]:
        gaps: list[tuple[int, Gap]] = []
        if self._open and len(series.channel):
            channels, at = np.unique(series.channel, return_index=True)
            for channel, index in zip(channels.tolist(), at.tolist(), strict=True):
                loss = self._open.pop(channel, None)
                if loss is not None:
                    until = int(series.source_timestamp_us[index])
                    last = int(self._last[channel])
                    begin = min(last, until) if last >= 0 else until
                    gap = Gap(channel, begin, until, loss.reason, loss.lost)
                    gaps.append((int(series.row[index]), gap))
        self._last[series.channel] = series.source_timestamp_us
        return gaps
