"""Readings: what the frames of one piece of a stream say, before they have a time.

The same for text lines and binary frames.  Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NO_TIME = -1
"""In place of a time that the frame should hold and does not."""
LATEST_US = 4_102_444_800_000_000
"""2100-01-01; later times are not believed."""


class ScaledChannel(Protocol):
    """What `scaled` needs of a channel's settings."""

    @property
    def scale(self) -> float:
        """Factor of the raw value."""

    @property
    def offset(self) -> float:
        """Added after scaling."""


@dataclass(frozen=True, eq=False, slots=True)
class Readings:
    """N frames in the order of the line, C channels.

    Attributes:
      ends: int64 (N,), stream offset behind each frame's last byte.
      values: float64 (N, C), scaled; NaN where unreadable, and in columns of channels with a shape.
      is_present: bool (N, C), whether the frame says anything about the channel.
      is_after_loss: bool (N,), whether something before the frame was lost or refused.
      times_us: int64 (N,), the frames' own times, `NO_TIME` if unreadable; None without such.
      arrays: of each channel with a shape: float32 (N, *shape), all NaN where unreadable.
      is_loss_behind: something behind the last frame was lost or refused.
      counters: what went wrong, by name.
      complaint: about the last frame refused, for people; empty if none was.
    """

    ends: NDArray[np.int64]
    values: NDArray[np.float64]
    is_present: NDArray[np.bool_]
    is_after_loss: NDArray[np.bool_]
    times_us: NDArray[np.int64] | None = None
    arrays: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    is_loss_behind: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    complaint: str = ""

    def __len__(self) -> int:
        return len(self.ends)


def scaled(raw: NDArray[np.float64], channels: Sequence[ScaledChannel]) -> NDArray[np.float64]:
    """Raw values of float64 (N, C) as `raw * scale + offset`; NaN for everything not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales = np.array([channel.scale for channel in channels])
        values = raw * scales + np.array([channel.offset for channel in channels])
    values[~np.isfinite(values)] = np.nan
    return np.asarray(values)


def scaled_array(raw: NDArray[np.float64], channel: ScaledChannel) -> NDArray[np.float32]:
    """Arrays of float64 (N, k) scaled to float32; all NaN where one value is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = (raw * channel.scale + channel.offset).astype(np.float32)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return np.asarray(values)
