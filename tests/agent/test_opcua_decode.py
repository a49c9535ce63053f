import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent.sensors.opcua.decode import Columns, Decoder, decode
from tests.agent.opcua_messages import (
    FIRST_TICK,
    NOW_TICKS,
    NOW_US,
    OVERFLOW,
    SERVER,
    SERVER_PICOSECONDS,
    SOURCE,
    SOURCE_PICOSECONDS,
    Item,
    assert_equals_asyncua,
    data_change,
    response,
    rows_of,
    rows_of_arrays,
)

NUMBERS = {
    "Boolean": st.booleans(),
    "SByte": st.integers(-128, 127),
    "Byte": st.integers(0, 255),
    "Int16": st.integers(-(2**15), 2**15 - 1),
    "UInt16": st.integers(0, 2**16 - 1),
    "Int32": st.integers(-(2**31), 2**31 - 1),
    "UInt32": st.integers(0, 2**32 - 1),
    "Int64": st.integers(-(2**63), 2**63 - 1),
    "UInt64": st.integers(0, 2**64 - 1),
    "Float": st.floats(width=32),
    "Double": st.floats(),
}


def numbers(*items: Item) -> Columns:
    found = decode(response(data_change(*items)))
    assert found is not None
    return found.columns


def double(value: float = 1.5) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Double)


@st.composite
def values(draw: st.DrawFn) -> ua.Variant | None:
    """A number, an array of numbers with or without dimensions, a null, or nothing."""
    kind = draw(st.sampled_from(["nothing", "null", "array", *NUMBERS, *NUMBERS]))
    if kind == "nothing":
        return None
    if kind == "null":
        return ua.Variant()
    if kind != "array":
        return ua.Variant(draw(NUMBERS[kind]), ua.VariantType[kind])
    kind = draw(st.sampled_from(sorted(NUMBERS)))
    dimensions = draw(st.none() | st.lists(st.integers(1, 3).map(ua.Int32), min_size=1, max_size=3))
    length = draw(st.integers(0, 5)) if dimensions is None else int(np.prod(dimensions))
    elements = draw(st.lists(NUMBERS[kind], min_size=length, max_size=length))
    return ua.Variant(elements, ua.VariantType[kind], dimensions, is_array=True)


TICKS = (
    st.none() | st.sampled_from([0, -1, 1, 10, NOW_TICKS, 2**63 - 1]) | st.integers(0, 2**63 - 1)
)
ITEMS = st.builds(
    Item,
    handle=st.integers(0, 2**32 - 1),
    value=values(),
    status=st.none() | st.sampled_from([0, OVERFLOW, 0x40900000, 0x80310000, 0xC0000000]),
    source=TICKS,
    source_picoseconds=st.none() | st.integers(0, 9999),
    server=TICKS,
    server_picoseconds=st.none() | st.integers(0, 9999),
)


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4)


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    """Runs of records of a few layouts, long and short, with values of their own."""
    layouts = draw(st.lists(ITEMS, min_size=1, max_size=6))
    runs = draw(st.lists(st.tuples(st.sampled_from(layouts), st.integers(1, 40)), max_size=12))
    made = [replace(item, handle=at) for item, count in runs for at in range(count)]
    return made or layouts


def is_read_alike(item: Item) -> bool:
    """Whether asyncua 2.1 can: it swaps the server timestamp and the source picoseconds."""
    has_source = item.source is not None and item.source >= FIRST_TICK
    return has_source or item.source_picoseconds is None or (item.server or 0) < FIRST_TICK


@settings(max_examples=200)
@given(st.lists(items(), min_size=1, max_size=2), st.booleans())
def test_numbers_and_arrays_of_all_types_and_layouts_are_read_as_asyncua_reads_them(
    notifications: list[list[Item]], more: bool
) -> None:
    assume(all(is_read_alike(item) for made in notifications for item in made))
    body = response(*(data_change(*made) for made in notifications), more=more)
    ours = assert_equals_asyncua(body)
    assert len(ours.columns) + len(ours.arrays) == sum(map(len, notifications))


