"""Links that come and go, thousands at once, moved forward only as far as somebody looks.

`markov` links have two states of exponential length.  `weekly` and `shift` links follow the clock:
up for the same part of each week or day, each agent (weekly) or each site (shift) with a phase of
its own; so an agent is away for days, or a third of the fleet goes at once.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shopfloor.simulate.scenario import Scenario

_DAY_S = 86_400.0
_WEEK_S = 7 * _DAY_S
_SHIFTS = 3


class Links:
    """The links of N agents at one moment, which only moves forward.

    Attributes:
      is_up: bool (N,), now.
      until_s: float64 (N,), when each one changes next; infinite where it never does.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._rng = np.random.default_rng([scenario.seed, 2])
        count, online = scenario.agents, 1.0 - scenario.offline
        self._is_random = scenario.outages == "markov"
        if scenario.offline <= 0.0:
            self.is_up = np.ones(count, np.bool_)
            self.until_s = np.full(count, math.inf)
        elif self._is_random:
            self._up_s, self._down_s = scenario.on_s, scenario.on_s / online * scenario.offline
            self.is_up = self._rng.random(count) < online
            mean_s = np.where(self.is_up, self._up_s, self._down_s)
            self.until_s = self._rng.exponential(1.0, count) * mean_s
        else:
            period_s = _WEEK_S if scenario.outages == "weekly" else _DAY_S
            self._up_s, self._down_s = online * period_s, scenario.offline * period_s
            phase_s = _phases(scenario, self._rng) * period_s
            self.is_up = phase_s < self._up_s
            self.until_s = np.where(self.is_up, self._up_s, period_s) - phase_s
        self._next_s = float(self.until_s.min())

    def advance(self, now_s: float) -> NDArray[np.intp]:
        """Move to a moment; returns who lost the link since the last one and is without it now."""
        if now_s < self._next_s:
            return np.empty(0, np.intp)
        was_up = self.is_up.copy()
        while (due := np.flatnonzero(self.until_s <= now_s)).size:
            self.is_up[due] ^= True
            length_s = np.where(self.is_up[due], self._up_s, self._down_s)
            if self._is_random:
                length_s *= self._rng.exponential(1.0, due.size)
            self.until_s[due] += length_s
        self._next_s = float(self.until_s.min())
        return np.flatnonzero(was_up & ~self.is_up)


def _phases(scenario: Scenario, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where in its period each agent is at the start, in [0, 1), (N,)."""
    if scenario.outages == "weekly":
        return rng.random(scenario.agents)
    # Sites work one of three shifts, give or take a twelfth of a day.
    sites = -(-scenario.agents // scenario.agents_per_site)
    shift = rng.integers(0, _SHIFTS, sites) / _SHIFTS + rng.uniform(-1, 1, sites) / 12
    phases: NDArray[np.float64] = np.repeat(shift % 1.0, scenario.agents_per_site)
    return phases[: scenario.agents]
