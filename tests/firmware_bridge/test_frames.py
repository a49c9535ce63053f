"""The frame codec against its specification, its vectors, and damage of every kind."""

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.frames import (
    MAX_ENCODED_BYTES,
    MAX_PAYLOAD_BYTES,
    Decoder,
    Frame,
    FrameError,
    FrameErrorReason,
    FrameType,
    encode,
)

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    sequence=st.integers(0, 65535),
    payload=st.binary(max_size=MAX_PAYLOAD_BYTES),
    address=st.integers(0, 255),
)


@pytest.fixture(scope="module")
def vectors(repository: Path) -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, list[dict[str, Any]]] = json.loads(
        (repository / "firmware_bridge/vectors.json").read_text()
    )
    return loaded


def fed_in_pieces(stream: bytes, cuts: list[int]) -> list[Frame | FrameError]:
    decoder = Decoder()
    items: list[Frame | FrameError] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        items += decoder.feed(stream[start:end])
    return items


def test_every_frame_of_the_vectors_is_encoded_and_decoded_exactly(
    vectors: dict[str, list[dict[str, Any]]],
) -> None:
    for vector in vectors["frames"]:
        frame = Frame(
            vector["type"],
            vector["sequence"],
            bytes.fromhex(vector["payload"]),
            vector["address"],
        )
        encoded = bytes.fromhex(vector["encoded"])
        assert encode(frame) == encoded, vector["name"]
        assert Decoder().feed(encoded) == [frame], vector["name"]


def test_every_damaged_frame_of_the_vectors_is_refused_for_its_reason(
    vectors: dict[str, list[dict[str, Any]]],
) -> None:
    for vector in vectors["errors"]:
        (error,) = Decoder().feed(bytes.fromhex(vector["encoded"]))
        assert isinstance(error, FrameError), vector["name"]
        assert error.reason.value == vector["reason"], vector["name"]
    assert {vector["reason"] for vector in vectors["errors"]} == {
        reason.value for reason in FrameErrorReason
    }


def test_the_specification_shows_only_vectors_that_are_tested(
    repository: Path, vectors: dict[str, list[dict[str, Any]]]
) -> None:
    text = (repository / "firmware_bridge/FRAMING.md").read_text()
    shown = re.findall(r"\| `([0-9a-f]+00)` \|", text)
    tested = {vector["encoded"] for vector in vectors["frames"] + vectors["errors"]}
    assert len(shown) > 8
    assert set(shown) <= tested


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(min_value=0), max_size=8))
def test_frames_come_back_whole_however_the_port_cuts_the_stream(
    frames: list[Frame], cuts: list[int]
) -> None:
    stream = b"".join(encode(frame) for frame in frames)
    assert fed_in_pieces(stream, cuts) == frames


@given(st.lists(st.binary(max_size=900), max_size=6))
def test_any_bytes_yield_frames_or_errors_and_memory_stays_bounded(pieces: list[bytes]) -> None:
    decoder = Decoder()
    items: list[Frame | FrameError] = []
    for piece in pieces:
        items += decoder.feed(piece)
        assert decoder.pending_bytes <= MAX_ENCODED_BYTES
    assert all(isinstance(item, Frame | FrameError) for item in items)
    frames = [item for item in items if isinstance(item, Frame)]
    assert decoder.counters.frames == len(frames)
    assert decoder.counters.error_total == len(items) - len(frames)


@given(st.binary(max_size=1500), st.lists(st.integers(min_value=0), max_size=8))
def test_where_the_stream_is_cut_changes_nothing_in_the_verdict(
    stream: bytes, cuts: list[int]
) -> None:
    assert fed_in_pieces(stream, cuts) == Decoder().feed(stream)


@given(st.binary(max_size=2000), FRAMES)
def test_the_frame_behind_the_next_delimiter_survives_any_garbage(
    garbage: bytes, frame: Frame
) -> None:
    assert Decoder().feed(garbage + b"\0" + encode(frame))[-1] == frame


