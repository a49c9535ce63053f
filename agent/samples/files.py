"""One file of the ring: found, read, made.

Reads what it can: a file whose header can not be read is a segment without one.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agent.samples.segment import (
    LARGEST_HEADER,
    NOTHING,
    Extent,
    Header,
    Scan,
    decode_header,
    scan,
)
from wire.files import sync_directory

_LARGEST_FILE = 256 << 20
_PEEK_BYTES = 64 << 10


@dataclass(frozen=True)
class Segment:
    """One file.

    Attributes:
      path: where it is.
      number: its place in the ring.
      header: None where it can not be read.
      start: where its records begin.
      end: where they end; bytes behind it are no part of it.
      extent: of its records.
    """

    path: Path
    number: int
    header: Header | None
    start: int = 0
    end: int = 0
    extent: Extent = NOTHING

    @property
    def is_damaged(self) -> bool:
        """Whether it was set aside."""
        return self.path.suffix == ".damaged"


def read_segment(segment: Segment) -> Scan:
    """Read and check a whole segment, but not what is being written behind its end.

    Raises:
      OSError: it can not be read, or is gone.
    """
    if segment.header is None:
        return Scan((), (), 0)
    with segment.path.open("rb") as file:
        data = file.read(min(segment.end, _LARGEST_FILE))
    return scan(data, segment.header, segment.start)


def extent_of(found: Scan | None) -> Extent:
    """What all its records cover."""
    whole = NOTHING
    for record in found.records if found is not None else ():
        whole |= record.extent
    return whole


def peeked(path: Path) -> Segment:
    """A segment of which only the header was read."""
    number, size = int(path.stem), path.stat().st_size
    for most in (_PEEK_BYTES, LARGEST_HEADER + _PEEK_BYTES):
        with suppress(ValueError, OSError), path.open("rb") as file:
            header, start = decode_header(file.read(most))
            return Segment(path, number, header, start, size)
    return Segment(path, number, None, 0, size)


def with_extent(segment: Segment, following: Segment | None) -> Segment:
    """What it covers: its successor's header says it, else it is read."""
    next_header = following.header if following is not None else None
    if (
        next_header is not None
        and next_header.number == segment.number + 1
        and next_header.previous is not None
        and not segment.is_damaged
    ):
        return replace(segment, extent=Extent(*next_header.previous))
    if segment.header is None or (following is None and not segment.is_damaged):
        return segment  # the last one is read by the store
    with suppress(OSError):
        return replace(segment, extent=extent_of(read_segment(segment)))
    return segment


def create(path: Path, data: bytes) -> None:
    """A new file that has its name when it is on the disk, or no file."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_at(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.rename(path)
        sync_directory(path.parent)
    except OSError:
        for left in (new, path):  # on a full disk its bytes are needed
            with suppress(OSError):
                left.unlink(missing_ok=True)
        raise


def write_at(descriptor: int, data: bytes, at: int) -> None:
    """Write all of it."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


def sync_file(path: Path) -> None:
    """Have a file on the disk that was written through another descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