@pytest.mark.parametrize("mask", range(64))
def test_every_mask_of_a_data_value_is_read_as_the_standard_writes_it(mask: int) -> None:
    made = [
        Item(
            handle,
            ua.Variant(1, ua.VariantType[kind]) if mask & 1 else None,
            OVERFLOW if mask & 2 else None,
            NOW_TICKS - 10 if mask & SOURCE else None,
            1 if mask & SOURCE_PICOSECONDS else None,
            NOW_TICKS - 20 if mask & SERVER else None,
            2 if mask & SERVER_PICOSECONDS else None,
        )
        for handle, kind in enumerate(NUMBERS)
    ]
    found = numbers(*made)
    stamp_us = NOW_US - 1 if mask & SOURCE else NOW_US - 2 if mask & SERVER else NOW_US
    assert found.handle.tolist() == list(range(11))
    assert np.array_equal(found.value, [1.0 if mask & 1 else np.nan] * 11, equal_nan=True)
    assert found.status.tolist() == [OVERFLOW if mask & 2 else 0] * 11
    assert found.source_timestamp_us.tolist() == [stamp_us] * 11


def test_columns_have_the_types_that_blocks_have() -> None:
    found = numbers(Item(value=double()))
    columns = (found.handle, found.value, found.status, found.source_timestamp_us)
    assert " ".join(str(each.dtype) for each in columns) == "uint32 float64 uint32 int64"


def test_a_timestamp_of_zero_is_none() -> None:
    found = numbers(Item(source=0, server=NOW_TICKS - 50), Item(source=0, server=0), Item(source=0))
    assert found.source_timestamp_us.tolist() == [NOW_US - 5, NOW_US, NOW_US]


def test_ticks_become_whole_microseconds() -> None:
    found = numbers(Item(source=NOW_TICKS + 19))
    at = datetime.fromtimestamp(found.source_timestamp_us[0] / 1e6, UTC)
    assert found.source_timestamp_us.tolist() == [NOW_US + 1]
    assert (at.year, at.month) == (2024, 12)


def test_the_value_of_a_bad_sample_is_nan_and_an_uncertain_one_keeps_it() -> None:
    found = numbers(
        Item(value=double(), status=0x80310000), Item(value=double(), status=0x40900000)
    )
    assert np.array_equal(found.value, [np.nan, 1.5], equal_nan=True)
    assert found.status.tolist() == [0x80310000, 0x40900000]


def test_the_overflow_bit_survives() -> None:
    assert numbers(Item(value=double(), status=OVERFLOW)).status.tolist() == [OVERFLOW]


def test_any_byte_but_zero_is_true() -> None:
    item = Item(value=ua.Variant(Value=True, VariantType=ua.VariantType.Boolean))
    body = response(data_change(item)).replace(b"\x01\x01\x01", b"\x01\x01\x02")
    found = decode(body)
    assert found is not None
    assert found.columns.value.tolist() == [1.0]


def test_integers_beyond_two_to_the_53_are_rounded_to_the_nearest() -> None:
    biggest = Item(value=ua.Variant(2**64 - 1, ua.VariantType.UInt64))
    odd = Item(value=ua.Variant(2**53 + 1, ua.VariantType.Int64))
    assert numbers(biggest, odd).value.tolist() == [2.0**64, 2.0**53]


def test_types_that_take_turns_are_read_in_the_order_of_the_message() -> None:
    kinds = ("Double", "Int32", "Boolean", "Float", "UInt64")
    made = [
        Item(at, ua.Variant(at % 2, ua.VariantType[kinds[at % 5]]), source=NOW_TICKS + 10 * at)
        for at in range(500)
    ]
    found = assert_equals_asyncua(response(data_change(*made))).columns
    assert found.handle.tolist() == list(range(500))
    assert found.value.tolist() == [at % 2 for at in range(500)]
    assert found.source_timestamp_us.tolist() == [NOW_US + at for at in range(500)]


