"""Registers: what the 16-bit words of a Modbus device mean, and in which order their bytes lie.

The protocol defines one register: 16 bits, the high byte first on the wire (Modbus Application
Protocol V1.1b3, section 4.2).  It says nothing about values of several registers, and makers
differ, so both orders of such a value are always stated by the configuration and never guessed:

    a float32 of the bytes A B C D (A is the most significant) comes over the wire as
    A B C D   byte_order big,    word_order big      the usual one
    C D A B   byte_order big,    word_order little   "word swapped"
    B A D C   byte_order little, word_order big      "byte swapped"
    D C B A   byte_order little, word_order little

Pure.  Refuses nothing but NaN and infinity, which no sensor measures: they are Bad.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.sensors.modbus.statuses import BAD_SENSOR_FAILURE
from agent.signals.block import GOOD

Table = Literal["holding", "input", "coil", "discrete"]
ValueType = Literal[
    "bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"
]
Order = Literal["big", "little"]

REGISTER_BYTES = 2
BIT_TABLES: tuple[Table, ...] = ("coil", "discrete")
_FORMATS: dict[ValueType, str] = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}
_ORDERS: tuple[tuple[Order, Order], ...] = (
    ("big", "big"),
    ("big", "little"),
    ("little", "big"),
    ("little", "little"),
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """How the bytes of one channel become its value: scale * raw + offset.

    Attributes:
      type: `bool` of a register is its bit `bit`; of a coil or discrete input, the bit itself.
      bit: 0 is the least significant bit of the register.
      byte_order: within each register.
      word_order: of the registers; `big` means that the most significant one comes first.
      invalid: bit patterns by which the device says that it has no value, such as 0x8000.
    """

    type: ValueType
    bit: int | None = None
    byte_order: Order = "big"
    word_order: Order = "big"
    scale: float = 1.0
    offset: float = 0.0
    invalid: frozenset[int] = frozenset()


def registers_of(kind: ValueType) -> int:
    """How many registers a value takes; 1 for a bool."""
    return 1 if kind == "bool" else struct.calcsize(_FORMATS[kind]) // REGISTER_BYTES


def in_order(raw: bytes, byte_order: Order, word_order: Order) -> bytes:
    """The same bytes, most significant first.

    Args:
      raw: registers as they came over the wire, 2 bytes each.
      byte_order: of the device, within a register.
      word_order: of the device, over the registers.
    """
    if byte_order == word_order:
        return raw if byte_order == "big" else raw[::-1]
    words = [raw[at : at + REGISTER_BYTES] for at in range(0, len(raw), REGISTER_BYTES)]
    if byte_order == "little":
        return b"".join(word[::-1] for word in words)
    return b"".join(reversed(words))


def value_of(raw: bytes, meaning: Meaning) -> tuple[float, int]:
    """The value and the StatusCode of one channel.

    Args:
      raw: as it came over the wire: 2 bytes per register, or 1 byte, 0 or 1, of a bit table.
      meaning: how to read it.

    Returns:
      BadSensorFailure for a configured bit pattern, for NaN and for an infinite value.
      Integers beyond 2^53 are rounded to the nearest float64.
    """
    ordered = in_order(raw, meaning.byte_order, meaning.word_order) if len(raw) > 1 else raw
    pattern = int.from_bytes(ordered, "big")
    if meaning.type == "bool":
        plain = float(pattern >> (meaning.bit or 0) & 1)
    else:
        if pattern in meaning.invalid:
            return math.nan, BAD_SENSOR_FAILURE
        plain = float(struct.unpack(_FORMATS[meaning.type], ordered)[0])
    value = plain * meaning.scale + meaning.offset
    return (value, GOOD) if math.isfinite(value) else (math.nan, BAD_SENSOR_FAILURE)


def pattern_of(number: int, kind: ValueType) -> int | None:
    """The bit pattern of an `invalid` number, -32768 and 0x8000 alike; None if it does not fit."""
    bits = 8 * REGISTER_BYTES * registers_of(kind)
    if not -(1 << bits - 1) <= number < 1 << bits:
        return None
    return number & (1 << bits) - 1


def all_orders(registers: Sequence[int]) -> list[tuple[str, float]]:
    """What these registers would mean in every type and order, for a person who looks for theirs.

    Args:
      registers: 1 to 4 (or more) raw words; each type takes as many from the front as it needs.

    Returns:
      names such as `float32 CDAB (byte_order big, word_order little)`, and values; 64-bit
      integers are exact.
    """
    raw = b"".join(struct.pack(">H", each) for each in registers)
    found: list[tuple[str, float]] = []
    for kind, layout in _FORMATS.items():
        size = struct.calcsize(layout)
        if size > len(raw):
            continue
        for byte_order, word_order in _ORDERS:
            if size == REGISTER_BYTES and word_order == "little":
                continue
            ordered = in_order(raw[:size], byte_order, word_order)
            name = f"{kind} {_letters(size, byte_order, word_order)} (byte_order {byte_order}"
            name += ")" if size == REGISTER_BYTES else f", word_order {word_order})"
            found.append((name, struct.unpack(layout, ordered)[0]))
    return found


def _letters(size: int, byte_order: Order, word_order: Order) -> str:
    # The orders are their own inverses, so that arranging A, B, C... shows the device's order.
    return in_order(b"ABCDEFGH"[:size], byte_order, word_order).decode()
