"""The ring read: blocks of an interval, with the gaps that were recorded and those of damage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.samples.columns import Int64s
from agent.samples.damage import batches_of, damage_in, decoded, is_sound, missing_segment
from agent.samples.files import Segment, read_segment
from agent.samples.segment import Header
from agent.signals.block import EMPTY, Block, Gap


@dataclass(frozen=True)
class Reader:
    """One reading of the ring.

    Attributes:
      wanted: today's index of each channel that is asked for, by name.
      from_us: first source timestamp.
      until_us: the first one that is not wanted any more.
      suspect: told the number of a segment that is damaged and was not known to be.
      fail: told what the disk said when it could not be read.
    """

    wanted: Mapping[str, int]
    from_us: int
    until_us: int
    suspect: Callable[[int], None]
    fail: Callable[[OSError], None]

    def read(self, segments: Sequence[Segment]) -> Iterator[Block]:
        """Blocks of these segments, oldest first; what the disk does not give is left out."""
        before: Segment | None = None
        for at, segment in enumerate(segments):
            following = segments[at + 1].header if at + 1 < len(segments) else None
            try:
                if segment.header is not None:
                    yield from self._blocks(segment, segment.header, following)
                elif following is not None:
                    yield from self._missing(before, following)
            except FileNotFoundError:
                pass  # deleted meanwhile: it was the oldest
            except OSError as error:
                self.fail(error)
            before = segment

    def _blocks(
        self, segment: Segment, header: Header, following: Header | None
    ) -> Iterator[Block]:
        is_damaged = segment.is_damaged
        if not (is_damaged or segment.extent.touches(self.from_us, self.until_us)):
            return
        found, places = read_segment(segment), self._places(header)
        if is_damaged or not is_sound(segment, found):
            if not is_damaged:
                self.suspect(segment.number)
            yield from self._gaps_alone(damage_in(segment, found, following), places)
        for record in found.records:
            if record.extent.touches(self.from_us, self.until_us):
                batch = decoded(header, record.body)
                block = self._cut(batch.block, places) if batch is not None else EMPTY
                if block.samples or block.gaps:
                    yield block

    def _missing(self, before: Segment | None, following: Header) -> Iterator[Block]:
        known = None
        if before is not None and before.header is not None:
            known = before.header, batches_of(before.header, read_segment(before))
        yield from self._gaps_alone(missing_segment(known, following), self._places(following))

    def _places(self, header: Header) -> Int64s:
        """For each channel of a segment, today's index, or -1."""
        return np.array([self.wanted.get(name, -1) for name in header.names], np.int64)

    def _cut(self, block: Block, places: Int64s) -> Block:
        """What lies in the interval, of wanted channels, numbers sorted by source timestamp."""
        times = block.source_timestamp_us
        channel = places[block.channel]
        inside = (channel >= 0) & (times >= self.from_us) & (times < self.until_us)
        chosen = np.flatnonzero(inside)
        order = chosen[np.argsort(times[chosen], kind="stable")]
        return Block(
            channel[order].astype(np.uint32),
            block.value[order],
            block.status[order],
            times[order],
            tuple(
                replace(each, channel=int(places[each.channel]))
                for each in block.arrays
                if places[each.channel] >= 0
                and self.from_us <= each.source_timestamp_us < self.until_us
            ),
            self._gaps(block.gaps, places),
            is_replayed=True,
        )

    def _gaps(self, gaps: Sequence[Gap], places: Int64s) -> tuple[Gap, ...]:
        """The gaps that reach into the interval, with today's channels."""
        return tuple(
            replace(gap, channel=int(places[gap.channel]))
            for gap in gaps
            if places[gap.channel] >= 0
            and gap.from_us < self.until_us
            and gap.until_us >= self.from_us
        )

    def _gaps_alone(self, gaps: Sequence[Gap], places: Int64s) -> Iterator[Block]:
        found = self._gaps(gaps, places)
        if found:
            yield replace(EMPTY, gaps=found, is_replayed=True)
