"""Sparse updates: what was kept comes back, one vector has one encoding, hostile bytes are refused.

The encoder and the decoder are held against slow ones that follow the format's words byte by byte.
"""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import Policy
from wire.sparse import (
    decode_sparse,
    encode_sparse,
    kept_count,
    largest_sparse_bytes,
    problem_with,
)
from wire.tensors import MAX_PARAMETERS, Bits, largest_integer, pack_integers


def varint(number: int) -> bytes:
    """LEB128, one byte at a time."""
    encoded = bytearray()
    while number >= 128:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])


def slowly_encoded(values: dict[int, int], bits: Bits) -> bytes:
    """The format's words, followed one by one."""
    places = sorted(values)
    data = varint(len(places))
    before = -1
    for place in places:
        data += varint(place - before - 1)
        before = place
    return data + pack_integers(np.array([values[place] for place in places], np.int16), bits)


def dense(values: dict[int, int], count: int, bits: Bits) -> NDArray[np.signedinteger]:
    dtype: type[np.int8 | np.int16] = np.int16 if bits == 16 else np.int8
    vector: NDArray[np.signedinteger] = np.zeros(count, dtype)
    for place, value in values.items():
        vector[place] = value
    return vector


def vectors(bits: Bits, count: int) -> st.SearchStrategy[dict[int, int]]:
    limit = largest_integer(bits)
    value = st.integers(-limit, limit).filter(bool)
    return st.dictionaries(st.integers(0, count - 1), value, max_size=12)


WIDTHS: tuple[Bits, ...] = (4, 8, 16)
cases = st.tuples(st.sampled_from(WIDTHS), st.sampled_from((1, 7, 130, 17_000, 2_200_000))).flatmap(
    lambda both: st.tuples(st.just(both[0]), st.just(both[1]), vectors(*both))
)


@given(cases)
def test_what_was_kept_comes_back(case: tuple[Bits, int, dict[int, int]]) -> None:
    bits, count, values = case
    vector = dense(values, count, bits)
    data = encode_sparse(vector, bits)
    assert data == slowly_encoded(values, bits)
    assert len(data) <= largest_sparse_bytes(bits, count, len(values))
    read = decode_sparse(data, bits, count, len(values))
    assert read.dtype == vector.dtype
    np.testing.assert_array_equal(read, vector)


@given(st.binary(max_size=16), st.sampled_from((4, 8, 16)), st.integers(0, 300), st.integers(0, 9))
@example(b"\x00", 8, 0, 0)
@example(b"\x02\x00\x00\x01\x01", 8, 2, 2)
def test_any_bytes_are_the_one_encoding_of_a_vector_or_refused(
    data: bytes, bits: Bits, count: int, most: int
) -> None:
    try:
        read = decode_sparse(data, bits, count, most)
    except MalformedError:
        return
    assert np.count_nonzero(read) <= most
    assert read.shape == (count,)
    assert encode_sparse(read, bits) == data


