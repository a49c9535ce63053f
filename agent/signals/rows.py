"""Rows: what every channel had to say at one source timestamp.

A row is what a model sees of a machine at a moment, and what its history keeps.  Its values are
those of a zero-order hold: for each channel the last sample at or before the row's timestamp.
Rows that stand next to each other may be cut into windows (`agent/signals/windows.py`), so every
row knows whether something is missing before it.

Pure; cut out of samples by `agent/signals/cutting.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Rows:
    """R rows of C channels, oldest first.

    Attributes:
      source_timestamp_us: int64 (R,), microseconds since 1970 UTC, ascending.
      values: float64 (R, C), NaN where the source said Bad or nothing yet.  A channel of arrays has
        0 where there is one.
      follows: bool (R,), whether nothing is missing between the row before and this one.
      arrays: for each channel that has a shape, float32 (R, *shape).
      is_uncertain: bool (R,), whether the source called one of the values Uncertain; None where
        that is not known (a history does not keep it).
    """

    source_timestamp_us: NDArray[np.int64]
    values: NDArray[np.float64]
    follows: NDArray[np.bool_]
    arrays: Arrays = field(default_factory=dict)
    is_uncertain: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each row's unbroken run, int64 (R,)."""
        return np.cumsum(~self.follows).astype(np.int64)

    def take(self, chosen: NDArray[np.bool_]) -> "Rows":
        """The rows for which `chosen`, bool (R,), is true; what is left out breaks a run."""
        at = np.flatnonzero(chosen)
        is_next = np.diff(at, prepend=-1) == 1
        return Rows(
            self.source_timestamp_us[at],
            self.values[at],
            self.follows[at] & is_next,
            {channel: array[at] for channel, array in self.arrays.items()},
            None if self.is_uncertain is None else self.is_uncertain[at],
        )

    def newest(self, number: int) -> "Rows":
        """The last `number` rows."""
        start = max(0, len(self) - number)
        return Rows(
            self.source_timestamp_us[start:],
            self.values[start:],
            self.follows[start:],
            {channel: array[start:] for channel, array in self.arrays.items()},
            None if self.is_uncertain is None else self.is_uncertain[start:],
        )


def rows_of(
    values: Sequence[Sequence[float]] | NDArray[Any],
    source_timestamp_us: Sequence[int] | NDArray[Any] | None = None,
    *,
    follows: NDArray[np.bool_] | None = None,
    arrays: Arrays | None = None,
) -> Rows:
    """Rows with these values, float (R, C); an unbroken run, one microsecond apart, if not said."""
    table = np.asarray(values, np.float64)
    stamps = range(len(table)) if source_timestamp_us is None else source_timestamp_us
    is_next = np.ones(len(table), np.bool_) if follows is None else follows
    return Rows(np.asarray(stamps, np.int64), table, is_next, dict(arrays or {}))


def no_rows(channels: int, shapes: Mapping[int, tuple[int, ...]] | None = None) -> Rows:
    """No rows of so many channels."""
    arrays = {at: np.empty((0, *shape), np.float32) for at, shape in (shapes or {}).items()}
    nothing = np.zeros(0, np.bool_)
    return Rows(np.zeros(0, np.int64), np.empty((0, channels)), nothing, arrays, nothing)


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of some parts, one or more, in their order."""
    if len(parts) == 1:
        return parts[0]
    known = [part.is_uncertain for part in parts if part.is_uncertain is not None]
    return Rows(
        np.concatenate([part.source_timestamp_us for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.follows for part in parts]),
        {
            channel: np.concatenate([part.arrays[channel] for part in parts])
            for channel in parts[0].arrays
        },
        np.concatenate(known) if len(known) == len(parts) else None,
    )
