"""The fast framer against one that looks at one byte after another."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.lines import framing
from agent.sensors.lines.binary import frame_layout
from agent.sensors.lines.checksums import ChecksumName, checksum
from agent.sensors.lines.framing import FrameFramer, FrameLayout, Frames, LineFramer
from agent.sensors.lines.settings import BinaryChannel, BinarySettings


@pytest.fixture(autouse=True, scope="module")
def _short_looks() -> Iterator[None]:
    """So that runs of a few frames are looked at in several steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "_FIRST_LOOK_BYTES", 20)
        yield


CHANNEL = (BinaryChannel(name="v", field="v"),)


def fixed(name: ChecksumName = "crc16-modbus", end: str = "") -> FrameLayout:
    return frame_layout(
        BinarySettings(
            device="/dev/null",
            sync="AA",
            end=end,
            byte_order="little",
            fields={"v": "H", "_": "2x"},
            checksum=name,
            channel=CHANNEL,
        )
    )


def sized(name: ChecksumName = "crc16-ccitt") -> FrameLayout:
    return frame_layout(
        BinarySettings(
            device="/dev/null",
            sync="AA AB",
            byte_order="big",
            fields={"v": "B"},
            length_at=2,
            length_type="u16",
            length_adds=4 + checksum(name).size,
            max_frame_bytes=40,
            checksum=name,
            checksum_from=2,
            channel=CHANNEL,
        )
    )


LAYOUTS = (fixed(), fixed("sum8", "0D"), fixed("none"), fixed("xor8"), sized(), sized("none"))


def frame(layout: FrameLayout, payload: bytes) -> bytes:
    """A good frame: the payload takes the place of length field and fields."""
    if layout.size is None:
        body = layout.sync + len(payload).to_bytes(2, "big") + payload
    else:
        body = layout.sync + payload[:4].ljust(4, b"\x00")
    value = layout.checksum.of(body[layout.checksum_from :])
    order = "big" if layout.is_checksum_big else "little"
    return body + value.to_bytes(layout.checksum.size, order) + layout.end  # type: ignore[arg-type]


def one_by_one(layout: FrameLayout, stream: bytes) -> list[tuple[int, int]]:
    """Start and size of each frame, by trying every byte; the definition of what is expected."""
    found, at = [], 0
    while at < len(stream):
        size = layout.size_of(stream, at)
        if stream[at:].startswith(layout.sync) and (size is None or at + size > len(stream)):
            break  # waits for more
        size = size or 0
        candidate = stream[at : at + size]
        value_at = layout.checksum_at % size if layout.checksum_at and size else size
        order = "big" if layout.is_checksum_big else "little"
        value = int.from_bytes(
            candidate[value_at : value_at + layout.checksum.size],
            order,  # type: ignore[arg-type]
        )
        is_good = (
            size > 0
            and candidate.startswith(layout.sync)
            and candidate.endswith(layout.end)
            and layout.checksum.of(candidate[layout.checksum_from : value_at]) == value
        )
        if is_good:
            found.append((at, size))
        at += size if is_good else 1
    return found


def spans(frames: Frames) -> list[tuple[int, int]]:
    return [
        (int(end - size), int(size)) for end, size in zip(frames.ends, frames.sizes, strict=True)
    ]


def changed(good: bytes, at: int, bits: int) -> bytes:
    """The frame with some bits of one byte flipped."""
    damaged = bytearray(good)
    damaged[at % len(good)] ^= bits
    return bytes(damaged)


@st.composite
def streams(draw: st.DrawFn) -> tuple[FrameLayout, bytes]:
    """Good frames in runs, cut ones, and garbage that likes to look like the start of a frame."""
    layout = draw(st.sampled_from(LAYOUTS))
    payload = st.binary(max_size=12) | st.binary(max_size=4).map(lambda some: layout.sync + some)
    good = payload.map(lambda some: frame(layout, some))
    run = st.tuples(good, st.integers(1, 90)).map(lambda pair: pair[0] * pair[1])
    cut = st.tuples(good, st.integers(0, 11)).map(lambda pair: pair[0][: pair[1]])
    flipped = st.builds(changed, good, st.integers(0, 20), st.integers(1, 255))
    garbage = st.binary(max_size=9) | st.just(layout.sync) | st.just(layout.sync + b"\x00\x05")
    parts = draw(st.lists(st.one_of(good, run, cut, flipped, garbage), max_size=12))
    return layout, b"".join(parts)


