"""Elementwise operators: arithmetic, and activations that the core set spells in several nodes.

Sources: ONNX Operators.md for the formulas of Elu, Selu, HardSigmoid, HardSwish, Mish, Gelu and
PRelu.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from agent.learning.ir import GraphError, Node
from agent.learning.shapes import broadcast, float_attribute, text_attribute
from agent.learning.simplify.draft import Draft, Live, Value, Waiting
from agent.learning.simplify.known import Known, spread
from agent.learning.simplify.rule import Rewrite, Rule, number

_NEUTRAL: Mapping[str, float] = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_EITHER_SIDE = ("Add", "Mul")

_EXACT_SOFTPLUS = 15.0
"""Beyond this number x and log(1 + exp(x)) differ by less than float32's spacing."""


def _binary(draft: Draft, node: Node) -> Value:
    """Keep it, unless it adds 0 or multiplies by 1."""
    for index in (1, 0) if node.op in _EITHER_SIDE else (1,):
        factor, other = draft.value(node, index), draft.value(node, 1 - index)
        if isinstance(factor, Known) and isinstance(other, Live):
            shape, values = spread(node, factor)
            neutral = values.dtype == np.float32 and bool((values == _NEUTRAL[node.op]).all())
            if neutral and broadcast(node, shape, other.shape) == other.shape:
                return other
    return draft.emit(node, node.op, draft.data(node, 0), draft.data(node, 1))


def _unary(draft: Draft, node: Node) -> Value:
    return draft.emit(node, node.op, draft.data(node, 0))


def _abs(draft: Draft, node: Node) -> Value:
    value = draft.data(node, 0)
    mirrored = draft.emit(node, "Relu", draft.emit(node, "Neg", value))
    return draft.emit(node, "Add", draft.emit(node, "Relu", value), mirrored)


def _sum(draft: Draft, node: Node) -> Value:
    total = draft.data(node, 0)
    for index in range(1, len(node.inputs)):
        total = draft.emit(node, "Add", total, draft.data(node, index))
    return total


def _power(draft: Draft, node: Node) -> Value:
    exponent = number(node, draft.fixed(node, 1), "the exponent")
    return _pow(draft, node, draft.data(node, 0), 1.0 if exponent is None else exponent)


def _pow(draft: Draft, node: Node, base: Live, exponent: float) -> Live:
    return base if exponent == 1 else draft.emit(node, "Pow", base, draft.scalar(exponent))


def _reciprocal(draft: Draft, node: Node) -> Value:
    return draft.emit(node, "Div", draft.scalar(1.0), draft.data(node, 0))


def _leaky_relu(draft: Draft, node: Node) -> Value:
    slope = float_attribute(node, "alpha", 0.01)
    return draft.emit(node, "LeakyRelu", draft.data(node, 0), alpha=slope)


def _clip(draft: Draft, node: Node) -> Value:
    low = number(node, draft.fixed(node, 1), "the least value")
    high = number(node, draft.fixed(node, 2), "the greatest value")
    return _clipped(draft, node, draft.data(node, 0), low, high)


def _clipped(draft: Draft, node: Node, value: Live, low: float | None, high: float | None) -> Live:
    bounds = [None if bound is None else draft.scalar(bound) for bound in (low, high)]
    while bounds and bounds[-1] is None:
        bounds.pop()
    return draft.emit(node, "Clip", value, *bounds) if bounds else value


def _bound(draft: Draft, node: Node) -> Value:
    """Rewrite Max and Min with one constant number as Clip; with two computed values refuse."""
    index = 0 if isinstance(draft.value(node, 0), Known) else 1
    if not isinstance(draft.value(node, index), Known):
        raise GraphError(node.describe(), "only the bound of a value by a constant is supported")
    bound = number(node, draft.fixed(node, index), "the bound")
    value = draft.data(node, 1 - index)
    low, high = (bound, None) if node.op == "Max" else (None, bound)
    return _clipped(draft, node, value, low, high)


def _elu_of(draft: Draft, node: Node, value: Live, alpha: float, gamma: float) -> Live:
    """Write gamma (max(x, 0) + alpha (exp(min(x, 0)) - 1))."""
    low = draft.emit(node, "Clip", value, None, draft.scalar(0.0))
    tail = draft.emit(node, "Sub", draft.emit(node, "Exp", low), draft.scalar(1.0))
    if alpha != 1:
        tail = draft.emit(node, "Mul", tail, draft.scalar(alpha))
    result = draft.emit(node, "Add", draft.emit(node, "Relu", value), tail)
    return result if gamma == 1 else draft.emit(node, "Mul", result, draft.scalar(gamma))


def _elu(draft: Draft, node: Node) -> Value:
    return _elu_of(draft, node, draft.data(node, 0), float_attribute(node, "alpha", 1.0), 1.0)


def _selu(draft: Draft, node: Node) -> Value:
    alpha = float_attribute(node, "alpha", 1.6732632423543772)
    gamma = float_attribute(node, "gamma", 1.0507009873554805)
    return _elu_of(draft, node, draft.data(node, 0), alpha, gamma)


