"""Shapes of values in a graph, and the rules for them that all operators share.

Responsible for shape inference's vocabulary. Invariant: the batch axis, where a value has one,
is axis 0 and the only symbolic size; so no operator can mix the examples of a batch, which
per-example gradients and their clipping rely on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from agent.learning.ir import Array, GraphError, Node

BATCH = "N"
"""The symbolic size of the batch axis."""

Shape = tuple[int | str, ...]
"""Sizes of a value: positive ints, and `BATCH` at most at axis 0."""

LARGEST_VALUE = 4 << 20
"""Elements of one value for one example; float32, so 16 MiB."""


def has_batch(shape: Shape) -> bool:
    """Tell whether a value has a batch axis, that is, differs from example to example."""
    return BATCH in shape


def elements(shape: Shape) -> int:
    """Count a value's elements, of one example where it has a batch axis."""
    return math.prod(size for size in shape if isinstance(size, int))


def check_shape(node: Node, shape: Shape) -> Shape:
    """Return `shape` when it keeps this module's invariant.

    Raises:
      GraphError: the batch axis moved, a size is not positive, or the value is too large.
    """
    if BATCH in shape[1:]:
        raise GraphError(node.describe(), f"the batch axis must stay first, shape is {shape}")
    if any(isinstance(size, int) and size < 1 for size in shape):
        raise GraphError(node.describe(), f"shape {shape} has an empty axis")
    if elements(shape) > LARGEST_VALUE:
        raise GraphError(node.describe(), f"shape {shape} exceeds {LARGEST_VALUE} elements")
    return shape


def broadcast(node: Node, first: Shape, second: Shape) -> Shape:
    """Return the shape of an elementwise result (ONNX Broadcasting.md, multidirectional).

    Raises:
      GraphError: the shapes do not fit.
    """
    rank = max(len(first), len(second))
    left: Shape = (1,) * (rank - len(first)) + first
    right: Shape = (1,) * (rank - len(second)) + second
    for a, b in zip(left, right, strict=True):
        if a != b and 1 not in (a, b):
            raise GraphError(node.describe(), f"shapes {first} and {second} do not broadcast")
    return tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))


def int_attribute(node: Node, name: str, default: int) -> int:
    """Return an integer attribute.

    Raises:
      GraphError: the attribute has another type.
    """
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise GraphError(node.describe(), f"attribute {name!r} must be an integer")
    return value


def float_attribute(node: Node, name: str, default: float) -> float:
    """Return a float attribute.

    Raises:
      GraphError: the attribute has another type.
    """
    value = node.attributes.get(name, default)
    if not isinstance(value, float):
        raise GraphError(node.describe(), f"attribute {name!r} must be a float")
    return value


def constant_ints(node: Node, index: int, constants: Mapping[str, Array]) -> tuple[int, ...]:
    """Return the values of an input that must be a constant int64 vector.

    Raises:
      GraphError: the input is computed, or is no int64 vector.
    """
    value = constants.get(node.inputs[index])
    if value is None or value.dtype.name != "int64" or value.ndim != 1:
        raise GraphError(node.describe(), f"input {index} must be a constant vector of int64")
    return tuple(int(item) for item in value)


def ints_attribute(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return an attribute that is a list of integers.

    Raises:
      GraphError: the attribute has another type.
    """
    value = node.attributes.get(name, default)
    if not isinstance(value, tuple) or not all(isinstance(item, int) for item in value):
        raise GraphError(node.describe(), f"attribute {name!r} must be a list of integers")
    return tuple(int(item) for item in value)


def text_attribute(node: Node, name: str, default: str) -> str:
    """Return an attribute that is a string.

    Raises:
      GraphError: the attribute has another type.
    """
    value = node.attributes.get(name, default)
    if not isinstance(value, str):
        raise GraphError(node.describe(), f"attribute {name!r} must be a string")
    return value


def has_input(node: Node, index: int) -> bool:
    """Tell whether an optional input is given."""
    return index < len(node.inputs) and node.inputs[index] != ""


def constant_scalar(node: Node, index: int, constants: Mapping[str, Array]) -> float:
    """Return the value of an input that must be a constant number.

    Raises:
      GraphError: the input is computed, trained, or not one number.
    """
    value = constants.get(node.inputs[index])
    if value is None or value.ndim:
        raise GraphError(node.describe(), f"input {index} must be a constant scalar")
    return float(value)


def place_axis(node: Node, axis: int, rank: int) -> int:
    """Return an axis counted from the front, for a value of `rank` axes.

    Raises:
      GraphError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise GraphError(node.describe(), f"there is no axis {axis} among {rank}")
    return axis % rank


def place_axes(node: Node, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return distinct axes counted from the front, in ascending order.

    Raises:
      GraphError: there is no such axis, or one is named twice.
    """
    placed = sorted(place_axis(node, axis, rank) for axis in axes)
    if len(set(placed)) < len(placed):
        raise GraphError(node.describe(), f"axes {tuple(axes)} name one axis twice")
    return tuple(placed)


def refuse_batch(node: Node, axes: Sequence[int], shape: Shape) -> None:
    """Check that a step works along none but the axes of one example.

    Raises:
      GraphError: one of the axes, counted from the front, is the batch.
    """
    if any(shape[axis] == BATCH for axis in axes):
        raise GraphError(node.describe(), "works along the batch axis, which would mix examples")
