"""Operators that pick and place values by index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Array, Node
from agent.learning.numpy_kernels.kernel import (
    Constants,
    Kernel,
    Maker,
    constant_at,
    require,
    to_ints,
)
from agent.learning.shapes import has_input, int_attribute, ints_attribute, text_attribute


def _gather(node: Node, constants: Constants) -> Kernel:
    axis = int_attribute(node, "axis", 0)
    known = constant_at(constants, 1)
    if known is not None and known.ndim == 0:  # one index takes a view
        picked = int(known)

        def pick(x: Array, _: Array) -> Array:
            index: tuple[Any, ...] = (*(slice(None),) * (axis % x.ndim), picked)
            return np.asarray(x[index])

        return pick
    return lambda x, indices: np.take(x, indices, axis)


def _one_hot(node: Node, constants: Constants) -> Kernel:
    del constants
    axis = int_attribute(node, "axis", -1)

    def run(indices: Array, depth: Array, values: Array) -> Array:
        size = int(np.ravel(depth)[0])
        place = axis if axis >= 0 else indices.ndim + 1 + axis
        wrapped = np.expand_dims(np.where(indices < 0, indices + size, indices), place)
        column = (-1, *(1,) * (indices.ndim - place))
        matches = wrapped == np.arange(size).reshape(column)
        off, on = values
        switched: Array = np.where(matches, on, off)
        return switched

    return run


def _scatter_elements(node: Node, constants: Constants) -> Kernel:
    del constants
    axis = int_attribute(node, "axis", 0)
    mode = text_attribute(node, "reduction", "none")
    require(node, "reduction", mode, "none", "add")

    def run(data: Array, indices: Array, updates: Array) -> Array:
        along = axis % data.ndim
        size = data.shape[along]
        if indices.size and not -size <= indices.min() <= indices.max() < size:
            raise ValueError(f"an index is outside -{size} to {size - 1}")
        result = np.array(data, order="C")
        flat, places = result.reshape(-1), _flat_places(indices, data.shape, along)
        if mode == "add":
            np.add.at(flat, places, updates.reshape(-1))
        else:
            flat[places] = updates.reshape(-1)
        return result

    return run


def _flat_places(indices: Array, shape: tuple[int, ...], axis: int) -> NDArray[np.int64]:
    """Return where in the flat tensor each index along `axis` points, int64, flat."""
    positions: NDArray[np.int64] = np.where(indices < 0, indices + shape[axis], indices)
    stride = 1
    places: NDArray[np.int64] = np.zeros((), np.int64)
    for other in reversed(range(len(shape))):
        if other == axis:
            places = places + positions * stride
        else:
            column = (-1, *(1,) * (len(shape) - other - 1))
            places = places + np.arange(indices.shape[other]).reshape(column) * stride
        stride *= shape[other]
    return places.reshape(-1)


def _resize(node: Node, constants: Constants) -> Kernel:
    """Nearest neighbour, output o from input floor(o / scale): what PyTorch's upsampling exports.

    ONNX's default, half_pixel with round_prefer_floor, picks the same element where a scale is
    a whole number other than by ties, so only the exported pair of modes is taken.
    """
    require(node, "mode", text_attribute(node, "mode", "nearest"), "nearest")
    transformation = text_attribute(node, "coordinate_transformation_mode", "half_pixel")
    require(node, "coordinate_transformation_mode", transformation, "asymmetric")
    rounding = text_attribute(node, "nearest_mode", "round_prefer_floor")
    require(node, "nearest_mode", rounding, "floor")
    for name in ("antialias", "exclude_outside"):
        require(node, name, int_attribute(node, name, 0), 0)
    policy = text_attribute(node, "keep_aspect_ratio_policy", "stretch")
    require(node, "keep_aspect_ratio_policy", policy, "stretch")
    chosen = ints_attribute(node, "axes", ()) if "axes" in node.attributes else None
    del constants
    by_size = has_input(node, 3)

    def run(
        x: Array, roi: Array | None, scales: Array | None = None, sizes: Array | None = None
    ) -> Array:
        del roi
        axes = range(x.ndim) if chosen is None else [axis % x.ndim for axis in chosen]
        known = [x.shape[axis] for axis in axes]
        if by_size and sizes is not None:
            targets = to_ints(sizes)
            factors = [new / old for new, old in zip(targets, known, strict=True)]
        elif scales is not None:
            factors = [float(factor) for factor in scales]
            targets = tuple(int(size * f) for size, f in zip(known, factors, strict=True))
        else:
            raise ValueError("needs scales or sizes")
        # The last first: its copies are the slowest.
        for axis, target, factor in sorted(zip(axes, targets, factors, strict=True), reverse=True):
            if target != x.shape[axis]:
                x = _stretch(x, axis, target, factor)
        return x

    return run


def _stretch(x: Array, axis: int, target: int, factor: float) -> Array:
    size = x.shape[axis]
    if target == size * int(factor) and factor == int(factor):
        return _repeated(x, axis, int(factor))
    places = np.floor(np.arange(target, dtype=np.float32) / np.float32(factor)).astype(np.int64)
    stretched: Array = np.take(x, np.minimum(places, size - 1), axis)
    return stretched


def _repeated(x: Array, axis: int, times: int) -> Array:
    """Return np.repeat(x, times, axis), by a few strided copies instead of one for each element."""
    result = np.empty((*x.shape[: axis + 1], times, *x.shape[axis + 1 :]), x.dtype)
    for place in range(times):
        index: tuple[Any, ...] = (*(slice(None),) * (axis + 1), place)
        result[index] = x
    return result.reshape(*x.shape[:axis], times * x.shape[axis], *x.shape[axis + 1 :])


MAKERS: Mapping[str, Maker] = {
    "Gather": _gather,
    "OneHot": _one_hot,
    "Resize": _resize,
    "ScatterElements": _scatter_elements,
}
