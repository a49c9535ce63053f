"""Windows: which consecutive rows make one example, and their values as series.

Pure.  Invariant: the rows of a window are consecutive rows of one group, so that no window reaches
from one machine, engine or work order into the next.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.signals.features import compute_inputs
from wire.manifest import Manifest, Window, input_shape

_NUMBERS_AT_ONCE = 4 << 20
"""Channel values turned into float64 together: 32 MiB."""


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


def example_inputs(
    manifest: Manifest, values: Mapping[str, NDArray[Any]], starts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Compute the graph's inputs for examples cut out of rows, a part at a time to spare memory.

    Args:
      manifest: of the bundle.
      values: of each channel, (R,) numbers or (R, *shape) arrays.
      starts: int64 (N,), the first row of each example.

    Returns:
      float32, shape (N, *`wire.manifest.input_shape`), scaled by the bundle's constants alone.
    """
    length = 1 if manifest.window is None else manifest.window.length
    rates_hz = {channel.name: channel.rate_hz for channel in manifest.channels}
    inputs = np.empty((len(starts), *input_shape(manifest)), np.float32)
    numbers = sum(int(np.prod(array.shape[1:])) for array in values.values()) * length
    step = max(1, _NUMBERS_AT_ONCE // numbers)
    for begin in range(0, len(starts), step):
        part = starts[begin : begin + step]
        cut = {
            name: (
                array[part].astype(np.float64)
                if manifest.window is None
                else cut_windows(array, part, length)
            )
            for name, array in values.items()
        }
        inputs[begin : begin + step] = compute_inputs(manifest.features, cut, rates_hz)
    return inputs
