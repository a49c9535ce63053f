"""Operators that move, name or join values without computing.

Exporters write `x.view(x.size(0), -1)` as arithmetic on `Shape(x)`, which folding has already
turned into known sizes; here they become constant targets whose batch is written 0 or -1.

Source: ONNX Operators.md, operator set 18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from agent.learning.ir import DTYPE_CODES, Array, GraphError, Node
from agent.learning.shapes import (
    BATCH,
    Shape,
    broadcast,
    check_shape,
    has_batch,
    int_attribute,
    ints_attribute,
    place_axes,
    place_axis,
)
from agent.learning.simplify.draft import Draft, Value
from agent.learning.simplify.known import Known, constant, known_shape, sizes_of
from agent.learning.simplify.rule import Rule, ints


def _constant(draft: Draft, node: Node) -> Value:
    del draft
    if len(node.attributes) != 1:
        raise GraphError(node.describe(), "must hold one value")
    ((name, value),) = node.attributes.items()
    if name == "value" and isinstance(value, np.ndarray):
        return constant(value)
    if name in ("value_float", "value_floats") and not isinstance(value, str):
        return constant(np.array(value, np.float32))
    if name in ("value_int", "value_ints") and not isinstance(value, str):
        return constant(np.array(value, np.int64))
    raise GraphError(node.describe(), f"a constant by attribute {name!r} is not supported")


def _shape(draft: Draft, node: Node) -> Value:
    """Give the sizes, of which operators other than core ones make shapes."""
    value = draft.value(node, 0)
    first = int_attribute(node, "start", 0)
    last = node.attributes.get("end")
    if last is not None and not isinstance(last, int):
        raise GraphError(node.describe(), "attribute 'end' must be an integer")
    if isinstance(value, Known):
        shapes = [np.array(one.shape[first:last], np.int64) for one in (value.first, value.second)]
        return Known(*shapes)
    return known_shape(draft.data(node, 0).shape[first:last])


def _alias(draft: Draft, node: Node) -> Value:
    value = draft.value(node, 0)
    return draft.data(node, 0) if value is None else value


def _dropout(draft: Draft, node: Node) -> Value:
    training = draft.fixed(node, 2)
    if training is not None and training.any():
        raise GraphError(node.describe(), "drops values; export the model in evaluation mode")
    if len(node.outputs) > 1:
        raise GraphError(node.describe(), "its mask is not supported")
    return _alias(draft, node)


def _cast(draft: Draft, node: Node) -> Value:
    if int_attribute(node, "to", 0) != DTYPE_CODES["float32"]:
        raise GraphError(node.describe(), "casts data to another type than float32")
    return draft.data(node, 0)


def _cast_like(draft: Draft, node: Node) -> Value:
    """Make float32 of constants; all data is float32 already."""
    value, like = draft.value(node, 0), draft.value(node, 1)
    if isinstance(like, Known) and like.dtype != np.float32:
        raise GraphError(node.describe(), "casts data to another type than float32")
    if isinstance(value, Known):
        pair = [one.astype(np.float32) for one in (value.first, value.second)]
        return Known(pair[0], pair[0] if value.first is value.second else pair[1])
    return draft.data(node, 0)


def _target(node: Node, shape: Shape, target: Known) -> list[int]:
    """Return the target of a reshape: explicit sizes, one -1 at most, 0 or -1 for the batch."""
    sizes = list(sizes_of(node, target, "the new shape"))
    if int_attribute(node, "allowzero", 0) and 0 in sizes:
        raise GraphError(node.describe(), "the new shape has an empty axis")
    for axis, size in enumerate(sizes):
        if size == 0 and axis < len(shape):
            sizes[axis] = shape[axis]
    if BATCH in sizes and (sizes.index(BATCH) or sizes.count(BATCH) > 1 or not has_batch(shape)):
        raise GraphError(node.describe(), f"reshaping {shape} to {sizes} would mix examples")
    return [0 if size == BATCH else int(size) for size in sizes]


def _reshape(draft: Draft, node: Node) -> Value:
    data, target = draft.data(node, 0), draft.value(node, 1)
    if not isinstance(target, Known):
        raise GraphError(node.describe(), "the new shape must be a constant, or made of sizes")
    sizes = _target(node, data.shape, target)
    result = draft.emit(node, "Reshape", data, draft.ints(*sizes))
    return data if result.shape == data.shape else result


def _flatten(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    rank = len(data.shape)
    axis = int_attribute(node, "axis", 1)
    axis = axis + rank if axis < 0 else axis
    if axis == 1 and rank == 2:
        return data
    return draft.emit(node, "Flatten", data, axis=axis)


def _given_axes(draft: Draft, node: Node) -> tuple[int, ...] | None:
    """Return the axes, by the input of today or by the attribute of older operator sets."""
    axes = ints(node, draft.fixed(node, 1), "the axes")
    if axes is None and "axes" in node.attributes:
        return ints_attribute(node, "axes", ())
    return axes


def _squeeze(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    axes = _given_axes(draft, node)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(data.shape) if size == 1)
    if not axes:
        return data
    return draft.emit(node, "Squeeze", data, draft.ints(*place_axes(node, axes, len(data.shape))))


def _unsqueeze(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    axes = _given_axes(draft, node) or ()
    placed = place_axes(node, axes, len(data.shape) + len(axes))
    return draft.emit(node, "Unsqueeze", data, draft.ints(*placed)) if axes else data


def _transpose(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    rank = len(data.shape)
    perm = ints_attribute(node, "perm", tuple(reversed(range(rank))))
    if perm == tuple(range(rank)):
        return data
    return draft.emit(node, "Transpose", data, perm=perm)


def _concat(draft: Draft, node: Node) -> Value:
    values = [draft.data(node, index) for index in range(len(node.inputs))]
    if len(values) == 1:
        return values[0]
    if any(has_batch(value.shape) and not value.alike for value in values):
        values = [draft.each(node, value) for value in values]
    axis = place_axis(node, int_attribute(node, "axis", 0), len(values[0].shape))
    return draft.emit(node, "Concat", *values, axis=axis)


def _expand(draft: Draft, node: Node) -> Value:
    target = draft.value(node, 1)
    if not isinstance(target, Known):
        raise GraphError(node.describe(), "the new shape must be a constant, or made of sizes")
    return _stretched(draft, node, sizes_of(node, target, "the new shape"))


def _tile(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    times = ints(node, draft.fixed(node, 1), "the repeats")
    if times is None or len(times) != len(data.shape) or min(times, default=1) < 1:
        raise GraphError(node.describe(), f"cannot repeat {data.shape} {times} times")
    pairs = list(zip(data.shape, times, strict=True))
    if any(size != 1 and count != 1 for size, count in pairs):
        raise GraphError(node.describe(), "repeats an axis of several elements")
    return _stretched(draft, node, tuple(n if size == 1 else size for size, n in pairs))


def _stretched(draft: Draft, node: Node, target: Shape) -> Value:
    """Stretch a value to a shape it broadcasts to, by the sum with zeros."""
    data = draft.data(node, 0)
    shape = check_shape(node, broadcast(node, data.shape, target))
    if shape == data.shape:
        return data
    physical = tuple(1 if size == BATCH else int(size) for size in shape)
    zeros: Array = np.broadcast_to(np.zeros((), np.float32), physical)
    block = draft.tensor(node, constant(zeros))
    if has_batch(shape):
        block = replace(block, shape=shape, alike=True)
    return draft.emit(node, "Add", data, block)


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


RULES: Mapping[str, Rule] = {
    "Cast": Rule(_cast, (1, 1), _names("to", "saturate")),
    "CastLike": Rule(_cast_like, (2, 2), _names("saturate")),
    "Concat": Rule(_concat, (1, 1024), _names("axis")),
    "Constant": Rule(
        _constant,
        (0, 0),
        _names("value", "value_float", "value_floats", "value_int", "value_ints", "value_string"),
    ),
    "Dropout": Rule(_dropout, (1, 3), _names("seed")),
    "Expand": Rule(_expand, (2, 2)),
    "Flatten": Rule(_flatten, (1, 1), _names("axis")),
    "Identity": Rule(_alias, (1, 1)),
    "Reshape": Rule(_reshape, (2, 2), _names("allowzero")),
    "Shape": Rule(_shape, (1, 1), _names("start", "end")),
    "Squeeze": Rule(_squeeze, (1, 2), _names("axes")),
    "Tile": Rule(_tile, (2, 2)),
    "Transpose": Rule(_transpose, (1, 1), _names("perm")),
    "Unsqueeze": Rule(_unsqueeze, (1, 2), _names("axes")),
}
"""Operators of layout."""
