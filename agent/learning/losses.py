"""Losses: per-example values and the gradient in the model's output, written to a tape.

Every loss is a mean over the batch weighted by `w`: sum(w l) / sum(w). A batch whose weights
sum to 0 gives NaN; the caller keeps such batches away. `example_losses` computes the same values
in numpy, for judging outputs without a training graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import GraphError, ValueInfo
from agent.learning.shapes import BATCH, Shape, elements
from agent.learning.tape import Tape

DATA, TARGET, WEIGHTS = "x", "y", "w"
"""Names of derived graphs' inputs for rows, for labels and for the examples' weights."""

_FAR = 1e30
"""Taken off a logit, its class has no share of a softmax: the logits are far smaller."""


class Loss(Enum):
    """What a model is trained to make small.

    `BINARY_CROSS_ENTROPY`: logits (N, 1), y float32 (N, 1) in [0, 1].
    `CROSS_ENTROPY`: logits (N, C), y int64 (N,) in [0, C).
    `MSE`: output and y of one shape (N, ...), float32; mean over all axes but the batch's.
    `HUBER`: as `MSE`, with d^2 / 2 for errors |d| <= 1 and |d| - 1/2 beyond; so one unit of the
      (scaled) label is where an error begins to count as an outlier (Huber 1964).
    `RECONSTRUCTION`: `MSE` between the output and the input x itself; y has shape (N, 0).
    """

    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    CROSS_ENTROPY = "cross_entropy"
    MSE = "mse"
    HUBER = "huber"
    RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class _PerExample:
    """Names: `value` (N,) is the loss, `slope` its gradient in the output, in its shape."""

    value: str
    slope: str


def _binary_cross_entropy(tape: Tape, logits: str, target: str) -> _PerExample:
    """Write max(z, 0) - z y + log(1 + exp(-|z|)) and sigmoid(z) - y; neither can overflow.

    The sigmoid is exp(min(z, 0)) / (1 + exp(-|z|)): ONNX Runtime's own `Sigmoid` (1.31) is 0.02 %
    off at -10 and 7 % at -14, measured, and a confident model's gradients live there.  For the
    same reason the slope is (1 - y) sigmoid(z) - y sigmoid(-z): a difference from 1 has lost the
    digits of a sigmoid near 1.
    """
    positive = tape.emit("Relu", logits)
    minus_size = tape.emit("Neg", tape.emit("Abs", logits))
    linear = tape.emit("Sub", positive, tape.emit("Mul", logits, target))
    sums = tape.emit("Add", linear, tape.emit("Softplus", minus_size))
    one = tape.scalar(1.0)
    is_one = tape.emit("Exp", tape.emit("Sub", logits, positive))
    is_zero = tape.emit("Exp", tape.emit("Neg", positive))
    up = tape.emit("Mul", tape.emit("Sub", one, target), is_one)
    down = tape.emit("Mul", target, is_zero)
    denominator = tape.emit("Add", tape.emit("Exp", minus_size), one)
    value = tape.emit("Reshape", sums, tape.ints(-1))
    return _PerExample(value, tape.emit("Div", tape.emit("Sub", up, down), denominator))


def _cross_entropy(tape: Tape, logits: str, target: str) -> _PerExample:
    """Write -log of the labelled class's share, and the shares less 1 for that class.

    The slope of that class is minus the sum of the others' shares: a share near 1, where a
    confident model's gradients live, has lost the digits of its difference from 1.
    """
    log_shares = tape.emit("LogSoftmax", logits, axis=1)
    switch = tape.constant(np.array([0, 1], np.float32))
    classes = tape.ints(int(tape.shapes[logits][1]))
    chosen = tape.emit("OneHot", target, classes, switch, axis=-1)
    picked = tape.emit("Mul", chosen, log_shares)
    value = tape.emit("Neg", tape.emit("ReduceSum", picked, tape.ints(1), keepdims=0))
    is_other = tape.emit("Sub", tape.scalar(1.0), chosen)
    others = tape.emit("Mul", tape.emit("Exp", log_shares), is_other)
    missing = tape.emit("ReduceSum", others, tape.ints(1), keepdims=1)
    return _PerExample(value, tape.emit("Sub", others, tape.emit("Mul", chosen, missing)))


def _mse(tape: Tape, output: str, target: str) -> _PerExample:
    shape = tape.shapes[output]
    difference = tape.emit("Sub", output, target)
    value = _example_mean(tape, tape.emit("Mul", difference, difference), shape)
    return _PerExample(value, tape.emit("Mul", difference, tape.scalar(2.0 / elements(shape))))


def _huber(tape: Tape, output: str, target: str) -> _PerExample:
    # With c the difference d clipped to [-1, 1], the loss is c (d - c / 2) and its slope is c.
    shape = tape.shapes[output]
    difference = tape.emit("Sub", output, target)
    clipped = tape.emit("Clip", difference, tape.scalar(-1.0), tape.scalar(1.0))
    half = tape.emit("Mul", clipped, tape.scalar(0.5))
    each = tape.emit("Mul", clipped, tape.emit("Sub", difference, half))
    value = _example_mean(tape, each, shape)
    return _PerExample(value, tape.emit("Mul", clipped, tape.scalar(1.0 / elements(shape))))


def _example_mean(tape: Tape, value: str, shape: Shape) -> str:
    return tape.emit("ReduceMean", value, tape.ints(*range(1, len(shape))), keepdims=0)


_WRITERS: Mapping[Loss, Callable[[Tape, str, str], _PerExample]] = {
    Loss.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.MSE: _mse,
    Loss.HUBER: _huber,
    Loss.RECONSTRUCTION: _mse,
}


def target_of(loss: Loss, shape: Shape, data: Shape) -> ValueInfo | None:
    """Return the labels' type for a model output of `shape`; None when there are no labels.

    Args:
      loss: what is to judge the output.
      shape: of the output.
      data: shape of the input.

    Raises:
      GraphError: this loss cannot judge an output of this shape.
    """
    fits = {
        Loss.BINARY_CROSS_ENTROPY: shape[1:] == (1,),
        Loss.CROSS_ENTROPY: len(shape) == 2 and shape[1] != 1,
        Loss.MSE: len(shape) >= 2,
        Loss.HUBER: len(shape) >= 2,
        Loss.RECONSTRUCTION: shape == data,
    }
    if shape[:1] != (BATCH,) or not fits[loss]:
        raise GraphError("model output", f"loss {loss.value} cannot judge shape {shape}")
    if loss is Loss.RECONSTRUCTION:
        return None
    if loss is Loss.CROSS_ENTROPY:
        return ValueInfo(TARGET, "int64", (BATCH,))
    return ValueInfo(TARGET, "float32", shape)


@dataclass(frozen=True)
class MeanLoss:
    """Names: `value` is the scalar weighted mean loss, `slope` its gradient in the output."""

    value: str
    slope: str


def write_mean_loss(tape: Tape, loss: Loss, output: str) -> MeanLoss:
    """Write the weighted mean loss of the forward value `output`.

    Raises:
      GraphError: this loss cannot judge an output of this shape.
    """
    example = _write(tape, loss, output)
    share = tape.emit("Div", WEIGHTS, tape.emit("ReduceSum", WEIGHTS, keepdims=0))
    value = tape.emit("ReduceSum", tape.emit("Mul", example.value, share), keepdims=0)
    return MeanLoss(value, _scaled(tape, example.slope, share, output))


def write_example_slopes(tape: Tape, loss: Loss, output: str) -> str:
    """Write the gradients of each example's own weighted loss w_n l_n in `output`.

    Raises:
      GraphError: this loss cannot judge an output of this shape.
    """
    return _scaled(tape, _write(tape, loss, output).slope, WEIGHTS, output)


def write_margin_slope(tape: Tape, loss: Loss, output: str) -> str:
    """Write the gradients of each example's own weighted margin w_n m_n in `output`; see `margins`.

    Raises:
      GraphError: a reconstruction has no margin.
    """
    if loss is Loss.RECONSTRUCTION:
        raise GraphError("model output", "a reconstruction has no margin to differentiate")
    if loss is not Loss.CROSS_ENTROPY:
        axes = len(tape.shapes[output]) - 1
        ones = np.ones((1, *(int(size) for size in tape.shapes[output][1:])), np.float32)
        return tape.emit("Mul", tape.constant(ones), tape.reshape(WEIGHTS, (BATCH, *(1,) * axes)))
    first = np.zeros((1, int(tape.shapes[output][1])), np.float32)
    first[0, 0] = 1.0
    normal = tape.constant(first)
    others = tape.emit("Sub", output, tape.emit("Mul", normal, tape.scalar(_FAR)))
    return _scaled(
        tape, tape.emit("Sub", tape.emit("Softmax", others, axis=1), normal), WEIGHTS, output
    )


def _write(tape: Tape, loss: Loss, output: str) -> _PerExample:
    target = target_of(loss, tape.shapes[output], tape.shapes[DATA])
    return _WRITERS[loss](tape, output, DATA if target is None else TARGET)


def _scaled(tape: Tape, slope: str, factors: str, output: str) -> str:
    axes = len(tape.shapes[output]) - 1
    return tape.emit("Mul", slope, tape.reshape(factors, (BATCH, *(1,) * axes)))


def margins(loss: Loss, output: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the number that is explained of each example's output.

    Args:
      loss: `BINARY_CROSS_ENTROPY`: the logit.  `CROSS_ENTROPY`: the logit of not being class 0,
        log(sum of exp(z_k), k >= 1) - z_0.  `MSE`, `HUBER`: the sum of the output.
      output: the model's, float32 (N, ...).

    Returns:
      float64 (N,).

    Raises:
      ValueError: a reconstruction has no margin.
    """
    if loss is Loss.RECONSTRUCTION:
        raise ValueError("a reconstruction has no margin")
    z = output.astype(np.float64).reshape(len(output), -1)
    if loss is not Loss.CROSS_ENTROPY:
        return np.asarray(z.sum(axis=1))
    top = z[:, 1:].max(axis=1)
    return np.asarray(np.log(np.exp(z[:, 1:] - top[:, np.newaxis]).sum(axis=1)) + top - z[:, 0])


def example_losses(
    loss: Loss, output: NDArray[np.float32], target: NDArray[Any]
) -> NDArray[np.float64]:
    """Compute each example's loss, as the derived graphs do.

    Args:
      loss: which.
      output: the model's, float32 (N, ...).
      target: labels as `Loss` says; for `RECONSTRUCTION` the input rows themselves.

    Returns:
      float64 (N,).
    """
    z = output.astype(np.float64)
    if loss is Loss.CROSS_ENTROPY:
        shifted = z - z.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(shifted, target.reshape(-1, 1), axis=1)[:, 0]
        return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - chosen)
    if loss is Loss.BINARY_CROSS_ENTROPY:
        return np.asarray(np.logaddexp(0.0, z) - z * target).reshape(len(z))
    difference = z - target
    if loss is Loss.HUBER:
        clipped = np.clip(difference, -1.0, 1.0)
        each = clipped * (difference - clipped / 2)
    else:
        each = difference * difference
    return np.asarray(each.mean(axis=tuple(range(1, each.ndim))))