@given(streams(), st.lists(st.integers(1, 400), max_size=20))
def test_any_stream_in_any_pieces_gives_the_frames_that_one_byte_after_another_gives(
    case: tuple[FrameLayout, bytes], cuts: list[int]
) -> None:
    layout, stream = case
    framer = FrameFramer(layout)
    found, rest = [], stream
    for cut in cuts:
        found += spans(framer.push(rest[:cut]))
        rest = rest[cut:]
    found += spans(framer.push(rest))
    assert found == one_by_one(layout, stream)
    kept = len(stream) - framer.kept
    assert sum(size for _, size in found) + framer.discarded_bytes + kept == len(stream)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_changed_byte_in_a_long_run_is_found_wherever_it_is(layout: FrameLayout) -> None:
    good = frame(layout, b"good")
    for at in range(len(good)):
        for bits in (1, 2, 0x80):
            stream = good * 30 + changed(good, at, bits) + good * 30
            assert spans(FrameFramer(layout).push(stream)) == one_by_one(layout, stream)


def test_a_good_frame_that_begins_inside_a_bad_one_is_found() -> None:
    layout = fixed()
    good = frame(layout, b"good")
    stream = b"\xaa\x01" + good + b"\xaa\xaa\xaa" + good + good
    found = spans(FrameFramer(layout).push(stream))
    assert found == [(2, 7), (12, 7), (19, 7)]


def test_a_length_that_promises_too_much_delays_good_frames_only_until_the_line_is_quiet() -> None:
    layout = sized()
    good = frame(layout, b"good")
    framer = FrameFramer(layout)
    assert spans(framer.push(b"\xaa\xab\x00\x20" + good)) == []
    assert spans(framer.flush()) == [(4, len(good))]
    assert framer.bad_frames == 1


def test_a_frame_after_thrown_away_bytes_is_marked_and_the_next_is_not() -> None:
    layout = fixed()
    good = frame(layout, b"good")
    framer = FrameFramer(layout)
    framer.push(b"noise")
    frames = framer.push(good * 3)
    assert frames.is_after_loss.tolist() == [True, False, False]
    assert framer.push(good).is_after_loss.tolist() == [False]


def test_what_is_kept_stays_bounded_whatever_comes() -> None:
    rng = np.random.default_rng(3)
    framers = [FrameFramer(layout) for layout in LAYOUTS]
    lines = LineFramer(b"\r\n", 50, is_first_whole=True)
    for _ in range(200):
        data = rng.choice(np.frombuffer(b"\xaa\xab\x00\x20\r", np.uint8), 100).tobytes()
        lines.push(data)
        for framer in framers:
            framer.push(data)
            assert framer.offset - framer.kept <= framer.layout.max_size
        assert lines.offset - lines.kept <= 52


def test_a_checksum_may_stand_anywhere() -> None:
    settings = BinarySettings(
        device="/dev/null",
        sync="55",
        byte_order="big",
        fields={"v": "H"},
        fields_at=3,
        checksum="sum8",
        checksum_at=2,
        channel=CHANNEL,
    )
    good = b"\x55\x01" + bytes([checksum("sum8").of(b"\x55\x01")]) + b"\x12\x34"
    assert spans(FrameFramer(frame_layout(settings)).push(good * 3)) == [(0, 5), (5, 5), (10, 5)]


@given(
    st.lists(st.binary(max_size=12) | st.sampled_from([b"\r\n", b"abc\r\n", b"\r"]), max_size=30),
    st.lists(st.integers(1, 30), max_size=30),
)
def test_lines_are_the_same_in_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    framer = LineFramer(b"\r\n", 8, is_first_whole=True)
    contents, ends, rest = [], [], stream
    for cut in [*cuts, len(stream) + 1]:
        lines = framer.push(rest[:cut])
        contents += lines.contents
        ends += lines.ends
        rest = rest[cut:]
    whole = stream.split(b"\r\n")[:-1]
    assert contents == [line if len(line) <= 8 else None for line in whole]
    assert ends == np.cumsum([len(line) + 2 for line in whole]).tolist()


@pytest.mark.parametrize("cut", range(1, 9))
def test_the_rest_of_a_line_is_not_taken_for_a_line(cut: int) -> None:
    framer = LineFramer(b"\n", 80, is_first_whole=False)
    found = framer.push(b"-12.5;30"[cut:]).contents + framer.push(b"\n7;8\n").contents
    assert found == [b"7;8"]