@given(FRAMES, st.data())
def test_a_frame_with_one_flipped_bit_is_never_accepted(frame: Frame, data: st.DataObject) -> None:
    damaged = bytearray(encode(frame))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    items = Decoder().feed(bytes(damaged) + b"\0")
    assert items
    assert not any(isinstance(item, Frame) for item in items)


def test_of_ten_thousand_frames_on_a_bad_line_only_true_ones_are_accepted() -> None:
    generator = random.Random(8)
    decoder = Decoder()
    sent: set[bytes] = set()
    accepted: list[Frame] = []
    for sequence in range(10_000):
        frame = Frame(FrameType.SENSOR, sequence, generator.randbytes(generator.randrange(64)))
        sent.add(encode(frame))
        line = bytearray(encode(frame))
        if generator.random() < 0.3:
            line[generator.randrange(len(line))] ^= generator.randrange(1, 256)
        if generator.random() < 0.1:
            del line[generator.randrange(len(line))]
        accepted += [item for item in decoder.feed(bytes(line)) if isinstance(item, Frame)]
    assert all(encode(frame) in sent for frame in accepted)
    assert len(accepted) > 5_000
    first, last = accepted[0].sequence, accepted[-1].sequence
    assert decoder.counters.missing == last - first + 1 - len(accepted)
    assert decoder.counters.restarts == 0


def test_missing_frames_are_counted_across_the_wrap_of_the_sequence() -> None:
    decoder = Decoder()
    for sequence in (65534, 65535, 0, 3):
        decoder.feed(encode(Frame(FrameType.SENSOR, sequence, b"")))
    assert decoder.counters.missing == 2


def test_each_device_of_a_shared_line_has_its_own_numbering() -> None:
    decoder = Decoder()
    for sequence in range(5):
        for address in (0x81, 0x82):
            decoder.feed(encode(Frame(FrameType.SENSOR, sequence + address, b"", address)))
    assert decoder.counters.missing == 0
    assert decoder.counters.restarts == 0


def test_a_restart_announced_by_hello_is_neither_loss_nor_an_unannounced_restart() -> None:
    decoder = Decoder()
    for frame_type, sequence in [
        (FrameType.SENSOR, 500),
        (FrameType.HELLO, 0),
        (FrameType.SENSOR, 1),
        (FrameType.SENSOR, 0),
    ]:
        decoder.feed(encode(Frame(frame_type, sequence, b"")))
    assert decoder.counters.missing == 0
    assert decoder.counters.restarts == 1


def test_acknowledged_types_do_not_disturb_the_gap_counter() -> None:
    decoder = Decoder()
    for frame_type, sequence in [(2, 1), (0x40, 900), (2, 2), (0x40, 900), (0xC0, 5)]:
        decoder.feed(encode(Frame(frame_type, sequence, b"")))
    assert (decoder.counters.missing, decoder.counters.restarts) == (0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": 256},
        {"type": -1},
        {"sequence": 65536},
        {"address": 256},
        {"payload": bytes(MAX_PAYLOAD_BYTES + 1)},
    ],
    ids=str,
)
def test_a_frame_outside_the_limits_cannot_be_made(fields: dict[str, Any]) -> None:
    within: dict[str, Any] = {"type": 2, "sequence": 0, "payload": b""}
    with pytest.raises(ValueError, match="is outside 0 to"):
        Frame(**(within | fields))


def test_a_stream_without_a_delimiter_is_reported_once_and_then_recovered_from() -> None:
    decoder = Decoder()
    for _ in range(100):
        decoder.feed(b"\x55" * 1000)
    frame = Frame(FrameType.LOG, 1, b"back")
    assert decoder.counters.errors[FrameErrorReason.OVERSIZE] == 1
    assert decoder.feed(b"\0" + encode(frame)) == [frame]
