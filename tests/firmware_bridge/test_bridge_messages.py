"""Payloads of the link, and the messages of the local socket: any bytes give a value or None."""

import contextlib
import struct
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import messages
from firmware_bridge.messages import Refusal, Status
from wire.bridge import Confirm, Deploy, FromBridge, Gap, Samples, from_bridge, pack, to_bridge
from wire.errors import TooLargeError, WireError

PARSERS = (
    messages.parse_hello,
    messages.parse_sensor,
    messages.parse_score,
    messages.parse_log,
    messages.parse_answer,
    messages.parse_connected,
    messages.parse_timed,
    messages.parse_polled,
    messages.parse_slots,
    messages.parse_begun,
    messages.parse_written,
)
SAMPLES = Samples("spindle", "slow", 1_000, 20.0, 2, 1, bytes(8))


@given(st.sampled_from(PARSERS), st.binary(max_size=520))
def test_no_payload_raises(parse: Callable[[bytes], object], payload: bytes) -> None:
    parse(payload)


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 15), st.binary(min_size=16))
def test_samples_come_out_as_they_were_sent(
    number: int, channels: int, count: int, noise: bytes
) -> None:
    dtype = ("<i2", "<i4", "<f4")[number - 1]
    values = np.resize(np.frombuffer(noise, "u1"), (count, channels)).astype(dtype)
    head = struct.pack("<BBBBQI", 7, number, channels, count, 123_456_789_012, 500)
    sensor = messages.parse_sensor(head + values.tobytes())
    assert sensor is not None
    assert (sensor.stream, sensor.time_us, sensor.period_us) == (7, 123_456_789_012, 500)
    assert np.array_equal(sensor.values, values)
    assert messages.parse_sensor(head + values.tobytes() + b"\0") is None


def test_an_answer_says_why_in_words() -> None:
    answer = messages.parse_answer(bytes((Status.REFUSED, Refusal.ARENA_TOO_SMALL)))
    assert str(answer) == "refused: arena too small"
    assert str(messages.parse_answer(bytes((Status.REFUSED, 200)))) == "refused: reason 200"
    assert messages.parse_answer(bytes((99,))) is None


def test_a_window_or_payload_outside_the_limits_is_no_connection() -> None:
    body = struct.pack("<BBHIB16sIII", 1, 4, 512, 9, 3, bytes(16), 65_536, 16_384, 62) + b"v1"
    known = messages.parse_connected(body)
    assert known is not None
    assert known.has_slots
    assert known.polls_only
    assert known.firmware == "v1"
    for at, value in ((1, 0), (1, 17), (2, 63)):
        assert messages.parse_connected(body[:at] + bytes((value, 0)) + body[at + 2 :]) is None


def test_a_message_of_the_socket_survives_any_cut() -> None:
    sent: list[FromBridge] = [SAMPLES, Gap("spindle", "slow", 1, 2, "frames lost", 3)]
    packed = b"".join([pack(each) for each in sent])
    for cut in range(len(packed)):
        stream = from_bridge()
        assert [*stream.feed(packed[:cut]), *stream.feed(packed[cut:])] == sent


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_a_wire_error(noise: bytes) -> None:
    for stream in (from_bridge(), to_bridge()):
        with contextlib.suppress(WireError):
            list(stream.feed(noise))


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLargeError):
        list(from_bridge().feed((1 << 30).to_bytes(4, "little")))
    with pytest.raises(TooLargeError):
        pack(Deploy("spindle", bytes(5 << 20), 60))


def test_a_client_can_not_send_what_the_bridge_sends() -> None:
    with pytest.raises(WireError):
        list(to_bridge().feed(pack(SAMPLES)))
    order = Confirm("spindle", bytes(32))
    assert list(to_bridge().feed(pack(order))) == [order]


def test_samples_whose_values_do_not_fit_their_shape_are_refused() -> None:
    body = msgspec.msgpack.encode(["samples", "d", "s", 1, 1.0, 3, 1, bytes(8)])
    with pytest.raises(WireError):
        list(from_bridge().feed(len(body).to_bytes(4, "little") + body))
