"""Writing FlatBuffers: the container format of `.tflite` files.

Responsible for bytes: tables, vectors, strings and their alignment; knows no schema. Written
front to back, parents before children, so that every offset points forward as the format wants.
Invariant: the same table gives the same bytes, and every field and vector lies at a multiple of
its alignment from the start of the file. The generic Python builder aligns byte vectors to
one byte, although the TFLite schema asks for 16 (`force_align`) because microcontrollers use
weights in place and fault on unaligned words; hence a writer of our own.

Source: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_OFFSET = 4  # bytes of an offset and of a vector's length


@dataclass(frozen=True)
class Scalar:
    """A number in a table; `format` is one of struct's letters for fixed sizes."""

    format: str
    value: float


@dataclass(frozen=True)
class Vector:
    """A vector of `count` numbers, given as little-endian bytes, aligned to `alignment`."""

    data: bytes
    count: int
    alignment: int


@dataclass(frozen=True)
class Tables:
    """A vector of tables."""

    items: Sequence[Table]


@dataclass(frozen=True)
class Table:
    """A table: its fields by their number in the schema; absent fields have their default."""

    fields: Mapping[int, Field]


Field = Scalar | Vector | Tables | Table | str
Child = Vector | Tables | Table | str
Pending = deque[tuple[int, Child]]
"""Objects still to be written, each with the position of the offset that points at it."""


def ints(values: Sequence[int], letter: str = "i") -> Vector:
    """Return a vector of integers of one struct format, aligned to their size."""
    data = struct.pack(f"<{len(values)}{letter}", *values)
    return Vector(data, len(values), struct.calcsize(f"<{letter}"))


def write_flatbuffer(root: Table, identifier: bytes) -> bytes:
    """Write a file whose root is a table.

    Args:
      root: the root table.
      identifier: the four bytes that tell the file's type.
    """
    out = bytearray(_OFFSET) + identifier
    pending: Pending = deque([(0, root)])
    vtables: dict[bytes, int] = {}
    while pending:
        at, child = pending.popleft()
        start = _append(out, child, pending, vtables)
        struct.pack_into("<I", out, at, start - at)
    return bytes(out)


def _append(out: bytearray, child: Child, pending: Pending, vtables: dict[bytes, int]) -> int:
    """Append one object and return where it starts; its own children join `pending`."""
    if isinstance(child, Table):
        return _append_table(out, child, pending, vtables)
    if isinstance(child, Tables):
        _pad(out, _OFFSET)
        start = len(out)
        out += struct.pack("<I", len(child.items))
        for item in child.items:
            pending.append((len(out), item))
            out += bytes(_OFFSET)
        return start
    if isinstance(child, str):
        text = child.encode()
        child = Vector(text + b"\0", len(text), 1)
    _pad(out, max(child.alignment, _OFFSET), ahead=_OFFSET)
    start = len(out)
    out += struct.pack("<I", child.count) + child.data
    return start


def _append_table(out: bytearray, table: Table, pending: Pending, vtables: dict[bytes, int]) -> int:
    """Append a table, and its vtable where none like it was written before."""
    slots = max(table.fields, default=-1) + 1
    positions = [0] * slots
    body = bytearray(_OFFSET)
    children: list[tuple[int, Child]] = []
    for slot, value in sorted(table.fields.items()):
        packed = bytes(_OFFSET)
        if isinstance(value, Scalar):
            packed = struct.pack(f"<{value.format}", value.value)
        _pad(body, len(packed))
        positions[slot] = len(body)
        if not isinstance(value, Scalar):
            children.append((len(body), value))
        body += packed
    vtable = struct.pack(f"<HH{slots}H", _OFFSET + 2 * slots, len(body), *positions)
    if vtable not in vtables:
        _pad(out, _OFFSET, ahead=len(vtable))
        vtables[vtable] = len(out)
        out += vtable
    _pad(out, _OFFSET)
    start = len(out)
    struct.pack_into("<i", body, 0, start - vtables[vtable])
    out += body
    pending.extend((start + at, child) for at, child in children)
    return start


def _pad(out: bytearray, alignment: int, ahead: int = 0) -> None:
    """Append zeros until what comes `ahead` bytes later is aligned."""
    out += bytes(-(len(out) + ahead) % alignment)
