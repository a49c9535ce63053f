"""What each channel's samples are like: how many, how good, how fast, between what and what.

Statistics of all samples since the start, in one pass and any order of blocks: counts, extremes,
and mean and variance by merging (Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm
for Computing Sample Variances", 1979).  Of an array, all its values count.

The clock of a source is judged by arrival less source timestamp.  Every delay makes that larger, so
the lowest of the recent ones is the best estimate (as the clock filter of NTP has it, RFC 5905,
section 10).  Samples that say nothing about the clock are left out: replayed ones, the first of a
channel, which may have been measured long ago, and those that are not newer than the one before.

Blocks are gathered and worked off together, because numpy costs the same for 10 samples and for
1,000.  Pure; the caller says what time it is.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.signals.block import BAD, SEVERITY_SHIFT, UNCERTAIN, ArraySample, Block

Floats = NDArray[np.float64]
Int64s = NDArray[np.int64]

GATHERED = 4096
"""Samples that are worked off together; 100,000 bytes."""
GATHERED_BLOCKS = 1024
PERIOD_US = 10_000_000
"""The rate is that of the last whole period."""
PERIODS_OF_SKEW = 6
"""A clock is judged by the last minute or two."""
SKEW_BOUND_US = 5_000_000
_NEVER = -(1 << 63)
_UNKNOWN = (1 << 63) - 1


class ChannelQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's samples since the start.

    Attributes:
      name: the federation's name of the channel.
      samples: all, Bad ones too.
      bad: of them, not usable.
      uncertain: of them, usable with reserve.
      out_of_order: of them, older than another one that came before; replayed ones are not counted.
      gaps: how often samples are known to be missing, or may be.
      lost: how many are known to be.
      last: the last usable value; of an array, its mean.  None: there was none.
      source_timestamp_us: the newest; microseconds since 1970 UTC.
      least: smallest usable value, as are the others below; None: there was none.
      most: largest.
      mean: of all.
      deviation: standard deviation of all, divided by their number.
      rate_hz: samples that came in the last ten seconds, for one second.
      skew_s: by how much the clock of its source is behind the gateway's, at most; negative:
        ahead, at least.  None: not known.
      is_skewed: whether that is beyond the bound; so is every channel of the source.
    """

    name: str
    samples: int
    bad: int
    uncertain: int
    out_of_order: int
    gaps: int
    lost: int
    last: float | None
    source_timestamp_us: int | None
    least: float | None
    most: float | None
    mean: float | None
    deviation: float | None
    rate_hz: float
    skew_s: float | None
    is_skewed: bool


