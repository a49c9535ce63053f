"""The newest sample of each channel, and the gap that begins there when the agent stops.

What was in memory when the agent was killed, nobody can count.  So at the next start every channel
that ever had a sample gets a gap from its newest stored one to the first new one.

Pure.  Invariant: a sample that was in memory at the stop lies strictly inside that gap, unless it
came later after newer ones of its channel than any that was stored (a replayed history).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.samples.columns import Int64s, Runs
from agent.samples.segment import NEVER, Header
from agent.signals.block import Block, Gap

STOPPED = "agent stopped"
_LATEST_US = 60_000_000
"""A sample that comes later than that after a newer one is a replay, no jitter."""


class Marks:
    """State of K known channels: the configured ones, then those that once were.

    Args:
      channels: names of the configured ones.
      before: of the last segment, from which the state is restored; None: there is none.

    Attributes:
      names: of all K.
      last_us: int64 (K,), newest source timestamp in the ring, or NEVER.
      late_us: int64 (K,), how late a sample came at most.
    """

    def __init__(self, channels: Sequence[str], before: Header | None) -> None:
        known = before.names if before is not None else ()
        configured = set(channels)
        self.names = (*channels, *(name for name in known if name not in configured))
        self.last_us = np.full(len(self.names), NEVER, np.int64)
        self.late_us = np.zeros(len(self.names), np.int64)
        if before is not None and known:
            at = self.places_of(before.names)
            self.last_us[at] = before.last_us
            self.late_us[at] = before.late_us
        self._is_stopped = np.zeros(len(self.names), np.bool_)

    def places_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Index of each of these names; -1 where it is not known."""
        places = {name: at for at, name in enumerate(self.names)}
        return np.array([places.get(name, -1) for name in names], np.int64)

    def stop(self) -> None:
        """From now on every channel that has samples waits for its gap to end."""
        self._is_stopped = self.last_us != NEVER

    def stops_ended_by(self, block: Block) -> list[Gap]:
        """The gaps that end with these samples (sorted by channel)."""
        if not self._is_stopped.any():
            return []
        first = np.full(len(self.names), NEVER, np.int64)
        for sample in reversed(block.arrays):
            if sample.source_timestamp_us > self.last_us[sample.channel]:
                first[sample.channel] = sample.source_timestamp_us
        newer = block.source_timestamp_us > self.last_us[block.channel]
        channel = block.channel[newer][::-1]  # the first one of a channel is assigned last
        first[channel] = block.source_timestamp_us[newer][::-1]
        ended = np.flatnonzero(self._is_stopped & (first != NEVER))
        return [self._gap(at, int(first[at])) for at in ended.tolist()]

    def note(self, block: Block) -> None:
        """These samples (sorted by channel) are stored."""
        if len(block):
            runs = Runs.of_equal(block.channel)
            channel = block.channel[runs.starts]
            times = block.source_timestamp_us
            newest = np.maximum.reduceat(times, runs.starts)
            self._note_late(times, runs, channel)
            is_newer = newest > self.last_us[channel]
            self._is_stopped[channel[is_newer]] = False
            self.last_us[channel] = np.maximum(self.last_us[channel], newest)
        for sample in block.arrays:
            if sample.source_timestamp_us > self.last_us[sample.channel]:
                self.last_us[sample.channel] = sample.source_timestamp_us
                self._is_stopped[sample.channel] = False

    def _note_late(self, times: Int64s, runs: Runs, channel: NDArray[np.uint32]) -> None:
        before = np.empty_like(times)
        before[1:] = times[:-1]
        before[runs.starts] = self.last_us[channel]
        late = np.logical_or.reduceat(times < before, runs.starts)
        for at in np.flatnonzero(late).tolist():
            part = times[runs.starts[at] : runs.starts[at] + runs.counts[at]]
            newest = np.maximum.accumulate(np.append(self.last_us[channel[at]], part[:-1]))
            by = np.where(newest == NEVER, 0, newest - part)
            by = by[by <= _LATEST_US]
            self.late_us[channel[at]] = max(self.late_us[channel[at]], by.max(initial=0))

    def _gap(self, channel: int, first_us: int) -> Gap:
        """Wider by what is known of the channel's disorder, for a lost sample may have had it."""
        late_us = int(self.late_us[channel])
        margin = late_us + 1 if late_us else 0
        return Gap(channel, int(self.last_us[channel]) - margin, first_us + margin, STOPPED)
