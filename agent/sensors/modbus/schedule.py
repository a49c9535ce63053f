"""Whose turn it is on a line that many units share, some of which do not answer.

Only one request is under way at a time, and a unit that does not answer costs its whole timeout.
The states of a unit:

    unproven ─ answer ─► proven ─ silence ─► retrying ─ retries used up ─► quarantined ◄┐
       └───── silence ──────────────────────►   │                               │    └──┘ silence:
                           ▲                    │                               │   waits longer
                           └──── answer ────────┴──── answer ───────────────────┘

- Jobs of proven units are due at their poll interval and are taken oldest first.
- Everything else is a gamble with one timeout.  Between two gambles, whatever was due at a proven
  unit by the end of the first is served.  So a job of a proven unit waits for at most one gamble,
  however many units are absent.
- A quarantined unit's jobs pass, without a request, when they are due; the caller marks their
  samples Bad.  Once its wait is over, the next job that is due is a gamble again.  The waits grow
  (decorrelated jitter, wire.reconnecting), and end at a limit.
- RTU answers carry no number, and a late one must never be taken for the answer to a different
  request.  So after silence only the same request is repeated, and after a late success the unit
  rests until the answers to the repetitions must have come too.  (A device that is slower than
  all its attempts together, and the quarantine after them, needs a longer timeout.)

Pure: times are seconds of any monotonic clock, given by the caller.
"""

import random
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from wire.reconnecting import backoff

J = TypeVar("J", bound=Hashable)

_FIRST_QUARANTINE_S = 1.0
_QUARANTINE_TIMEOUTS = 4
"""The first quarantine lasts at least this many timeouts."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What one unit is given: its timeout, and how many further attempts."""

    retries: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ask(Generic[J]):
    """Send this request now; `missed` polls before it were left out for want of time."""

    job: J
    missed: int


