"""Functions of one value that TFLite knows by another name, or that are put together here.

Those without int8 kernels everywhere stay in float32 in an int8 model (`Op.exact`).
"""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.attributes import constant_input, refuse
from agent.learning.export.lowering.builder import Builder
from agent.learning.export.program import NO_ACTIVATION, Setting
from agent.learning.ir import Node

_EXACT = {"Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT"}
_PLAIN: dict[str, Setting] = {"fused_activation_function": NO_ACTIVATION}

# erf, Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| <= 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_TINY = 1e-30  # keeps x / |x| defined at 0, where it becomes 0


class _Formula:
    """Appends float32 operators on one input, all of its shape."""

    def __init__(self, builder: Builder, node: Node) -> None:
        self._builder = builder
        self._node = node
        self.form = builder.preferred(node.inputs[0])
        self.x = builder.tensor(node, node.inputs[0], self.form)
        self._shape = builder.stored_sizes(self.x)

    def one(self, code: str, value: str) -> str:
        """Append an operator of one operand."""
        return self._builder.emit(self._node, code, (value,), self._shape, exact=True)

    def two(self, code: str, left: str | float, right: str | float) -> str:
        """Append an operator of two operands, of which one may be a number."""
        operands = [self._operand(value) for value in (left, right)]
        return self._builder.emit(self._node, code, operands, self._shape, _PLAIN, exact=True)

    def finish(self, code: str, left: str | float, right: str | float) -> None:
        """Append the operator that gives the node's output."""
        operands = [self._operand(value) for value in (left, right)]
        self._builder.result(self._node, code, operands, self.form, _PLAIN, exact=True)

    def _operand(self, value: str | float) -> str:
        if isinstance(value, str):
            return value
        return self._builder.literal(np.array([value], np.float32))


def lower_function(builder: Builder, node: Node) -> None:
    """Exp, Log and Sqrt."""
    form = builder.preferred(node.inputs[0])
    tensor = builder.tensor(node, node.inputs[0], form)
    builder.result(node, _EXACT[node.op], (tensor,), form, exact=True)


def lower_neg(builder: Builder, node: Node) -> None:
    """Neg as a product, whose int8 kernel is everywhere."""
    form = builder.preferred(node.inputs[0])
    minus = builder.literal(np.array([-1], np.float32))
    inputs = (builder.tensor(node, node.inputs[0], form), minus)
    builder.result(node, "MUL", inputs, form, _PLAIN)


def lower_clip(builder: Builder, node: Node) -> None:
    """Clip as RELU, or as MAXIMUM and MINIMUM."""
    low, high = constant_input(builder, node, 1), constant_input(builder, node, 2)
    value = node.inputs[0]
    form = builder.preferred(value)
    tensor = builder.tensor(node, value, form)
    if low is None and high is None:
        builder.alias(node, value)
        return
    if low is not None and high is None and float(low.item()) == 0.0:
        builder.result(node, "RELU", (tensor,), form)
        return
    bounds = [(code, end) for code, end in (("MAXIMUM", low), ("MINIMUM", high)) if end is not None]
    for code, end in bounds[:-1]:
        bound = builder.literal(end.reshape(1))
        tensor = builder.emit(node, code, (tensor, bound), builder.stored_sizes(tensor))
    code, end = bounds[-1]
    builder.result(node, code, (tensor, builder.literal(end.reshape(1))), form)


def lower_pow(builder: Builder, node: Node) -> None:
    """Pow with the exponents that models use: 2, 3, 1/2, -1/2 and -1."""
    exponent = constant_input(builder, node, 1)
    if exponent is None or exponent.size != 1:
        raise refuse(node, "the exponent must be one constant")
    power = float(exponent.item())
    formula = _Formula(builder, node)
    x, form = formula.x, formula.form
    if power == 1:
        builder.alias(node, node.inputs[0])
    elif power == 2:
        formula.finish("MUL", x, x)
    elif power == 3:
        formula.finish("MUL", formula.two("MUL", x, x), x)
    elif power == -1:
        formula.finish("DIV", 1.0, x)
    elif power in (0.5, -0.5):
        builder.result(node, "SQRT" if power > 0 else "RSQRT", (x,), form, exact=True)
    else:
        raise refuse(node, f"exponent {power} is not 2, 3, 1/2, -1/2 or -1")


def lower_softplus(builder: Builder, node: Node) -> None:
    """Softplus as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    formula = _Formula(builder, node)
    shrunk = formula.one("EXP", formula.two("MUL", formula.one("ABS", formula.x), -1.0))
    rest = formula.one("LOG", formula.two("ADD", shrunk, 1.0))
    formula.finish("ADD", formula.one("RELU", formula.x), rest)


def lower_erf(builder: Builder, node: Node) -> None:
    """Erf as sign(x) (1 - (a1 t + ... + a5 t^5) exp(-x^2)), t = 1 / (1 + p |x|)."""
    formula = _Formula(builder, node)
    size = formula.one("ABS", formula.x)
    t = formula.two("DIV", 1.0, formula.two("ADD", formula.two("MUL", size, _ERF_P), 1.0))
    sums = formula.two("MUL", t, _ERF_A[0])
    for coefficient in _ERF_A[1:]:
        sums = formula.two("MUL", formula.two("ADD", sums, coefficient), t)
    square = formula.two("MUL", formula.x, formula.x)
    tail = formula.two("MUL", sums, formula.one("EXP", formula.two("MUL", square, -1.0)))
    sign = formula.two("DIV", formula.x, formula.two("ADD", size, _TINY))
    formula.finish("MUL", sign, formula.two("SUB", 1.0, tail))
