"""What notifications become: numbers in columns, arrays of numbers beside them.  Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BAD_STATUS: Final = 0x8000_0000
"""A StatusCode from here on is Bad; its two highest bits are the severity (OPC 10000-4, 7.39)."""
TICKS_PER_US: Final = 10
FIRST_TICK: Final = TICKS_PER_US
"""A DateTime before it, in the first microsecond of 1601 or negative, says that there is none."""
LAST_TICK: Final = 2_650_467_743_990_000_000
"""9999-12-31 23:59:59: a DateTime from here on means `no end` (OPC 10000-6, 5.2.2.5)."""
EPOCH_US: Final = 11_644_473_600_000_000
"""Microseconds from 1601, where DateTime begins (OPC 10000-6, 5.2.2.5), to 1970."""


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """N numbers in the order of the message.

    Attributes:
      handle: uint32 (N,), ClientHandles.
      value: float64 (N,); NaN where the status is Bad or there is no value.  A Boolean is 0 or 1;
        Int64 and UInt64 beyond 2^53 are rounded to the nearest float64.
      status: uint32 (N,), StatusCodes with all their bits, Overflow too (OPC 10000-4, 7.39).
      source_timestamp_us: int64 (N,), microseconds since 1970 UTC, from the source timestamp, or
        where the server sent none (or zero) the server timestamp, or else the publish time.
    """

    handle: NDArray[np.uint32]
    value: NDArray[np.float64]
    status: NDArray[np.uint32]
    source_timestamp_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.handle)


@dataclass(frozen=True, eq=False, slots=True)
class ArrayValue:
    """One array of numbers.  Where an array has no value at all it is a row of `Columns`, NaN.

    Attributes:
      handle: ClientHandle.
      value: float32, of the array's own shape; all NaN where the status is Bad.
      status: StatusCode with all its bits.
      source_timestamp_us: as in `Columns`.
    """

    handle: int
    value: NDArray[np.float32]
    status: int
    source_timestamp_us: int


def microseconds(ticks: int) -> int:
    """Microseconds since 1970 of a DateTime in 100 ns since 1601 (OPC 10000-6, 5.2.2.5)."""
    return min(max(ticks, 0), LAST_TICK) // TICKS_PER_US - EPOCH_US
