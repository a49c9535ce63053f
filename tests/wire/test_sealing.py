"""What is sealed to one X25519 key, and who can open it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import MalformedError, SignatureError, WireError
from wire.sealing import OVERHEAD_BYTES, open_sealed, seal_to
from wire.sealing_keys import SealingKey

KEY, OTHER = SealingKey(bytes(range(32))), SealingKey(bytes(range(1, 33)))


@given(st.binary(max_size=300), st.binary(max_size=40), st.binary(max_size=40))
def test_the_recipient_reads_what_was_sealed(message: bytes, aad: bytes, info: bytes) -> None:
    sealed = seal_to(KEY.public, message, aad=aad, info=info)
    assert len(sealed) == len(message) + OVERHEAD_BYTES
    assert open_sealed(KEY.raw, sealed, aad=aad, info=info) == message


def test_two_seals_of_one_message_have_nothing_in_common() -> None:
    first, second = (seal_to(KEY.public, bytes(64), aad=b"", info=b"") for _ in range(2))
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


@pytest.mark.parametrize(
    ("key", "aad", "info"),
    [(OTHER.raw, b"a", b"i"), (KEY.raw, b"b", b"i"), (KEY.raw, b"a", b"j")],
    ids=["another key", "another message's place", "another purpose"],
)
def test_it_opens_for_nothing_else(key: bytes, aad: bytes, info: bytes) -> None:
    sealed = seal_to(KEY.public, b"secret", aad=b"a", info=b"i")
    with pytest.raises(SignatureError, match="altered, or is not for this key"):
        open_sealed(key, sealed, aad=aad, info=info)


def test_any_altered_bit_is_noticed() -> None:
    sealed = seal_to(KEY.public, b"secret", aad=b"", info=b"")
    for place in range(8 * len(sealed)):
        if place == 8 * 31 + 7:  # X25519 ignores the highest bit of a public key (RFC 7748, 5)
            continue
        altered = bytearray(sealed)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(WireError):
            open_sealed(KEY.raw, bytes(altered), aad=b"", info=b"")


def test_the_ignored_bit_of_a_key_does_not_make_a_second_message() -> None:
    sealed = bytearray(seal_to(KEY.public, b"secret", aad=b"", info=b""))
    sealed[31] ^= 0x80
    with pytest.raises(SignatureError):
        open_sealed(KEY.raw, bytes(sealed), aad=b"", info=b"")


@pytest.mark.parametrize("recipient", [b"", bytes(31), bytes(32), b"\x01" + bytes(31)])
def test_nothing_is_sealed_to_what_is_no_key(recipient: bytes) -> None:
    with pytest.raises(MalformedError, match="not a sealing key"):
        seal_to(recipient, b"secret", aad=b"", info=b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(WireError):
        open_sealed(KEY.raw, data, aad=b"", info=b"")


def test_a_key_of_small_order_opens_nothing() -> None:
    with pytest.raises(MalformedError, match="not a sealing key"):
        open_sealed(KEY.raw, bytes(32) + os.urandom(40), aad=b"", info=b"")
