"""Matrix products, softmax, sums and means over axes.

Source: ONNX Operators.md, operator set 18.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.learning.ir import Node
from agent.learning.shapes import (
    float_attribute,
    int_attribute,
    ints_attribute,
    place_axes,
    place_axis,
)
from agent.learning.simplify.draft import Draft, Value
from agent.learning.simplify.known import Known
from agent.learning.simplify.rule import Rule, ints


def _gemm(draft: Draft, node: Node) -> Value:
    bias = draft.value(node, 2)
    zeros = isinstance(bias, Known) and not (bias.first.any() or bias.second.any())
    terms = [] if bias is None or zeros else [draft.data(node, 2)]
    switches = {name: int_attribute(node, name, 0) for name in ("transA", "transB")}
    factors = {name: float_attribute(node, name, 1.0) for name in ("alpha", "beta")}
    attributes: dict[str, int | float] = {name: 1 for name, on in switches.items() if on}
    attributes |= {name: factor for name, factor in factors.items() if factor != 1}
    return draft.emit(node, "Gemm", draft.data(node, 0), draft.data(node, 1), *terms, **attributes)


def _matmul(draft: Draft, node: Node) -> Value:
    data, factor = draft.data(node, 0), draft.data(node, 1)
    if len(factor.shape) != 1:
        return draft.emit(node, "MatMul", data, factor)
    column = draft.emit(node, "Unsqueeze", factor, draft.ints(1))
    product = draft.emit(node, "MatMul", data, column)
    return draft.emit(node, "Squeeze", product, draft.ints(len(product.shape) - 1))


def _softmax(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    axis = place_axis(node, int_attribute(node, "axis", -1), len(data.shape))
    return draft.emit(node, node.op, data, axis=axis)


def _reduce(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    rank = len(data.shape)
    axes = ints(node, draft.fixed(node, 1), "the axes")
    if axes is None:
        axes = ints_attribute(node, "axes", ())
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        return data
    placed = place_axes(node, axes, rank) if axes else tuple(range(rank))
    keep = int_attribute(node, "keepdims", 1)
    return draft.emit(node, node.op, data, draft.ints(*placed), keepdims=keep)


_REDUCED = frozenset({"axes", "keepdims", "noop_with_empty_axes"})

RULES: Mapping[str, Rule] = {
    "Gemm": Rule(_gemm, (2, 3), frozenset({"alpha", "beta", "transA", "transB"})),
    "LogSoftmax": Rule(_softmax, (1, 1), frozenset({"axis"})),
    "MatMul": Rule(_matmul, (2, 2)),
    "ReduceMean": Rule(_reduce, (1, 2), _REDUCED),
    "ReduceSum": Rule(_reduce, (1, 2), _REDUCED),
    "Softmax": Rule(_softmax, (1, 1), frozenset({"axis"})),
}
"""Products, softmax and reductions."""
