"""The protobuf wire format, as much of it as ONNX files use.

Responsible for cutting untrusted bytes into fields and for writing fields. Knows no message
types. Refuses groups (wire types 3 and 4), varints over 64 bits and lengths that leave their
message. Invariant: reading copies nothing (length-delimited values are views of the input), so
memory is bounded by what the caller keeps.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5

_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10  # 64 bits at 7 bits a byte
_UINT64 = 1 << 64
_INT64_SIGN = 1 << 63
_LARGEST_FIELD = (1 << 29) - 1


class ProtobufError(ValueError):
    """The bytes are not a protobuf message of the subset read here."""


def read_fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Cut one message into its fields, in file order.

    Args:
      data: the message's bytes.

    Yields:
      (field number, wire type, value); the value is an unsigned int for `VARINT` and a view of
      `data` for the other wire types.

    Raises:
      ProtobufError: the bytes end early, or hold something outside the subset.
    """
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number <= _LARGEST_FIELD:
            raise ProtobufError(f"field number {number} is out of range")
        if wire_type == VARINT:
            value, position = _read_varint(data, position)
            yield number, wire_type, value
            continue
        if wire_type == DELIMITED:
            size, position = _read_varint(data, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise ProtobufError(f"wire type {wire_type} is not supported")
        if size > len(data) - position:
            raise ProtobufError(f"field {number} needs {size} bytes, {len(data) - position} left")
        yield number, wire_type, data[position : position + size]
        position += size


def signed(value: int) -> int:
    """Turn a varint's unsigned 64-bit value into the int64 it stands for."""
    return value - _UINT64 if value >= _INT64_SIGN else value


def read_packed_varints(data: memoryview, most: int) -> array[int]:
    """Read a packed repeated int64 field.

    Args:
      data: the field's bytes.
      most: the largest number of values accepted.

    Returns:
      The values, 8 bytes each (a list of Python ints would take five times as much).

    Raises:
      ProtobufError: more than `most` values, or a broken varint.
    """
    values = array("q")
    position = 0
    while position < len(data):
        if len(values) >= most:
            raise ProtobufError(f"more than {most} packed values")
        value, position = _read_varint(data, position)
        values.append(signed(value))
    return values


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for count in range(_VARINT_BYTES):
        if position >= len(data):
            raise ProtobufError("the bytes end inside a varint")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if result >= _UINT64:
                break
            return result, position
    raise ProtobufError("a varint is longer than 64 bits")


def varint(value: int) -> bytes:
    """Encode an int in the range of int64 or uint64."""
    rest = value % _UINT64
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def int_field(number: int, value: int) -> bytes:
    """Encode one varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def fixed32_field(number: int, value: bytes) -> bytes:
    """Encode one fixed32 field from its four bytes."""
    return varint(number << 3 | FIXED32) + value


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode one length-delimited field: bytes, or a message already encoded."""
    return varint(number << 3 | DELIMITED) + varint(len(value)) + value


def string_field(number: int, value: str) -> bytes:
    """Encode one string field as UTF-8."""
    return bytes_field(number, value.encode())


def packed_ints_field(number: int, values: Iterable[int]) -> bytes:
    """Encode one packed repeated int64 field."""
    return bytes_field(number, b"".join(varint(value) for value in values))
