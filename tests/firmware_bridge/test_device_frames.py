"""The frame codec in C against the vectors and, both ways, against the gateway's codec."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.frames import (
    MAX_ENCODED_BYTES,
    MAX_PAYLOAD_BYTES,
    VERSION,
    Decoder,
    Frame,
    FrameErrorReason,
    encode,
)
from tests.firmware_bridge.host_device import SMALL, library

_HEADER_BYTES = 7
_FRAME, _FAILED = 1, 2
REASONS = list(FrameErrorReason)  # in the order of enum jm_error

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    sequence=st.integers(0, 65535),
    payload=st.one_of(
        st.binary(max_size=MAX_PAYLOAD_BYTES),
        st.binary(min_size=1, max_size=3).flatmap(
            lambda each: st.integers(0, MAX_PAYLOAD_BYTES // len(each)).map(lambda n: each * n)
        ),
    ),
    address=st.integers(0, 255),
)


@pytest.fixture(scope="module")
def code() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library(SMALL)))
    loaded.host_decode.restype = loaded.host_encode.restype = ctypes.c_size_t
    return loaded


@pytest.fixture(scope="module")
def vectors(repository: Path) -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, list[dict[str, Any]]] = json.loads(
        (repository / "firmware_bridge/vectors.json").read_text()
    )
    return loaded


def c_decode(code: ctypes.CDLL, line: bytes) -> list[Frame | FrameErrorReason]:
    out = ctypes.create_string_buffer(12 * len(line) + 1)
    room = ctypes.c_size_t(len(out))
    count = code.host_decode(line, ctypes.c_size_t(len(line)), out, room)
    events, at = out.raw[:count], 0
    found: list[Frame | FrameErrorReason] = []
    while at < len(events):
        kind, at = events[at], at + 1
        if kind != _FRAME:
            found.append(REASONS[kind - _FAILED])
            continue
        version, type_, address = events[at : at + 3]
        assert version == VERSION
        sequence = int.from_bytes(events[at + 3 : at + 5], "little")
        length = int.from_bytes(events[at + 5 : at + 7], "little")
        at += _HEADER_BYTES
        found.append(Frame(type_, sequence, events[at : at + length], address))
        at += length
    return found


def c_encode(code: ctypes.CDLL, frame: Frame) -> bytes:
    out = ctypes.create_string_buffer(MAX_ENCODED_BYTES + 1)
    size = ctypes.c_size_t(len(frame.payload))
    count = code.host_encode(frame.type, frame.address, frame.sequence, frame.payload, size, out)
    return out.raw[:count]


def gateway_decode(line: bytes) -> list[Frame | FrameErrorReason]:
    return [each if isinstance(each, Frame) else each.reason for each in Decoder().feed(line)]


def test_the_c_code_encodes_and_decodes_every_vector(
    code: ctypes.CDLL, vectors: dict[str, list[dict[str, Any]]]
) -> None:
    assert len(vectors["frames"]) > 5
    for vector in vectors["frames"]:
        payload = bytes.fromhex(vector["payload"])
        frame = Frame(vector["type"], vector["sequence"], payload, vector["address"])
        encoded = bytes.fromhex(vector["encoded"])
        assert c_encode(code, frame) == encoded, vector["name"]
        assert c_decode(code, encoded) == [frame], vector["name"]


def test_the_c_code_gives_the_reason_of_every_vector_that_is_no_frame(
    code: ctypes.CDLL, vectors: dict[str, list[dict[str, Any]]]
) -> None:
    damaged = vectors["errors"]
    assert len(damaged) > 5
    for vector in damaged:
        encoded = bytes.fromhex(vector["encoded"])
        assert c_decode(code, encoded) == [FrameErrorReason(vector["reason"])], vector["name"]


@given(frame=FRAMES)
def test_both_codecs_encode_the_same_bytes_and_read_each_other(
    code: ctypes.CDLL, frame: Frame
) -> None:
    encoded = c_encode(code, frame)
    assert encoded == encode(frame)
    assert c_decode(code, encoded) == gateway_decode(encoded) == [frame]


@given(frames=st.lists(FRAMES, max_size=4), data=st.data())
def test_both_codecs_say_the_same_of_a_damaged_line(
    code: ctypes.CDLL, frames: list[Frame], data: st.DataObject
) -> None:
    line = bytearray(b"".join(encode(each) for each in frames))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(line)))
        line[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert c_decode(code, bytes(line)) == gateway_decode(bytes(line))


@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"\0", b"\1" * 526, b"\1" * 527, b"\xff" * 600, b"\xff" * 256]),
        ),
        max_size=8,
    )
)
def test_both_codecs_say_the_same_of_any_bytes(code: ctypes.CDLL, pieces: list[bytes]) -> None:
    line = b"".join(pieces)
    assert c_decode(code, line) == gateway_decode(line)
