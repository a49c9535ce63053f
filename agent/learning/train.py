"""Local training: epochs of mini-batches from a start, by a plan, deterministic by seed.

Pure: everything comes in as arguments, `should_stop` is asked between steps, and the start is
never changed. Refuses rows and labels that do not fit; raises when training diverges, so that
no value that is not finite ever leaves as a client update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.losses import Loss
from agent.learning.optimizers import Optimizer, OptimizerName, optimizer_named
from agent.learning.params import Vector, flatten, unflatten
from agent.learning.runtime import Backend


class TrainingDiverged(RuntimeError):  # noqa: N818 - states what happened, as the receipts do
    """The loss or a parameter became infinite or NaN; lower the learning rate."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
      epochs: passes over the rows.
      batch_size: rows in one step; an epoch's last batch may have fewer.
      optimizer: `sgd`, `momentum` (0.9) or `adam`.
      learning_rate: the optimizer's step size.
      last_learning_rate: if positive, the step size goes linearly to this one, epoch by epoch.
      positive_weight: weight of rows with label 1 against label 0, binary cross-entropy only.
      proximal: mu of FedProx (Li et al., arXiv:1812.06127): adds mu/2 |p - start|^2.
      seed: of the order of rows.
      average_tail: if positive, return the mean of the parameters over this last share of the
        steps (Polyak averaging) in place of the last step's.
    """

    epochs: int
    batch_size: int
    optimizer: OptimizerName
    learning_rate: float
    positive_weight: float = 1.0
    proximal: float = 0.0
    seed: int = 0
    average_tail: float = 0.0
    last_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
          ValueError: a field is out of range; names it.
        """
        checks = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "positive_weight": 0 < self.positive_weight < math.inf,
            "proximal": 0 <= self.proximal < math.inf,
            "seed": self.seed >= 0,
            "average_tail": 0 <= self.average_tail <= 1,
            "last_learning_rate": 0 <= self.last_learning_rate < math.inf,
        }
        wrong = [name for name, holds in checks.items() if not holds]
        if wrong:
            raise ValueError(f"training plan: {wrong[0]} = {getattr(self, wrong[0])} out of range")

    def optimizer_of(self, epoch: int) -> Optimizer:
        """The optimizer with the step size of an epoch, 0 being the first."""
        rate = self.learning_rate
        if self.last_learning_rate and self.epochs > 1:
            rate += (self.last_learning_rate - rate) * epoch / (self.epochs - 1)
        return optimizer_named(self.optimizer, rate)


@dataclass(frozen=True)
class TrainingResult:
    """What training gave.

    Attributes:
      params: the new parameters, in the start's order.
      steps: optimizer steps made.
      examples: rows seen, counted again in every epoch.
      loss_first_epoch: weighted mean of the batches' losses during the first epoch; NaN when
        training was stopped before its first step.
      loss_last_epoch: the same for the last epoch in which a step was made.
      stopped: whether `should_stop` ended training early.
    """

    params: Params
    steps: int
    examples: int
    loss_first_epoch: float
    loss_last_epoch: float
    stopped: bool


def never() -> bool:
    """Never stop."""
    return False


def train(
    backend: Backend,
    start: Params,
    x: NDArray[np.float32],
    y: NDArray[Any],
    plan: TrainingPlan,
    should_stop: Callable[[], bool] = never,
) -> TrainingResult:
    """Train from `start` on rows x with labels y.

    Args:
      backend: the model and its loss.
      start: parameters to start from; not changed.
      x: rows, float32 (N, ...), N >= 1.
      y: labels, see `Loss`.
      plan: how to train.
      should_stop: asked before every step; true ends training with what is learned so far.

    Returns:
      The result; equal arguments give bit-equal results on one machine and runtime.

    Raises:
      ValueError: rows or labels do not fit each other, the loss or the plan.
      TrainingDiverged: the loss or the parameters are no longer finite.
    """
    weights = _weights(backend.loss, x, y, plan)
    optimizers = [plan.optimizer_of(epoch) for epoch in range(plan.epochs)]
    anchor = vector = flatten(start)
    state = optimizers[0].init(vector)
    planned = plan.epochs * math.ceil(len(x) / plan.batch_size)
    tail = _TailMean(planned, plan.average_tail, vector)
    losses = _EpochLosses()
    steps = examples = 0
    stopped = False
    for epoch, batch in _batches(len(x), plan):
        if should_stop():
            stopped = True
            break
        w = weights[batch]
        loss, gradients = backend.grads(unflatten(vector, start), x[batch], y[batch], w)
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {steps}")
        losses.add(epoch, loss, float(w.sum()))
        gradient = flatten(gradients)
        if plan.proximal:
            gradient += np.float32(plan.proximal) * (vector - anchor)
        state, vector = optimizers[epoch].apply(gradient, state, vector)
        steps += 1
        examples += len(batch)
        tail.add(steps, vector)
    final = tail.mean(vector)
    if not np.isfinite(final).all():
        raise TrainingDiverged(f"parameters are not finite after {steps} steps")
    return TrainingResult(
        params=unflatten(final.copy(), start),
        steps=steps,
        examples=examples,
        loss_first_epoch=losses.first,
        loss_last_epoch=losses.last,
        stopped=stopped,
    )


def _weights(
    loss: Loss, x: NDArray[np.float32], y: NDArray[Any], plan: TrainingPlan
) -> NDArray[np.float32]:
    if len(x) < 1 or len(x) != len(y):
        raise ValueError(f"{len(x)} rows and {len(y)} labels: need at least one, and as many")
    if loss is Loss.BINARY_CROSS_ENTROPY:
        if not ((y >= 0) & (y <= 1)).all():
            raise ValueError("labels must lie in [0, 1]")
        weight = 1 + (plan.positive_weight - 1) * y.reshape(len(y))
        return weight.astype(np.float32)
    if plan.positive_weight != 1.0:
        raise ValueError(f"positive_weight has no meaning for loss {loss.value}")
    return np.ones(len(x), np.float32)


def _batches(rows: int, plan: TrainingPlan) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (epoch, row indices) of every step, freshly shuffled in every epoch."""
    random = np.random.default_rng(plan.seed)
    for epoch in range(plan.epochs):
        order = random.permutation(rows)
        for first in range(0, rows, plan.batch_size):
            yield epoch, order[first : first + plan.batch_size]


class _TailMean:
    """Mean of the parameters over the last share of the planned steps."""

    def __init__(self, steps: int, share: float, like: Vector) -> None:
        self._begin = steps - max(1, math.ceil(share * steps)) if share > 0 else steps
        self._sum = np.zeros(like.shape, np.float64)
        self._count = 0

    def add(self, step: int, vector: Vector) -> None:
        if step > self._begin:
            self._sum += vector
            self._count += 1

    def mean(self, last: Vector) -> Vector:
        if not self._count:
            return last
        return (self._sum / self._count).astype(np.float32)


class _EpochLosses:
    """Weighted mean loss of the first and of the current epoch."""

    def __init__(self) -> None:
        self.first = math.nan
        self.last = math.nan
        self._epoch = -1
        self._sum = 0.0
        self._weight = 0.0

    def add(self, epoch: int, loss: float, weight: float) -> None:
        if epoch != self._epoch:
            self._epoch, self._sum, self._weight = epoch, 0.0, 0.0
        self._sum += loss * weight
        self._weight += weight
        self.last = self._sum / self._weight
        if epoch == 0:
            self.first = self.last
