"""LayerNormalization over the last axes of one example.

Source of the adjoint: with h = (x - mean) r and r = 1 / sqrt(var + epsilon), y = h s + b gives
dx = r (g s - mean(g s) - h mean(g s h)), ds = g h and db = g, summed over stretched axes (Ba et
al., arXiv:1607.06450).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.operators.rule import Operator
from agent.learning.shapes import (
    Shape,
    broadcast,
    float_attribute,
    int_attribute,
    place_axis,
    refuse_batch,
)
from agent.learning.tape import Tape


def _infer(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    shape = shapes[0]
    axis = place_axis(node, int_attribute(node, "axis", -1), len(shape))
    refuse_batch(node, range(axis, len(shape)), shape)
    float_attribute(node, "epsilon", 1e-5)
    if int_attribute(node, "stash_type", 1) != 1:
        raise GraphError(node.describe(), "only stash_type 1 (float32) is supported")
    for given in shapes[1:]:
        if broadcast(node, shape[axis:], given) != shape[axis:]:
            raise GraphError(
                node.describe(), f"scale or bias of {given} does not fit the axes {shape[axis:]}"
            )
    return shape


def _adjoint(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data, scale = node.inputs[:2]
    shape = tape.shapes[data]
    if len(node.inputs) > 2 and node.inputs[2] in tape.needed:
        yield node.inputs[2], tape.sum_to(gradient, shape, tape.shapes[node.inputs[2]])
    if not tape.needed.intersection((data, scale)):
        return
    _, mean, factor = tape.more_outputs(node, 3)
    normal = tape.emit("Mul", tape.emit("Sub", data, mean), factor)
    product = tape.emit("Mul", gradient, normal)
    if scale in tape.needed:
        yield scale, tape.sum_to(product, shape, tape.shapes[scale])
    if data in tape.needed:
        slope = gradient
        if not _is_one(tape, scale):
            slope, product = (tape.emit("Mul", value, scale) for value in (gradient, product))
        first = place_axis(node, int_attribute(node, "axis", -1), len(shape))
        axes = tape.ints(*range(first - len(shape), 0))
        means = [tape.emit("ReduceMean", value, axes, keepdims=1) for value in (slope, product)]
        along = tape.emit("Mul", normal, means[1])
        left = tape.emit("Sub", tape.emit("Sub", slope, means[0]), along)
        yield data, tape.emit("Mul", left, factor)


def _is_one(tape: Tape, name: str) -> bool:
    value = tape.constants.get(name)
    return value is not None and bool(np.all(value == 1))


OPERATORS: Mapping[str, Operator] = {
    "LayerNormalization": Operator(
        _infer, _adjoint, (2, 3), frozenset({"axis", "epsilon", "stash_type"})
    ),
}
