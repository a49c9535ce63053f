"""Scores in the types of a PLC's nodes."""

import math
import struct

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import variant_from_binary, variant_to_binary
from hypothesis import given
from hypothesis import strategies as st

from agent.serve.convert import KINDS, UnwritableError, converted, kind_of
from agent.serve.standard_nodes import node_id
from tests.agent.scores_peers import WEAR, score

V = ua.VariantType
NUMBERS = sorted(KINDS - {V.Boolean, V.String}, key=lambda kind: kind.value)
EMPTY = ua.Variant()
OF_A_VENDOR = ua.NodeId.from_string("ns=2;i=3002")


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    scale=st.floats(-1e12, 1e12),
    count=st.integers(0, 1 << 70),
    kind=st.sampled_from(NUMBERS),
    field=st.sampled_from(("score", "decision", "alarm", "count")),
)
def test_every_number_fits_every_type_and_is_encoded_as_it_is(
    value: float, scale: float, count: int, kind: V, field: str
) -> None:
    written = converted(score(value, origin=WEAR), count, field, scale, kind)  # type: ignore[arg-type]
    read = variant_from_binary(Buffer(variant_to_binary(written.variant)))
    if kind == V.Float:
        expected = struct.unpack("<f", struct.pack("<f", written.variant.Value))[0]
        assert read.Value == expected
        assert math.isfinite(read.Value)
    else:
        assert read.Value == written.variant.Value
    assert read.VariantType == kind


@pytest.mark.parametrize(
    ("value", "kind", "expected", "is_clamped"),
    [
        (0.4, V.Int16, 0, False),
        (0.6, V.Int16, 1, False),
        (32767.0, V.Int16, 32767, False),
        (32767.4, V.Int16, 32767, True),
        (1e9, V.Int16, 32767, True),
        (-1.0, V.UInt16, 0, True),
        (300.0, V.Byte, 255, True),
        (1e300, V.UInt64, (1 << 64) - 1, True),
        (1e39, V.Float, 3.4028234663852886e38, True),
        (-0.25, V.Float, -0.25, False),
    ],
)
def test_numbers_beyond_the_type_become_its_end(
    value: float, kind: V, expected: float, is_clamped: bool
) -> None:
    written = converted(score(value, origin=WEAR), 1, "score", 1.0, kind)
    assert (written.variant.Value, written.is_clamped) == (expected, is_clamped)


def test_a_counter_begins_again_instead_of_stopping_at_the_end() -> None:
    values = [
        converted(score(0.5), count, "count", 1.0, V.Byte).variant.Value
        for count in range(254, 259)
    ]
    assert values == [254, 255, 0, 1, 2]
    flags = [converted(score(0.5), at, "count", 1.0, V.Boolean).variant.Value for at in range(3)]
    assert flags == [False, True, False]


def test_a_boolean_takes_the_alarm_and_no_number() -> None:
    assert converted(score(0.7), 1, "alarm", 1.0, V.Boolean).variant.Value is True
    for field in ("score", "decision"):
        with pytest.raises(UnwritableError, match="field = 'alarm'"):
            converted(score(0.7), 1, field, 1.0, V.Boolean)


def test_a_string_takes_words() -> None:
    texts = [
        converted(score(0.7), 12, field, 100.0, V.String).variant.Value
        for field in ("score", "decision", "alarm", "count")
    ]
    assert texts == ["70", "alarm", "alarm", "12"]


def test_the_type_is_that_of_the_node_or_of_its_value() -> None:
    assert kind_of(node_id("Int16"), -1, EMPTY) == V.Int16
    assert kind_of(OF_A_VENDOR, -1, ua.Variant(1, V.Int32)) == V.Int32
    assert kind_of(node_id("Number"), -1, EMPTY) == V.Double
    assert kind_of(node_id("Number"), -1, ua.Variant(1.0, V.Float)) == V.Float


def test_arrays_and_other_types_are_refused() -> None:
    with pytest.raises(UnwritableError, match="array"):
        kind_of(node_id("Double"), 1, EMPTY)
    for name in ("DateTime", "ByteString", "Structure"):
        with pytest.raises(UnwritableError, match=node_id(name).to_string()):
            kind_of(node_id(name), -1, EMPTY)
    with pytest.raises(UnwritableError):
        kind_of(OF_A_VENDOR, -1, EMPTY)
