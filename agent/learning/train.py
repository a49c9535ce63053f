"""Local training: epochs of mini-batches from a start, by a plan, deterministic by seed.

Pure: everything comes in as arguments, `should_stop` is asked between steps, and the start is
never changed. Refuses rows and labels that do not fit; raises when training diverges, so that
no value that is not finite ever leaves as a client update.

Invariant: a step depends on `Progress` and on the arguments alone, so a training that stops
between two steps and goes on from its checkpoint, in this process or another, ends bit-equal to
one that never stopped. Noise, and with it who is in a batch, is the exception: both are drawn
anew, by design, and steps that were lost with a crash are never looked at by anybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import (
    Checkpoint,
    CheckpointMismatch,
    Counts,
    Progress,
    fingerprint,
)
from agent.learning.ir import Params
from agent.learning.losses import Loss, example_losses
from agent.learning.noise import gaussian, poisson_batch
from agent.learning.params import Vector, flatten, unflatten
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled, Rows, weighed
from agent.learning.runtime import Backend, check_labels
from agent.learning.symmetry import moved

__all__ = ["Training", "TrainingDiverged", "TrainingPlan", "TrainingResult", "train"]


class TrainingDiverged(RuntimeError):  # noqa: N818 - states what happened, as the receipts do
    """The loss or a parameter became infinite or NaN; lower the learning rate."""


@dataclass(frozen=True)
class TrainingResult:
    """What training gave.

    Attributes:
      params: the new parameters, in the start's order; which ones, says the plan.
      steps: optimizer steps made.
      examples: rows seen, counted again in every epoch.
      loss_first_epoch: weighted mean of the batches' losses during the first epoch; NaN when
        training was stopped before its first step, and when examples are clipped one by one,
        which yields no loss.
      loss_last_epoch: the same for the last epoch in which a step was made.
      stopped: whether `should_stop` ended training early.
      epochs: epochs completed.
      held_out_start: weighted mean loss of the start on held-out rows; NaN without such rows.
      held_out_best: the smallest of it and of those after each epoch.
      best_epoch: epochs completed when it was reached; 0 is the start.
      checkpoint: where to go on; None unless stopped.
    """

    params: Params
    steps: int
    examples: int
    loss_first_epoch: float
    loss_last_epoch: float
    stopped: bool
    epochs: int = 0
    held_out_start: float = math.nan
    held_out_best: float = math.nan
    best_epoch: int = 0
    checkpoint: Checkpoint | None = None


class Training:
    """One training, step by step; `train` is its usual loop."""

    def __init__(
        self,
        backend: Backend,
        start: Params,
        rows: Rows,
        plan: TrainingPlan,
        *,
        held_out: Rows | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Begin, or go on from a checkpoint.

        Raises:
          ValueError: the plan waits for held-out rows that are not there.
          CheckpointMismatch: the checkpoint is of another training.
          TrainingDiverged: the start's loss on held-out rows is not finite.
        """
        if plan.patience and held_out is None:
            raise ValueError("training plan: patience needs held-out rows")
        self._backend, self._start, self._plan = backend, start, plan
        self._rows, self._held_out = rows, held_out
        self._anchor = flatten(start)
        self._epoch_steps = math.ceil(len(rows.x) / plan.batch_size)
        planned = plan.epochs * self._epoch_steps
        averaged = math.ceil(plan.average_tail * planned)
        self._tail_begins = planned - averaged
        self._digest = _digest_of(backend.loss, start, rows, held_out, plan)
        self._progress = self._begin() if checkpoint is None else self._resume(checkpoint)
        self._enter_epoch()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the held-out loss has not improved for long enough."""
        counts, patience = self._progress.counts, self._plan.patience
        waited = counts.epoch - counts.best_epoch
        return counts.epoch >= self._plan.epochs or 0 < patience <= waited

    def step(self) -> None:
        """Make one optimizer step; only while not finished.

        Raises:
          TrainingDiverged: a loss or gradient is not finite.
        """
        progress, plan, counts = self._progress, self._plan, self._progress.counts
        batch = self._batch()
        rows = Rows(self._images(batch), self._rows.y[batch], self._rows.w[batch])
        gradient = self._noised(rows) if plan.clip_norm else self._mean(rows)
        if plan.proximal:
            gradient += np.float32(plan.proximal) * (progress.params - self._anchor)
        progress.optimizer, progress.params = self._optimizer.apply(
            gradient, progress.optimizer, progress.params
        )
        counts.step += 1
        counts.examples += len(batch)
        if progress.optimizer.steps > self._tail_begins:
            progress.tail_sum += progress.params
            counts.tail_count += 1
        if counts.step == self._epoch_steps:
            self._end_epoch()

    def checkpoint(self) -> Checkpoint:
        """Return where to go on; further steps do not change it."""
        return Checkpoint(self._digest, self._progress.copy())

    def result(self) -> TrainingResult:
        """Return what is learned so far.

        Raises:
          TrainingDiverged: the parameters are not finite.
        """
        return result_of(self._start, self.checkpoint(), stopped=not self.finished)

    def _begin(self) -> Progress:
        nothing = np.zeros(0, np.float32)
        progress = Progress(
            params=self._anchor,
            optimizer=self._plan.optimizer_of(0).init(self._anchor),
            best_params=self._anchor if self._plan.patience else nothing,
            tail_sum=np.zeros(self._anchor.size if self._plan.average_tail else 0, np.float64),
            counts=Counts(),
        )
        if self._held_out is not None:
            loss = self._judge(self._anchor, self._held_out)
            progress.counts.held_out_start = progress.counts.held_out_best = loss
        return progress

    def _resume(self, checkpoint: Checkpoint) -> Progress:
        if checkpoint.digest != self._digest:
            raise CheckpointMismatch(
                "the checkpoint belongs to another training: other rows, start, plan or loss"
            )
        return checkpoint.progress.copy()

    def _enter_epoch(self) -> None:
        """Shuffle; the order depends on seed and epoch alone, so that no generator is kept."""
        epoch = self._progress.counts.epoch
        random = np.random.default_rng([self._plan.seed, epoch])
        self._order = random.permutation(len(self._rows.x))
        self._optimizer = self._plan.optimizer_of(epoch)

    def _end_epoch(self) -> None:
        counts = self._progress.counts
        counts.epoch, counts.step = counts.epoch + 1, 0
        counts.loss_sum = counts.weight_sum = 0.0
        if self._held_out is not None:
            loss = self._judge(self._progress.params, self._held_out)
            if loss < counts.held_out_best:
                counts.held_out_best, counts.best_epoch = loss, counts.epoch
                if self._plan.patience:
                    self._progress.best_params = self._progress.params
        if not self.finished:
            self._enter_epoch()

    def _batch(self) -> NDArray[np.intp]:
        """Return who is in this step: the next of the shuffled epoch, or a secret sample."""
        number, size = len(self._rows.x), self._plan.batch_size
        if not self._plan.noise_multiplier:
            first = self._progress.counts.step * size
            return self._order[first : first + size]
        return poisson_batch(number, size / number) if size < number else np.arange(number)

    def _images(self, batch: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the batch's x, images in positions that depend on plan and step alone."""
        x, plan, counts = self._rows.x[batch], self._plan, self._progress.counts
        if plan.symmetry == "none":
            return x
        rng = np.random.default_rng([plan.seed, counts.epoch, counts.step])
        return moved(x, plan.symmetry, rng)

    def _mean(self, rows: Rows) -> Vector:
        """Return the gradient of the weighted mean loss, and count the loss."""
        progress, counts = self._progress, self._progress.counts
        params = unflatten(progress.params, self._start)
        loss, gradients = self._backend.grads(params, rows.x, rows.y, rows.w)
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss is {loss} at step {progress.optimizer.steps}")
        weight = float(rows.w.sum())
        counts.loss_sum += loss * weight
        counts.weight_sum += weight
        counts.loss_last = counts.loss_sum / counts.weight_sum
        if counts.epoch == 0:
            counts.loss_first = counts.loss_last
        return flatten(gradients)

    def _noised(self, rows: Rows) -> Vector:
        """Return the clipped sum with its noise, over the planned batch size.

        An empty sample is a step of noise alone; without one, a step would tell who is not there.
        """
        plan, progress, size = self._plan, self._progress, self._plan.batch_size
        gradient = np.zeros(progress.params.size, np.float32)
        if len(rows.x):
            params = unflatten(progress.params, self._start)
            total, _ = self._backend.clipped_sum(params, rows.x, rows.y, rows.w, plan.clip_norm)
            gradient = flatten(total)
        if not np.isfinite(gradient).all():
            steps = progress.optimizer.steps
            raise TrainingDiverged(f"the clipped gradient is not finite at step {steps}")
        if plan.noise_multiplier:
            deviation = plan.noise_multiplier * plan.clip_norm
            gradient = (gradient + gaussian(gradient.size, deviation)).astype(np.float32)
            size = min(size, len(self._rows.x))
        return gradient / np.float32(size)

    def _judge(self, vector: Vector, rows: Rows) -> float:
        """Return the weighted mean loss on rows."""
        kind = self._backend.loss
        output = self._backend.infer(unflatten(vector, self._start), rows.x)
        target = rows.x if kind is Loss.RECONSTRUCTION else rows.y
        if kind is not Loss.CROSS_ENTROPY and target.shape != output.shape:
            raise ValueError(f"labels are {target.shape}, the model's output is {output.shape}")
        check_labels(kind, target, output.shape[-1])
        loss = float(np.average(example_losses(kind, output, target), weights=rows.w))
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the loss on held-out rows is {loss}")
        return loss


