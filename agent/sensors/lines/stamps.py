"""When a frame arrived: the gateway's clock, corrected for the bytes behind it.

A piece of the stream is read at one moment, and may hold many frames.  The source timestamp of a
frame is that moment less the time that the bytes behind it took on the line at its baud rate: one
start bit, the data bits, a parity bit if there is one, the stop bits.  It is never earlier than
the reading before (the bytes were not there then), which also bounds the error where the baud rate
means nothing (USB devices that are no real line).  What remains: a USB adapter may hold bytes back
(16 ms is common), and so may a busy gateway.

Invariant: stamps of one source rise by at least 1 us.

Pure but for the clock readings that the caller passes in.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray


class Arrivals:
    """When the bytes of a stream arrived, by their offset."""

    def __init__(self, bits_per_byte: int, baudrate: int) -> None:
        self._byte_us = bits_per_byte * 1e6 / baudrate
        self._readings: deque[tuple[int, int, int]] = deque()
        self._last_us = 0

    def mark(self, now_us: int) -> int:
        """The stamp of something that the gateway notices now."""
        self._last_us = max(now_us, self._last_us + 1)
        return self._last_us

    def note(self, end: int, at_us: int) -> None:
        """The stream was read up to this offset at this time."""
        floor_us = self._readings[-1][1] if self._readings else self._last_us
        self._readings.append((end, at_us, floor_us))

    def forget(self, before: int) -> None:
        """No frame will end at or before this offset any more."""
        while len(self._readings) > 1 and self._readings[0][0] <= before:
            self._readings.popleft()

    def stamps(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Source timestamps of the frames that end at these rising offsets: int64 (n,)."""
        if not len(ends):
            return np.empty(0, np.int64)
        read_to = np.array([reading[0] for reading in self._readings])
        at_us = np.array([reading[1] for reading in self._readings])
        floor_us = np.array([reading[2] for reading in self._readings])
        which = np.minimum(np.searchsorted(read_to, ends), len(read_to) - 1)
        behind_us = (read_to[which] - ends) * self._byte_us
        stamps = np.maximum(at_us[which] - behind_us.astype(np.int64), floor_us[which])
        steps = np.arange(len(ends))
        stamps = np.maximum.accumulate(np.maximum(stamps - steps, self._last_us + 1)) + steps
        self._last_us = int(stamps[-1])
        return stamps
