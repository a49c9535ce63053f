"""The local sample store: everything that was measured, in a ring on this gateway's disk.

Samples wait in memory, are written together every few seconds, and are on the disk when that is
done; the oldest go when the ring is full.  Nothing here raises because of the disk: what it does
not take waits, then is lost, counted by reason, and marked by a gap in the store itself as soon as
it works again.  What was in memory when the agent stopped is marked by a gap at the next start.

One thread may call `append` while another one calls `tick`, `flush` or `close`, and others `read`.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.samples.account import Account, StoreCounters, day_of
from agent.samples.backlog import Backlog
from agent.samples.batch import Batch, encode_batch, extent_of_block, joined, largest_channel
from agent.samples.damage import DAMAGED, is_sound
from agent.samples.files import Segment, read_segment
from agent.samples.losses import Losses
from agent.samples.marks import Marks
from agent.samples.opening import restored
from agent.samples.reading import Reader
from agent.samples.reasons import reason_of
from agent.samples.ring import Numbers, Ring, segment_bytes
from agent.samples.segment import LARGEST_RECORD, NEVER, Header, Scan
from agent.samples.settings import StoreTable
from agent.signals.block import EMPTY, Block, Gap

logger = logging.getLogger(__name__)

TOO_SLOW, TOO_LARGE = "disk too slow", "array too large"


def wall_us() -> int:
    """Microseconds since 1970 UTC, as the gateway's clock has it."""
    return time.time_ns() // 1000