class Quality:
    """Statistics of C channels.

    Args:
      channels: names.
      sources: for each, a number of the source whose clock it has; None: all have the same.
      skew_bound_us: a clock farther off than this is flagged.
    """

    def __init__(
        self,
        channels: Sequence[str],
        sources: Sequence[int] | None = None,
        skew_bound_us: int = SKEW_BOUND_US,
    ) -> None:
        count = len(channels)
        self._names = tuple(channels)
        self._source = np.array(sources if sources is not None else [0] * count, np.int64)
        self._bound_us = skew_bound_us
        self._samples, self._bad, self._uncertain, self._late, self._gaps, self._lost = np.zeros(
            (6, count), np.int64
        )
        self._values, self._mean, self._squares = np.zeros((3, count))
        self._least, self._most = np.full(count, np.inf), np.full(count, -np.inf)
        self._last = np.full(count, np.nan)
        self._newest_us = np.full(count, _NEVER, np.int64)
        self._skew_us = np.full((PERIODS_OF_SKEW, count), _UNKNOWN, np.int64)
        self._counted = np.zeros((2, count), np.int64)
        self._period = -1
        self._waiting: list[tuple[Block, int]] = []
        self._waiting_samples = 0

    def newest_us(self) -> dict[int, int]:
        """Newest source timestamp of each channel that has given a sample, by its index."""
        self._work_off()
        return {at: int(self._newest_us[at]) for at in np.flatnonzero(self._samples).tolist()}

    def note(self, block: Block, now_us: int) -> None:
        """Take in a block.

        Args:
          block: its arrays must not change any more.
          now_us: when it came, wall clock, microseconds since 1970 UTC.
        """
        for gap in block.gaps:
            self._gaps[gap.channel] += 1
            self._lost[gap.channel] += gap.lost or 0
        if not block.samples:
            return
        period = now_us // PERIOD_US
        first = self._waiting[0] if self._waiting else None
        if period != self._period or (first and first[0].is_replayed != block.is_replayed):
            self._work_off()
            self._turn_to(period)
        self._waiting.append((block, now_us))
        self._waiting_samples += len(block)
        if self._waiting_samples >= GATHERED or len(self._waiting) >= GATHERED_BLOCKS:
            self._work_off()

    def summary(self, now_us: int) -> list[ChannelQuality]:
        """All channels, in order; `now_us` as for `note`."""
        self._work_off()
        self._turn_to(now_us // PERIOD_US)
        skew = self._skew_us.min(axis=0)
        clock = np.full(int(self._source.max(initial=0)) + 1, _UNKNOWN)
        np.minimum.at(clock, self._source, skew)
        of_source = clock[self._source]
        is_off = (of_source != _UNKNOWN) & (np.abs(of_source) > self._bound_us)
        return [
            self._of(at, int(skew[at]), is_skewed=bool(is_off[at]))
            for at in range(len(self._names))
        ]

    def _of(self, at: int, skew_us: int, *, is_skewed: bool) -> ChannelQuality:
        values = int(self._values[at])
        return ChannelQuality(
            name=self._names[at],
            samples=int(self._samples[at]),
            bad=int(self._bad[at]),
            uncertain=int(self._uncertain[at]),
            out_of_order=int(self._late[at]),
            gaps=int(self._gaps[at]),
            lost=int(self._lost[at]),
            last=float(self._last[at]) if values else None,
            source_timestamp_us=int(self._newest_us[at]) if self._samples[at] else None,
            least=float(self._least[at]) if values else None,
            most=float(self._most[at]) if values else None,
            mean=float(self._mean[at]) if values else None,
            deviation=float(np.sqrt(self._squares[at] / values)) if values else None,
            rate_hz=float(self._counted[0, at]) * 1e6 / PERIOD_US,
            skew_s=skew_us / 1e6 if skew_us != _UNKNOWN else None,
            is_skewed=is_skewed,
        )

    def _turn_to(self, period: int) -> None:
        """Begin another period; a clock that was set back begins one, too."""
        if period == self._period:
            return
        follows = period == self._period + 1
        self._counted[0] = self._counted[1] if follows else 0
        self._counted[1] = 0
        passed = period - self._period
        turns = PERIODS_OF_SKEW if passed < 0 else min(passed, PERIODS_OF_SKEW)
        self._skew_us = np.roll(self._skew_us, turns, axis=0)
        self._skew_us[:turns] = _UNKNOWN
        self._period = period

    def _work_off(self) -> None:
        """Take in what was gathered: blocks of one period, replayed or not."""
        waiting, self._waiting, self._waiting_samples = self._waiting, [], 0
        if not waiting:
            return
        blocks = [block for block, _ in waiting]
        is_replayed = blocks[0].is_replayed
        channel = np.concatenate([block.channel for block in blocks])
        if len(channel):
            narrow = channel.astype(np.uint16) if len(self._names) <= 1 << 16 else channel
            order = np.argsort(narrow, kind="stable")  # of 16 bits: by radix
            channel = channel[order]
            edges = np.flatnonzero(channel[1:] != channel[:-1]) + 1
            starts = np.concatenate((np.zeros(1, np.int64), edges))
            counts = np.diff(starts, append=len(channel))
            at = channel[starts].astype(np.int64)
            times = np.concatenate([block.source_timestamp_us for block in blocks])[order]
            arrival = np.repeat([now for _, now in waiting], [len(block) for block in blocks])
            self._samples[at] += counts
            self._counted[1, at] += counts
            self._note_times(at, starts, counts, times, None if is_replayed else arrival[order])
            value = np.concatenate([block.value for block in blocks])[order]
            status = np.concatenate([block.status for block in blocks])[order]
            self._note_values(at, starts, counts, value, status)
        for block, now_us in waiting:
            for sample in block.arrays:
                self._note_array(sample, None if is_replayed else now_us)

    def _note_times(
        self, at: Int64s, starts: Int64s, counts: Int64s, times: Int64s, arrival: Int64s | None
    ) -> None:
        """Newest source timestamps; order and clock, where the arrival says something of them."""
        newest = self._newest_us[at]
        self._newest_us[at] = np.maximum(newest, np.maximum.reduceat(times, starts))
        if arrival is None:
            return
        before = np.empty_like(times)
        before[1:] = times[:-1]
        before[starts] = newest
        is_newer = times > before
        says = is_newer.copy()
        says[starts] &= newest != _NEVER
        skew = np.where(says, arrival - times, _UNKNOWN)
        self._skew_us[0, at] = np.minimum(self._skew_us[0, at], np.minimum.reduceat(skew, starts))
        if is_newer.all():
            return
        disordered = np.logical_or.reduceat(times < before, starts)
        for run in np.flatnonzero(disordered).tolist():
            part = times[starts[run] : starts[run] + counts[run]]
            so_far = np.maximum.accumulate(np.append(newest[run], part[:-1]))
            self._late[at[run]] += int((part < so_far).sum())

    def _note_values(
        self,
        at: Int64s,
        starts: Int64s,
        counts: Int64s,
        value: Floats,
        status: NDArray[np.uint32],
    ) -> None:
        """Extremes, mean and variance of what is usable."""
        is_number = np.isfinite(value)
        if status.any() or not is_number.all():
            severity = status >> SEVERITY_SHIFT
            self._bad[at] += np.add.reduceat(severity >= BAD, starts, dtype=np.int64)
            self._uncertain[at] += np.add.reduceat(severity == UNCERTAIN, starts, dtype=np.int64)
            usable = is_number & (severity < BAD)
            counts = np.add.reduceat(usable, starts, dtype=np.int64)
            has_some = counts > 0
            at, counts, value = at[has_some], counts[has_some], value[usable]
            if not len(value):
                return
            starts = np.cumsum(counts) - counts
        mean = np.add.reduceat(value, starts) / counts
        deviation = value - np.repeat(mean, counts)
        self._merge(at, counts, mean, np.add.reduceat(deviation * deviation, starts))
        self._least[at] = np.minimum(self._least[at], np.minimum.reduceat(value, starts))
        self._most[at] = np.maximum(self._most[at], np.maximum.reduceat(value, starts))
        self._last[at] = value[starts + counts - 1]

    def _merge(self, at: Int64s, count: Int64s, mean: Floats, squares: Floats) -> None:
        """Add the moments of other values: their number, mean, sum of squared deviations."""
        known = self._values[at]
        total = known + count
        shift = mean - self._mean[at]
        share = count / total
        self._values[at] = total
        self._mean[at] += shift * share
        self._squares[at] += squares + shift * shift * known * share

    def _note_array(self, sample: ArraySample, now_us: int | None) -> None:
        """One array: a sample; its values count one by one."""
        channel = sample.channel
        at, starts = np.array([channel]), np.zeros(1, np.int64)
        self._samples[channel] += 1
        self._counted[1, channel] += 1
        times = np.array([sample.source_timestamp_us])
        arrival = None if now_us is None else np.array([now_us])
        self._note_times(at, starts, np.ones(1, np.int64), times, arrival)
        severity = sample.status >> SEVERITY_SHIFT
        self._bad[channel] += severity >= BAD
        self._uncertain[channel] += severity == UNCERTAIN
        value = np.asarray(sample.value, np.float64).reshape(-1)
        value = value[np.isfinite(value)]
        if severity < BAD and len(value):
            count, status = np.array([len(value)]), np.zeros(len(value), np.uint32)
            self._note_values(at, starts, count, value, status)
            self._last[channel] = value.mean()
