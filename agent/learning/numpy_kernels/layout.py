"""Operators that make, move, join and part tensors without computing with their values.

Views wherever numpy can: a result may share memory with an input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.numpy_kernels.kernel import (
    Constants,
    Kernel,
    Maker,
    Result,
    constant_at,
    require,
    to_ints,
)
from agent.learning.shapes import has_input, int_attribute, ints_attribute, text_attribute


def _with_ints(
    node: Node, constants: Constants, apply: Callable[[Array, tuple[int, ...]], Result]
) -> Kernel:
    """Return a kernel of (x, integers), the integers decoded once where they are constant."""
    known = constant_at(constants, 1)
    if known is not None:
        fixed = to_ints(known)
        return lambda x, _: apply(x, fixed)
    if not has_input(node, 1):
        raise GraphError(node.describe(), "needs its second input")
    return lambda x, values: apply(x, to_ints(values))


def _constant(node: Node, constants: Constants) -> Kernel:
    del constants
    value = constant_value(node)
    return lambda: value


def constant_value(node: Node) -> Array:
    """Return what a `Constant` node holds.

    Raises:
      GraphError: none of the attributes that are supported.
    """
    value = node.attributes.get("value")
    if isinstance(value, np.ndarray):
        return value
    for name, dtype in (("float", np.float32), ("int", np.int64)):
        for given in (node.attributes.get(f"value_{name}"), node.attributes.get(f"value_{name}s")):
            if given is not None:
                return np.array(given, dtype)
    raise GraphError(node.describe(), "must hold a tensor in attribute 'value'")


def _constant_of_shape(node: Node, constants: Constants) -> Kernel:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise GraphError(node.describe(), "attribute 'value' must be a tensor of one element")
    item = value.reshape(())
    shape = constant_at(constants, 0)
    if shape is not None:
        fixed = np.broadcast_to(item, to_ints(shape))
        return lambda _: fixed
    return lambda shape: np.broadcast_to(item, to_ints(shape))


def _reshape(node: Node, constants: Constants) -> Kernel:
    keep_zeros = bool(int_attribute(node, "allowzero", 0))

    def apply(x: Array, target: tuple[int, ...]) -> Array:
        if 0 in target and not keep_zeros:
            target = tuple(size or x.shape[axis] for axis, size in enumerate(target))
        return x.reshape(target)

    known = constant_at(constants, 1)
    if known is not None and (keep_zeros or known.all()):
        fixed = to_ints(known)
        return lambda x, _: x.reshape(fixed)
    return _with_ints(node, constants, apply)


def _flatten(node: Node, constants: Constants) -> Kernel:
    del constants
    axis = int_attribute(node, "axis", 1)

    def run(x: Array) -> Array:
        split = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))

    return run


def _transpose(node: Node, constants: Constants) -> Kernel:
    del constants
    order = ints_attribute(node, "perm", ())
    return lambda x: x.transpose(order or None)


def _squeeze(node: Node, constants: Constants) -> Kernel:
    if not has_input(node, 1):
        return lambda x, _=None: x.squeeze()
    return _with_ints(node, constants, lambda x, axes: x.squeeze(axes))


def _unsqueeze(node: Node, constants: Constants) -> Kernel:
    return _with_ints(node, constants, np.expand_dims)


def _expand(node: Node, constants: Constants) -> Kernel:
    def apply(x: Array, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))

    return _with_ints(node, constants, apply)


def _shape(node: Node, constants: Constants) -> Kernel:
    del constants
    start, end = int_attribute(node, "start", 0), node.attributes.get("end")
    if end is not None and not isinstance(end, int):
        raise GraphError(node.describe(), "attribute 'end' must be an integer")
    return lambda x: np.array(x.shape[start:end], np.int64)


def _concat(node: Node, constants: Constants) -> Kernel:
    del constants
    axis = int_attribute(node, "axis", 0)
    return lambda *values: np.concatenate(values, axis)


def _split(node: Node, constants: Constants) -> Kernel:
    axis = int_attribute(node, "axis", 0)
    pieces = len(node.outputs)
    require(node, "num_outputs", int_attribute(node, "num_outputs", pieces), pieces)

    def part(x: Array, sizes: tuple[int, ...] | None) -> Result:
        total = x.shape[axis]
        if sizes is None:  # equal ones, the last may be smaller
            each = -(-total // pieces)
            sizes = (*(each,) * (pieces - 1), total - each * (pieces - 1))
        if sum(sizes) != total or len(sizes) != pieces or min(sizes) < 0:
            raise ValueError(f"sizes {sizes} do not part an axis of {total} into {pieces}")
        parts = tuple(np.split(x, list(accumulate(sizes[:-1])), axis))
        return parts if pieces > 1 else parts[0]

    if has_input(node, 1):
        return _with_ints(node, constants, part)
    return lambda x, _=None: part(x, None)


def _slice(node: Node, constants: Constants) -> Kernel:
    """Cut as Python does, but going backward a start before the first element is moved to it."""

    def cut(starts: Array, ends: Array, axes: Array | None, steps: Array | None) -> Kernel:
        begin, stop = to_ints(starts), to_ints(ends)
        along = to_ints(axes) if axes is not None else tuple(range(len(begin)))
        by = to_ints(steps) if steps is not None else (1,) * len(begin)
        windows = tuple(zip(along, begin, stop, by, strict=True))

        def run(x: Array) -> Array:
            index = [slice(None)] * x.ndim
            for axis, start, end, step in windows:
                first = start if step > 0 else max(start, -x.shape[axis])
                index[axis] = slice(first, end, step)
            return x[tuple(index)]

        return run

    settings = [constant_at(constants, index) for index in range(1, 5)]
    given = [has_input(node, index) for index in range(1, 5)]
    if all(value is not None for value, known in zip(settings, given, strict=True) if known):
        if settings[0] is None or settings[1] is None:
            raise GraphError(node.describe(), "needs starts and ends")
        fixed = cut(settings[0], settings[1], settings[2], settings[3])
        return lambda x, *_: fixed(x)

    def run(x: Array, *limits: Array | None) -> Array:
        starts, ends, axes, steps = (*limits, None, None)[:4]
        if starts is None or ends is None:
            raise ValueError("needs starts and ends")
        cropped: Array = cut(starts, ends, axes, steps)(x)
        return cropped

    return run


def _pad(node: Node, constants: Constants) -> Kernel:
    """Pad with a constant; a negative width cuts."""
    del constants
    require(node, "mode", text_attribute(node, "mode", "constant"), "constant")

    def run(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array:
        along = range(x.ndim) if axes is None else to_ints(axes)
        widths = to_ints(pads)
        before, after = widths[: len(along)], widths[len(along) :]
        shape = list(x.shape)
        source, target = [slice(None)] * x.ndim, [slice(None)] * x.ndim
        for axis, low, high in zip(along, before, after, strict=True):
            size = x.shape[axis]
            shape[axis] = size + low + high
            source[axis] = slice(max(-low, 0), size - max(-high, 0))
            target[axis] = slice(max(low, 0), max(low, 0) + size + min(low, 0) + min(high, 0))
        fill = 0 if value is None else value
        result = np.full(shape, fill, x.dtype) if fill else np.zeros(shape, x.dtype)
        result[tuple(target)] = x[tuple(source)]
        return result

    return run


MAKERS: Mapping[str, Maker] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
