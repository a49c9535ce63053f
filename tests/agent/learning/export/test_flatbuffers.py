"""The FlatBuffers writer, read by hand from the format's description."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.learning.export.flatbuffer import Scalar, Table, Tables, Vector, ints, write_flatbuffer


def follow(data: bytes, at: int) -> int:
    offset: int = struct.unpack_from("<I", data, at)[0]
    assert offset > 0
    return at + offset


def field(data: bytes, table: int, slot: int) -> int:
    """Where a field lies, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    if 4 + 2 * slot >= size:
        return 0
    place: int = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
    return table + place if place else 0


@given(
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    text=st.text(max_size=9),
    raw=st.binary(max_size=40),
    small=st.integers(-128, 127),
)
def test_every_field_comes_back_at_its_alignment(
    numbers: list[int], text: str, raw: bytes, small: int
) -> None:
    inner = [Table({0: Scalar("b", small)}), Table({0: Scalar("b", small), 2: text})]
    root = Table({0: Scalar("b", small), 1: ints(numbers, "q"), 3: text,
                  4: Vector(raw, len(raw), 16), 5: Tables(inner)})  # fmt: skip
    data = write_flatbuffer(root, b"TEST")
    assert data[4:8] == b"TEST"
    table = follow(data, 0)
    assert struct.unpack_from("<b", data, field(data, table, 0)) == (small,)
    assert field(data, table, 2) == 0
    longs = follow(data, field(data, table, 1))
    assert (longs + 4) % 8 == 0
    assert list(struct.unpack_from(f"<I{len(numbers)}q", data, longs)) == [len(numbers), *numbers]
    words = follow(data, field(data, table, 3))
    length = struct.unpack_from("<I", data, words)[0]
    assert data[words + 4 : words + 4 + length + 1] == text.encode() + b"\0"
    start = follow(data, field(data, table, 4)) + 4
    assert start % 16 == 0
    assert data[start : start + len(raw)] == raw
    items = follow(data, field(data, table, 5))
    assert struct.unpack_from("<I", data, items) == (2,)
    second = follow(data, items + 8)
    assert struct.unpack_from("<b", data, field(data, second, 0)) == (small,)


def test_tables_of_one_layout_share_their_vtable() -> None:
    one = Table({0: Scalar("i", 7)})
    lone, many = (
        len(write_flatbuffer(Table({0: Tables([one] * count)}), b"TEST")) for count in (1, 11)
    )
    assert many - lone == 10 * (4 + 8)  # an offset and a table each
