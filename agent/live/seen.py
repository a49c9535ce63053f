"""What came in of each channel: how much, how good, and the newest.

Pure; the caller says what time it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.signals.block import BAD, SEVERITY_SHIFT, ArraySample, Block


@dataclass(frozen=True)
class Newest:
    """The newest sample of a channel, and how many there were.

    Attributes:
      value: a number, NaN where it is Bad; or an array.
      status: StatusCode.
      source_timestamp_us: microseconds since 1970 UTC.
      count: samples so far.
      usable: of them, Good or Uncertain.
      rate_hz: arrivals a second since the first; None until there were two moments.
    """

    value: float | NDArray[np.float32]
    status: int
    source_timestamp_us: int
    count: int
    usable: int
    rate_hz: float | None


class Seen:
    """The channels of all sources, by their number.

    Args:
      channels: how many.
    """

    def __init__(self, channels: int) -> None:
        self._value = np.full(channels, np.nan)
        self._status = np.zeros(channels, np.uint32)
        self._stamp_us = np.zeros(channels, np.int64)
        self._count = np.zeros(channels, np.int64)
        self._usable = np.zeros(channels, np.int64)
        self._at_first = np.zeros(channels, np.int64)
        self._first_s = np.zeros(channels)
        self._arrays: dict[int, ArraySample] = {}
        self._news: set[int] = set()

    def take(self, block: Block, now_s: float) -> None:
        """Count a block; `now_s` is any clock that only goes on."""
        channels, positions = block.channel, np.arange(len(block))
        newest = dict(zip(channels.tolist(), positions.tolist(), strict=True))
        at = np.fromiter(newest.values(), np.int64, len(newest))
        for column, values in (
            (self._value, block.value),
            (self._status, block.status),
            (self._stamp_us, block.source_timestamp_us),
        ):
            column[channels[at]] = values[at]
        np.add.at(self._count, channels, 1)
        np.add.at(self._usable, channels, block.is_usable.astype(np.int64))
        for sample in block.arrays:
            self._arrays[sample.channel] = sample
            self._count[sample.channel] += 1
            self._usable[sample.channel] += sample.status >> SEVERITY_SHIFT < BAD
        touched = {*newest, *(sample.channel for sample in block.arrays)}
        for channel in touched:
            if not self._at_first[channel]:
                self._at_first[channel], self._first_s[channel] = self._count[channel], now_s
        self._news |= touched

    def newest(self, channel: int, now_s: float) -> Newest | None:
        """What is known of a channel; None when nothing came."""
        count = int(self._count[channel])
        if not count:
            return None
        for_s = now_s - float(self._first_s[channel])
        later = count - int(self._at_first[channel])
        rate_hz = later / for_s if for_s > 0 else None
        usable = int(self._usable[channel])
        sample = self._arrays.get(channel)
        if sample is not None:
            return Newest(
                sample.value, sample.status, sample.source_timestamp_us, count, usable, rate_hz
            )
        return Newest(
            float(self._value[channel]),
            int(self._status[channel]),
            int(self._stamp_us[channel]),
            count,
            usable,
            rate_hz,
        )

    def news(self) -> Iterator[int]:
        """Channels of which something came since the last call, in their order."""
        news, self._news = self._news, set()
        yield from sorted(news)
