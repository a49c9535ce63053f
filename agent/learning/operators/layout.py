"""Operators that move or name values without changing them, and constants.

`slicing` has the one that cuts values out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.operators.rule import Operator, same_shape
from agent.learning.shapes import (
    BATCH,
    Shape,
    constant_ints,
    elements,
    has_batch,
    has_input,
    int_attribute,
    ints_attribute,
    place_axes,
    place_axis,
    refuse_batch,
)
from agent.learning.tape import Tape


def _infer_flatten(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    shape = shapes[0]
    given = int_attribute(node, "axis", 1)
    axis = len(shape) if given == len(shape) else place_axis(node, given, len(shape))
    if has_batch(shape):
        if axis != 1:
            raise GraphError(node.describe(), f"only axis 1 can be flattened from, not {given}")
        return (BATCH, elements(shape))
    return (elements(shape[:axis]), elements(shape[axis:]))


def _infer_reshape(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    target = constant_ints(node, 1, constants)
    shape = shapes[0]
    if int_attribute(node, "allowzero", 0) and 0 in target:
        raise GraphError(node.describe(), "allowzero=1 is not supported")
    named: Shape = tuple(
        shape[axis] if size == 0 and axis < len(shape) else size for axis, size in enumerate(target)
    )
    if has_batch(shape):
        if named[:1] not in ((BATCH,), (-1,)) or (named[0] == -1 and -1 in named[1:]):
            raise GraphError(node.describe(), f"reshaping {shape} to {target} would mix examples")
        return (BATCH, *_fill(node, named[1:], elements(shape)))
    return _fill(node, named, elements(shape))


def _fill(node: Node, target: Shape, total: int) -> Shape:
    """Resolve the one size of -1, if any, so that the target holds `total` elements."""
    fixed = elements(tuple(size for size in target if size != -1))
    filled = tuple(total // max(fixed, 1) if size == -1 else size for size in target)
    if target.count(-1) > 1 or elements(filled) != total or BATCH in filled:
        raise GraphError(node.describe(), f"{total} elements do not fill {target}")
    return filled


def _infer_squeeze(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    shape = shapes[0]
    given = constant_ints(node, 1, constants) if has_input(node, 1) else ()
    if given:
        axes = place_axes(node, given, len(shape))
    elif has_batch(shape):
        raise GraphError(node.describe(), "without axes would drop a batch of one example")
    else:
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    if any(shape[axis] != 1 for axis in axes):
        raise GraphError(node.describe(), f"axes {axes} of {shape} are not all of size 1")
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _infer_unsqueeze(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    given = constant_ints(node, 1, constants)
    rank = len(shapes[0]) + len(given)
    axes = place_axes(node, given, rank)
    sizes = iter(shapes[0])
    return tuple(1 if axis in axes else next(sizes) for axis in range(rank))


def _adjoint_layout(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    before, after = tape.shapes[node.inputs[0]], tape.shapes[node.outputs[0]]
    yield node.inputs[0], gradient if before == after else tape.reshape_gradient(gradient, before)


def _permutation(node: Node, rank: int) -> tuple[int, ...]:
    return ints_attribute(node, "perm", tuple(range(rank))[::-1])


def _infer_transpose(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    shape = shapes[0]
    perm = _permutation(node, len(shape))
    if sorted(perm) != list(range(len(shape))):
        raise GraphError(node.describe(), f"perm {perm} does not order the axes of {shape}")
    return tuple(shape[axis] for axis in perm)


def _adjoint_transpose(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    perm = _permutation(node, len(tape.shapes[node.inputs[0]]))
    inverse = tuple(perm.index(axis) for axis in range(len(perm)))
    yield node.inputs[0], tape.transpose_gradient(gradient, inverse, tape.shapes[node.outputs[0]])


def _infer_concat(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    first = shapes[0]
    if "axis" not in node.attributes:
        raise GraphError(node.describe(), "must have the attribute 'axis'")
    axis = place_axis(node, int_attribute(node, "axis", 0), len(first))
    refuse_batch(node, (axis,), first)
    total = 0
    for shape in shapes:
        if (*shape[:axis], 1, *shape[axis + 1 :]) != (*first[:axis], 1, *first[axis + 1 :]):
            raise GraphError(node.describe(), f"cannot join {shape} to {first} along axis {axis}")
        total += int(shape[axis])
    return (*first[:axis], total, *first[axis + 1 :])


def _adjoint_concat(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    shape = tape.shapes[node.outputs[0]]
    axis = place_axis(node, int_attribute(node, "axis", 0), len(shape)) - len(shape)
    start = 0
    for name in node.inputs:
        end = start + int(tape.shapes[name][axis])
        if name in tape.needed and len(node.inputs) == 1:
            yield name, gradient
        elif name in tape.needed:
            yield (
                name,
                tape.emit("Slice", gradient, tape.ints(start), tape.ints(end), tape.ints(axis)),
            )
        start = end


def _adjoint_identity(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    del tape
    yield node.inputs[0], gradient


def _infer_constant(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del shapes, constants
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise GraphError(node.describe(), "must hold a tensor in attribute 'value'")
    return value.shape


def _adjoint_constant(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    del tape, node, gradient
    yield from ()


MOST_INPUTS = 1024
"""Inputs of one Concat; `Limits.list_length` is the same."""

OPERATORS: Mapping[str, Operator] = {
    "Concat": Operator(_infer_concat, _adjoint_concat, (1, MOST_INPUTS), frozenset({"axis"})),
    "Constant": Operator(_infer_constant, _adjoint_constant, (0, 0), frozenset({"value"})),
    "Flatten": Operator(_infer_flatten, _adjoint_layout, (1, 1), frozenset({"axis"})),
    "Identity": Operator(same_shape, _adjoint_identity, (1, 1)),
    "Reshape": Operator(
        _infer_reshape, _adjoint_layout, (2, 2), frozenset({"allowzero"}), frozenset({1})
    ),
    "Squeeze": Operator(
        _infer_squeeze,
        _adjoint_layout,
        (1, 2),
        settings=frozenset({1}),
        optional=frozenset({1}),
    ),
    "Transpose": Operator(_infer_transpose, _adjoint_transpose, (1, 1), frozenset({"perm"})),
    "Unsqueeze": Operator(_infer_unsqueeze, _adjoint_layout, (2, 2), settings=frozenset({1})),
}
