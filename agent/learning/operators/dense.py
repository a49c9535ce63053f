"""Matrix products: Gemm and MatMul, always data times a matrix without a batch axis.

Source of the adjoints: for Y = A B, dA = dY B^T and dB = A^T dY.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.learning.ir import Array, GraphError, Node
from agent.learning.operators.rule import Operator
from agent.learning.shapes import (
    Shape,
    broadcast,
    float_attribute,
    has_batch,
    int_attribute,
)
from agent.learning.tape import Tape


def _matrix(node: Node, shape: Shape) -> tuple[int | str, int | str]:
    if len(shape) != 2 or has_batch(shape):
        raise GraphError(node.describe(), f"the second factor must be a matrix, is {shape}")
    return shape[0], shape[1]


def _infer_gemm(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    if int_attribute(node, "transA", 0):
        raise GraphError(node.describe(), "transA=1 is not supported")
    for name in ("alpha", "beta"):
        float_attribute(node, name, 1.0)
    rows, columns = _matrix(node, shapes[1])
    if int_attribute(node, "transB", 0):
        rows, columns = columns, rows
    if len(shapes[0]) != 2 or shapes[0][1] != rows:
        raise GraphError(node.describe(), f"shapes {shapes[0]} and {shapes[1]} do not multiply")
    result = (shapes[0][0], columns)
    if len(shapes) > 2 and broadcast(node, result, shapes[2]) != result:
        raise GraphError(node.describe(), f"a bias of {shapes[2]} does not fit {result}")
    return result


def _adjoint_gemm(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data, matrix = node.inputs[:2]
    transposed = int_attribute(node, "transB", 0) != 0  # any other number means it too
    alpha = float_attribute(node, "alpha", 1.0)
    beta = float_attribute(node, "beta", 1.0)
    output = tape.shapes[node.outputs[0]]
    if data in tape.needed and tape.gradient_shape(output) == output:
        yield data, tape.emit("Gemm", gradient, matrix, transB=int(not transposed), alpha=alpha)
    elif data in tape.needed:
        factor = matrix if transposed else tape.emit("Transpose", matrix, perm=(1, 0))
        yield data, _scaled(tape, tape.emit("MatMul", gradient, factor), alpha)
    if matrix in tape.needed:
        product = tape.contract(data, gradient, (tape.shapes[data], output), swap=transposed)
        yield matrix, _scaled(tape, product, alpha)
    if len(node.inputs) > 2 and node.inputs[2] in tape.needed:
        bias = node.inputs[2]
        yield bias, _scaled(tape, tape.sum_to(gradient, output, tape.shapes[bias]), beta)


def _scaled(tape: Tape, value: str, factor: float) -> str:
    return value if factor == 1.0 else tape.emit("Mul", value, tape.scalar(factor))


def _infer_matmul(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    rows, columns = _matrix(node, shapes[1])
    if len(shapes[0]) < 2 or shapes[0][-1] != rows:
        raise GraphError(node.describe(), f"shapes {shapes[0]} and {shapes[1]} do not multiply")
    return (*shapes[0][:-1], columns)


def _adjoint_matmul(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data, matrix = node.inputs
    shape, output = tape.shapes[data], tape.shapes[node.outputs[0]]
    if data in tape.needed and len(tape.gradient_shape(output)) == 2:
        yield data, tape.emit("Gemm", gradient, matrix, transB=1)
    elif data in tape.needed:
        yield data, tape.emit("MatMul", gradient, tape.emit("Transpose", matrix, perm=(1, 0)))
    if matrix in tape.needed:
        yield matrix, tape.contract(data, gradient, (shape, output), swap=False)


OPERATORS: Mapping[str, Operator] = {
    "Gemm": Operator(
        _infer_gemm, _adjoint_gemm, (2, 3), frozenset({"transA", "transB", "alpha", "beta"})
    ),
    "MatMul": Operator(_infer_matmul, _adjoint_matmul, (2, 2)),
}
