"""Decoding, cutting and scaling of pictures; streams of frames in any pieces."""

import io
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from agent.sensors.images.decode import decode_picture
from agent.sensors.images.jpeg import JpegSplitter
from agent.sensors.images.netpbm import NetpbmSplitter, read_header
from agent.sensors.images.picture import LUMA, Picture, PictureError, to_channel

CAP = 1_000_000
RNG = np.random.default_rng(6)


def netpbm(pixels: NDArray[Any], maximum: int = 255, comment: str = "") -> bytes:
    kind = 5 if pixels.shape[2] == 1 else 6
    height, width = pixels.shape[:2]
    head = f"P{kind}\n{comment}{width} {height}\n{maximum}\n".encode()
    return head + pixels.astype(">u2" if maximum > 255 else "u1").tobytes()


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


@given(
    st.sampled_from([1, 3]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 100, 255, 256, 65_535]),
    st.sampled_from(["", "# a comment\n", "#\r\n# two 1 2 3\n"]),
)
def test_netpbm_gives_back_what_was_written(
    colors: int, height: int, width: int, maximum: int, comment: str
) -> None:
    pixels = RNG.integers(0, maximum, (height, width, colors), endpoint=True)
    picture, comments = decode_picture(netpbm(pixels, maximum, comment), CAP)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.maximum == maximum
    assert len(comments) == comment.count("#")


def test_netpbm_agrees_with_pillow() -> None:
    pixels = RNG.integers(0, 256, (7, 5, 3), np.uint8)
    picture, _ = decode_picture(encoded(pixels, "PPM"), CAP)
    assert np.array_equal(picture.pixels, pixels)


@pytest.mark.parametrize(
    "data",
    [
        b"P2\n1 1\n255\n7",
        b"P5 0 1 255 ",
        b"P5 1 1 65536 xx",
        b"P5 2000 1000 255 ",
        b"P5 2 2 255 abc",
        b"P5 2",
        b"P5 " + b"#" * 5000,
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n half",
        b"\xff\xd8\xff\xe0 half",
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        decode_picture(data, CAP)


def test_a_header_is_refused_before_memory_is_taken_for_its_pixels() -> None:
    with pytest.raises(PictureError, match="at most 1000000"):
        read_header(b"P6 999999999 999999999 65535 ", CAP)
    bomb = encoded(np.zeros((1200, 1000), np.uint8), "PNG")
    with pytest.raises(PictureError, match="1000 x 1200 pixels; at most 1000000"):
        decode_picture(bomb, CAP)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", 255),
        ("L", 200),
        ("LA", 200),
        ("I;16", 51_400),
        ("P", 200),
        ("RGB", 200),
        ("RGBA", 200),
    ],
)
def test_png_of_all_modes_of_cameras_is_read(mode: str, expected: int) -> None:
    gray = Image.fromarray(np.full((2, 3), min(expected, 255), np.uint8))
    image = Image.fromarray(np.full((2, 3), 51_400, np.uint16)) if mode == "I;16" else gray
    file = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(file, "PNG")
    picture, _ = decode_picture(file.getvalue(), CAP)
    assert picture.maximum == (65_535 if mode == "I;16" else 255)
    assert picture.pixels.shape[:2] == (2, 3)
    assert (picture.pixels == expected).all()


@pytest.mark.parametrize("kind", ["JPEG", "BMP"])
def test_jpeg_and_bmp_are_read(kind: str) -> None:
    picture, _ = decode_picture(encoded(np.full((8, 8, 3), 120, np.uint8), kind), CAP)
    assert picture.pixels.shape == (8, 8, 3)
    assert np.abs(picture.pixels.astype(int) - 120).max() <= 2


def test_without_pillow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(np.zeros((2, 2), np.uint8), "PNG")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(PictureError, match=r"pip install journeyman\[images\]"):
        decode_picture(data, CAP)
    picture, _ = decode_picture(netpbm(np.zeros((2, 2, 1))), CAP)
    assert picture.pixels.shape == (2, 2, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "BMP", "PPM"]), st.data())
def test_damaged_pictures_are_pictures_or_errors_and_nothing_else(
    kind: str, data: st.DataObject
) -> None:
    content = bytearray(encoded(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), kind))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture, _ = decode_picture(bytes(content[:cut]), CAP)
        except PictureError:
            return
    assert picture.pixels.ndim == 3
    assert picture.pixels.shape[2] in (1, 3)


