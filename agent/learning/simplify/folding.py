"""Computing what needs no data: the arithmetic of shapes, and of constants.

Responsible for a numpy version of the operators that exporters write around constants. Files of
strangers are folded, so every result's size is checked before it is computed, all work is charged
to a `Budget`, and whatever numpy finds wrong with its arguments is a `GraphError`.

Source: ONNX Operators.md, operator set 18.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agent.learning.ir import DTYPE_CODES, DTYPES, Array, GraphError, Node
from agent.learning.shapes import int_attribute

LARGEST_FOLDED = 1 << 20
"""Elements of one folded value. Exporters fold masks and position tables, all far smaller."""

WORK_BYTES = 64 << 20
"""Bytes read and written by all folding of one graph; so also a bound on the memory it takes."""

Compute = Callable[[Node, Sequence[Array]], Array]
"""(node, inputs) -> the output's value."""

_NUMPY_ERRORS = (ValueError, IndexError, TypeError, OverflowError, KeyError)
_DTYPES_BY_CODE = {code: DTYPES[name] for name, code in DTYPE_CODES.items()}


@dataclass(frozen=True)
class Fold:
    """How an operator is computed.

    Attributes:
      compute: computes it.
      arity: how many inputs it takes, fewest and most; numpy would write to one too many.
    """

    compute: Compute
    arity: tuple[int, int]


class Budget:
    """What folding may still cost."""

    def __init__(self) -> None:
        """Start with `WORK_BYTES`."""
        self._left = WORK_BYTES

    def charge(self, node: Node, values: Sequence[Array]) -> None:
        """Pay for reading or writing values.

        Raises:
          GraphError: it is spent.
        """
        self._left -= sum(value.nbytes for value in values)
        if self._left < 0:
            raise GraphError(node.describe(), f"constants take more than {WORK_BYTES} bytes")


def fold(node: Node, inputs: Sequence[Array], budget: Budget) -> Array:
    """Compute a node of `FOLDS` whose inputs are all known.

    Raises:
      GraphError: wrong arguments, too large, or a result that is not finite.
    """
    budget.charge(node, inputs)
    known = FOLDS[node.op]
    fewest, most = known.arity
    if not fewest <= len(inputs) <= most:
        raise GraphError(node.describe(), f"takes {fewest} to {most} inputs, has {len(inputs)}")
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(known.compute(node, inputs))
    except GraphError:
        raise
    except _NUMPY_ERRORS as error:
        raise GraphError(node.describe(), f"cannot be computed from constants: {error}") from error
    budget.charge(node, [result])
    if result.dtype.name not in DTYPES:
        raise GraphError(node.describe(), f"gives constants of type {result.dtype}")
    if result.dtype == np.float32 and not np.isfinite(result).all():
        raise GraphError(node.describe(), "gives constants that are not finite")
    return result


def _check_size(node: Node, sizes: Sequence[int]) -> None:
    if min(sizes, default=0) < 0 or math.prod(max(int(s), 1) for s in sizes) > LARGEST_FOLDED:
        raise GraphError(
            node.describe(), f"a constant of shape {tuple(sizes)} exceeds {LARGEST_FOLDED} elements"
        )


def _ints(value: Array) -> list[int]:
    if value.dtype.kind != "i":
        raise TypeError(f"integers are needed, not {value.dtype}")
    return [int(item) for item in value.ravel()]


def _elementwise(function: Callable[..., Any], node: Node, inputs: Sequence[Array]) -> Array:
    _check_size(node, np.broadcast_shapes(*(value.shape for value in inputs)))
    result = np.asarray(function(*inputs))
    return result if result.dtype == np.bool_ else result.astype(inputs[-1].dtype)


def _modulo(node: Node, inputs: Sequence[Array]) -> Array:
    if (inputs[1] == 0).any():
        raise ValueError("division by zero")
    return _elementwise(np.fmod if int_attribute(node, "fmod", 0) else np.mod, node, inputs)


def _divide(first: Array, second: Array) -> Array:
    if first.dtype.kind == "f":
        return np.asarray(first / second)
    if (second == 0).any():
        raise ValueError("division by zero")
    quotient: Array = np.abs(first) // np.abs(second) * (np.sign(first) * np.sign(second))
    return quotient


def _power(node: Node, inputs: Sequence[Array]) -> Array:
    base, exponent = inputs
    _check_size(node, np.broadcast_shapes(base.shape, exponent.shape))
    return np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(base.dtype)


def _where(node: Node, inputs: Sequence[Array]) -> Array:
    _check_size(node, np.broadcast_shapes(*(value.shape for value in inputs)))
    return np.where(*inputs).astype(inputs[1].dtype)


def _cast(node: Node, inputs: Sequence[Array]) -> Array:
    code = int_attribute(node, "to", 0)
    if code not in _DTYPES_BY_CODE:
        raise GraphError(node.describe(), f"casts to element type {code}, which is not supported")
    return inputs[0].astype(_DTYPES_BY_CODE[code])


def _concat(node: Node, inputs: Sequence[Array]) -> Array:
    _check_size(node, [sum(value.size for value in inputs)])
    return np.concatenate(inputs, axis=int_attribute(node, "axis", 0))


