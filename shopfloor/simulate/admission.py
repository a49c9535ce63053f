"""Who begins a training now: the coordinator's admissions, with simulated agents that ask.

Granted policies go through `coordinator.admissions`, where waiting, leases and the choice are.
Open ones need no leave.
"""

import numpy as np
from numpy.typing import NDArray

from coordinator.admissions import Admissions
from shopfloor.simulate.agents import Agents
from shopfloor.simulate.fleet import Fleet
from shopfloor.simulate.settings import Tables
from wire.messages import Readiness

ASK_S = 30.0
"""An agent that waits says so again after this; the coordinator forgets it after 60 s."""


class Admission:
    """Slots of one coordinator."""

    def __init__(self, tables: Tables, fleet: Fleet, rng: np.random.Generator) -> None:
        self._fleet, self._limit = fleet, tables.policy.updates_per_version
        self._is_open = tables.policy.admission == "open"
        self._has_rounds = tables.strategy.name == "fedavg"
        self._numbers = {name: number for number, name in enumerate(fleet.agents)}
        self._admissions = Admissions(tables.selection, tables.strategy, 0, rng)

    def begin(
        self, agents: Agents, is_up: NDArray[np.bool_], version: int, now_s: float
    ) -> list[int]:
        """Agents that may begin now; all of them are idle and connected."""
        ready = agents.may_begin(version, self._limit) & is_up
        if self._is_open:
            return np.flatnonzero(ready).tolist()
        due = ready & (agents.asked_s <= now_s - ASK_S)
        if self._has_rounds:  # an offer for another round is no offer
            due |= ready & (agents.asked_version != version)
        for agent in np.flatnonzero(due).tolist():
            self._ask(agents, agent, version, now_s)
        granted = [self._numbers[name] for name, _ in self._admissions.grants(now_s, version)]
        return [agent for agent in granted if ready[agent]]

    def _ask(self, agents: Agents, agent: int, version: int, now_s: float) -> None:
        loss = float(agents.loss[agent])
        readiness = Readiness(
            base_version=version,
            examples=int(self._fleet.rows[agent]),
            loss=None if np.isnan(loss) else round(loss, 2),
            uplink_s=float(agents.uplink_s[agent]),
        )
        agents.asked_s[agent], agents.asked_version[agent] = now_s, version
        self._admissions.on_ask(
            self._fleet.agents[agent], self._fleet.sites[agent], readiness, now_s
        )

    def on_update(self, agent: int, now_s: float) -> None:
        """An update came: its slot is free."""
        if not self._is_open:
            self._admissions.on_update(self._fleet.agents[agent], now_s)

    def on_gone(self, agents: NDArray[np.intp]) -> None:
        """They lost their links, and the broker told the coordinator."""
        if not self._is_open:
            for agent in agents.tolist():
                self._admissions.on_gone(self._fleet.agents[agent])