def test_averaging_by_a_whole_factor_is_the_mean_of_blocks() -> None:
    pixels = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    small = to_channel(Picture(pixels, 255), (3, 3, 2))
    blocks = pixels.reshape(3, 2, 2, 4, 3).mean(axis=(1, 3)) / 255
    assert small.dtype == np.float32
    assert np.allclose(small, blocks.transpose(2, 0, 1), atol=1e-6)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0)
)
def test_averaging_keeps_the_mean_and_the_range(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)
    small = to_channel(Picture(pixels, 255), (1, rows, columns))
    assert small.shape == (1, rows, columns)
    assert small.mean() == pytest.approx(pixels.mean() / 255, abs=1e-5)
    assert small.min() >= 0
    assert small.max() <= 1


def test_averaging_agrees_with_the_exact_areas_of_pixels() -> None:
    pixels = RNG.integers(0, 256, (5, 7, 1), np.uint8)
    fine = pixels.repeat(3, axis=0).repeat(4, axis=1)  # 15 x 28: whole factors of 3 x 4
    exact = fine.reshape(3, 5, 4, 7).mean(axis=(1, 3)) / 255
    assert np.allclose(to_channel(Picture(pixels, 255), (1, 3, 4))[0], exact, atol=1e-6)


def test_colors_become_gray_and_gray_becomes_colors() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[:, :, 0] = 255
    assert to_channel(Picture(red, 255), (1, 1, 1))[0, 0, 0] == pytest.approx(LUMA[0])
    gray = to_channel(Picture(np.full((2, 2, 1), 1023, np.uint16), 1023), (3, 1, 1))
    assert gray.ravel().tolist() == [1, 1, 1]


def test_a_crop_is_cut_before_scaling_and_must_lie_in_the_picture() -> None:
    pixels = np.zeros((4, 6, 1), np.uint8)
    pixels[1:3, 2:5] = 255
    picture = Picture(pixels, 255)
    assert to_channel(picture, (1, 1, 1), (2, 1, 3, 2)).item() == 1
    assert to_channel(picture, (1, 1, 1), (0, 0, 2, 4)).item() == 0
    with pytest.raises(PictureError, match="beyond a picture of 6 x 4"):
        to_channel(picture, (1, 1, 1), (4, 0, 3, 2))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 400))
def test_frames_are_cut_from_a_stream_in_any_pieces(sizes: list[int], piece: int) -> None:
    frames = [netpbm(np.full((size, 2, 1), size)) for size in sizes]
    stream = b"\n".join(frames)
    splitter = NetpbmSplitter(CAP, CAP)
    got = [
        frame
        for at in range(0, len(stream), piece)
        for frame in splitter.feed(stream[at : at + piece])
    ]
    assert got == frames
    assert splitter.pending_bytes == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 700))
def test_jpegs_are_cut_from_a_stream_in_any_pieces(seed: int, piece: int) -> None:
    rng = np.random.default_rng(seed)
    preview = encoded(rng.integers(0, 256, (4, 4, 3), np.uint8), "JPEG")
    frames = [
        encoded(
            rng.integers(0, 256, (16, 16, 3), np.uint8),
            "JPEG",
            comment=preview[:60] + b"\xff\xd9",
            progressive=bool(number % 2),
            restart_marker_rows=number % 3,
        )
        for number in range(3)
    ]
    stream = b"".join(frames)
    splitter = JpegSplitter(CAP)
    got = [
        frame
        for at in range(0, len(stream), piece)
        for frame in splitter.feed(stream[at : at + piece])
    ]
    assert got == frames
    assert splitter.pending_bytes == 0


@pytest.mark.parametrize("splitter", [NetpbmSplitter(CAP, 2000), JpegSplitter(2000)])
def test_a_stream_of_something_else_is_refused(splitter: NetpbmSplitter | JpegSplitter) -> None:
    with pytest.raises(PictureError):
        splitter.feed(b"Traceback (most recent call last):\n")


def test_a_frame_over_the_cap_is_refused_before_it_is_gathered() -> None:
    with pytest.raises(PictureError, match="more than 2000 bytes"):
        NetpbmSplitter(CAP, 2000).feed(b"P5 100 100 255 ")
    jpeg = JpegSplitter(2000)
    jpeg.feed(encoded(np.zeros((8, 8), np.uint8), "JPEG")[:-2])
    with pytest.raises(PictureError, match="more than 2000 bytes"):
        jpeg.feed(bytes(2000))


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_stream_gives_frames_or_a_picture_error(data: bytes, piece: int) -> None:
    for splitter in (NetpbmSplitter(CAP, CAP), JpegSplitter(CAP)):
        try:
            for at in range(0, len(data), piece):
                splitter.feed(data[at : at + piece])
        except PictureError:
            continue
        assert splitter.pending_bytes <= len(data)