def test_a_waveform_between_numbers_comes_beside_them() -> None:
    wave = Item(5, ua.Variant([0.5, -2.0, 8.0], ua.VariantType.Double), source=NOW_TICKS)
    body = response(data_change(Item(1, double()), wave, Item(2, double())))
    found = assert_equals_asyncua(body)
    assert found.columns.handle.tolist() == [1, 2]
    assert [each.value.tolist() for each in found.arrays] == [[0.5, -2.0, 8.0]]
    assert found.arrays[0].source_timestamp_us == NOW_US


def test_waveforms_among_types_that_take_turns_are_found() -> None:
    wave = Item(5, ua.Variant([1, 2], ua.VariantType.Int16), status=OVERFLOW)
    turns = [Item(1, double()), Item(2, ua.Variant(3, ua.VariantType.Int32)), wave] * 30
    found = assert_equals_asyncua(response(data_change(*turns)))
    assert found.columns.handle.tolist() == [1, 2] * 30
    assert [each.status for each in found.arrays] == [OVERFLOW] * 30


def assert_decodes_alike(decoder: Decoder, body: bytes) -> None:
    """What a decoder remembers does not change what it reads."""
    found, fresh = decoder.decode(body), decode(body)
    assert (found is None) == (fresh is None)
    if found is not None and fresh is not None:
        assert rows_of(found.columns) == rows_of(fresh.columns)
        assert rows_of_arrays(found.arrays) == rows_of_arrays(fresh.arrays)


@settings(max_examples=150)
@given(st.lists(items(), min_size=1, max_size=3), st.data())
def test_a_remembered_order_of_items_never_changes_what_is_read(
    orders: list[list[Item]], data: st.DataObject
) -> None:
    decoder = Decoder()
    for made in data.draw(st.lists(st.sampled_from(orders), min_size=2, max_size=6)):
        body = bytearray(response(data_change(*made)))
        for at, byte in data.draw(CHANGES):
            body[at % len(body)] = byte
        assert_decodes_alike(decoder, bytes(body))


