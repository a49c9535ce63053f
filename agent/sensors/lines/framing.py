"""Framing: where lines and binary frames begin and end in a stream of bytes.

A text line ends with a terminator.  A binary frame begins with sync bytes, has a fixed length or
a length field, and may carry a checksum and end bytes.  After a frame that is not valid the
search goes on at the byte behind its first sync byte, so a good frame that begins inside a bad one
is never passed over.  Good frames back to back are found in runs, by numpy.

Pure.  Invariants: how the stream is cut into pieces changes neither the frames nor their order;
what is kept between two pieces is bounded by the longest line or frame.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.sensors.lines.checksums import Checksum

_FIRST_LOOK_BYTES = 2048
"""Bytes of the first look at a run; doubled while all is good, so that after a bad frame little
work is thrown away."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that one piece of the stream completed.

    Attributes:
      contents: without the terminator; None for a line that was too long.
      ends: stream offset behind each line's terminator.
    """

    contents: list[bytes | None]
    ends: list[int]


class LineFramer:
    """Cuts a stream into lines.

    Attributes:
      offset: bytes taken so far.
    """

    def __init__(self, terminator: bytes, max_bytes: int, *, is_first_whole: bool) -> None:
        self._terminator, self._max_bytes = terminator, max_bytes
        self._tail = b""
        self._is_dropping = False
        self._skips_first = not is_first_whole
        self.offset = 0

    @property
    def kept(self) -> int:
        """Stream offset of the first byte that is kept."""
        return self.offset - len(self._tail)

    def reset(self, *, is_first_whole: bool) -> None:
        """Forget an unfinished line; the next bytes do or do not begin one."""
        self._tail, self._is_dropping = b"", False
        self._skips_first = not is_first_whole

    def push(self, data: bytes) -> Lines:
        """The lines that these bytes complete."""
        end = self.kept
        self.offset += len(data)
        parts = (self._tail + data).split(self._terminator)
        self._tail = parts.pop()
        contents: list[bytes | None] = []
        ends: list[int] = []
        for part in parts:
            end += len(part) + len(self._terminator)
            is_long = self._is_dropping or len(part) > self._max_bytes
            self._is_dropping = False
            if self._skips_first:
                self._skips_first = False
                continue
            contents.append(None if is_long else part)
            ends.append(end)
        if len(self._tail) >= self._max_bytes + len(self._terminator):
            self._is_dropping = True
            self._tail = self._tail[len(self._tail) - len(self._terminator) + 1 :]
        return Lines(contents, ends)


@dataclass(frozen=True)
class FrameLayout:
    """Where the parts of a frame stand; offsets count from its first sync byte.

    Attributes:
      sync: the first bytes, at least one.
      end: the last bytes; may be empty.
      size: bytes of every frame; None where a length field says it.
      length_at: offset of the length field.
      length_bytes: 1 or 2.
      length_adds: bytes of a frame that its length field does not count.
      is_length_big: the length field has the most significant byte first.
      min_size: of a frame, in bytes.
      max_size: of a frame, in bytes.
      checksum: algorithm.
      checksum_at: offset of its value; negative from the end.
      checksum_from: first offset that it covers; the last is just before its value.
      is_checksum_big: its value has the most significant byte first.
    """

    sync: bytes
    end: bytes
    size: int | None
    length_at: int
    length_bytes: int
    length_adds: int
    is_length_big: bool
    min_size: int
    max_size: int
    checksum: Checksum
    checksum_at: int
    checksum_from: int
    is_checksum_big: bool

    def size_of(self, stream: bytes, at: int) -> int | None:
        """Bytes of the frame that may begin here; 0 if impossible, None if not known yet."""
        if self.size is not None:
            return self.size
        length = stream[at + self.length_at : at + self.length_at + self.length_bytes]
        if len(length) < self.length_bytes:
            return None
        size = int.from_bytes(length, "big" if self.is_length_big else "little")
        size += self.length_adds
        return size if self.min_size <= size <= self.max_size else 0


@dataclass(frozen=True, eq=False, slots=True)
class Frames:
    """Good frames that one piece of the stream completed.

    Attributes:
      stream: the bytes that hold them.
      starts: int64 (n,), where in `stream` each begins.
      sizes: int64 (n,), bytes of each.
      ends: int64 (n,), offset behind each frame in the whole stream.
      is_after_loss: bool (n,), whether bytes before the frame were thrown away.
    """

    stream: bytes
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]
    is_after_loss: NDArray[np.bool_]

    def columns(self, at: int, size: int) -> NDArray[np.uint8]:
        """So many bytes of each frame from this offset on: uint8 (n, size)."""
        places = self.starts[:, None] + np.arange(at, at + size)
        return np.asarray(np.frombuffer(self.stream, np.uint8)[places])


class _Run(NamedTuple):
    """Good frames of one size back to back."""

    at: int
    size: int
    frames: int
    is_after_loss: bool


@dataclass
class FrameFramer:
    """Finds the frames of one layout in a stream.

    Attributes:
      layout: of the frames.
      offset: bytes taken so far.
      discarded_bytes: thrown away, because no good frame holds them.
      bad_frames: candidates whose length, checksum or end was wrong.
    """

    layout: FrameLayout
    offset: int = 0
    discarded_bytes: int = 0
    bad_frames: int = 0
    _kept: bytes = b""
    _is_after_loss: bool = False

    @property
    def kept(self) -> int:
        """Stream offset of the first byte that is kept."""
        return self.offset - len(self._kept)

    def reset(self) -> None:
        """Forget what is kept: the next bytes do not continue it."""
        self._lose(len(self._kept))
        self._kept = b""

    def push(self, data: bytes) -> Frames:
        """The frames that these bytes complete."""
        self.offset += len(data)
        return self._scan(self._kept + data, is_over=False)

    def flush(self) -> Frames:
        """The line is quiet: what begins like a frame will not be completed; look inside it."""
        return self._scan(self._kept, is_over=True)

    def _scan(self, stream: bytes, *, is_over: bool) -> Frames:
        layout, runs = self.layout, list[_Run]()
        at = done = 0
        while True:
            found = stream.find(layout.sync, at)
            if found < 0:
                at = len(stream) if is_over else max(at, len(stream) - len(layout.sync) + 1)
                break
            at = found
            size = layout.size_of(stream, at)
            is_cut = size is None or at + size > len(stream)
            if is_cut and not is_over:
                break
            if is_cut or not size or not self._is_good(stream[at : at + size]):
                self.bad_frames += 1
                at += 1
                continue
            self._lose(at - done)
            count = self._run_length(stream, at, size)
            runs.append(_Run(at, size, count, self._is_after_loss))
            self._is_after_loss = False
            at += size * count
            done = at
        self._lose(at - done)
        self._kept = stream[at:]
        return _frames(stream, self.offset - len(stream), runs)

    def _lose(self, count: int) -> None:
        self.discarded_bytes += count
        self._is_after_loss = self._is_after_loss or count > 0

    def _run_length(self, stream: bytes, at: int, size: int) -> int:
        """How many good frames of this size stand back to back from here; the first one is."""
        if not stream.startswith(self.layout.sync, at + size):
            return 1
        if self.layout.size_of(stream, at + size) != size:
            return 1
        most = (len(stream) - at) // size
        rows = np.frombuffer(stream, np.uint8, most * size, at).reshape(most, size)
        good, look = 1, max(1, _FIRST_LOOK_BYTES // size)
        while good < most:
            seen = rows[good : good + look]
            count = self._good_rows(seen, rows[0])
            good += count
            if count < len(seen):
                break
            look *= 2
        return good

    def _is_good(self, frame: bytes) -> bool:
        """Whether end and checksum fit; sync and length do already."""
        layout = self.layout
        at = layout.checksum_at + (len(frame) if layout.checksum_at < 0 else 0)
        order: Literal["big", "little"] = "big" if layout.is_checksum_big else "little"
        stored = int.from_bytes(frame[at : at + layout.checksum.size], order)
        return (
            frame.endswith(layout.end)
            and layout.checksum.of(frame[layout.checksum_from : at]) == stored
        )

    def _good_rows(self, rows: NDArray[np.uint8], first: NDArray[np.uint8]) -> int:
        """How many rows from the top are good frames with the length field of this first one."""
        layout, size = self.layout, rows.shape[1]
        is_good = _has(rows, 0, layout.sync) & _has(rows, size - len(layout.end), layout.end)
        if layout.size is None:
            field = slice(layout.length_at, layout.length_at + layout.length_bytes)
            is_good &= (rows[:, field] == first[field]).all(axis=1)
        rows = rows[: _leading(is_good)]
        if not layout.checksum.size or not len(rows):
            return len(rows)
        at = layout.checksum_at + (size if layout.checksum_at < 0 else 0)
        stored = rows[:, at : at + layout.checksum.size]
        value = _integers(stored, is_big=layout.is_checksum_big)
        return _leading(layout.checksum.of_rows(rows[:, layout.checksum_from : at]) == value)


def _frames(stream: bytes, base: int, runs: list[_Run]) -> Frames:
    """The frames of these runs; `base` is where `stream` begins in the whole stream."""
    at, size, count, after_loss = np.array(runs, np.int64).reshape(-1, 4).T
    firsts = np.cumsum(count) - count
    within = np.arange(int(count.sum())) - np.repeat(firsts, count)
    sizes = np.repeat(size, count)
    starts = np.repeat(at, count) + within * sizes
    is_after_loss = np.zeros(len(starts), np.bool_)
    is_after_loss[firsts] = after_loss != 0
    return Frames(stream, starts, sizes, starts + sizes + base, is_after_loss)


def _leading(flags: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(flags) if flags.all() else int(flags.argmin())


def _has(rows: NDArray[np.uint8], at: int, expected: bytes) -> NDArray[np.bool_]:
    """Which rows have these bytes at `at`: bool (n,)."""
    columns = rows[:, at : at + len(expected)]
    return np.asarray((columns == np.frombuffer(expected, np.uint8)).all(axis=1))


def _integers(columns: NDArray[np.uint8], *, is_big: bool) -> NDArray[np.uint32]:
    """Unsigned integers of at most 4 bytes: uint8 (n, k) to uint32 (n,)."""
    order = range(columns.shape[1]) if is_big else range(columns.shape[1] - 1, -1, -1)
    value = np.zeros(len(columns), np.uint32)
    for at in order:
        value = (value << np.uint32(8)) | columns[:, at]
    return value
