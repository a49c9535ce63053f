"""Gaps where bytes of the ring are no records any more.

They are not written down: what is missing between two sound records follows from what stands around
it, each time that it is read.

Pure.  Invariant: a sample that was damaged lies strictly inside a gap of its channel, unless it
came later after newer ones of its channel than any other did.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.samples.batch import Batch, decode_batch, largest_channel
from agent.samples.columns import Int64s
from agent.samples.files import Segment
from agent.samples.segment import NEVER, Header, Scan
from agent.signals.block import Block, Gap

DAMAGED = "store damaged"
_LONGEST_SEGMENT_US = 3_600_000_000
_NONE_YET = (1 << 63) - 1


def batches_of(header: Header, found: Scan) -> list[Batch | None]:
    """The records' batches; None for one that this version can not read."""
    return [decoded(header, record.body) for record in found.records]


def decoded(header: Header, body: memoryview) -> Batch | None:
    """A record's batch; None where it is none, or speaks of channels that its header lacks."""
    try:
        batch = decode_batch(body)
    except ValueError:
        return None
    return batch if largest_channel(batch.block) < len(header.names) else None


def is_sound(segment: Segment, found: Scan) -> bool:
    """Whether a segment holds all that it held when it was written."""
    samples = sum(record.extent.samples for record in found.records)
    return not found.holes and found.end == segment.end and samples == segment.extent.samples


def damage_in(segment: Segment, found: Scan, following: Header | None) -> list[Gap]:
    """Gaps, by the segment's own channels, of what can not be read in it.

    Args:
      segment: which.
      found: what is in it.
      following: header of the segment after it, which knows how far this one went.
    """
    header = segment.header
    if header is None:
        return []
    batches = batches_of(header, found)
    newest = _array(header.last_us)
    late = _array(header.late_us)
    if following is not None:
        late = np.maximum(late, _of_names(following, following.late_us, header.names, 0))
    gaps: list[Gap] = []
    holes = {hole.after for hole in found.holes}
    holes |= {at for at, batch in enumerate(batches) if batch is None}
    for at, batch in enumerate(batches):
        if at in holes:
            rest = [each.block for each in batches[at:] if each is not None]
            gaps += _gaps_between(newest, _oldest(rest, newest), late)
        if batch is not None:
            _raise_to(newest, batch.block)
    if following is not None and (
        found.end < segment.end or segment.is_damaged or not is_sound(segment, found)
    ):
        last = _of_names(following, following.last_us, header.names, NEVER)
        gaps += _gaps_between(newest, np.where(last > newest, last + 1, NEVER), late)
    return gaps


def missing_segment(
    before: tuple[Header, Sequence[Batch | None]] | None, following: Header
) -> list[Gap]:
    """Gaps, by the following one's channels, of a segment whose header can not be read.

    Args:
      before: the segment before it, if there is one.
      following: header of the segment after it.
    """
    newest = np.full(len(following.names), NEVER, np.int64)
    if before is not None:
        header, batches = before
        last = _array(header.last_us)
        for batch in batches:
            if batch is not None:
                _raise_to(last, batch.block)
        newest = _of_names(header, last.tolist(), following.names, NEVER)
    after = _array(following.last_us)
    late = _array(following.late_us)
    return _gaps_between(newest, np.where(after > newest, after + 1, NEVER), late)


def _gaps_between(before: Int64s, after: Int64s, late: Int64s) -> list[Gap]:
    """A gap of each channel that went on: all int64 (K,), NEVER where there is no sample.

    A channel without one before: from as long before the first one after as a segment takes.
    """
    begins = np.where(before == NEVER, after - _LONGEST_SEGMENT_US, before)
    margin = late + (late > 0)
    return [
        Gap(at, int(begins[at] - margin[at]), int(after[at] + margin[at]), DAMAGED)
        for at in np.flatnonzero((after != NEVER) & (after > begins)).tolist()
    ]


def _raise_to(newest: Int64s, block: Block) -> None:
    np.maximum.at(newest, block.channel, block.source_timestamp_us)
    for sample in block.arrays:
        newest[sample.channel] = max(newest[sample.channel], sample.source_timestamp_us)


def _oldest(blocks: Sequence[Block], newest: Int64s) -> Int64s:
    """First source timestamp after the newest; of a silent channel, the last one of all."""
    oldest = np.full(len(newest), _NONE_YET)
    end = NEVER
    for block in blocks:
        later = block.source_timestamp_us > newest[block.channel]
        np.minimum.at(oldest, block.channel[later], block.source_timestamp_us[later])
        end = max(end, int(block.source_timestamp_us.max(initial=NEVER)))
        for sample in block.arrays:
            at_us = sample.source_timestamp_us
            end = max(end, at_us)
            if at_us > newest[sample.channel]:
                oldest[sample.channel] = min(oldest[sample.channel], at_us)
    silent = np.where((newest == NEVER) | (end == NEVER), NEVER, end + 1)
    return np.where(oldest == _NONE_YET, silent, oldest)


def _array(numbers: Sequence[int]) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _of_names(header: Header, numbers: Sequence[int], names: Sequence[str], none: int) -> Int64s:
    """What a header says of these names; `none` where it does not know them."""
    known = dict(zip(header.names, numbers, strict=True))
    return _array([known.get(name, none) for name in names])
