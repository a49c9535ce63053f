"""What a score becomes in a node of a machine's server: of the node's own type, never beyond it.

Pure.  A value that does not fit is moved to the nearest that does, but for counters, which begin
again at 0: a watchdog looks for change.
"""

import math
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from agent.serve.score import Score
from agent.serve.settings import FieldName

_V = ua.VariantType
_INTEGERS: Final = {
    _V.SByte: (-(1 << 7), (1 << 7) - 1),
    _V.Byte: (0, (1 << 8) - 1),
    _V.Int16: (-(1 << 15), (1 << 15) - 1),
    _V.UInt16: (0, (1 << 16) - 1),
    _V.Int32: (-(1 << 31), (1 << 31) - 1),
    _V.UInt32: (0, (1 << 32) - 1),
    _V.Int64: (-(1 << 63), (1 << 63) - 1),
    _V.UInt64: (0, (1 << 64) - 1),
}
_FLOATS: Final = {
    _V.Float: (math.ldexp(2 - 2**-23, 127), 1 << 24),
    _V.Double: (math.ldexp(2 - 2**-52, 1023), 1 << 53),
}
"""Greatest number of each, and from where on not every integer is one."""
KINDS: Final = frozenset({_V.Boolean, _V.String, *_INTEGERS, *_FLOATS})
"""Types that are written."""
_ABSTRACT: Final = (ua.ObjectIds.BaseDataType, ua.ObjectIds.Number)
_SCALAR: Final = -1
_SCALAR_OR_ARRAY: Final = (-1, -2, -3)
"""ValueRanks that allow a single value (OPC 10000-3, 5.6.2)."""


class UnwritableError(Exception):
    """This node can not take this field; the message says why and what to do."""


@dataclass(frozen=True)
class Written:
    """A value of the node's type.

    Attributes:
      variant: what is written.
      is_clamped: the number was beyond the type's range.
    """

    variant: ua.Variant
    is_clamped: bool = False


def kind_of(data_type: ua.NodeId, value_rank: int, value: ua.Variant) -> ua.VariantType:
    """The type in which a node's value is written.

    Args:
      data_type: the node's DataType attribute.
      value_rank: its ValueRank attribute.
      value: what it holds now; counts for abstract types and those that the server made up.

    Raises:
      UnwritableError: it is an array, or of a type that no score becomes.
    """
    if value_rank not in _SCALAR_OR_ARRAY:
        raise UnwritableError("the node is an array: name a node that holds a single value")
    standard = data_type.Identifier if data_type.NamespaceIndex == 0 else None
    for kind in KINDS:
        if standard == kind.value:
            return kind
    if value.VariantType in KINDS:
        return ua.VariantType(value.VariantType.value)
    if standard in _ABSTRACT:
        return _V.Double
    shown = f"DataType {data_type.to_string()}"
    raise UnwritableError(f"{shown} is no Boolean, number or String: name another node")


def converted(
    score: Score, count: int, field: FieldName, scale: float, kind: ua.VariantType
) -> Written:
    """One field of a score in the type of a node.

    Args:
      score: not a Bad one.
      count: of scores so far.
      field: which one.
      scale: factor of the score.
      kind: one of `KINDS`.

    Raises:
      UnwritableError: a Boolean can not hold this field.
    """
    if kind == _V.String:
        return Written(ua.Variant(_text(score, count, field, scale), kind))
    if kind == _V.Boolean:
        return Written(ua.Variant(_flag(score, count, field), kind))
    if field == "count":
        return Written(ua.Variant(_wrapped(count, kind), kind))
    number = {
        "score": score.value * scale,
        "decision": float(score.code),
        "alarm": float(score.is_alarm),
    }[field]
    return _clamped(number, kind)


def _text(score: Score, count: int, field: FieldName, scale: float) -> str:
    if field == "score":
        return f"{score.value * scale:.6g}"
    if field == "decision":
        return score.decision
    return ("alarm" if score.is_alarm else "normal") if field == "alarm" else str(count)


def _flag(score: Score, count: int, field: FieldName) -> bool:
    if field == "alarm":
        return score.is_alarm
    if field == "count":
        return bool(count & 1)
    raise UnwritableError(f"the node is a Boolean, which takes no {field}: use field = 'alarm'")


def _wrapped(count: int, kind: ua.VariantType) -> int | float:
    if kind in _INTEGERS:
        return count % (_INTEGERS[kind][1] + 1)
    return float(count % _FLOATS[kind][1])


def _clamped(number: float, kind: ua.VariantType) -> Written:
    if kind in _FLOATS:
        most = _FLOATS[kind][0]
        inside = min(max(number, -most), most)
        return Written(ua.Variant(inside, kind), is_clamped=inside != number)
    lowest, highest = _INTEGERS[kind]
    if number <= lowest or number >= highest:  # before rounding: an infinity has no integer
        nearest = lowest if number <= lowest else highest
        return Written(ua.Variant(nearest, kind), is_clamped=number != nearest)
    return Written(ua.Variant(round(number), kind))
