"""Cutting rows out of the samples of all channels, by source time.

A row is cut at each source timestamp of a trigger channel (a machine finishes a product, its
counter moves), or at each multiple of a period.  It is cut once every channel has a sample at or
after that timestamp, so that the order of arrival can not change a row; a channel that stays
silent longer than the grace time is held at its last value.

    samples ─► pending ─► edges ≤ what all channels have reached ─► rows (zero-order hold) ─► runs

What is missing never passes for a measurement.  A gap makes its channel's value NaN until the next
sample, and a row without a usable value of a channel that it needs is left out and breaks the run.

Pure: the caller passes monotonic time in.  All work is on columns: the cost is that of a few passes
over the samples, whatever the number of channels.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agent.signals.block import BAD, SEVERITY_SHIFT, UNCERTAIN, Block, Gap
from agent.signals.rows import Rows, joined, no_rows

CLOCK_STEP_US = 60_000_000
"""A trigger older than the last row by more than this means that a clock was set back."""
MAX_PENDING = 1_000_000
"""Samples that wait for their row; the oldest go first (and are counted) if none is ever cut."""
MAX_PENDING_ARRAY_BYTES = 64 << 20
_NEVER_US = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Cutting:
    """How rows are cut.

    Attributes:
      channels: how many there are.
      trigger: index of the channel whose samples make rows; None to cut by `period_us`.
      period_us: microseconds between two rows; 0 with a trigger.
      grace_s: how long a row waits for channels that have not reached it.
      optional: channels that no source feeds: labels that come later.
      hold_bad: a Bad value leaves the last one standing, instead of making rows incomplete.
      uncertain_is_bad: an Uncertain value is treated as a Bad one.
      hold_gaps: a gap leaves the last value standing and breaks no run.
      group: index of a channel whose change ends a run (a work order, an engine); None for none.
      shapes: of the channels that hold arrays.
    """

    channels: int
    trigger: int | None = None
    period_us: int = 0
    grace_s: float = 5.0
    optional: frozenset[int] = frozenset()
    hold_bad: bool = False
    uncertain_is_bad: bool = False
    hold_gaps: bool = False
    group: int | None = None
    shapes: Mapping[int, tuple[int, ...]] | None = None


@dataclass(frozen=True, eq=False)
class _Pending:
    """Samples in columns, in order of arrival: NaN where not usable."""

    channel: NDArray[np.uint32]
    value: NDArray[np.float64]
    at_us: NDArray[np.int64]
    is_uncertain: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.channel)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "_Pending":
        return _Pending(
            self.channel[chosen], self.value[chosen], self.at_us[chosen], self.is_uncertain[chosen]
        )


def _joined(parts: Sequence[_Pending]) -> _Pending:
    return _Pending(
        np.concatenate([part.channel for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.at_us for part in parts]),
        np.concatenate([part.is_uncertain for part in parts]),
    )


_NOTHING = np.zeros(0, np.bool_)
_NONE = _Pending(np.empty(0, np.uint32), np.empty(0), np.empty(0, np.int64), _NOTHING)


class RowCutter:
    """Cuts rows out of blocks that arrive channel by channel.

    Invariant: rows come out in ascending order of source timestamp, each timestamp once, until
    the source's clock is set back by more than `CLOCK_STEP_US`.
    """

    def __init__(self, how: Cutting) -> None:
        self._how = how
        self._shapes = dict(how.shapes or {})
        self._needed = np.array([at not in how.optional for at in range(how.channels)], np.bool_)
        self._pending: list[_Pending] = []
        self._arrays: dict[int, NDArray[np.float32]] = {}
        self._next_array = 1
        self._newest_us = np.full(how.channels, _NEVER_US)
        self._held = np.full(how.channels, np.nan)
        self._held_us = np.full(how.channels, _NEVER_US)
        self._held_uncertain = np.zeros(how.channels, np.bool_)
        self._arrived: deque[tuple[int, float]] = deque(maxlen=MAX_PENDING)
        """Newest source timestamps of what makes rows, and the monotonic times they came at."""
        self._last_us = _NEVER_US
        self._breaks_us: list[int] = []
        self._is_broken = True
        self._group = np.nan
        self.late = 0
        """Samples that came after the row they belong to was cut; the next row can hold them."""
        self.incomplete = 0
        """Rows left out because a channel that they need had no usable value."""
        self.lacking = np.zeros(how.channels, np.bool_)
        """Which channels the newest rows that were left out lacked; none when none was."""
        self.dropped = 0
        """Samples that waited for a row that never came."""

    def judge_by(self, how: Cutting) -> None:
        """Treat Bad and Uncertain values, gaps and silence by another rule from now on.

        Raises:
          ValueError: it is about other channels or cuts rows at other times.
        """
        kept = ("channels", "trigger", "period_us", "optional", "group", "shapes")
        if any(getattr(how, name) != getattr(self._how, name) for name in kept):
            raise ValueError("a row cutter keeps its channels and the times of its rows")
        self._how = how

    def push(self, block: Block, now_s: float) -> Rows:
        """Take a block that arrived at monotonic time `now_s`; return the rows now complete."""
        self._take_gaps(block.gaps)
        parts = []
        for part in _between_clock_steps(block):
            self._take(part, now_s)
            parts.append(self.cut(now_s))
        return joined(parts)

    def cut(self, now_s: float) -> Rows:
        """Return the rows that are complete at monotonic time `now_s`."""
        until_us = self._reached(now_s)
        if until_us <= self._last_us or not self._pending:
            return self.no_rows()
        pending = self._waiting()
        edges = self._edges(pending, until_us)
        if not len(edges):
            return self.no_rows()
        is_due = pending.at_us <= edges[-1]
        if is_due.all():
            due, self._pending = pending, []
        else:
            due, self._pending = pending.take(is_due), [pending.take(~is_due)]
        rows = self._rows(edges, *self._held_at(edges, due))
        self._last_us = int(edges[-1])
        return rows

    def no_rows(self) -> Rows:
        """No rows, of these channels."""
        return no_rows(self._how.channels, self._shapes)

    # Taking samples

    def _take(self, block: Block, now_s: float) -> None:
        taken = _Pending(
            block.channel,
            np.where(self._is_usable(block.status), block.value, np.nan),
            block.source_timestamp_us,
            block.is_uncertain,
        )
        if block.arrays:
            taken = _joined([taken, self._array_samples(block)])
        if not len(taken):
            return
        channel, at_us = taken.channel, taken.at_us
        is_usable = ~np.isnan(taken.value)
        if not block.is_replayed:
            self._follow_clock(channel, at_us)
        is_late = at_us <= self._last_us
        self.late += int(is_late.sum())
        np.maximum.at(self._newest_us, channel, at_us)
        self._note_arrival(channel, at_us, is_usable, now_s)
        is_new = ~is_late | (at_us > self._held_us[channel])
        if self._how.hold_bad:
            is_new &= is_usable
        self._pending.append(taken if is_new.all() else taken.take(is_new))
        self._bound()

    def _is_usable(self, status: NDArray[np.uint32]) -> NDArray[np.bool_]:
        severity = status >> SEVERITY_SHIFT
        return np.asarray(severity < (UNCERTAIN if self._how.uncertain_is_bad else BAD))

    def _array_samples(self, block: Block) -> _Pending:
        """Arrays as samples whose value is a number to find them by; NaN for a Bad one."""
        status = np.array([sample.status for sample in block.arrays], np.uint32)
        numbers = np.full(len(status), np.nan)
        for at in np.flatnonzero(self._is_usable(status)).tolist():
            sample = block.arrays[at]
            if sample.value.shape == self._shapes.get(sample.channel):
                self._arrays[self._next_array] = sample.value
                numbers[at] = self._next_array
                self._next_array += 1
        return _Pending(
            np.array([sample.channel for sample in block.arrays], np.uint32),
            numbers,
            np.array([sample.source_timestamp_us for sample in block.arrays], np.int64),
            status >> SEVERITY_SHIFT == UNCERTAIN,
        )

    def _take_gaps(self, gaps: Sequence[Gap]) -> None:
        """A gap is a NaN right after the last sample before it, and breaks a run there."""
        if self._how.hold_gaps:
            gaps = [gap for gap in gaps if gap.channel == self._how.trigger]
        if not gaps:
            return
        channel = np.array([gap.channel for gap in gaps], np.uint32)
        from_us = np.array([gap.from_us for gap in gaps], np.int64) + 1
        until_us = np.array([gap.until_us for gap in gaps], np.int64)
        is_ahead = from_us > self._last_us
        self._breaks_us.extend(np.unique(from_us[is_ahead]).tolist())
        self._is_broken |= bool((until_us[~is_ahead] > self._last_us).any())
        nothing = np.full(int(is_ahead.sum()), np.nan)
        is_uncertain = np.zeros(len(nothing), np.bool_)
        self._pending.append(_Pending(channel[is_ahead], nothing, from_us[is_ahead], is_uncertain))

    def _follow_clock(self, channel: NDArray[np.uint32], at_us: NDArray[np.int64]) -> None:
        """Forget what a source clock that was set back would make wait for ever.

        An older source timestamp within the bound came out of order, and is sorted in.  One beyond
        it means that the clock was set, or that the source stamped a placeholder before the first
        value.
        """
        went_back = at_us < self._newest_us[channel] - CLOCK_STEP_US
        if went_back.any():
            self._forget(np.unique(channel[went_back]))
        makes_rows = self._makes_rows(channel)
        stepped = at_us[makes_rows] < self._last_us - CLOCK_STEP_US
        if self._last_us != _NEVER_US and stepped.any():
            new_us = int(at_us[makes_rows].max())
            self._last_us = _NEVER_US
            self._is_broken = True
            self._arrived.clear()
            self._forget(np.flatnonzero(self._newest_us > new_us + CLOCK_STEP_US))

    def _forget(self, channels: NDArray[np.integer]) -> None:
        pending = self._waiting()
        gone = np.isin(pending.channel, channels)
        self._pending = [pending.take(~gone)] if gone.any() else [pending]
        self._newest_us[channels] = _NEVER_US
        self._held[channels] = np.nan
        self._held_us[channels] = _NEVER_US

    def _makes_rows(self, channel: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which samples make rows: the trigger's, or all."""
        if self._how.trigger is None:
            return np.ones(len(channel), np.bool_)
        return np.asarray(channel == self._how.trigger)

    def _note_arrival(
        self,
        channel: NDArray[np.uint32],
        at_us: NDArray[np.int64],
        is_usable: NDArray[np.bool_],
        now_s: float,
    ) -> None:
        made = at_us[self._makes_rows(channel) & is_usable]
        if made.size:
            newest = int(made.max())
            if not self._arrived or newest > self._arrived[-1][0]:
                self._arrived.append((newest, now_s))

    def _bound(self) -> None:
        while sum(map(len, self._pending)) > MAX_PENDING and self._pending:
            pending = self._waiting()
            excess = len(pending) - MAX_PENDING
            oldest = np.argsort(pending.at_us, kind="stable")[:excess]
            is_kept = np.ones(len(pending), np.bool_)
            is_kept[oldest] = False
            self._pending = [pending.take(is_kept)]
            self.dropped += excess
        size = sum(array.nbytes for array in self._arrays.values())
        while size > MAX_PENDING_ARRAY_BYTES and len(self._arrays) > len(self._shapes):
            oldest_array = next(iter(self._arrays))
            size -= self._arrays.pop(oldest_array).nbytes
            self.dropped += 1

    # Cutting

    def _waiting(self) -> _Pending:
        if not self._pending:
            return _NONE
        if len(self._pending) > 1:
            self._pending = [_joined(self._pending)]
        return self._pending[0]

    def _reached(self, now_s: float) -> int:
        """Up to which source timestamp rows can be cut now."""
        needed = self._newest_us[self._needed]
        reached = int(needed.min()) if needed.size else int(self._newest_us.max())
        while self._arrived and now_s - self._arrived[0][1] >= self._how.grace_s:
            reached = max(reached, self._arrived.popleft()[0])
        return reached

    def _edges(self, pending: _Pending, until_us: int) -> NDArray[np.int64]:
        """Source timestamps of the rows to cut: int64, ascending, after the last one."""
        at_us, period = pending.at_us, self._how.period_us
        if self._how.trigger is not None:
            made = at_us[(pending.channel == self._how.trigger) & ~np.isnan(pending.value)]
            made = made[(made > self._last_us) & (made <= until_us)]
            return np.unique(made)
        ends = -(-at_us[at_us > self._last_us] // period)
        if not len(ends):
            return ends
        first, last = ends.min(), ends.max()
        made = (ends[:1] if first == last else np.unique(ends)) * period
        return self._filled(made[made <= until_us])

    def _filled(self, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows in which nothing changed, where the silence is no longer than the grace time."""
        period = self._how.period_us
        most = max(1, int(self._how.grace_s * 1e6) // period)
        known = edges if self._last_us == _NEVER_US else np.append(self._last_us, edges)
        steps = np.diff(known) // period
        short = (steps > 1) & (steps <= most)
        if not short.any():
            return edges
        between = [
            np.arange(known[at] + period, known[at + 1], period) for at in np.flatnonzero(short)
        ]
        return np.sort(np.concatenate([edges, *between]))

    def _held_at(
        self, edges: NDArray[np.int64], due: _Pending
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Last value of every channel at or before each edge: float64 (R, C).

        And whether one of a row's values is Uncertain: bool (R,).
        """
        rows, channels = len(edges), self._how.channels
        is_newer = due.at_us >= self._held_us[due.channel]
        if not is_newer.all():
            due = due.take(is_newer)
        if (np.diff(due.at_us) < 0).any():
            order = np.argsort(due.at_us, kind="stable")
            due = due.take(order)
        row = np.searchsorted(edges, due.at_us, side="left")
        last = np.full((rows, channels), -1)
        last[row, due.channel] = np.arange(len(due))
        np.maximum.accumulate(last, axis=0, out=last)
        is_told = last >= 0  # elsewhere `last` finds any sample, and what is held is taken
        values = np.where(is_told, due.value[last], self._held)
        final, has = last[-1], is_told[-1]
        self._held_us[has] = due.at_us[final[has]]
        self._held = values[-1].copy()
        uncertain = np.where(is_told, due.is_uncertain[last], self._held_uncertain)
        self._held_uncertain = uncertain[-1]
        return values, np.asarray(uncertain.any(axis=1))

    def _rows(
        self,
        edges: NDArray[np.int64],
        values: NDArray[np.float64],
        is_uncertain: NDArray[np.bool_],
    ) -> Rows:
        arrays = {}
        for channel, shape in self._shapes.items():
            arrays[channel] = self._stacked(values[:, channel], shape)
            values[:, channel] = np.where(np.isfinite(values[:, channel]), 0.0, np.nan)
        self._forget_arrays()
        rows = Rows(edges, values, self._follows(edges, values), arrays, is_uncertain)
        is_complete = np.asarray(np.isfinite(values[:, self._needed]).all(axis=1))
        self.incomplete += len(rows) - int(is_complete.sum())
        self.lacking = ~np.isfinite(values[~is_complete]).all(axis=0) & self._needed
        kept = rows if is_complete.all() else rows.take(is_complete)
        if self._is_broken and len(kept):
            kept.follows[0] = False
        self._is_broken = not is_complete[-1]
        return kept

    def _stacked(self, numbers: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
        stacked = np.zeros((len(numbers), *shape), np.float32)
        for at, number in enumerate(numbers):
            array = None if np.isnan(number) else self._arrays.get(int(number))
            if array is None:
                numbers[at] = np.nan
            else:
                stacked[at] = array
        return stacked

    def _forget_arrays(self) -> None:
        """Forget arrays that no row can hold any more."""
        if not self._arrays:
            return
        pending = self._waiting()
        is_array = np.isin(pending.channel, list(self._shapes))
        wanted = np.concatenate([pending.value[is_array], self._held[list(self._shapes)]])
        kept = {int(number) for number in wanted[np.isfinite(wanted)]}
        self._arrays = {number: self._arrays[number] for number in self._arrays if number in kept}

    def _follows(self, edges: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether nothing is missing between the row before and this one, of all rows."""
        before = np.append(self._last_us, edges[:-1])
        follows = np.ones(len(edges), np.bool_)
        follows[0] = self._last_us != _NEVER_US
        if self._how.trigger is None:
            follows[1:] &= np.diff(edges) == self._how.period_us
            follows[0] &= int(edges[0]) - self._last_us == self._how.period_us
        for at in self._breaks_us:
            follows &= ~((before < at) & (at <= edges))
        self._breaks_us = [at for at in self._breaks_us if at > edges[-1]]
        if self._how.group is not None:
            group = values[:, self._how.group]
            follows[1:] &= group[1:] == group[:-1]
            follows[0] &= bool(group[0] == self._group)
            self._group = float(group[-1])
        return follows


def _between_clock_steps(block: Block) -> list[Block]:
    """Cut a block where the clock of a channel was set back; its arrays go with the last part."""
    at_us, channel = block.source_timestamp_us, block.channel
    if block.is_replayed or not (np.diff(at_us) < -CLOCK_STEP_US).any():
        return [block]
    order = np.argsort(channel, kind="stable")
    is_same = np.diff(channel[order]) == 0
    is_step = np.diff(at_us[order]) < -CLOCK_STEP_US
    borders = [0, *np.sort(order[1:][is_same & is_step]).tolist(), len(block)]
    parts = [
        replace(
            block,
            channel=block.channel[begin:end],
            value=block.value[begin:end],
            status=block.status[begin:end],
            source_timestamp_us=block.source_timestamp_us[begin:end],
            arrays=(),
            gaps=(),
        )
        for begin, end in pairwise(borders)
    ]
    parts[-1] = replace(parts[-1], arrays=block.arrays)
    return parts
