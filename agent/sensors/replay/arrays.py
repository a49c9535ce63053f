"""From one cell of a file to one array of a channel: a waveform, an image.  Pure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.quality import BAD_DECODING_ERROR, BAD_NO_DATA, BAD_TYPE_MISMATCH


def read_array(
    cell: Any,  # noqa: ANN401  a cell of any file format
    shape: tuple[int, ...],
) -> tuple[NDArray[np.float32] | None, int, str]:
    """Read one cell.

    Args:
      cell: an array, or None where there is none.
      shape: of the channel.

    Returns:
      float32 of `shape` (None when the status is Bad), its status, and what is wrong with the cell.
      An array with single numbers missing is Bad as a whole: a model takes it whole.
    """
    if cell is None:
        return None, BAD_NO_DATA, ""
    array = np.asarray(cell)
    if array.dtype.kind not in "biuf":
        return None, BAD_TYPE_MISMATCH, f"an array of {array.dtype}, not of numbers"
    if array.size != math.prod(shape):
        reason = f"{array.size} numbers, where the shape has {math.prod(shape)}"
        return None, BAD_TYPE_MISMATCH, reason
    with np.errstate(over="ignore"):
        value = array.astype(np.float32).reshape(shape)
    finite = np.isfinite(value)
    if finite.all():
        return value, 0, ""
    if np.isnan(value).all():
        return None, BAD_NO_DATA, ""
    return None, BAD_DECODING_ERROR, f"{int((~finite).sum())} of its numbers are not finite"
