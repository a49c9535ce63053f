"""Who asked to train and who may: the soft state behind `policy.admission = "granted"`.

    ask ──► waiting ──chosen──► lease ──update or tombstone──► (asks again)
              │                   │
              └ 60 s, or will     └ too long: the slot is given to somebody else

`coordinator/selection.py` chooses; this module says when, among whom, and for how many slots:

- Asynchronous strategies have `concurrency` slots; a slot is free when no lease holds it.
- `fedavg` has clients x (1 + over_selection) slots in each round, which is a version: what came in
  keeps its slot until the round is over, a lease that ran out gives its own away.  Who would train
  from another version is not chosen, because its update would be late.

A lease is a promise about slots and nothing else: an update is taken with or without one.  So
everything here may be forgotten: after a restart agents ask again within seconds, at worst more of
them train at once than there are slots.  A grant's number is above all of earlier starts, because
the start is its upper half.  An agent that asks again while it has a lease, because the grant was
lost or its update is on its way, is told the same grant again, which it knows.

How long a lease runs is learned like a retransmission timeout, from the agent's own leases or else
from everybody's: smoothed time and four times its smoothed deviation (RFC 6298, section 2), at most
`lease_s`.  It goes on when the link is gone: training does too, and what comes out of it waits in
the outbox.

Invariant: somebody may always train.  When all who wait are above the cap for updates of one agent,
and nobody is at work, versions stand still and the window with them; then it is emptied.

Memory is constant for each agent, and agents are those that were enrolled.  Time is passed in.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.selection import Candidate, Candidates, SelectionSettings, choose, columns
from coordinator.strategies.choice import StrategySettings
from wire.messages import NOVELTY_BINS, Grant, Readiness
from wire.novelty import distance_by_chance, distances

Vector = NDArray[np.float64]

ASK_EXPIRES_S = 60.0
"""Six asks: an agent that was not heard of for so long would not hear its grant either."""
MAX_BOOTS = 1 << 21
"""Grant numbers are below 2**53, and a boot has 2**32 of them."""

_SHORTEST_LEASE_S = 60.0
_SHARE = 1 / 50
"""What is learned from is the mean of the last 50 histograms or so."""


@dataclass
class Durations:
    """How long leases took from grant to update, smoothed (RFC 6298, sections 2.2 and 2.3)."""

    smoothed_s: float = 0.0
    deviation_s: float = 0.0

    def observe(self, took_s: float) -> None:
        """Take in one more."""
        if self.smoothed_s == 0:
            self.smoothed_s, self.deviation_s = took_s, took_s / 2
            return
        self.deviation_s += (abs(self.smoothed_s - took_s) - self.deviation_s) / 4
        self.smoothed_s += (took_s - self.smoothed_s) / 8

    @property
    def timeout_s(self) -> float | None:
        """When the next one is late; None before the first."""
        return self.smoothed_s + 4 * self.deviation_s if self.smoothed_s else None


@dataclass
class _Agent:
    """What is remembered of one agent.

    Attributes:
      candidate: what it asked with, while it waits.
      base_version: what it would train from.
      asked_s: when it asked last.
      novelty: float64, (NOVELTY_BINS,): the last histogram that it told.
      grant: its lease, given at `granted_s`.
      is_owed: the grant is to be said, for the first time or again.
    """

    site: str = ""
    candidate: Candidate | None = None
    base_version: int = 0
    asked_s: float = 0.0
    novelty: Vector | None = None
    grant: Grant | None = None
    granted_s: float = 0.0
    is_owed: bool = False
    durations: Durations = field(default_factory=Durations)

    def end_lease(self) -> None:
        """The slot is free."""
        self.grant, self.is_owed = None, False


@dataclass
class Admissions:
    """Asks, leases and recent updates of one coordinator process.

    Attributes:
      settings: the `[selection]` table.
      strategy: the `[strategy]` table, which decides between slots at a time and slots a round.
      boot: the coordinator's start counter; grant numbers begin above boot << 32.
      rng: for the choice.
      k_min: the charter's.
    """

    settings: SelectionSettings
    strategy: StrategySettings
    boot: int
    rng: np.random.Generator
    k_min: int = 1
    _agents: dict[str, _Agent] = field(default_factory=dict, init=False)
    _durations: Durations = field(default_factory=Durations, init=False)
    _granted: int = field(default=0, init=False)
    _version: int = field(default=-1, init=False)
    _arrived: int = field(default=0, init=False)
    """Updates of this round's leases, with fedavg."""
    _window: deque[Counter[str]] = field(default_factory=lambda: deque([Counter()]), init=False)
    _recent: Counter[str] = field(default_factory=Counter, init=False)
    """Sum of the window's counters."""
    _learned: Vector | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.boot < MAX_BOOTS:
            reason = f"boot {self.boot} is outside [0, {MAX_BOOTS}): grant numbers would not fit"
            raise ValueError(reason)

    # What happens

    def on_ask(self, agent: str, site: str, readiness: Readiness, now_s: float) -> None:
        """An agent is ready; one that does not repeat its histogram keeps the one it told."""
        known = self._agents.setdefault(agent, _Agent())
        known.site, known.asked_s = site, now_s
        if len(readiness.novelty) == NOVELTY_BINS:
            known.novelty = np.array(readiness.novelty, dtype=np.float64)
        if known.grant is None:
            known.candidate = _candidate(agent, site, readiness)
            known.base_version = readiness.base_version
        else:
            known.is_owed = True

    def on_update(self, agent: str, now_s: float, *, is_dropped: bool = False) -> None:
        """An update of the agent, granted or not, came to its outcome or into the buffer.

        Args:
          agent: whose.
          now_s: monotonic time.
          is_dropped: it is a tombstone: the slot is free, but nothing was learned from the agent.
        """
        known = self._agents.get(agent)
        if known is not None and known.grant is not None:
            if not is_dropped:
                known.durations.observe(now_s - known.granted_s)
                self._durations.observe(now_s - known.granted_s)
                self._arrived += self._is_in_rounds
            known.end_lease()
        if is_dropped:
            return
        self._window[-1][agent] += 1
        self._recent[agent] += 1
        if known is not None and known.novelty is not None:
            learned = known.novelty if self._learned is None else self._learned
            self._learned = learned + (known.novelty - learned) * _SHARE

    def on_gone(self, agent: str) -> None:
        """The agent's will came: it would not hear a grant.  Its lease goes on."""
        known = self._agents.get(agent)
        if known is not None:
            known.candidate, known.is_owed = None, False

    def on_version(self, version: int) -> None:
        """A version was made: the window moves, and with fedavg the round is over."""
        if version == self._version:
            return
        self._version = version
        self._window.append(Counter())
        while len(self._window) > self.settings.window:
            self._recent -= self._window.popleft()  # drops those at zero, too
        self._arrived = 0
        if self._is_in_rounds:
            for known in self._agents.values():
                known.end_lease()

    # What to say

    def grants(self, now_s: float, version: int) -> list[tuple[str, Grant]]:
        """What to publish now: new grants, and those that were asked for again.

        Args:
          now_s: monotonic time.
          version: the newest version.

        Returns:
          (agent, grant) for each.
        """
        self.on_version(version)
        self._expire(now_s)
        for agent in self._choose():
            self._granted += 1
            known = self._agents[agent]
            known.grant = Grant(number=(self.boot << 32) + self._granted, base_version=version)
            known.candidate, known.granted_s, known.is_owed = None, now_s, True
        said = []
        for agent, known in self._agents.items():
            if known.is_owed and known.grant is not None:
                known.is_owed = False
                said.append((agent, known.grant))
        return said

    @property
    def waiting(self) -> int:
        """Agents that asked and have no lease."""
        return sum(known.candidate is not None for known in self._agents.values())

    @property
    def leases(self) -> int:
        """Agents that are at work on a grant."""
        return sum(known.grant is not None for known in self._agents.values())

    @property
    def _is_in_rounds(self) -> bool:
        return self.strategy.name == "fedavg"

    def _expire(self, now_s: float) -> None:
        for known in self._agents.values():
            if known.candidate is not None and now_s - known.asked_s >= ASK_EXPIRES_S:
                known.candidate = None
            if known.grant is not None and now_s - known.granted_s >= self._lease_s(known):
                known.end_lease()
                known.durations = Durations()  # they did not tell

    def _lease_s(self, known: _Agent) -> float:
        timeout_s = known.durations.timeout_s or self._durations.timeout_s
        longest_s = self.settings.lease_s
        if timeout_s is None:
            return longest_s
        return min(max(timeout_s, _SHORTEST_LEASE_S), longest_s)

    def _free_slots(self) -> int:
        if not self._is_in_rounds:
            return self.settings.concurrency - self.leases
        selected = math.ceil(self.strategy.clients * (1 + self.strategy.over_selection))
        return selected - self.leases - self._arrived

    def _choose(self) -> list[str]:
        slots = self._free_slots()
        if slots <= 0:
            return []
        waiting = [
            known.candidate
            for known in self._agents.values()
            if known.candidate is not None
            and (not self._is_in_rounds or known.base_version == self._version)
        ]
        if not waiting:
            return []
        held = {known.site for known in self._agents.values() if known.grant is not None}
        candidates = self._table(waiting)

        def chosen(recent: Mapping[str, int]) -> list[str]:
            return choose(
                candidates, slots, self.settings, self.rng, recent, k_min=self.k_min, held=held
            )

        found = chosen(self._recent)
        if found or held or self._arrived:
            return found
        found = chosen({})
        if found:
            self._window, self._recent = deque([Counter()]), Counter()
        return found

    def _table(self, waiting: list[Candidate]) -> Candidates:
        """Who waits, as columns, with how far each is from what was learned from lately."""
        table = columns(waiting)
        if self._learned is None or not self.settings.novelty:
            return table
        told = [self._agents[agent].novelty for agent in table.agents]
        return replace(table, novelty=_beyond_chance(told, table.examples, self._learned))


def _candidate(agent: str, site: str, asked: Readiness) -> Candidate:
    return Candidate(
        agent=agent,
        site=site,
        examples=asked.examples,
        loss=asked.loss,
        uplink_s=asked.uplink_s,
        power=asked.power,
        battery=asked.battery,
        temperature_c=asked.temperature_c,
    )


def _beyond_chance(told: list[Vector | None], examples: Vector, learned: Vector) -> Vector:
    """Distances of histograms from `learned`, less what noise alone makes; NaN where none is."""
    result = np.full(len(told), np.nan)
    rows = [row for row, histogram in enumerate(told) if histogram is not None]
    if rows:
        stacked = np.array([histogram for histogram in told if histogram is not None])
        apart = distances(stacked, learned) - distance_by_chance(examples[rows])
        result[rows] = np.maximum(apart, 0.0)
    return result
