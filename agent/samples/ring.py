"""The files of the ring: written in order, cut where a write was torn, deleted oldest first.

Owner of a folder of segments, `0000000042.samples`; one that is damaged is renamed to `.damaged`,
never written again, and goes in its turn.  A segment gets its name when its header and its first
record are on the disk, so a sound name has a sound header.

Every operation raises `OSError` when the disk does not do it; doing it again later is right.
Invariant: what `append` wrote is on the disk when it returns (fsync), once.
"""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agent.samples.files import (
    Segment,
    create,
    extent_of,
    peeked,
    sync_file,
    with_extent,
    write_at,
)
from agent.samples.segment import NOTHING, Extent, Header, Scan, encode_header, encode_record
from wire.files import sync_directory

_NAME = re.compile(r"\d{10}\.(samples|damaged)")
_MOST_SEGMENT_BYTES = 4 << 20
_SEGMENTS = 8
"""At least so many make up the ring, so that deleting one never takes most of it."""
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US

Numbers = tuple[int, int, int, int, int]
"""An extent in a header."""
MakeHeader = Callable[[bytes, int, Numbers | None], Header]
"""From a new segment's id and number, and what is known of the one before."""


class Ring:
    """Owner of the folder.

    Args:
      folder: where; made if it is missing.
      max_bytes: of all files.
      max_days: since a segment was finished.
      is_synced: every record is on the disk when `append` returns; else every full segment.

    Raises:
      OSError: it can not be read or made.
    """

    def __init__(self, folder: Path, max_bytes: int, max_days: int, *, is_synced: bool) -> None:
        self._folder = folder
        self._max_bytes, self._max_us = max_bytes, max_days * _DAY_US
        self._is_synced = is_synced
        self.segment_bytes = segment_bytes(max_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        self._is_open = False
        """Whether the last segment may be written to."""
        self._is_torn = False
        """Whether bytes behind its end must go first."""
        self._after_error = False
        self.segments = self._found()
        """All of them, oldest first; replaced, never changed, so that a reader may keep it."""

    @property
    def size(self) -> int:
        """Of all its segments."""
        return sum(segment.end for segment in self.segments)

    @property
    def samples(self) -> int:
        """That can be read, as far as is known without reading all."""
        return sum(segment.extent.samples for segment in self.segments)

    def append(
        self, body: bytes, extent: Extent, now_us: int, names: tuple[str, ...], make: MakeHeader
    ) -> int:
        """Write a record; returns how many bytes that took.

        Args:
          body: a batch, encoded; its channels are indices into `names`.
          extent: what it covers.
          now_us: wall clock.
          names: of the channels now.
          make: a header, if a new segment begins.

        Raises:
          OSError: nothing was written, or nothing that will stay.
        """
        self._repair()
        self._forget(now_us)
        last = self._last
        if last is None or not self._takes(last, len(body), now_us, names):
            return self._begin(body, extent, now_us, make)
        header, at = last.header, last.end
        if header is None:
            raise ValueError("a segment without a header is open")
        data = encode_record(header, at, now_us, extent, body)
        self._make_room(len(data))
        self._is_torn = True
        with last.path.open("r+b", buffering=0) as file:
            write_at(file.fileno(), data, at)
            if self._is_synced:
                self._fsync(file.fileno())
        self._is_torn = False
        grown = replace(last, end=at + len(data), extent=last.extent | extent)
        self.segments = (*self.segments[:-1], grown)
        return len(data)

    def open_last(self, found: Scan) -> None:
        """Go on with the last segment, of which `found` was read."""
        last = self.segments[-1]
        self._is_open, self._is_torn = True, last.end > found.end
        self._replace(replace(last, end=found.end, extent=extent_of(found)))

    def set_aside(self, segment: Segment, found: Scan | None) -> None:
        """Rename a damaged segment; of its records those in `found` count.

        Raises:
          OSError: it has its old name still.
        """
        path = segment.path.with_suffix(".damaged")
        segment.path.rename(path)
        self._is_open = self._is_open and segment.number != self.segments[-1].number
        self._replace(replace(segment, path=path, extent=extent_of(found)))
        sync_directory(self._folder)

    def _replace(self, known: Segment) -> None:
        self.segments = tuple(
            known if each.number == known.number else each for each in self.segments
        )

    def sync(self) -> None:
        """Have the last segment on the disk, whatever the settings."""
        last = self._last
        if last is not None and not self._is_synced and not self._is_torn:
            sync_file(last.path)

    @property
    def _last(self) -> Segment | None:
        return self.segments[-1] if self.segments and self._is_open else None

    def _found(self) -> tuple[Segment, ...]:
        segments = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".new":
                with suppress(OSError):  # never finished: nothing in it was promised
                    path.unlink()
            elif _NAME.fullmatch(path.name):
                segments.append(peeked(path))
        following = [*segments[1:], None]
        return tuple(with_extent(each, following[at]) for at, each in enumerate(segments))

    def _takes(self, last: Segment, more: int, now_us: int, names: tuple[str, ...]) -> bool:
        """Whether the last segment is the place for this record."""
        header = last.header
        return (
            header is not None
            and not self._after_error
            and header.names == names
            and last.end + more <= self.segment_bytes
            and abs(now_us - header.created_us) < _HOUR_US
        )

    def _begin(self, body: bytes, extent: Extent, now_us: int, make: MakeHeader) -> int:
        """A new segment with its first record."""
        self.sync()
        before = self.segments[-1] if self.segments else None
        number = before.number + 1 if before is not None else 1
        is_known = before is not None and not before.is_damaged and before.extent != NOTHING
        known = _numbers(before.extent) if before is not None and is_known else None
        header = make(secrets.token_bytes(8), number, known)
        start = encode_header(header)
        data = start + encode_record(header, len(start), now_us, extent, body)
        self._make_room(len(data))
        path = self._folder / f"{number:010}.samples"
        self._is_open = False  # if this fails, it is done again under the same name
        create(path, data)
        segment = Segment(path, number, header, len(start), len(data), extent)
        self.segments = (*self.segments, segment)
        self._is_open, self._is_torn, self._after_error = True, False, False
        return len(data)

    def _repair(self) -> None:
        """Cut off what an earlier write left, for good, before anything else is written."""
        last = self._last
        if last is None or not self._is_torn:
            return
        with last.path.open("r+b", buffering=0) as file:
            file.truncate(last.end)
            self._fsync(file.fileno())
        self._is_torn = False

    def _fsync(self, descriptor: int) -> None:
        """After a failed fsync the kernel may have forgotten which pages are not on the disk."""
        try:
            os.fsync(descriptor)
        except OSError:
            self._after_error = True
            raise

    def _forget(self, now_us: int) -> None:
        """Delete one segment that is too old: a clock that jumps must not empty the ring."""
        if len(self.segments) > 1:
            finished = self.segments[1].header
            if finished is not None and now_us - finished.created_us > self._max_us:
                self._delete_oldest()

    def _make_room(self, size: int) -> None:
        while len(self.segments) > 1 and self.size + size > self._max_bytes:
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        self.segments[0].path.unlink(missing_ok=True)
        self.segments = self.segments[1:]


def segment_bytes(max_bytes: int) -> int:
    """How large a segment of a ring of so many bytes grows."""
    return min(_MOST_SEGMENT_BYTES, max_bytes // _SEGMENTS)


def _numbers(extent: Extent) -> Numbers:
    return (
        extent.samples,
        extent.from_us,
        extent.until_us,
        extent.gaps_from_us,
        extent.gaps_until_us,
    )
