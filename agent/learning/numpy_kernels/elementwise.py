"""Elementwise operators.

Numerically: no kernel overflows where its result does not, and each keeps the accuracy of its
tails (a sigmoid of -30 has all its digits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.numpy_kernels.kernel import (
    Constants,
    Kernel,
    Maker,
    constant_at,
    dtype_of_code,
    plain,
    require,
)
from agent.learning.shapes import float_attribute, int_attribute

_ZERO = np.zeros((), np.float32)
_ONE = np.ones((), np.float32)
_INFINITY = np.array(np.inf, np.float32)
_LONG = 8192  # elements from which numpy's clip is faster than its maximum
_LOWEST = np.array(-88.0, np.float32)  # exp(88) is finite in float32, exp(89) is not

_ERF_EDGE = np.array(4.0, np.float32)  # 1 - erf(4) is 1.5e-8, less than float32 can tell from 1
_ERF_NUMERATOR = (
    *(1.9110780513642567e-08, -1.9423121102590812e-06, 1.4728770474903286e-04),
    *(3.990637604147196e-03, 5.152510851621628e-02, 2.071269303560257e-01),
    1.1283791065216064,
)
_ERF_DENOMINATOR = (
    *(1.0211272165179253e-03, 1.4958210289478302e-02, 1.1797144263982773e-01),
    *(5.168927311897278e-01, 1.0),
)


def _clamped(x: Array, low: Array, high: Array) -> Array:
    # Clipping costs some microseconds more to call and a third as much for each element.
    return np.clip(x, low, high) if x.size > _LONG else np.minimum(np.maximum(x, low), high)


def _at_least(x: Array, low: Array) -> Array:
    return np.clip(x, low, _INFINITY) if x.size > _LONG else np.maximum(x, low)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Evaluate by Horner's rule, highest power first, in one buffer."""
    value = x * np.float32(coefficients[0])
    value += np.float32(coefficients[1])
    for coefficient in coefficients[2:]:
        value *= x
        value += np.float32(coefficient)
    return value


def _erf(x: Array) -> Array:
    """Return the error function as x P(x^2) / Q(x^2) on [-4, 4], and its end values beyond.

    The form is W. J. Cody's (Rational Chebyshev Approximations for the Error Function,
    Mathematics of Computation 23, 1969). The coefficients are a minimax fit of the relative
    error, 6.5e-8; evaluated in float32 it is 3.3e-7 at most.
    """
    near = _clamped(x, -_ERF_EDGE, _ERF_EDGE)
    square = near * near
    value: Array = near * _polynomial(_ERF_NUMERATOR, square)
    value /= _polynomial(_ERF_DENOMINATOR, square)
    return _clamped(value, -_ONE, _ONE)


def _softplus(x: Array) -> Array:
    return _at_least(x, _ZERO) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)); its relative error stays small down to -88."""
    shifted: Array = np.exp(-_at_least(x, _LOWEST)) + _ONE
    return np.reciprocal(shifted)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    # Integers round toward zero, as in C, where numpy rounds down.
    quotient, rest = np.divmod(a, b)
    correction: Array = (rest != 0) & ((a < 0) != (b < 0))
    rounded: Array = quotient + correction
    return rounded


def _power(node: Node, constants: Constants) -> Kernel:
    if node.attributes:
        raise GraphError(node.describe(), f"attributes {sorted(node.attributes)} are unknown")
    exponent = constant_at(constants, 1)
    if exponent is not None and exponent.ndim == 0:
        if exponent == 2:
            return lambda x, _: np.multiply(x, x)
        if exponent == 3:
            return lambda x, _: x * x * x
    return lambda x, y: np.power(x, np.asarray(y).astype(x.dtype))


def _leaky_relu(node: Node, constants: Constants) -> Kernel:
    del constants
    slope = np.array(float_attribute(node, "alpha", 0.01), np.float32)
    if 0 <= slope <= 1:
        return lambda x: np.maximum(x, x * slope)
    return lambda x: np.where(x < 0, x * slope, x)


def _clip(node: Node, constants: Constants) -> Kernel:
    del node, constants

    def run(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
        if low is not None:
            x = np.maximum(x, low)
        return x if high is None else np.minimum(x, high)

    return run


def _cast(node: Node, constants: Constants) -> Kernel:
    del constants
    require(node, "saturate", int_attribute(node, "saturate", 1), 1)
    dtype = dtype_of_code(node, "to")
    return lambda x: x.astype(dtype)


def _variadic(ufunc: Callable[[Any, Any], Any]) -> Maker:
    def make(node: Node, constants: Constants) -> Kernel:
        del constants
        if len(node.inputs) == 2:
            return ufunc
        return lambda *values: reduce(ufunc, values)

    return make


MAKERS: Mapping[str, Maker] = {
    "Abs": plain(np.abs),
    "Add": plain(np.add),
    "And": plain(np.logical_and),
    "Cast": _cast,
    "Clip": _clip,
    "Div": plain(_divide),
    "Equal": plain(np.equal),
    "Erf": plain(_erf),
    "Exp": plain(np.exp),
    "Greater": plain(np.greater),
    "GreaterOrEqual": plain(np.greater_equal),
    "Identity": plain(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Less": plain(np.less),
    "LessOrEqual": plain(np.less_equal),
    "Log": plain(np.log),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mul": plain(np.multiply),
    "Neg": plain(np.negative),
    "Not": plain(np.logical_not),
    "Or": plain(np.logical_or),
    "Pow": _power,
    "Reciprocal": plain(np.reciprocal),
    "Relu": plain(lambda x: _at_least(x, _ZERO)),
    "Sigmoid": plain(_sigmoid),
    "Sign": plain(np.sign),
    "Softplus": plain(_softplus),
    "Sqrt": plain(np.sqrt),
    "Sub": plain(np.subtract),
    "Sum": _variadic(np.add),
    "Tanh": plain(np.tanh),
    "Where": plain(np.where),
}
