"""Arithmetic on a model's parameters as one flat vector.

Invariant: the order of a vector is the order of the `Params` it came from, each tensor in C
order. One vector instead of many tensors makes an optimizer's step one numpy operation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params

Vector = NDArray[np.float32]
"""Shape (P,): all parameters of a model, or a quantity per parameter."""


def flatten(params: Params) -> Vector:
    """Copy all tensors into one new vector."""
    return np.concatenate([value.ravel() for value in params.values()], dtype=np.float32)


def unflatten(vector: Vector, like: Params) -> Params:
    """Return views of `vector` with the names and shapes of `like`.

    Raises:
      ValueError: the vector's length is not the number of parameters.
    """
    if vector.shape != (sum(value.size for value in like.values()),):
        raise ValueError(f"vector of shape {vector.shape} does not fit the parameters")
    views: Params = {}
    start = 0
    for name, value in like.items():
        views[name] = vector[start : start + value.size].reshape(value.shape)
        start += value.size
    return views


def check_same_layout(expected: Params, given: Params) -> None:
    """Check that two parameter sets have the same names, order and shapes, in float32.

    Raises:
      ValueError: they do not; names the first difference.
    """
    if list(expected) != list(given):
        raise ValueError(f"parameters {list(given)} given, {list(expected)} expected")
    for name, value in expected.items():
        other = given[name]
        if other.shape != value.shape or other.dtype != np.float32:
            raise ValueError(
                f"parameter {name!r} is {other.dtype} {other.shape}, expected {value.shape}"
            )
