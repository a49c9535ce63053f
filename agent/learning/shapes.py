"""Shapes of values in a graph, and the rules for them that all operators share.

Responsible for shape inference's vocabulary. Invariant: the batch axis, where a value has one,
is axis 0 and the only symbolic size; so no operator can mix the examples of a batch, which
per-example gradients and their clipping rely on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
