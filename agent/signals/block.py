"""Blocks: measured values in columns, with the quality and the time that their source gave them.

What a source yields: numbers of several channels in their order of arrival, arrays beside them,
and what is known to be missing.  Columns, because a gateway that takes 100,000 values a second has
ten microseconds for each of them, and one Python object for each would take them all.

Pure.  Invariant: the value of a sample whose status is Bad is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEVERITY_SHIFT = 30
"""Of a StatusCode (OPC 10000-4, 7.39): the two highest bits are its severity; 3 is reserved."""
GOOD, UNCERTAIN, BAD = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples of one channel that are known to be missing, or that may be.

    Attributes:
      channel: index of the channel.
      from_us: source timestamp of the last sample before; microseconds since 1970 UTC.
      until_us: source timestamp of the first sample after.
      reason: for people, such as `connection lost`.
      lost: how many samples are missing, where the source knows; None where it does not.
    """

    channel: int
    from_us: int
    until_us: int
    reason: str
    lost: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class ArraySample:
    """One array of one channel: a vibration waveform, an image.

    Attributes:
      channel: index of the channel.
      value: float32, of the channel's shape; all NaN when the status is Bad.
      status: OPC UA StatusCode, 32 bits.
      source_timestamp_us: microseconds since 1970 UTC, of its last value.
    """

    channel: int
    value: NDArray[np.float32]
    status: int
    source_timestamp_us: int


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """N samples of numbers in order of arrival; arrays and gaps beside them.

    Within one channel the order is that of the source.  An empty block says that the source is
    alive.

    Attributes:
      channel: uint32 (N,), index into the source's channels.
      value: float64 (N,); NaN where the status is Bad.  Integers beyond 2^53 are rounded.
      status: uint32 (N,), OPC UA StatusCodes (OPC 10000-4, 7.39).
      source_timestamp_us: int64 (N,), microseconds since 1970 UTC, from the source, never from
        arrival.
      arrays: samples of channels that have a shape.
      gaps: what is missing; a gap ends before the samples of its channel in this block.
      is_replayed: the samples were made earlier and came late, from a queue or a history.
    """

    channel: NDArray[np.uint32]
    value: NDArray[np.float64]
    status: NDArray[np.uint32]
    source_timestamp_us: NDArray[np.int64]
    arrays: tuple[ArraySample, ...] = ()
    gaps: tuple[Gap, ...] = ()
    is_replayed: bool = False

    def __len__(self) -> int:
        return len(self.channel)

    @property
    def samples(self) -> int:
        """How many samples it holds, arrays included."""
        return len(self.channel) + len(self.arrays)

    @property
    def is_usable(self) -> NDArray[np.bool_]:
        """Which samples are Good or Uncertain: bool (N,)."""
        return np.asarray(self.status >> SEVERITY_SHIFT < BAD)

    @property
    def is_uncertain(self) -> NDArray[np.bool_]:
        """Which samples are Uncertain: usable, counted; bool (N,)."""
        return np.asarray(self.status >> SEVERITY_SHIFT == UNCERTAIN)

    def shifted(self, by: int) -> "Block":
        """The same block with all channel indices raised by `by`."""
        if not by:
            return self
        return replace(
            self,
            channel=self.channel + np.uint32(by),
            arrays=tuple(replace(each, channel=each.channel + by) for each in self.arrays),
            gaps=tuple(replace(each, channel=each.channel + by) for each in self.gaps),
        )


def block_of(
    channel: Sequence[int] | NDArray[Any],
    value: Sequence[float] | NDArray[Any],
    status: Sequence[int] | NDArray[Any],
    source_timestamp_us: Sequence[int] | NDArray[Any],
    *,
    arrays: tuple[ArraySample, ...] = (),
    gaps: tuple[Gap, ...] = (),
    is_replayed: bool = False,
) -> Block:
    """A block of these columns, converted; values of Bad samples become NaN."""
    codes = np.asarray(status, np.uint32)
    values = np.array(value, np.float64)
    values[codes >> SEVERITY_SHIFT >= BAD] = np.nan
    return Block(
        np.asarray(channel, np.uint32),
        values,
        codes,
        np.asarray(source_timestamp_us, np.int64),
        arrays,
        gaps,
        is_replayed,
    )


EMPTY = block_of((), (), (), ())
"""The source is alive, and has nothing."""