def never() -> bool:
    """Never stop."""
    return False


def nothing(training: Training) -> None:
    """Do nothing after a step."""


def train(  # noqa: PLR0913 - all that decides a training, named by its callers
    backend: Backend,
    start: Params,
    x: NDArray[np.float32],
    y: NDArray[Any],
    plan: TrainingPlan,
    *,
    held_out: Labelled | None = None,
    example_weights: NDArray[np.float32] | None = None,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = never,
    on_step: Callable[[Training], None] = nothing,
) -> TrainingResult:
    """Train from `start` on rows x with labels y.

    Args:
      backend: the model and its loss.
      start: parameters to start from; not changed.
      x: rows, float32 (N, ...), N >= 1.
      y: labels, see `Loss`.
      plan: how to train.
      held_out: rows and labels to judge each epoch by, weighted by class as the others are.
      example_weights: float32 (N,), positive and finite, times the class weights; None for all 1.
      checkpoint: go on from here in place of the start.
      should_stop: asked before every step; true ends training with what is learned so far.
      on_step: called after every step.

    Returns:
      The result; equal arguments give bit-equal results on one machine and runtime (but for
      noise), however often training was stopped and resumed.

    Raises:
      ValueError: rows, labels or weights do not fit each other, the loss or the plan.
      CheckpointMismatch: the checkpoint is of another training.
      TrainingDiverged: the loss or the parameters are no longer finite.
    """
    rows = weighed(backend, start, (x, y), plan, example_weights)
    judges = weighed(backend, start, held_out, plan) if held_out is not None else None
    training = Training(backend, start, rows, plan, held_out=judges, checkpoint=checkpoint)
    while not training.finished and not should_stop():
        training.step()
        on_step(training)
    return training.result()


