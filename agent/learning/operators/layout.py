"""Operators that move or name values without changing them, and constants."""

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
    int_attribute,
)
from agent.learning.tape import Tape


def _infer_flatten(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    shape = shapes[0]
    axis = int_attribute(node, "axis", 1)
    if axis not in (1, 1 - len(shape)) or not shape:
        raise GraphError(node.describe(), f"only axis 1 can be flattened from, not {axis}")
    return (shape[0], elements(shape[1:]))


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


def _adjoint_layout(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    yield node.inputs[0], tape.reshape_gradient(gradient, tape.shapes[node.inputs[0]])


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


OPERATORS: Mapping[str, Operator] = {
    "Constant": Operator(_infer_constant, _adjoint_constant, (0, 0), frozenset({"value"})),
    "Flatten": Operator(_infer_flatten, _adjoint_layout, (1, 1), frozenset({"axis"})),
    "Identity": Operator(same_shape, _adjoint_identity, (1, 1)),
    "Reshape": Operator(
        _infer_reshape, _adjoint_layout, (2, 2), frozenset({"allowzero"}), frozenset({1})
    ),
}
