"""Rows: the values of all channels as of the source timestamp of a trigger channel.

A machine finishes a product, its counter moves, and that moment is one row: for each channel the
last sample at or before the trigger's source timestamp (zero-order hold).  A row is cut when every
channel has a sample at or after that timestamp, so that arrival order can not change a row; a
channel that stays silent longer than the grace time is held.

Pure: the caller passes monotonic time in.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from agent.signals.sample import Sample

CLOCK_STEP_US = 60_000_000
"""A trigger older than the last row by more than this means that a clock was set back."""
MAX_PENDING = 100_000
"""Samples kept per channel; the oldest go first (and are counted) if a trigger never comes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `values[i]` belongs to channel i; NaN where the source said Bad or nothing yet."""

    source_timestamp_us: int
    values: tuple[float, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every channel has a usable value (a device that divides by zero sends inf)."""
        return all(math.isfinite(value) for value in self.values)


class RowCutter:
    """Cuts rows out of samples that arrive channel by channel.

    Invariant: rows come out in ascending order of source timestamp, each timestamp once, until
    the source's clock is set back by more than `CLOCK_STEP_US`.
    """

    def __init__(self, channels: int, trigger: int, grace_s: float) -> None:
        self._samples: list[deque[tuple[int, float]]] = [
            deque(maxlen=MAX_PENDING) for _ in range(channels)
        ]
        self._trigger = trigger
        self._grace_s = grace_s
        self._waiting: deque[tuple[int, float]] = deque(maxlen=MAX_PENDING)
        self._last_us = -1
        self.late = 0
        """Samples that came after the row they belong to was cut; the next row can hold them."""

    def push(self, samples: Iterable[Sample], now_s: float) -> list[Row]:
        """Take samples that arrived at monotonic time `now_s`; return the rows now complete."""
        for sample in samples:
            self._follow_clock(sample)
            is_late = sample.source_timestamp_us <= self._last_us
            self.late += is_late
            is_usable = sample.is_good or sample.is_uncertain
            held = self._samples[sample.channel]
            held.append((sample.source_timestamp_us, sample.value if is_usable else math.nan))
            if sample.channel == self._trigger and is_usable and not is_late:
                self._waiting.append((sample.source_timestamp_us, now_s))
        return self.cut(now_s)

    def _follow_clock(self, sample: Sample) -> None:
        """Forget what a source clock that was set back would make wait for ever.

        Within one item the order of samples is guaranteed, so an older source timestamp means that
        the clock was set, or that the server stamped a placeholder before the first value.
        """
        held = self._samples[sample.channel]
        if held and sample.source_timestamp_us < held[-1][0]:
            held.clear()
        is_step = sample.source_timestamp_us < self._last_us - CLOCK_STEP_US
        if is_step and sample.channel == self._trigger:
            self._last_us = -1
            self._waiting.clear()
            for held in self._samples:  # what the other channels sent by the old clock
                if held and held[-1][0] > sample.source_timestamp_us + CLOCK_STEP_US:
                    held.clear()

    def cut(self, now_s: float) -> list[Row]:
        """Return the rows that are complete at monotonic time `now_s`."""
        rows: list[Row] = []
        while self._waiting:
            at_us, arrived_s = self._waiting[0]
            has_all = all(held and held[-1][0] >= at_us for held in self._samples)
            if not has_all and now_s - arrived_s < self._grace_s:
                break
            self._waiting.popleft()
            if at_us > self._last_us:
                rows.append(Row(at_us, tuple(_value_at(held, at_us) for held in self._samples)))
                self._last_us = at_us
        return rows


def _value_at(held: deque[tuple[int, float]], at_us: int) -> float:
    """Last value at or before `at_us`, NaN when there is none; older samples are forgotten."""
    while len(held) > 1 and held[1][0] <= at_us:
        held.popleft()
    return held[0][1] if held and held[0][0] <= at_us else math.nan
