"""Training rows checked against a loss, each with its weight.

Pure. Refuses rows, labels and weights that do not fit each other, the loss or the plan, before
the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.losses import Loss
from agent.learning.plan import TrainingPlan
from agent.learning.runtime import Backend, check_labels

Labelled = tuple[NDArray[np.float32], NDArray[Any]]
"""Rows x and their labels y."""


@dataclass(frozen=True)
class Rows:
    """Checked rows: x float32 (N, ...), labels y (N, ...), weights w float32 (N,), positive."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    w: NDArray[np.float32]


def weighed(
    backend: Backend,
    start: Params,
    rows: Labelled,
    plan: TrainingPlan,
    example_weights: NDArray[np.float32] | None = None,
) -> Rows:
    """Check rows against the loss, and weigh each by its class and its own weight.

    Raises:
      ValueError: rows, labels or weights do not fit each other, the loss or the plan.
    """
    x, y = rows
    if len(x) < 1 or len(x) != len(y):
        raise ValueError(f"{len(x)} rows and {len(y)} labels: need at least one, and as many")
    if backend.loss is Loss.BINARY_CROSS_ENTROPY and not ((y >= 0) & (y <= 1)).all():
        raise ValueError("labels must lie in [0, 1]")
    w = np.ones(len(x), np.float32)
    if plan.class_weights:
        w = _class_weights(backend, start, rows, plan.class_weights)
    if example_weights is not None:
        _check_weights(example_weights, len(x))
        w = w * example_weights
    return Rows(x, y, w)


def _class_weights(
    backend: Backend, start: Params, rows: Labelled, weights: tuple[float, ...]
) -> NDArray[np.float32]:
    x, y = rows
    if backend.loss is Loss.BINARY_CROSS_ENTROPY:
        if len(weights) != 2:
            raise ValueError(f"class_weights: {len(weights)} given, need those of labels 0 and 1")
        zero, one = weights
        return (zero + (one - zero) * y.reshape(len(y))).astype(np.float32)
    if backend.loss is not Loss.CROSS_ENTROPY:
        raise ValueError(f"class_weights have no meaning for loss {backend.loss.value}")
    classes = backend.infer(start, x[:1]).shape[1]
    if len(weights) != classes:
        raise ValueError(f"class_weights: {len(weights)} given, the model has {classes} classes")
    check_labels(backend.loss, y, classes)
    return np.array(weights, np.float32)[y]


def _check_weights(weights: NDArray[np.float32], rows: int) -> None:
    if weights.dtype != np.float32 or weights.shape != (rows,):
        raise ValueError(f"example weights are {weights.dtype} {weights.shape}, need ({rows},)")
    wrong = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
    if wrong.size:
        at = wrong[0]
        raise ValueError(f"weight {weights[at]} of row {at} is not positive and finite")
