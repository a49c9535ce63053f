"""What registers mean, against pymodbus' own conversion and examples by hand."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin

from agent.sensors.modbus.registers import (
    Meaning,
    Order,
    ValueType,
    all_orders,
    pattern_of,
    registers_of,
    value_of,
)
from agent.sensors.modbus.statuses import BAD_SENSOR_FAILURE

ORDERS: tuple[Order, ...] = ("big", "little")
INTEGERS: tuple[ValueType, ...] = ("int16", "uint16", "int32", "uint32", "int64", "uint64")
DATATYPES = {each.name: each for each in ModbusClientMixin.DATATYPE}

# 123.456 as float32 is 42 F6 E9 79.
WIRE = {
    ("big", "big"): "42f6e979",
    ("big", "little"): "e97942f6",
    ("little", "big"): "f64279e9",
    ("little", "little"): "79e9f642",
}


def on_the_wire(registers: list[int], byte_order: Order) -> bytes:
    """Registers in transmission order; a little byte order swaps the bytes of each."""
    layout = ">" if byte_order == "big" else "<"
    return struct.pack(f"{layout}{len(registers)}H", *registers)


@pytest.mark.parametrize(("byte_order", "word_order"), WIRE)
def test_each_named_order_reads_its_example(byte_order: Order, word_order: Order) -> None:
    raw = bytes.fromhex(WIRE[byte_order, word_order])
    value, status = value_of(raw, Meaning("float32", None, byte_order, word_order))
    assert status == 0
    assert value == pytest.approx(123.456, rel=1e-6)


@pytest.mark.parametrize("kind", INTEGERS)
@settings(deadline=None)
@given(data=st.data())
def test_integers_read_what_pymodbus_wrote_in_every_order(
    kind: ValueType, data: st.DataObject
) -> None:
    bits = 16 * registers_of(kind)
    low, high = (0, (1 << bits) - 1) if kind[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    number = data.draw(st.integers(low, high))
    byte_order, word_order = data.draw(st.tuples(st.sampled_from(ORDERS), st.sampled_from(ORDERS)))
    registers = ModbusClientMixin.convert_to_registers(
        number, DATATYPES[kind.upper()], word_order=word_order
    )
    raw = on_the_wire(registers, byte_order)
    assert value_of(raw, Meaning(kind, None, byte_order, word_order)) == (float(number), 0)


@settings(deadline=None)
@given(
    number=st.floats(allow_nan=False, allow_infinity=False),
    byte_order=st.sampled_from(ORDERS),
    word_order=st.sampled_from(ORDERS),
)
def test_doubles_read_what_pymodbus_wrote_in_every_order(
    number: float, byte_order: Order, word_order: Order
) -> None:
    registers = ModbusClientMixin.convert_to_registers(
        number, DATATYPES["FLOAT64"], word_order=word_order
    )
    raw = on_the_wire(registers, byte_order)
    assert value_of(raw, Meaning("float64", None, byte_order, word_order)) == (number, 0)


def test_a_value_is_scaled_and_then_shifted() -> None:
    assert value_of(b"\x00\xfa", Meaning("int16", scale=0.1, offset=-40.0)) == (-15.0, 0)


@pytest.mark.parametrize("number", [0x8000, -32768])
def test_an_invalid_value_is_a_sensor_failure_however_it_is_written(number: int) -> None:
    pattern = pattern_of(number, "int16")
    assert pattern is not None
    value, status = value_of(b"\x80\x00", Meaning("int16", invalid=frozenset({pattern})))
    assert math.isnan(value)
    assert status == BAD_SENSOR_FAILURE


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800000, 0xFF800000])
def test_not_a_number_and_infinity_are_sensor_failures(bits: int) -> None:
    value, status = value_of(struct.pack(">I", bits), Meaning("float32"))
    assert math.isnan(value)
    assert status == BAD_SENSOR_FAILURE


def test_a_scale_that_overflows_is_a_sensor_failure_too() -> None:
    raw = struct.pack(">d", 1e300)
    assert value_of(raw, Meaning("float64", scale=1e300))[1] == BAD_SENSOR_FAILURE


@settings(deadline=None)
@given(word=st.integers(0, 0xFFFF), bit=st.integers(0, 15))
def test_bit_0_of_a_register_is_its_least_significant(word: int, bit: int) -> None:
    value, status = value_of(struct.pack(">H", word), Meaning("bool", bit=bit))
    assert (value, status) == (float(word >> bit & 1), 0)


def test_a_number_that_does_not_fit_its_type_has_no_pattern() -> None:
    assert pattern_of(0x1_0000, "int16") is None
    assert pattern_of(-32769, "int16") is None
    assert pattern_of(0xFFFF_FFFF, "int32") == pattern_of(-1, "int32") == 0xFFFF_FFFF


@pytest.mark.parametrize(("orders", "wire"), WIRE.items())
def test_all_orders_shows_a_float_under_the_name_of_its_order(
    orders: tuple[Order, Order], wire: str
) -> None:
    registers = struct.unpack(">2H", bytes.fromhex(wire))
    names = [
        name for name, value in all_orders(registers) if value == pytest.approx(123.456, rel=1e-6)
    ]
    letters = {
        ("big", "big"): "ABCD",
        ("big", "little"): "CDAB",
        ("little", "big"): "BADC",
        ("little", "little"): "DCBA",
    }[orders]
    assert names == [f"float32 {letters} (byte_order {orders[0]}, word_order {orders[1]})"]


def test_all_orders_shows_every_type_that_fits_once_per_order() -> None:
    assert len(all_orders([1])) == 2 * 2
    assert len(all_orders([1, 2, 3])) == 2 * 2 + 3 * 4
    four = dict(all_orders([0x0011, 0x2233, 0x4455, 0x6677]))
    assert len(four) == 2 * 2 + 3 * 4 + 3 * 4
    assert four["uint64 ABCDEFGH (byte_order big, word_order big)"] == 0x0011223344556677
    assert four["uint64 GHEFCDAB (byte_order big, word_order little)"] == 0x6677445522330011
    assert four["uint16 BA (byte_order little)"] == 0x1100