def _gather(node: Node, inputs: Sequence[Array]) -> Array:
    data, indices = inputs
    axis = int_attribute(node, "axis", 0)
    _check_size(node, [data.size // max(data.shape[axis], 1), indices.size])
    _ints(indices)
    return np.take(data, indices, axis=axis)


def _slice(node: Node, inputs: Sequence[Array]) -> Array:
    data, starts, ends, *rest = inputs
    lists = [_ints(value) for value in (starts, ends, *rest)]
    axes = lists[2] if len(lists) > 2 else list(range(len(lists[0])))
    steps = lists[3] if len(lists) > 3 else [1] * len(axes)
    where = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, lists[0], lists[1], steps, strict=True):
        where[axis] = slice(start, _stop(end, step, data.shape[axis]), step)
    del node
    return data[tuple(where)]


def _stop(end: int, step: int, size: int) -> int | None:
    """Return Python's idea of an end: ONNX counts backwards past the start by a large negative."""
    return None if step < 0 and end < -size else end


def _axes(node: Node, inputs: Sequence[Array]) -> tuple[int, ...]:
    given = inputs[1] if len(inputs) > 1 else None
    axes = node.attributes.get("axes", ()) if given is None else tuple(_ints(given))
    if not isinstance(axes, tuple):
        raise TypeError("axes must be a list of integers")
    return tuple(int(axis) for axis in axes)


def _squeeze(node: Node, inputs: Sequence[Array]) -> Array:
    return np.squeeze(inputs[0], axis=_axes(node, inputs) or None)


def _unsqueeze(node: Node, inputs: Sequence[Array]) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs))


def _reshape(node: Node, inputs: Sequence[Array]) -> Array:
    data, target = inputs
    sizes = _ints(target)
    if not int_attribute(node, "allowzero", 0):
        sizes = [data.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return data.reshape(sizes)


def _transpose(node: Node, inputs: Sequence[Array]) -> Array:
    perm = node.attributes.get("perm")
    if perm is not None and not isinstance(perm, tuple):
        raise TypeError("perm must be a list of integers")
    return np.transpose(inputs[0], None if perm is None else [int(axis) for axis in perm])


def _constant_of_shape(node: Node, inputs: Sequence[Array]) -> Array:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise TypeError("attribute 'value' must hold one element")
    sizes = _ints(inputs[0])
    _check_size(node, sizes)
    return np.broadcast_to(value.reshape(()), sizes)


def _expand(node: Node, inputs: Sequence[Array]) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(_ints(inputs[1])))
    _check_size(node, shape)
    return np.broadcast_to(inputs[0], shape)


def _range(node: Node, inputs: Sequence[Array]) -> Array:
    start, limit, delta = (value.reshape(()) for value in inputs)
    count = max(math.ceil((float(limit) - float(start)) / float(delta)) if delta else -1, 0)
    _check_size(node, [count])
    return (start + np.arange(count) * delta).astype(start.dtype)


def _reduce(function: Callable[..., Any], node: Node, inputs: Sequence[Array]) -> Array:
    axes = _axes(node, inputs)
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        return inputs[0]
    keep = bool(int_attribute(node, "keepdims", 1))
    return np.asarray(function(inputs[0], axis=axes or None, keepdims=keep, dtype=inputs[0].dtype))


FOLDS: Mapping[str, Fold] = {
    "Abs": Fold(partial(_elementwise, np.abs), (1, 1)),
    "Add": Fold(partial(_elementwise, np.add), (2, 2)),
    "And": Fold(partial(_elementwise, np.logical_and), (2, 2)),
    "Cast": Fold(_cast, (1, 1)),
    "CastLike": Fold(lambda _, inputs: inputs[0].astype(inputs[1].dtype), (2, 2)),
    "Ceil": Fold(partial(_elementwise, np.ceil), (1, 1)),
    "Concat": Fold(_concat, (1, 1024)),
    "ConstantOfShape": Fold(_constant_of_shape, (1, 1)),
    "Div": Fold(partial(_elementwise, _divide), (2, 2)),
    "Equal": Fold(partial(_elementwise, np.equal), (2, 2)),
    "Exp": Fold(partial(_elementwise, np.exp), (1, 1)),
    "Expand": Fold(_expand, (2, 2)),
    "Floor": Fold(partial(_elementwise, np.floor), (1, 1)),
    "Gather": Fold(_gather, (2, 2)),
    "Greater": Fold(partial(_elementwise, np.greater), (2, 2)),
    "Less": Fold(partial(_elementwise, np.less), (2, 2)),
    "Log": Fold(partial(_elementwise, np.log), (1, 1)),
    "Mod": Fold(_modulo, (2, 2)),
    "Mul": Fold(partial(_elementwise, np.multiply), (2, 2)),
    "Neg": Fold(partial(_elementwise, np.negative), (1, 1)),
    "Not": Fold(partial(_elementwise, np.logical_not), (1, 1)),
    "Pow": Fold(_power, (2, 2)),
    "Range": Fold(_range, (3, 3)),
    "ReduceProd": Fold(partial(_reduce, np.prod), (1, 2)),
    "ReduceSum": Fold(partial(_reduce, np.sum), (1, 2)),
    "Reshape": Fold(_reshape, (2, 2)),
    "Slice": Fold(_slice, (3, 5)),
    "Sqrt": Fold(partial(_elementwise, np.sqrt), (1, 1)),
    "Squeeze": Fold(_squeeze, (1, 2)),
    "Sub": Fold(partial(_elementwise, np.subtract), (2, 2)),
    "Transpose": Fold(_transpose, (1, 1)),
    "Unsqueeze": Fold(_unsqueeze, (2, 2)),
    "Where": Fold(_where, (3, 3)),
}
"""The operators that are computed when all their inputs are known."""
