"""Softmax and LogSoftmax over the last axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.learning.ir import Array, GraphError, Node
from agent.learning.operators.rule import Operator
from agent.learning.shapes import BATCH, Shape, int_attribute
from agent.learning.tape import Tape


def _infer_last_axis(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    shape = shapes[0]
    axis = int_attribute(node, "axis", -1)
    if not shape or axis not in (-1, len(shape) - 1) or shape[-1] == BATCH:
        raise GraphError(node.describe(), f"axis {axis} of {shape} is not a last axis of values")
    return shape


def _row_sum(tape: Tape, value: str) -> str:
    return tape.emit("ReduceSum", value, tape.ints(-1), keepdims=1)


def _adjoint_softmax(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    value = node.outputs[0]
    mean = _row_sum(tape, tape.emit("Mul", gradient, value))
    yield node.inputs[0], tape.emit("Mul", value, tape.emit("Sub", gradient, mean))


def _adjoint_log_softmax(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    share = tape.emit("Mul", tape.emit("Exp", node.outputs[0]), _row_sum(tape, gradient))
    yield node.inputs[0], tape.emit("Sub", gradient, share)


OPERATORS: Mapping[str, Operator] = {
    "Softmax": Operator(_infer_last_axis, _adjoint_softmax, (1, 1), frozenset({"axis"})),
    "LogSoftmax": Operator(_infer_last_axis, _adjoint_log_softmax, (1, 1), frozenset({"axis"})),
}
