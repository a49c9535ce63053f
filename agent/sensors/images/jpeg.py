"""Cuts a stream of JPEG pictures (Motion JPEG) at their markers (ITU-T T.81, annex B).

The segments before the scan are stepped over by their lengths, because a preview inside one of
them ends like a picture.  Decodes nothing; pure.
"""

import re

from agent.sensors.images.picture import PictureError

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Within a scan, 0xFF is stuffed with a zero or is a restart marker (T.81, B.1.1.5)."""


class JpegSplitter:
    """Cuts a stream of concatenated pictures; holds at most one that is not whole."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._at = 0
        self._in_scan = False

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
        while self._reaches_the_end():
            frames.append(bytes(self._data[: self._at]))
            del self._data[: self._at]
            self._at = 0
        if len(self._data) > self._max_bytes:
            raise PictureError(f"a frame of more than {self._max_bytes} bytes")
        return frames

    def _reaches_the_end(self) -> bool:
        """Step over what is there; True when a picture is whole and `_at` is behind it."""
        data = self._data
        while True:
            if self._in_scan:
                found = _NEXT_MARKER.search(data, self._at)
                if found is None:
                    self._at = max(self._at, len(data) - 1)
                    return False
                self._at, self._in_scan = found.start(), False
            if len(data) < self._at + 2:
                return False
            first, code = data[self._at], data[self._at + 1]
            if first != 0xFF or (self._at == 0 and code != _START):
                raise PictureError(f"not a JPEG marker: {bytes(data[self._at : self._at + 8])!r}")
            if code == 0xFF:  # a fill byte
                self._at += 1
            elif code == _END:
                self._at += 2
                return True
            elif code in _WITHOUT_LENGTH or (code == _START and self._at == 0):
                self._at += 2
            elif not self._steps_over_segment(code):
                return False

    def _steps_over_segment(self, code: int) -> bool:
        begin = self._at + 2
        if len(self._data) < begin + 2:
            return False
        length = int.from_bytes(self._data[begin : begin + 2], "big")
        if length < 2:
            raise PictureError("a JPEG segment of impossible length")
        if len(self._data) < begin + length:
            return False
        self._at = begin + length
        self._in_scan = code == _SCAN
        return True