class SampleStore:
    """Owner of a folder of samples.

    Args:
      folder: made if it is missing.
      channels: names, in the order of a block's channel indices.
      settings: the `[store]` table.
      clock: wall clock in microseconds.
    """

    def __init__(
        self,
        folder: Path,
        channels: Sequence[str],
        settings: StoreTable,
        clock: Callable[[], int] = wall_us,
    ) -> None:
        self._folder, self._channels, self._settings = folder, tuple(channels), settings
        self._clock = clock
        most, half = settings.max_bytes, settings.buffer_bytes // 2
        self._part = min(segment_bytes(most), half // 2)
        self._largest = min(most // 8, half, LARGEST_RECORD // 2)
        self._backlog = Backlog(settings.buffer_bytes, self._part)
        self._losses = Losses(len(self._channels))
        self._account = Account()
        self._marks = Marks(self._channels, None)
        self._ring: Ring | None = None
        self._suspects: set[int] = set()
        self._trouble = ""
        self._reason = TOO_SLOW
        self._waiting = threading.Lock()  # backlog, losses, account: held for microseconds
        self._writing = threading.Lock()  # ring and marks: held while the disk works
        self._tried_us = clock()
        if settings.enabled:
            self._open()

    @property
    def problem(self) -> str:
        """What is wrong with the disk now; empty when nothing is."""
        return self._trouble

    def counters(self) -> StoreCounters:
        """What it has done."""
        ring, account = self._ring, self._account
        segments = ring.segments if ring is not None else ()
        kept = sum(segment.extent.samples for segment in segments)
        with self._waiting:
            lost, written = dict(account.lost), account.written
            stored = account.stored
        oldest = [segment.extent.from_us for segment in segments if segment.extent.samples]
        return StoreCounters(
            stored=stored,
            expired=max(0, stored - kept - lost.get(DAMAGED, 0)) if ring is not None else 0,
            lost=lost,
            waiting=self._backlog.samples,
            bytes_used=sum(segment.end for segment in segments),
            written=written,
            written_today=written.get(day_of(self._clock()), 0),
            oldest_us=oldest[0] if oldest else None,
            damaged=sum(segment.is_damaged for segment in segments),
        )

    def append(self, block: Block) -> None:
        """Keep a block; its arrays must not change any more.  Takes microseconds.

        Raises:
          ValueError: a channel that was not configured.
        """
        if not self._settings.enabled or not (block.samples or block.gaps):
            return
        if largest_channel(block) >= len(self._channels):
            raise ValueError(f"a block of channels beyond the {len(self._channels)} configured")
        large = tuple(each for each in block.arrays if each.value.nbytes > self._largest)
        with self._waiting:
            if large:
                small = (each for each in block.arrays if each.value.nbytes <= self._largest)
                block = replace(block, arrays=tuple(small))
                self._lose([replace(EMPTY, arrays=large)], TOO_LARGE)
            self._lose(self._backlog.put(block), self._reason)

    def tick(self) -> None:
        """Write what waits if it is time; to be called every second."""
        if not self._settings.enabled:
            return
        with self._writing:
            away_us = abs(self._clock() - self._tried_us)
            is_much = self._backlog.bytes >= self._part and not self._trouble
            if is_much or away_us >= self._settings.flush_s * 1e6:
                self._write_all()

    def flush(self) -> None:
        """Write what waits now."""
        if self._settings.enabled:
            with self._writing:
                self._write_all()

    def close(self) -> None:
        """Write what waits; what the disk does not take is lost."""
        self.flush()
        with self._writing, self._waiting:
            self._lose(self._backlog.take(1 << 62), self._reason)
            if self._ring is not None:
                with suppress(OSError):
                    self._ring.sync()

    def read(
        self, from_us: int, until_us: int, channels: Collection[int] | None = None
    ) -> Iterator[Block]:
        """What is on the disk of an interval, batch by batch in the order of writing.

        Args:
          from_us: first source timestamp, microseconds since 1970 UTC.
          until_us: the first one that is not wanted any more.
          channels: indices; None for all that are configured.

        Yields:
          Blocks whose numbers are sorted by source timestamp; replayed, all of them.
        """
        ring = self._ring
        wanted = {
            name: at for at, name in enumerate(self._channels) if channels is None or at in channels
        }
        if ring is not None:
            reader = Reader(wanted, from_us, until_us, self._suspects.add, self._say)
            yield from reader.read(ring.segments)

    def _lose(self, blocks: Sequence[Block], reason: str) -> None:
        for block in blocks:
            self._losses.note(block, reason)
            self._account.lose(reason, block.samples)

    def _write_all(self) -> None:
        self._tried_us = self._clock()
        if self._ring is None:
            self._open()
        ring = self._ring
        if ring is None:
            return
        self._look_at_suspects(ring)
        while self._write_some(ring):
            pass

    def _write_some(self, ring: Ring) -> bool:
        """Write one record; returns whether there may be more."""
        with self._waiting:
            blocks = self._backlog.take(self._part)
            losses, self._losses = self._losses, Losses(len(self._channels))
            said = dict(self._account.unsaid)
        block = self._with_gaps(blocks, losses)
        if not (block.samples or block.gaps or said):
            return False
        body, extent = encode_batch(Batch(block, said)), extent_of_block(block)
        now_us = self._clock()
        make = partial(self._header, now_us)
        try:
            size = ring.append(body, extent, now_us, self._marks.names, make)
        except OSError as error:
            self._say(error)
            with self._waiting:
                self._losses.add(losses)
                self._lose(self._backlog.give_back(blocks), self._reason)
            return False
        with self._waiting:
            self._account.store(block.samples, said)
            self._account.write(now_us, size)
        self._marks.note(block)
        self._say(None)
        return True

    def _with_gaps(self, blocks: Sequence[Block], losses: Losses) -> Block:
        """The blocks as one, with the gaps of the store itself."""
        block = joined(blocks)
        own = (*losses.gaps(self._marks.last_us), *self._marks.stops_ended_by(block))
        return replace(block, gaps=tuple(_within_int64(gap) for gap in (*own, *block.gaps)))

    def _header(self, now_us: int, key: bytes, number: int, previous: Numbers | None) -> Header:
        with self._waiting:
            totals = self._account.totals()
        return Header(
            id=key,
            number=number,
            created_us=now_us,
            names=self._marks.names,
            last_us=tuple(self._marks.last_us.tolist()),
            late_us=tuple(self._marks.late_us.tolist()),
            totals=totals,
            previous=previous,
        )

    def _open(self) -> None:
        """Open the ring and go on where it ends, if the disk allows."""
        settings = self._settings
        is_synced = settings.sync == "batch"
        try:
            ring = Ring(self._folder, settings.max_bytes, settings.max_days, is_synced=is_synced)
            self._go_on(ring)
        except OSError as error:
            self._say(error)
            return
        self._ring = ring
        self._say(None)

    def _go_on(self, ring: Ring) -> None:
        """Restore what the last segment knows; set aside what is damaged."""
        for at, segment in enumerate(ring.segments):
            if segment.header is None and not segment.is_damaged:
                self._set_aside(ring, segment, None, is_last=at == len(ring.segments) - 1)
        known = [segment for segment in ring.segments if segment.header is not None]
        account, marks = Account(), Marks(self._channels, None)
        if known:
            last = known[-1]
            found = _read_or_nothing(last)
            marks = restored(self._channels, last, found, account)
            if last is ring.segments[-1] and not last.is_damaged:
                if found is not None and not found.holes:
                    ring.open_last(found)
                elif found is not None:
                    self._set_aside(ring, last, found, is_last=True)
        marks.stop()
        with self._waiting:
            self._marks = marks
            self._account.restore(account.totals())

    def _look_at_suspects(self, ring: Ring) -> None:
        """Set aside what a reader found damaged."""
        for number in sorted(self._suspects):
            self._suspects.discard(number)
            for segment in ring.segments[:-1]:
                if segment.number == number and not segment.is_damaged:
                    found = _read_or_nothing(segment)
                    if found is not None and not is_sound(segment, found):
                        self._set_aside(ring, segment, found, is_last=False)

    def _set_aside(
        self, ring: Ring, segment: Segment, found: Scan | None, *, is_last: bool
    ) -> None:
        readable = sum(record.extent.samples for record in found.records) if found else 0
        try:
            ring.set_aside(segment, found)
        except OSError as error:  # it is not written to all the same, and read as far as it goes
            self._say(error)
            return
        gone = 0 if is_last else max(0, segment.extent.samples - readable)
        with self._waiting:
            self._account.lose(DAMAGED, gone)
        logger.error(
            "%s is damaged: set aside, %d of its samples can still be read", segment.path, readable
        )

    def _say(self, error: OSError | None) -> None:
        """Remember and log when trouble begins and when it ends."""
        if error is None:
            if self._trouble:
                logger.warning("samples are stored again")
            self._trouble, self._reason = "", TOO_SLOW
            return
        self._reason, advice = reason_of(error)
        said = f"{self._folder}: {self._reason} ({error.strerror}); {advice}"
        if said != self._trouble:
            logger.warning("samples are not stored: %s", said)
        self._trouble = said


def _read_or_nothing(segment: Segment) -> Scan | None:
    try:
        return read_segment(segment)
    except OSError:
        return None


def _within_int64(gap: Gap) -> Gap:
    """A source may give any time, and a marker lies around it."""
    if NEVER <= gap.from_us <= gap.until_us < -NEVER:
        return gap
    return replace(gap, from_us=max(gap.from_us, NEVER), until_us=min(gap.until_us, -NEVER - 1))
