"""Windows: which consecutive rows make one example, and their values as series.

Pure.  Invariant: the rows of a window are consecutive rows of one group, so that no window reaches
from one machine, engine or work order into the next.
"""

import numpy as np
from numpy.typing import NDArray

from wire.manifest import Window


def window_starts(groups: NDArray[np.integer], window: Window) -> NDArray[np.int64]:
    """Find the first row of every window.

    Args:
      groups: (R,), each row's group; a group is a run of equal numbers.
      window: its length and stride, in rows; the first window of a group begins at its first row.

    Returns:
      int64 (N,), ascending; empty when every group is shorter than a window.
    """
    borders = np.flatnonzero(np.diff(groups)) + 1
    begins = np.concatenate([[0], borders]) if len(groups) else np.zeros(0, np.int64)
    ends = np.append(borders, len(groups))[: len(begins)]
    runs = [
        np.arange(begin, end - window.length + 1, window.stride, dtype=np.int64)
        for begin, end in zip(begins, ends, strict=True)
    ]
    return np.concatenate(runs) if runs else np.zeros(0, np.int64)


def cut_windows(
    values: NDArray[np.float64], starts: NDArray[np.int64], length: int
) -> NDArray[np.float64]:
    """Cut series out of a channel.

    Args:
      values: float64 (R,), one value for each row.
      starts: int64 (N,), first rows, at most R - length.
      length: rows in a window.

    Returns:
      float64 (N, length), in the order of `starts`.
    """
    if not len(starts):
        return np.zeros((0, length))
    return np.lib.stride_tricks.sliding_window_view(values, length)[starts]
