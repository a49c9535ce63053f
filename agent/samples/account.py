"""What the ring has counted since it was made: stored, lost by reason, bytes written by day.

Pure.  Kept over restarts by the ring itself: each segment's header has the totals before it, each
record what was lost since the record before.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.samples.segment import Totals

_DAYS = 14


def day_of(at_us: int) -> str:
    """The day in UTC, `2026-11-22`."""
    return str(np.datetime64(at_us, "us").astype("datetime64[D]"))


@dataclass(frozen=True)
class StoreCounters:
    """What the store has done since its folder was made.

    Attributes:
      stored: samples written.
      expired: of them, those that are not in it any more, because others took their place.
      lost: samples that did not come into it, or were damaged in it, by reason.  What was in memory
        when an agent was killed is in no number, only in a gap.
      waiting: samples in memory.
      bytes_used: of all its files.
      written: bytes given to the disk by day in UTC, `2026-11-22`, of the last days.
      written_today: the same of today.
      oldest_us: source timestamp, microseconds since 1970 UTC, at which its oldest file begins;
        None when there is none.
      damaged: files that were damaged and are kept until it is their turn.
    """

    stored: int
    expired: int
    lost: dict[str, int]
    waiting: int
    bytes_used: int
    written: dict[str, int]
    written_today: int
    oldest_us: int | None
    damaged: int


class Account:
    """Totals that grow.

    Attributes:
      stored: samples written.
      lost: samples that were not, or were damaged later, by reason.
      unsaid: of them, those that no record says yet.
    """

    def __init__(self) -> None:
        self.stored = 0
        self.lost: Counter[str] = Counter()
        self.unsaid: Counter[str] = Counter()
        self._written: Counter[str] = Counter()

    def restore(self, totals: Totals) -> None:
        """Add what an earlier run counted."""
        self.stored += totals.stored
        self.lost.update(totals.lost)
        self._written.update(totals.written)

    def lose(self, reason: str, samples: int) -> None:
        """Count samples that do not come into the ring."""
        if samples:
            self.lost[reason] += samples
            self.unsaid[reason] += samples

    def store(self, samples: int, said: Mapping[str, int]) -> None:
        """Count samples that are in it now, with what their record says was lost."""
        self.stored += samples
        self.unsaid -= Counter(said)

    def write(self, at_us: int, size: int) -> None:
        """Count bytes given to the disk at a moment of the wall clock."""
        self._written[day_of(at_us)] += size

    @property
    def written(self) -> dict[str, int]:
        """Bytes by day, oldest day first, of the last days on which anything was written."""
        return dict(sorted(self._written.items())[-_DAYS:])

    def totals(self) -> Totals:
        """What the next header says: without what the record behind it will say."""
        return Totals(self.stored, dict(self.lost - self.unsaid), self.written)
