"""PGM and PPM in their binary forms, P5 and P6 (netpbm's manual pages pgm(5) and ppm(5)).

    P5 640 480 255<one white space>...640 x 480 bytes...

The simplest format in which a program can print frames one after the other.  Refuses plain text
forms, headers over `MAX_HEADER_BYTES` and pictures over a cap, before memory is taken for them.
Pure.
"""

import re
from dataclasses import dataclass

import numpy as np

from agent.sensors.images.picture import Picture, PictureError

MAX_HEADER_BYTES = 4096
_GAP = rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(
    rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})[ \t\r\n\v\f]"
)
_COMMENT = re.compile(rb"#([^\r\n]*)")
_BEGIN = (b"P5", b"P6")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the pixels.

    Attributes:
      colors: 1 or 3.
      width, height: in pixels.
      maximum: full brightness; over 255, each number has two bytes, the higher one first.
      at: bytes of the header.
      comments: without their signs.
    """

    colors: int
    width: int
    height: int
    maximum: int
    at: int
    comments: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of header and pixels."""
        wide = 2 if self.maximum > 255 else 1
        return self.at + self.width * self.height * self.colors * wide


def read_header(data: bytes | bytearray, max_pixels: int) -> Header | None:
    """Read a header; None when its end is not there yet.

    Raises:
      PictureError: this is no header, or one of a picture over the cap.
    """
    begin = bytes(data[:MAX_HEADER_BYTES])
    found = _HEADER.match(begin)
    if found is None:
        if len(begin) >= MAX_HEADER_BYTES or not any(b.startswith(begin[:2]) for b in _BEGIN):
            raise PictureError(f"not a P5 or P6 header: {begin[:16]!r}")
        return None
    kind, width, height, maximum = (int(each) for each in found.groups())
    if not width or not height or not 0 < maximum < 65_536:
        raise PictureError(f"a header with impossible numbers: {begin[: found.end()][:60]!r}")
    if width * height > max_pixels:
        raise PictureError(f"{width} x {height} pixels; at most {max_pixels} are allowed")
    comments = tuple(text.decode("ascii", "replace").strip() for text in _COMMENT.findall(found[0]))
    return Header(1 if kind == 5 else 3, width, height, maximum, found.end(), comments)


def decode_netpbm(data: bytes, max_pixels: int) -> tuple[Picture, tuple[str, ...]]:
    """Read one whole picture, and the comments of its header.

    Raises:
      PictureError: it is none, is not whole, or has more pixels than allowed.
    """
    header = read_header(data, max_pixels)
    if header is None or len(data) < header.size_bytes:
        raise PictureError(f"the picture ends after {len(data)} bytes")
    count = header.width * header.height * header.colors
    shape = (header.height, header.width, header.colors)
    if header.maximum > 255:
        wide = np.frombuffer(data, ">u2", count, header.at).astype(np.uint16)
        return Picture(wide.reshape(shape), header.maximum), header.comments
    narrow = np.frombuffer(data, np.uint8, count, header.at)
    return Picture(narrow.reshape(shape), header.maximum), header.comments


class NetpbmSplitter:
    """Cuts a stream of concatenated pictures; holds at most one that is not whole."""

    def __init__(self, max_pixels: int, max_bytes: int) -> None:
        self._max_pixels, self._max_bytes = max_pixels, max_bytes
        self._data = bytearray()
        self._header: Header | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes of a picture that is not whole yet."""
        return len(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; give the pictures that they complete.

        Raises:
          PictureError: what comes is no picture; nothing after it can be trusted.
        """
        self._data += data
        frames: list[bytes] = []
        while True:
            if self._header is None:
                self._data = self._data.lstrip() if self._data[:1].isspace() else self._data
                if not self._data:
                    return frames
                self._header = read_header(self._data, self._max_pixels)
            if self._header is None or len(self._data) < self._header.size_bytes:
                if self._header is not None and self._header.size_bytes > self._max_bytes:
                    raise PictureError(f"a frame of more than {self._max_bytes} bytes")
                return frames
            size = self._header.size_bytes
            frames.append(bytes(self._data[:size]))
            del self._data[:size]
            self._header = None
