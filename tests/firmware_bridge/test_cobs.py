"""COBS against the published examples and another implementation."""

import pytest
from cobs import cobs as reference
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import cobs

# Long runs without zeros are where blocks of 254 begin and end.
RUNS = st.lists(st.sampled_from([b"\0", b"\x01", b"\xff" * 253, b"\xfe" * 254, b"ab"]), max_size=8)
DATA = st.binary(max_size=700) | RUNS.map(b"".join)


@given(DATA)
def test_decoding_undoes_encoding_and_the_encoding_has_no_zero(data: bytes) -> None:
    encoded = cobs.encode(data)
    assert cobs.decode(encoded) == data
    assert 0 not in encoded
    assert len(encoded) <= cobs.encoded_bound(len(data))


@given(DATA)
def test_the_encoding_equals_that_of_another_implementation(data: bytes) -> None:
    assert cobs.encode(data) == reference.encode(data)


@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_are_decoded_or_refused_as_another_implementation_does(data: bytes) -> None:
    try:
        expected = reference.decode(data)
    except reference.DecodeError:
        with pytest.raises(cobs.CobsError):
            cobs.decode(data)
    else:
        assert cobs.decode(data) == expected


def test_nothing_is_no_encoding() -> None:
    with pytest.raises(cobs.CobsError):
        cobs.decode(b"")
