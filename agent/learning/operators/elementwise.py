"""Elementwise operators: sums and products with broadcasting, and activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.learning.ir import DTYPE_CODES, Array, Node
from agent.learning.operators.rule import Operator, same_shape
from agent.learning.shapes import Shape, broadcast
from agent.learning.tape import Tape


def _infer_broadcast(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    return broadcast(node, shapes[0], shapes[1])


def _adjoint_add(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    shape = tape.shapes[node.outputs[0]]
    for name in node.inputs:
        if name in tape.needed:
            yield name, tape.sum_to(gradient, shape, tape.shapes[name])


def _adjoint_sub(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    shape = tape.shapes[node.outputs[0]]
    first, second = node.inputs
    if first in tape.needed:
        yield first, tape.sum_to(gradient, shape, tape.shapes[first])
    if second in tape.needed:
        yield second, tape.emit("Neg", tape.sum_to(gradient, shape, tape.shapes[second]))


def _adjoint_mul(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    shape = tape.shapes[node.outputs[0]]
    for name, other in (node.inputs, node.inputs[::-1]):
        if name in tape.needed:
            yield name, tape.sum_to(tape.emit("Mul", gradient, other), shape, tape.shapes[name])


def _adjoint_relu(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    # The derivative at 0 is 0, as in PyTorch.
    positive = tape.emit("Greater", node.outputs[0], tape.scalar(0.0))
    mask = tape.emit("Cast", positive, to=DTYPE_CODES["float32"])
    yield node.inputs[0], tape.emit("Mul", gradient, mask)


def _adjoint_sigmoid(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    # e / (1 + e)^2 with e = exp(-|x|), from the input: the runtime's output has no correct digit
    # left where the sigmoid saturates at 0 (see `losses`), and the slope must keep its own.
    size = tape.emit("Abs", node.inputs[0])
    tail = tape.emit("Exp", tape.emit("Neg", size))
    base = tape.emit("Add", tail, tape.scalar(1.0))
    slope = tape.emit("Div", tail, tape.emit("Mul", base, base))
    yield node.inputs[0], tape.emit("Mul", gradient, slope)


def _adjoint_tanh(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    value = node.outputs[0]
    slope = tape.emit("Sub", tape.scalar(1.0), tape.emit("Mul", value, value))
    yield node.inputs[0], tape.emit("Mul", gradient, slope)


OPERATORS: Mapping[str, Operator] = {
    "Add": Operator(_infer_broadcast, _adjoint_add, (2, 2)),
    "Sub": Operator(_infer_broadcast, _adjoint_sub, (2, 2)),
    "Mul": Operator(_infer_broadcast, _adjoint_mul, (2, 2)),
    "Relu": Operator(same_shape, _adjoint_relu, (1, 1)),
    "Sigmoid": Operator(same_shape, _adjoint_sigmoid, (1, 1)),
    "Tanh": Operator(same_shape, _adjoint_tanh, (1, 1)),
}
