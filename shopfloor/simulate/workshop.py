"""Trainings under way, computed when an update is needed, several at once.

A training is pure in its base weights, so it may be computed any time between its grant and the
arrival of its update; those that end first are computed together (`network.py`).
"""

import heapq
from operator import itemgetter

import numpy as np

from shopfloor.simulate.agents import Work
from shopfloor.simulate.fleet import Fleet
from shopfloor.simulate.network import Job, Recipe, Weights, train

_TOGETHER = 32
"""More gain nothing, and may be given up before they are needed."""


class Workshop:
    """Work of all agents that are not idle.

    Attributes:
      works: by agent.
    """

    def __init__(self, fleet: Fleet, recipe: Recipe, rng: np.random.Generator) -> None:
        self._fleet, self._recipe, self._rng = fleet, recipe, rng
        self.works: dict[int, Work] = {}

    def begin(self, agent: int, work: Work) -> None:
        """An agent sets out."""
        self.works[agent] = work

    def drop(self, agent: int) -> None:
        """An agent gives its work up."""
        del self.works[agent]

    def finish(self, agent: int) -> tuple[Work, Weights]:
        """Hand over an agent's work and its delta, float32 (P,)."""
        work = self.works[agent]
        if work.delta is None:
            self._train(agent)
        del self.works[agent]
        if work.delta is None:
            reason = f"agent {agent} was not among those that were trained"
            raise RuntimeError(reason)
        return work, work.delta

    def _train(self, needed: int) -> None:
        others = (
            (work.ends_s, agent)
            for agent, work in self.works.items()
            if work.delta is None and agent != needed
        )
        first = heapq.nsmallest(_TOGETHER - 1, others)
        agents = [needed, *map(itemgetter(1), first)]
        jobs = [Job(agent, self.works[agent].base) for agent in agents]
        deltas, losses = train(jobs, self._fleet, self._recipe, self._rng)
        for agent, delta, loss in zip(agents, deltas, losses, strict=True):
            self.works[agent].delta, self.works[agent].loss = delta, float(loss)