def test_another_type_of_the_same_length_is_noticed_behind_a_remembered_order() -> None:
    decoder = Decoder()
    kinds = [ua.VariantType.Float, ua.VariantType.Int32, ua.VariantType.UInt32]
    for turn in range(6):
        made = [Item(at, ua.Variant(at, kinds[(at + turn // 2) % 3])) for at in range(30)]
        assert_decodes_alike(decoder, response(data_change(*made)))


def test_an_array_with_dimensions_has_its_shape() -> None:
    picture = ua.Variant([[1, 2, 3], [4, 5, 6]], ua.VariantType.Byte)
    found = assert_equals_asyncua(response(data_change(Item(value=picture))))
    assert found.arrays[0].value.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_bad_array_keeps_its_shape_and_has_no_values() -> None:
    wave = Item(value=ua.Variant([1.0, 2.0], ua.VariantType.Float), status=0x808C0000)
    found = decode(response(data_change(wave)))
    assert found is not None
    assert np.array_equal(found.arrays[0].value, [np.nan, np.nan], equal_nan=True)


def test_doubles_beyond_float32_become_infinite_without_a_warning() -> None:
    wave = Item(value=ua.Variant([1e300], ua.VariantType.Double))
    with np.errstate(all="raise"):
        found = decode(response(data_change(wave)))
    assert found is not None
    assert found.arrays[0].value.tolist() == [np.inf]


def test_a_keep_alive_has_no_items() -> None:
    found = decode(response(available=()))
    assert found is not None
    assert found.is_keep_alive
    assert (found.sequence_number, len(found.columns), found.arrays) == (5, 0, ())


def test_what_is_to_acknowledge_is_no_keep_alive() -> None:
    found = decode(response(data_change(Item(value=double()))))
    assert found is not None
    assert not found.is_keep_alive
    assert (found.subscription_id, found.sequence_number, found.available) == (7, 5, (3, 4))


STATUS_CHANGE = (
    nodeid_to_binary(
        ua.FourByteNodeId(ua.Int32(ua.ObjectIds.StatusChangeNotification_Encoding_DefaultBinary))
    )
    + b"\x01"
    + struct.pack("<iIB", 5, 0x800A0000, 0)
)


@pytest.mark.parametrize(
    "value",
    [
        ua.Variant("RUN", ua.VariantType.String),
        ua.Variant(["RUN"], ua.VariantType.String),
        ua.Variant(datetime.now(UTC), ua.VariantType.DateTime),
        ua.Variant(b"png", ua.VariantType.ByteString),
        ua.Variant(ua.EUInformation(UnitId=1), ua.VariantType.ExtensionObject),
        ua.Variant(None, ua.VariantType.Double, is_array=True),
        ua.Variant([ua.Variant(1.0)], ua.VariantType.Variant),
    ],
    ids=["text", "texts", "time", "bytes", "structure", "null array", "variants"],
)
def test_a_message_with_anything_but_numbers_is_left_to_asyncua(value: ua.Variant) -> None:
    among = [Item(value=double())] * 3
    assert decode(response(data_change(*among, Item(value=value), *among))) is None


def test_status_changes_are_left_to_asyncua() -> None:
    assert decode(response(STATUS_CHANGE)) is None
    assert decode(response(data_change(Item(value=double())), STATUS_CHANGE)) is None


def test_an_answer_with_another_result_is_left_to_asyncua() -> None:
    body = bytearray(response(data_change(Item(value=double()))))
    body[16:20] = struct.pack("<I", 0x80000000)
    assert decode(bytes(body)) is None


def test_dimensions_that_do_not_fit_the_elements_are_left_to_asyncua() -> None:
    body = response(data_change(Item(value=ua.Variant([[1, 2]], ua.VariantType.Byte))))
    fits = struct.pack("<3i", 2, 1, 2)
    for dimensions in ((2, 2, 2), (2, -1, -2), (-1, 1, 2), (99, 1, 2), (0, 1, 2)):
        assert decode(body.replace(fits, struct.pack("<3i", *dimensions))) is None


def test_dimensions_of_an_empty_array_can_not_ask_for_memory() -> None:
    dimensions = [ua.Int32(0), *[ua.Int32(2**31 - 1)] * 3]
    empty = ua.Variant([], ua.VariantType.Byte, dimensions, is_array=True)
    assert decode(response(data_change(Item(value=empty)))) is None


def test_a_length_that_the_message_cannot_hold_is_refused_before_it_is_allocated() -> None:
    body = response(data_change(*[Item(value=double())] * 3))
    for told in range(len(body) - 4):
        for length in (2**31 - 1, 2**28, 1000, -1, -(2**31)):
            changed = body[:told] + struct.pack("<i", length) + body[told + 4 :]
            found = decode(changed)
            assert found is None or found.columns.handle.nbytes <= len(body)


def messages() -> Iterator[bytes]:
    """One of each kind, to break."""
    wave = Item(5, ua.Variant([0.5] * 20, ua.VariantType.Float), OVERFLOW, NOW_TICKS)
    image = Item(6, ua.Variant([[1, 2]] * 3, ua.VariantType.UInt16), server=NOW_TICKS)
    yield response()
    yield response(data_change(*[Item(2, double(), source=NOW_TICKS, server=NOW_TICKS)] * 20))
    yield response(data_change(*[Item(1, double()), Item(2, status=5), wave, image] * 8))
    yield response(data_change(Item(1)), data_change(wave))


MESSAGES = list(messages())


@settings(max_examples=400)
@given(st.sampled_from(MESSAGES), CHANGES, st.integers(0, 2**16), st.binary(max_size=8))
def test_broken_messages_give_a_message_or_none(
    body: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    broken = bytearray(body)
    for at, byte in changes:
        broken[at % len(body)] = byte
    kept = bytes(broken[: cut % (2 * len(body))]) + tail
    found = decode(kept)
    assert found is None or len(found.columns) <= len(kept)


@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_give_a_message_or_none(body: bytes) -> None:
    assert decode(body) is None or body.startswith(b"\x01\x00\x3d\x03")


@pytest.mark.parametrize("body", MESSAGES)
def test_a_message_that_is_cut_anywhere_is_refused(body: bytes) -> None:
    assert decode(body) is not None
    assert all(decode(body[:cut]) is None for cut in range(len(body)))
    assert decode(body + b"\x00") is None
