"""Pools, tap by tap: every tap of the window is one pass over all windows at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Array, GraphError, Node
from agent.learning.numpy_kernels.kernel import Constants, Kernel, Maker, Result, require, to_ints
from agent.learning.numpy_kernels.windows import Geometry, Sizes, at, read_geometry, volume
from agent.learning.shapes import has_input, int_attribute, ints_attribute


def _kernel_shape(node: Node) -> Sizes:
    kernel = ints_attribute(node, "kernel_shape", ())
    if not kernel or min(kernel) < 1:
        raise GraphError(node.describe(), "needs a kernel_shape of positive sizes")
    return kernel


def _max_pool(node: Node, constants: Constants) -> Kernel:
    """Maxima, and where they stood: the first of equal ones.

    Indices are flat over the whole input with its batch and channels (ONNX Operators.md,
    MaxPool, with storage_order 0), and always inside it, even among NaNs.
    """
    del constants
    kernel, geometry = _kernel_shape(node), read_geometry(node)
    require(node, "storage_order", int_attribute(node, "storage_order", 0), 0)
    with_indices = len(node.outputs) > 1

    def run(x: Array) -> Result:
        padded = geometry.padded(x, -math.inf)
        area = geometry.outputs(padded.shape[2:], kernel)
        candidates = [at(padded, place) for _, place in geometry.taps(kernel, area)]
        best = candidates[0].copy()
        for candidate in candidates[1:]:
            np.maximum(best, candidate, out=best)
        if not with_indices:
            return best
        taps = _first_taps(candidates, best)
        return best, _flat_positions(taps, geometry, kernel, x.shape)

    return run


def _first_taps(candidates: list[Array], best: Array) -> NDArray[np.intp]:
    """Return the number of the first tap that holds the best value, in passes over bytes."""
    missing = candidates[0] < best  # also False for NaN, which then counts as found
    taps: Array = missing.astype(np.uint8 if len(candidates) < 256 else np.int64)
    for candidate in candidates[1:-1]:
        missing &= candidate < best
        taps += missing
    return taps.astype(np.intp)


def _flat_positions(
    taps: NDArray[np.intp], geometry: Geometry, kernel: Sizes, shape: Sizes
) -> NDArray[np.int64]:
    """Turn each window's tap number into a flat position in the unpadded input."""
    size, area = shape[2:], taps.shape[2:]
    strides, dilations = geometry.steps(kernel)
    hops: NDArray[np.int64] = np.zeros((), np.int64)  # of the taps, from the window's first
    starts: NDArray[np.int64] = np.zeros((), np.int64)  # of the windows
    for axis, count in enumerate(kernel):
        step = volume(size[axis + 1 :])
        before = geometry.pads[axis] if geometry.pads else 0
        hops = hops[..., None] + np.arange(count) * (dilations[axis] * step)
        starts = starts[..., None] + (np.arange(area[axis]) * strides[axis] - before) * step
    positions = np.take(hops.reshape(-1), taps)
    positions += starts
    if any(geometry.pads):  # a window of NaN or -inf alone may name a tap in the padding
        np.clip(positions, 0, volume(size) - 1, out=positions)
    examples = np.arange(shape[0] * shape[1], dtype=np.int64) * volume(size)
    positions += examples.reshape(*shape[:2], *(1,) * len(kernel))
    return positions


def _max_unpool(node: Node, constants: Constants) -> Kernel:
    """Put values where `MaxPool` found them, zeros elsewhere.

    Indices are flat positions in `output_shape`, as ONNX Runtime takes them; where it is not
    given, it is the smallest input of a pool with this output.
    """
    del constants
    kernel, geometry = _kernel_shape(node), read_geometry(node)
    by_shape = has_input(node, 2)

    def run(values: Array, indices: Array, shape: Array | None = None) -> Array:
        if by_shape and shape is not None:
            target = to_ints(shape)
        else:
            rank = len(kernel)
            strides, _ = geometry.steps(kernel)
            pads = geometry.pads or (0,) * (2 * rank)
            spatial = [
                (values.shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i]
                for i in range(rank)
            ]
            target = (*values.shape[:2], *spatial)
        result = np.zeros(volume(target), values.dtype)
        result[indices.reshape(-1)] = values.reshape(-1)
        return result.reshape(target)

    return run


def _average_pool(node: Node, constants: Constants) -> Kernel:
    del constants
    kernel, geometry = _kernel_shape(node), read_geometry(node)
    include_pads = bool(int_attribute(node, "count_include_pad", 0))
    full = np.float32(volume(kernel))

    def run(x: Array) -> Array:
        padded = geometry.padded(x)
        area = geometry.outputs(padded.shape[2:], kernel)
        slices = [place for _, place in geometry.taps(kernel, area)]
        total: Array = at(padded, slices[0]).copy()
        for place in slices[1:]:
            total += at(padded, place)
        if include_pads or not any(geometry.pads):
            total /= full
        else:
            total /= _counts(geometry, kernel, area, x.shape[2:])
        return total

    return run


def _counts(geometry: Geometry, kernel: Sizes, area: Sizes, size: Sizes) -> Array:
    """Return how many elements that are not padding each window holds, float32, shape `area`."""
    strides, dilations = geometry.steps(kernel)
    counts: Array = np.ones((), np.float32)
    for axis, taps in enumerate(kernel):
        starts = np.arange(area[axis]) * strides[axis] - geometry.pads[axis]
        reads = starts[:, None] + np.arange(taps) * dilations[axis]
        inside = ((reads >= 0) & (reads < size[axis])).sum(1)
        counts = counts[..., None] * inside.astype(np.float32)
    return counts


MAKERS: Mapping[str, Maker] = {
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
