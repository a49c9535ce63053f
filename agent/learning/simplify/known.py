"""Values known while a graph is simplified, whatever the size of the batch will be.

Responsible for telling what depends on the batch and what does not. A known value is kept twice,
as it would be for batches of two sizes, and both are computed by plain numpy. What is equal in
both is a constant; a size that is `SIZES` is the batch's; anything else depends on the batch in a
way that no graph here can express, and is refused where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.shapes import BATCH, Shape

SIZES = (13, 17)
"""The two sizes of a batch that known values are computed for: small, and no usual layer size."""


_MOST_SIZES = 16


@dataclass(frozen=True)
class Known:
    """A value for batches of `SIZES[0]` and `SIZES[1]` examples; one array when equal."""

    first: Array
    second: Array

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The element type."""
        return self.first.dtype

    def settled(self) -> Array | None:
        """Return the value when it does not depend on the batch."""
        if self.first is self.second or np.array_equal(self.first, self.second):
            return self.first
        return None


def constant(value: Array) -> Known:
    """Return a value that does not depend on the batch."""
    return Known(value, value)


def known_shape(shape: Shape) -> Known:
    """Return what the operator `Shape` gives for a value."""
    vectors = [np.array([n if d == BATCH else d for d in shape], np.int64) for n in SIZES]
    return Known(vectors[0], vectors[1] if BATCH in shape else vectors[0])


def sizes_of(node: Node, value: Known, what: str) -> tuple[int | str, ...]:
    """Return a known vector of sizes, with `BATCH` for the batch's.

    Raises:
      GraphError: no vector of int64, or a size depends on the batch in another way.
    """
    first, second = value.first, value.second
    if value.dtype != np.int64 or first.ndim != 1 or first.shape != second.shape:
        raise GraphError(node.describe(), f"{what} must be a vector of int64 of fixed length")
    if first.size > _MOST_SIZES:
        raise GraphError(node.describe(), f"{what} has {first.size} axes")
    sizes: list[int | str] = []
    for pair in zip(first.tolist(), second.tolist(), strict=True):
        if pair[0] == pair[1]:
            sizes.append(pair[0])
        elif pair == SIZES:
            sizes.append(BATCH)
        else:
            raise GraphError(
                node.describe(), f"{what}: a size depends on the batch, but is not the batch"
            )
    return tuple(sizes)


def spread(node: Node, value: Known) -> tuple[Shape, Array]:
    """Tell a known value's shape, and its values for one example.

    Returns:
      (shape, values): the shape may begin with `BATCH`; then values has 1 in its place, the same
      for every example.

    Raises:
      GraphError: the values differ between examples or with the size of the batch.
    """
    fixed = value.settled()
    if fixed is not None:
        return fixed.shape, fixed
    first, second = value.first, value.second
    shapes = (np.array(one.shape, np.int64) for one in (first, second))
    shape = sizes_of(node, Known(*shapes), "a constant") if first.ndim == second.ndim else ()
    row = first[:1]
    if shape[:1] != (BATCH,) or BATCH in shape[1:] or (first != row).any() or (second != row).any():
        raise GraphError(node.describe(), "a constant's values depend on the size of the batch")
    return shape, row
