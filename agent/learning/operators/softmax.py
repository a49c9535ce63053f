"""Softmax and LogSoftmax over one axis, which is not the batch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.learning.ir import Array, Node
from agent.learning.operators.rule import Operator
from agent.learning.shapes import Shape, int_attribute, place_axis, refuse_batch
from agent.learning.tape import Tape


def _axis(node: Node, shape: Shape) -> int:
    return place_axis(node, int_attribute(node, "axis", -1), len(shape))


def _infer(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    refuse_batch(node, (_axis(node, shapes[0]),), shapes[0])
    return shapes[0]


def _group_sum(tape: Tape, node: Node, value: str) -> str:
    shape = tape.shapes[node.outputs[0]]
    axis = tape.ints(_axis(node, shape) - len(shape))
    return tape.emit("ReduceSum", value, axis, keepdims=1)


def _adjoint_softmax(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    value = node.outputs[0]
    mean = _group_sum(tape, node, tape.emit("Mul", gradient, value))
    yield node.inputs[0], tape.emit("Mul", value, tape.emit("Sub", gradient, mean))


def _adjoint_log_softmax(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    shares = tape.emit("Exp", node.outputs[0])
    total = _group_sum(tape, node, gradient)
    yield node.inputs[0], tape.emit("Sub", gradient, tape.emit("Mul", shares, total))


OPERATORS: Mapping[str, Operator] = {
    "Softmax": Operator(_infer, _adjoint_softmax, (1, 1), frozenset({"axis"})),
    "LogSoftmax": Operator(_infer, _adjoint_log_softmax, (1, 1), frozenset({"axis"})),
}