@dataclass(frozen=True, slots=True)
class Pass(Generic[J]):
    """The job is due, but its unit can not be asked: its samples are Bad."""

    job: J
    missed: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before this time."""

    until_s: float


@dataclass(slots=True)
class _Due:
    unit_id: int
    interval_s: float
    due_s: float


@dataclass(slots=True)
class _Unit(Generic[J]):
    patience: Patience
    is_proven: bool = False
    was_proven: bool = False
    """It has answered since its last quarantine."""
    failures: int = 0
    retry: Ask[J] | None = None
    asked_s: tuple[float, float] = (0.0, 0.0)
    """When the poll that is under way was asked first and last."""
    ready_s: float = float("-inf")
    """When it may be asked again: end of a rest or of a quarantine, or the last failure."""
    waits: Iterator[float] | None = None
    """Of the quarantine; None outside of one."""


@dataclass
class Schedule(Generic[J]):
    """Turns of one line's jobs; `patience` by unit id."""

    patience: Mapping[int, Patience]
    longest_quarantine_s: float
    rng: random.Random
    _units: dict[int, _Unit[J]] = field(init=False)
    _jobs: dict[J, _Due] = field(init=False, default_factory=dict)
    _gambled_s: float = field(init=False, default=float("-inf"))

    def __post_init__(self) -> None:
        self._units = {unit_id: _Unit(each) for unit_id, each in self.patience.items()}

    def add(self, job: J, unit_id: int, interval_s: float, due_s: float) -> None:
        """A job that is to be done every `interval_s` from `due_s` on."""
        self._jobs[job] = _Due(unit_id, interval_s, due_s)

    def remove(self, job: J) -> None:
        """The job is not to be done again."""
        del self._jobs[job]

    def next(self, now_s: float, *, is_open: bool) -> Ask[J] | Pass[J] | Wait:
        """What to do now.

        Each Ask is followed by `answered`, `silent` or `lost` before the next call.

        Args:
          now_s: the time.
          is_open: whether requests can be sent; if not, due jobs pass.
        """
        safe: list[tuple[float, J]] = []
        gambles: list[tuple[float, J | Ask[J]]] = [
            # A unit that has just been well comes before those that may never have been there.
            (float("-inf") if unit.was_proven else unit.ready_s, unit.retry)
            for unit in self._units.values()
            if unit.retry is not None
        ]
        if gambles and not is_open:
            retry = next(unit.retry for unit in self._units.values() if unit.retry is not None)
            return self.lost(retry, now_s)
        for job, due in self._jobs.items():
            unit = self._units[due.unit_id]
            if due.due_s > now_s or unit.retry is not None:
                continue
            if not is_open or (unit.waits is not None and unit.ready_s > now_s):
                return Pass(job, self._advance(job, now_s))
            if unit.is_proven and unit.ready_s <= now_s:
                safe.append((due.due_s, job))
            elif not unit.is_proven:
                gambles.append((max(due.due_s, unit.ready_s), job))
        return self._choose(safe, gambles, now_s) or Wait(self._next_due_s(now_s))

    def answered(self, ask: Ask[J], now_s: float) -> int:
        """The unit answered, be it with an exception; how many polls were left out before this."""
        unit = self._units[self._jobs[ask.job].unit_id]
        is_late = unit.failures > 0
        if is_late:
            first_s, last_s = unit.asked_s
            unit.ready_s = now_s + last_s - first_s + unit.patience.timeout_s
        unit.is_proven = unit.was_proven = True
        unit.failures, unit.retry, unit.waits = 0, None, None
        return ask.missed + (self._overtaken(ask.job, now_s) if is_late else 0)

    def silent(self, ask: Ask[J], now_s: float) -> Pass[J] | None:
        """The unit did not answer; None while it is to be tried again, else this poll is over."""
        unit = self._units[self._jobs[ask.job].unit_id]
        unit.is_proven = False
        unit.failures += 1
        self._gambled_s = now_s
        if unit.waits is None and unit.failures <= unit.patience.retries:
            unit.retry, unit.ready_s = ask, now_s
            return None
        if unit.waits is None:
            first_s = max(_FIRST_QUARANTINE_S, _QUARANTINE_TIMEOUTS * unit.patience.timeout_s)
            longest_s = max(first_s, self.longest_quarantine_s)
            unit.waits = backoff(first_s, longest_s, self.rng)
        unit.was_proven = False
        unit.retry, unit.ready_s = None, now_s + next(unit.waits)
        return Pass(ask.job, ask.missed + self._overtaken(ask.job, now_s))

    def lost(self, ask: Ask[J], now_s: float) -> Pass[J]:
        """The line itself went away under the request, which says nothing about the unit."""
        self._units[self._jobs[ask.job].unit_id].retry = None
        return Pass(ask.job, ask.missed + self._overtaken(ask.job, now_s))

    def reopened(self, now_s: float) -> None:
        """The line is new: quarantined units are tried at their next poll."""
        for unit in self._units.values():
            if unit.waits is not None:
                unit.ready_s = min(unit.ready_s, now_s)

    @property
    def is_deaf(self) -> bool:
        """Whether no unit answered when it was last asked."""
        return not any(unit.is_proven for unit in self._units.values())

    def _choose(
        self,
        safe: list[tuple[float, J]],
        gambles: list[tuple[float, J | Ask[J]]],
        now_s: float,
    ) -> Ask[J] | None:
        oldest = min(safe, key=lambda each: each[0], default=None)
        gamble = min(gambles, key=lambda each: each[0], default=None)
        if gamble and oldest and oldest[0] <= max(self._gambled_s, gamble[0]):
            gamble = None
        chosen = gamble or oldest
        if chosen is None:
            return None
        picked = chosen[1]
        ask = picked if isinstance(picked, Ask) else Ask(picked, self._advance(picked, now_s))
        unit = self._units[self._jobs[ask.job].unit_id]
        unit.asked_s = (unit.asked_s[0] if unit.retry else now_s, now_s)
        return ask

    def _advance(self, job: J, now_s: float) -> int:
        """Move the job to its first due time after now; how many due times were left out."""
        due = self._jobs[job]
        missed = int((now_s - due.due_s) / due.interval_s)
        due.due_s += (missed + 1) * due.interval_s
        if due.due_s <= now_s:  # division of floats rounded up
            due.due_s += due.interval_s
        return missed

    def _overtaken(self, job: J, now_s: float) -> int:
        """Polls that became due while this one was being retried; the last of them is this one."""
        return self._advance(job, now_s) + 1 if self._jobs[job].due_s <= now_s else 0

    def _next_due_s(self, now_s: float) -> float:
        times = [due.due_s for due in self._jobs.values() if due.due_s > now_s]
        times += [unit.ready_s for unit in self._units.values() if unit.ready_s > now_s]
        return min(times, default=now_s + 1.0)