def changes(data: bytes) -> Iterator[bytes]:
    """Every single bit of `data` flipped, every byte left out, every byte doubled."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        yield data[:at] + data[at + 1 :]
        yield data[:at] + data[at : at + 1] + data[at:]


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_what_is_nearly_a_content_is_another_one_or_refused(bits: Bits) -> None:
    values = {0: 3, 1: -1, 129: 7, 20_000: -7, 20_001: 1, 299_999: 5}
    data = slowly_encoded(values, bits)
    vector = dense(values, 300_000, bits)
    found = 0
    for changed in changes(data):
        try:
            read = decode_sparse(changed, bits, 300_000, 6)
        except MalformedError:
            continue
        found += 1
        assert encode_sparse(read, bits) == changed
        assert changed == data or not np.array_equal(read, vector)
    assert found > 10  # the decoder was reached


def test_the_bytes_are_those_of_the_document() -> None:
    vector = np.zeros(1000, np.int8)
    vector[[0, 3, 200, 999]] = [5, -1, 7, -7]
    assert encode_sparse(vector, 8).hex(" ") == "04 00 02 c4 01 9e 06 05 ff 07 f9"
    assert encode_sparse(vector, 4).hex(" ") == "04 00 02 c4 01 9e 06 f5 97"
    assert encode_sparse(np.zeros(1000, np.int8), 8) == b"\0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "must begin with a number"),
        ("80", "must begin with a number"),
        ("ff ff ff ff 01", "must begin with a number"),
        ("81 00 00 01", "more bytes than it needs"),  # 1 in two bytes
        ("04 00 00 00 00 01 01 01 01", "at most 3 may be kept"),
        ("01", "does not have 1 bytes"),
        ("01 00", "does not have 2 bytes"),
        ("00 00", "does not have 2 bytes"),
        ("01 80 80 80 80 00 01", "does not have 7 bytes"),
        ("02 00 00 01", "does not have 4 bytes"),
        ("01 00 00 01", "are not 1 whole numbers"),
        ("02 80 00 01 01", "are not 2 whole numbers"),  # two bytes that are one place
        ("01 80 01", "are not 1 whole numbers"),  # the place goes on into the integers
        ("01 80 00 01", "more bytes than it needs"),
        ("01 e8 07 01", "changes parameter 1000 of 1000"),
        ("02 e7 07 00 01 01", "changes parameter 1000 of 1000"),
        ("01 00 00", "does not change"),
        ("02 00 00 01 00", "does not change"),
        ("01 00 80", "below -127"),
    ],
)
def test_a_hostile_content_is_refused_with_its_reason(data: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        decode_sparse(bytes.fromhex(data), 8, 1000, 3)


@pytest.mark.parametrize(
    ("data", "bits", "reason"),
    [
        ("01 00 08", 4, "is -8"),
        ("01 00 11", 4, "must be zero"),
        ("01 00 00 80", 16, "below -32767"),
    ],
)
def test_integers_that_nobody_sends_are_refused(data: str, bits: Bits, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        decode_sparse(bytes.fromhex(data), bits, 10, 3)


def test_a_short_lie_about_many_parameters_costs_no_memory() -> None:
    lie = varint(MAX_PARAMETERS - 1) + bytes(20)
    tracemalloc.start()
    with pytest.raises(MalformedError, match="does not have 24 bytes"):
        decode_sparse(lie, 16, MAX_PARAMETERS, MAX_PARAMETERS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_model_that_is_too_large_for_the_format_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="at most 67108864"):
        decode_sparse(b"\0", 8, MAX_PARAMETERS + 1, 1)


def test_an_integer_that_does_not_fit_is_not_encoded() -> None:
    with pytest.raises(OverflowError, match="does not fit 4 bits"):
        encode_sparse(np.array([0, 8], np.int8), 4)


@pytest.mark.parametrize(
    ("share", "count", "kept"),
    [(1.0, 7, 7), (0.5, 7, 4), (0.01, 100, 1), (0.01, 101, 2), (1e-9, 5, 1), (0.07, 100, 8)],
)
def test_the_share_is_rounded_up(share: float, count: int, kept: int) -> None:
    # The last one: 0.07 x 100 is a little more than 7 in float64, on every machine.
    assert kept_count(share, count) == kept


def test_the_largest_content_is_as_large_as_announced() -> None:
    # 128 zeros before each: every gap takes two bytes, and no vector needs more.
    values = {129 * at + 128: 1 for at in range(100)}
    assert len(slowly_encoded(values, 8)) == largest_sparse_bytes(8, 129 * 100, 100)


def test_sparse_updates_go_with_nothing_else_that_remembers_or_hides() -> None:
    sparse = Policy(kept_share=0.1)
    assert problem_with(sparse) == ""
    assert "calibration = 0.5" in problem_with(Policy(kept_share=0.1, calibration=0.5))
    assert "differential privacy" in problem_with(sparse, is_private=True)
    assert "secure aggregation" in problem_with(sparse, is_masked=True)
    assert problem_with(Policy(calibration=0.5), is_private=True, is_masked=True) == ""