def result_of(start: Params, checkpoint: Checkpoint, *, stopped: bool) -> TrainingResult:
    """Return what a training has learned at a checkpoint.

    Args:
      start: parameters it started from, for their names and shapes.
      checkpoint: its state.
      stopped: whether it ends here before its time.

    Raises:
      TrainingDiverged: the parameters are not finite.
      ValueError: the checkpoint has another number of parameters.
    """
    progress, counts = checkpoint.progress, checkpoint.progress.counts
    final = _chosen(progress)
    if not np.isfinite(final).all():
        raise TrainingDiverged(f"parameters are not finite after {progress.optimizer.steps} steps")
    return TrainingResult(
        params=unflatten(final.copy(), start),
        steps=progress.optimizer.steps,
        examples=counts.examples,
        loss_first_epoch=counts.loss_first,
        loss_last_epoch=counts.loss_last,
        stopped=stopped,
        epochs=counts.epoch,
        held_out_start=counts.held_out_start,
        held_out_best=counts.held_out_best,
        best_epoch=counts.best_epoch,
        checkpoint=checkpoint if stopped else None,
    )


def _chosen(progress: Progress) -> Vector:
    """Return the best epoch's parameters, or the tail's mean, or the last; as the plan says."""
    if progress.best_params.size:
        return progress.best_params
    if progress.counts.tail_count:
        mean: Vector = (progress.tail_sum / progress.counts.tail_count).astype(np.float32)
        return mean
    return progress.params


def _digest_of(
    loss: Loss, start: Params, rows: Rows, held_out: Rows | None, plan: TrainingPlan
) -> bytes:
    words = msgspec.json.encode([loss.value, plan, list(start)])
    judges = (held_out.x, held_out.y) if held_out is not None else (None, None)
    return fingerprint(words, [*start.values(), rows.x, rows.y, rows.w, *judges])
