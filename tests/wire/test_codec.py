"""Envelopes: any bytes give a value or `WireError`, and nothing forged is ever a value."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.codec import (
    KINDS,
    MAX_BYTES,
    Counter,
    ReplayGuard,
    open_envelope,
    parse_body,
    seal,
    seal_bytes,
    unseal,
)
from wire.errors import MalformedError, ReplayError, SignatureError, TooLargeError, WireError
from wire.messages import Command, CoordinatorState, Message, Policy, Receipt, Receipts
from wire.signing import PrivateKey

KEY = PrivateKey(bytes([3] * 32))
STATE = CoordinatorState(status="online", session=7)


def sealed(
    message: Message = STATE,
    federation: str = "plant-net",
    signer: str = "coordinator",
    counter: int = 5,
) -> bytes:
    return seal(message, federation=federation, signer=signer, counter=counter, key=KEY)


def opened_state(data: bytes, federation: str = "plant-net") -> tuple[CoordinatorState, int]:
    return unseal(
        data, CoordinatorState, federation=federation, signer="coordinator", key=KEY.public
    )


def with_fields(data: bytes, **changes: object) -> bytes:
    """The same envelope with outside fields changed and the signature left as it was."""
    names = ["version", "kind", "signer", "counter", "body", "signature"]
    fields = dict(zip(names, msgspec.msgpack.decode(data), strict=True)) | changes
    return msgspec.msgpack.encode(list(fields.values()))


def test_a_sealed_message_comes_back_with_its_counter() -> None:
    assert opened_state(sealed()) == (STATE, 5)


@given(st.binary(max_size=400), st.sampled_from(sorted(MAX_BYTES)))
def test_any_bytes_give_a_value_or_a_wire_error(data: bytes, kind: str) -> None:
    try:
        open_envelope(data, kind)
    except WireError:
        return
    assert len(msgspec.msgpack.decode(data)) == 6


@given(st.data())
def test_any_body_gives_a_value_or_a_wire_error(data: st.DataObject) -> None:
    what = data.draw(st.sampled_from(sorted(KINDS, key=str)))
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=40),
    )
    fields = st.sampled_from(what.__struct_fields__) | st.text(max_size=10)
    trees = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields, inner, max_size=6),
        max_leaves=12,
    )
    body = msgspec.msgpack.encode(data.draw(trees))
    envelope = seal_bytes(KINDS[what], body, federation="plant-net", signer="x", counter=1, key=KEY)
    try:
        value, _ = unseal(envelope, what, federation="plant-net", signer="x", key=KEY.public)
    except WireError:
        return
    assert isinstance(value, what)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_envelope_with_one_byte_changed_is_refused(position: int, change: int) -> None:
    data = bytearray(sealed())
    data[position % len(data)] ^= change
    with pytest.raises(WireError):
        opened_state(bytes(data))


@given(st.integers(0, 500))
def test_a_truncated_envelope_is_refused(length: int) -> None:
    data = sealed()
    with pytest.raises(MalformedError):
        opened_state(data[: length % len(data)])


def test_bytes_after_the_envelope_are_refused() -> None:
    with pytest.raises(MalformedError, match="trailing"):
        opened_state(sealed() + b"\0")


def test_a_changed_body_does_not_verify() -> None:
    body = msgspec.msgpack.encode(CoordinatorState(status="offline", session=7))
    with pytest.raises(SignatureError, match="does not verify"):
        opened_state(with_fields(sealed(), body=body))


def test_a_changed_counter_does_not_verify() -> None:
    with pytest.raises(SignatureError):
        opened_state(with_fields(sealed(), counter=6))


def test_a_message_signed_by_one_key_does_not_verify_under_another() -> None:
    stranger = PrivateKey(bytes([9] * 32))
    with pytest.raises(SignatureError):
        unseal(
            sealed(),
            CoordinatorState,
            federation="plant-net",
            signer="coordinator",
            key=stranger.public,
        )


def test_a_message_of_one_federation_is_not_valid_in_another() -> None:
    with pytest.raises(SignatureError):
        opened_state(sealed(), federation="other-net")


def test_a_message_of_one_kind_is_not_valid_as_another() -> None:
    command = sealed(Command(name="pause"))
    with pytest.raises(MalformedError, match="expected a coordinator-state"):
        opened_state(command)
    with pytest.raises(SignatureError):
        opened_state(with_fields(command, kind="coordinator-state"))


def test_a_message_of_one_signer_is_not_valid_as_anothers() -> None:
    agents = sealed(signer="agent-1")
    with pytest.raises(MalformedError, match="signed by 'agent-1', expected 'coordinator'"):
        opened_state(agents)
    with pytest.raises(SignatureError):
        opened_state(with_fields(agents, signer="coordinator"))


@pytest.mark.parametrize("signer", ["", "a\0b", "a/b", "+", "#", "a\n", "é", "a" * 64, "-a"])
def test_a_signer_that_is_not_a_name_is_refused(signer: str) -> None:
    with pytest.raises(MalformedError):
        open_envelope(sealed(signer=signer), "coordinator-state")


def test_another_protocol_version_is_refused_by_its_number() -> None:
    with pytest.raises(MalformedError, match="protocol version 2; this program speaks version 1"):
        opened_state(with_fields(sealed(), version=2))


@pytest.mark.parametrize("kind", sorted(MAX_BYTES))
def test_size_is_checked_before_anything_is_decoded(kind: str) -> None:
    not_messagepack = b"\xc1" * (MAX_BYTES[kind] + 1)
    with pytest.raises(TooLargeError, match=f"{kind} of {len(not_messagepack)} bytes"):
        open_envelope(not_messagepack, kind)


def test_a_message_over_its_cap_is_never_sealed() -> None:
    receipt = Receipt(incarnation="0" * 16, sequence=1, status="wanted", reason="x" * 500)
    with pytest.raises(TooLargeError):
        sealed(Receipts(items=(msgspec.structs.replace(receipt, wanted=bytes(512)),) * 256))


def test_a_length_field_can_not_make_the_decoder_allocate() -> None:
    huge_array = b"\xdd\xff\xff\xff\xff"
    for body in (huge_array, b"\x81\xa5items" + huge_array, b"\xdf\xff\xff\xff\xff"):
        envelope = seal_bytes(
            "receipts", body, federation="plant-net", signer="x", counter=1, key=KEY
        )
        with pytest.raises(MalformedError):
            unseal(envelope, Receipts, federation="plant-net", signer="x", key=KEY.public)


def test_deep_nesting_is_malformed_and_not_a_crash() -> None:
    envelope = seal_bytes(
        "command",
        b"\x81\xa1x" + b"\x91" * 4000 + b"\xc0",
        federation="plant-net",
        signer="x",
        counter=1,
        key=KEY,
    )
    with pytest.raises(MalformedError):
        unseal(envelope, Command, federation="plant-net", signer="x", key=KEY.public)


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    body = msgspec.msgpack.encode({"status": "online", "session": 7, "mood": "good"})
    envelope = seal_bytes(
        "coordinator-state",
        body,
        federation="plant-net",
        signer="coordinator",
        counter=5,
        key=KEY,
    )
    assert opened_state(envelope) == (STATE, 5)


@pytest.mark.parametrize("incarnation", ["0" * 16 + "\n", "0" * 15, "0" * 17, "G" * 16, "A" * 16])
def test_an_incarnation_is_exactly_sixteen_hexadecimal_digits(incarnation: str) -> None:
    receipts = Receipts(items=(Receipt(incarnation=incarnation, sequence=1, status="folded"),))
    with pytest.raises(MalformedError):
        parse_body(open_envelope(sealed(receipts), "receipts"), Receipts)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 2.0])
def test_numbers_that_are_not_in_range_are_refused(number: float) -> None:
    body = msgspec.msgpack.encode({"scale": number})
    opened = replace(open_envelope(sealed(), "coordinator-state"), body=body)
    with pytest.raises(MalformedError, match="scale"):
        parse_body(opened, Policy)


def test_a_counter_is_accepted_once_and_never_out_of_order() -> None:
    guard = ReplayGuard()
    guard.accept(5, "receipts")
    with pytest.raises(ReplayError, match="counter 5 is not above 5"):
        guard.accept(5, "receipts")
    with pytest.raises(ReplayError):
        guard.accept(4, "receipts")
    guard.accept(6, "receipts")
    assert guard.last == 6


@given(st.lists(st.integers(0, 40)))
def test_what_a_guard_accepts_always_grows(counters: list[int]) -> None:
    guard, accepted = ReplayGuard(), []
    for counter in counters:
        try:
            guard.accept(counter, "x")
        except ReplayError:
            continue
        accepted.append(counter)
    assert accepted == sorted(set(accepted))
    assert not counters or max(accepted) == max(counters)


def test_a_later_session_counts_above_everything_of_an_earlier_one() -> None:
    earlier, later = Counter(3), Counter(4)
    last = [earlier.next() for _ in range(1000)][-1]
    assert last == (3 << 32) + 1000
    assert later.next() > last
