"""Records whose value is an array of numbers: a waveform, an image.  Pure.

Each is read for itself: a subscription has few of them, and they are long.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sensors.opcua.columns import FIRST_TICK
from agent.sensors.opcua.layouts import (
    ALL_FIELDS,
    BOOLEAN,
    HAS_DIMENSIONS,
    HAS_VALUE,
    IS_ARRAY,
    NUMBERS,
    TYPE,
    ForeignError,
    tail_of,
)

_MOST_DIMENSIONS = 32
_ITEM = struct.Struct("<IBB")
_INT32 = struct.Struct("<i")


@dataclass(frozen=True, eq=False, slots=True)
class ArrayRecord:
    """One record whose value is an array of numbers.

    Attributes:
      handle: ClientHandle.
      value: float32, of the array's own shape.
      status: StatusCode.
      ticks: source timestamp, else server timestamp, else 0.
      end: where it ends in the body.
    """

    handle: int
    value: NDArray[np.float32]
    status: int
    ticks: int
    end: int


def read_array(body: bytes, at: int, end: int) -> ArrayRecord:
    """Read the record at `at`, whose elements end before `end`.

    Raises:
      ForeignError: its value is not an array of numbers, a null array, or has other dimensions.
      struct.error: the body ends before it.
    """
    handle, mask, encoding = _ITEM.unpack_from(body, at)
    kind = encoding & TYPE
    if not (mask & HAS_VALUE and mask <= ALL_FIELDS and encoding & IS_ARRAY and kind in NUMBERS):
        raise ForeignError
    value, at = _elements(body, at + _ITEM.size, end, np.dtype(NUMBERS[kind]))
    if kind == BOOLEAN:
        value = value != 0
    if encoding & HAS_DIMENSIONS:
        value, at = _shaped(body, at, value)
    tail, names = tail_of(mask)
    fields: dict[str, int] = dict(zip(names, tail.unpack_from(body, at), strict=True))
    source, server = fields.get("source", 0), fields.get("server", 0)
    ticks = server if source < FIRST_TICK else source
    single = value.astype(np.float32)
    return ArrayRecord(handle, single, fields.get("status", 0), ticks, at + tail.size)


def _elements(body: bytes, at: int, end: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """The elements of an array and where it ends; a null array (-1) is not for us."""
    (length,) = _INT32.unpack_from(body, at)
    at += _INT32.size
    if not 0 <= length <= (end - at) // dtype.itemsize:
        raise ForeignError
    return np.frombuffer(body, dtype, length, at), at + length * dtype.itemsize


def _shaped(body: bytes, at: int, value: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The array in the dimensions that follow it (OPC 10000-6, 5.2.2.16), and where they end."""
    (count,) = _INT32.unpack_from(body, at)
    if not 0 < count <= _MOST_DIMENSIONS:
        raise ForeignError
    dimensions = struct.unpack_from(f"<{count}i", body, at + _INT32.size)
    if min(dimensions) < 1 or math.prod(dimensions) != len(value):
        raise ForeignError
    return value.reshape(dimensions), at + _INT32.size + 4 * count