def _hard_gate(draft: Draft, node: Node, value: Live, slope: float, offset: float) -> Live:
    """Write the sigmoid's piecewise linear cousin, max(0, min(1, slope x + offset))."""
    line = draft.emit(node, "Mul", value, draft.scalar(slope))
    line = draft.emit(node, "Add", line, draft.scalar(offset))
    return _clipped(draft, node, line, 0.0, 1.0)


def _hard_sigmoid(draft: Draft, node: Node) -> Value:
    slope = float_attribute(node, "alpha", 0.2)
    return _hard_gate(draft, node, draft.data(node, 0), slope, float_attribute(node, "beta", 0.5))


def _hard_swish(draft: Draft, node: Node) -> Value:
    value = draft.data(node, 0)
    return draft.emit(node, "Mul", value, _hard_gate(draft, node, value, 1 / 6, 0.5))


def _mish(draft: Draft, node: Node) -> Value:
    value = draft.data(node, 0)
    gate = draft.emit(node, "Tanh", draft.emit(node, "Softplus", value))
    return draft.emit(node, "Mul", value, gate)


def _prelu(draft: Draft, node: Node) -> Value:
    """Write max(x, 0) + slope min(x, 0)."""
    value = draft.data(node, 0)
    low = draft.emit(node, "Clip", value, None, draft.scalar(0.0))
    part = draft.emit(node, "Mul", low, draft.data(node, 1))
    return draft.emit(node, "Add", draft.emit(node, "Relu", value), part)


def _gelu(draft: Draft, node: Node) -> Value:
    value = draft.data(node, 0)
    kind = text_attribute(node, "approximate", "none")
    if kind == "none":
        inner = draft.emit(node, "Mul", value, draft.scalar(math.sqrt(0.5)))
        gate = draft.emit(node, "Erf", inner)
    elif kind == "tanh":
        cube = draft.emit(node, "Pow", value, draft.scalar(3.0))
        term = draft.emit(node, "Mul", cube, draft.scalar(0.044715))
        inner = draft.emit(node, "Add", value, term)
        inner = draft.emit(node, "Mul", inner, draft.scalar(math.sqrt(2 / math.pi)))
        gate = draft.emit(node, "Tanh", inner)
    else:
        raise GraphError(node.describe(), f"approximation {kind!r} is not supported")
    share = draft.emit(node, "Add", gate, draft.scalar(1.0))
    half = draft.emit(node, "Mul", value, draft.scalar(0.5))
    return draft.emit(node, "Mul", half, share)


def _greater(draft: Draft, node: Node) -> Value:
    threshold = number(node, draft.fixed(node, 1), "the threshold")
    reason = "comparisons are supported only as PyTorch's softplus writes them"
    return Waiting(node, draft.data(node, 0), (threshold or 0.0,), reason)


def _where(draft: Draft, node: Node) -> Value:
    """Recognise x where x > 20, else softplus(x): float32 cannot tell the two apart there."""
    condition, other = draft.value(node, 0), draft.data(node, 2)
    maker = draft.maker(other)
    if (
        not isinstance(condition, Waiting)
        or condition.node.op != "Greater"
        or condition.detail[0] < _EXACT_SOFTPLUS
        or maker is None
        or maker.op != "Softplus"
        or not maker.inputs[0] == condition.source.name == draft.data(node, 1).name
    ):
        raise GraphError(node.describe(), "is supported only as PyTorch's softplus writes it")
    return other


def _rule(rewrite: Rewrite, inputs: int, *attributes: str) -> Rule:
    return Rule(rewrite, (inputs, inputs), frozenset(attributes))


_UNARY = ("Erf", "Exp", "Log", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh")

RULES: Mapping[str, Rule] = {
    **{op: _rule(_binary, 2) for op in _NEUTRAL},
    **{op: _rule(_unary, 1) for op in _UNARY},
    "Abs": _rule(_abs, 1),
    "Clip": Rule(_clip, (1, 3)),
    "Elu": _rule(_elu, 1, "alpha"),
    "Gelu": _rule(_gelu, 1, "approximate"),
    "Greater": _rule(_greater, 2),
    "HardSigmoid": _rule(_hard_sigmoid, 1, "alpha", "beta"),
    "HardSwish": _rule(_hard_swish, 1),
    "LeakyRelu": _rule(_leaky_relu, 1, "alpha"),
    "Max": _rule(_bound, 2),
    "Min": _rule(_bound, 2),
    "Mish": _rule(_mish, 1),
    "PRelu": _rule(_prelu, 2),
    "Pow": _rule(_power, 2),
    "Reciprocal": _rule(_reciprocal, 1),
    "Selu": _rule(_selu, 1, "alpha", "gamma"),
    "Sum": Rule(_sum, (1, 64)),
    "Where": _rule(_where, 3),
}
"""Elementwise operators."""
