"""Losses: per-example values and the gradient in the model's output, written to a tape.

Every loss is a mean over the batch weighted by `w`: sum(w l) / sum(w). A batch whose weights
sum to 0 gives NaN; the caller keeps such batches away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from agent.learning.ir import GraphError, ValueInfo
from agent.learning.shapes import BATCH, Shape, elements
from agent.learning.tape import Tape

TARGET, WEIGHTS = "y", "w"
"""Names of the training graph's inputs for labels and for the examples' weights."""


class Loss(Enum):
    """What a model is trained to make small.

    `BINARY_CROSS_ENTROPY`: logits (N, 1), y float32 (N, 1) in [0, 1].
    `CROSS_ENTROPY`: logits (N, C), y int64 (N,) in [0, C).
    `MSE`: output and y of one shape (N, ...), float32; mean over all axes but the batch's.
    """

    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    CROSS_ENTROPY = "cross_entropy"
    MSE = "mse"


@dataclass(frozen=True)
class _PerExample:
    """Names: `value` (N,) is the loss, `slope` its gradient in the output, in its shape."""

    value: str
    slope: str


def _binary_cross_entropy(tape: Tape, logits: str, shape: Shape) -> _PerExample:
    """Write max(z, 0) - z y + log(1 + exp(-|z|)) and sigmoid(z) - y; neither can overflow.

    The sigmoid is exp(min(z, 0)) / (1 + exp(-|z|)): ONNX Runtime's own `Sigmoid` (1.31) is 0.02 %
    off at -10 and 7 % at -14, measured, and a confident model's gradients live there.
    """
    del shape
    positive = tape.emit("Relu", logits)
    minus_size = tape.emit("Neg", tape.emit("Abs", logits))
    linear = tape.emit("Sub", positive, tape.emit("Mul", logits, TARGET))
    sums = tape.emit("Add", linear, tape.emit("Softplus", minus_size))
    numerator = tape.emit("Exp", tape.emit("Sub", logits, positive))
    denominator = tape.emit("Add", tape.emit("Exp", minus_size), tape.scalar(1.0))
    share = tape.emit("Div", numerator, denominator)
    value = tape.emit("Reshape", sums, tape.ints(-1))
    return _PerExample(value, tape.emit("Sub", share, TARGET))


def _cross_entropy(tape: Tape, logits: str, shape: Shape) -> _PerExample:
    log_shares = tape.emit("LogSoftmax", logits, axis=1)
    switch = tape.constant(np.array([0, 1], np.float32))
    chosen = tape.emit("OneHot", TARGET, tape.ints(int(shape[1])), switch, axis=-1)
    picked = tape.emit("Mul", chosen, log_shares)
    value = tape.emit("Neg", tape.emit("ReduceSum", picked, tape.ints(1), keepdims=0))
    return _PerExample(value, tape.emit("Sub", tape.emit("Exp", log_shares), chosen))


def _mse(tape: Tape, output: str, shape: Shape) -> _PerExample:
    difference = tape.emit("Sub", output, TARGET)
    square = tape.emit("Mul", difference, difference)
    axes = tape.ints(*range(1, len(shape)))
    value = tape.emit("ReduceMean", square, axes, keepdims=0)
    return _PerExample(value, tape.emit("Mul", difference, tape.scalar(2.0 / elements(shape))))


_WRITERS: Mapping[Loss, Callable[[Tape, str, Shape], _PerExample]] = {
    Loss.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.MSE: _mse,
}


def target_of(loss: Loss, shape: Shape) -> ValueInfo:
    """Return the labels' type for a model output of `shape`.

    Raises:
      GraphError: this loss cannot judge an output of this shape.
    """
    fits = {
        Loss.BINARY_CROSS_ENTROPY: shape[1:] == (1,),
        Loss.CROSS_ENTROPY: len(shape) == 2 and shape[1] != 1,
        Loss.MSE: len(shape) >= 2,
    }
    if shape[:1] != (BATCH,) or not fits[loss]:
        raise GraphError("model output", f"loss {loss.value} cannot judge shape {shape}")
    if loss is Loss.CROSS_ENTROPY:
        return ValueInfo(TARGET, "int64", (BATCH,))
    return ValueInfo(TARGET, "float32", shape)


def write_loss(tape: Tape, loss: Loss, output: str) -> tuple[str, str]:
    """Write a loss of the forward value `output`.

    Returns:
      Names of the scalar weighted mean loss, and of its gradient in `output`.
    """
    shape = tape.shapes[output]
    example = _WRITERS[loss](tape, output, shape)
    share = tape.emit("Div", WEIGHTS, tape.emit("ReduceSum", WEIGHTS, keepdims=0))
    value = tape.emit("ReduceSum", tape.emit("Mul", example.value, share), keepdims=0)
    column = tape.reshape(share, (BATCH, *(1,) * (len(shape) - 1)))
    return value, tape.emit("Mul", example.slope, column)
