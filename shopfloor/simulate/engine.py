"""The event loop: agents that fetch, train and send while their links come and go.

    idle ──admitted──► fetching ──► training ──► sending ──► idle
                       (needs       (needs no    (needs
                        the link)    link)        the link)

Transfers go on where they were cut, as the product's chunks do.  A training that is interrupted
begins again.  With `offline_training`, an idle agent that loses its link trains from the version
that it has.

Time is virtual: nothing waits for a clock, events of one moment happen in the order in which they
were planned, and the same seed gives the same run to the last bit.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import Diverged
from shopfloor.simulate.admission import Admission
from shopfloor.simulate.agents import State, Work, idle_agents
from shopfloor.simulate.codec import Codec
from shopfloor.simulate.federation import Federation, Witness
from shopfloor.simulate.fleet import make_fleet
from shopfloor.simulate.links import Links
from shopfloor.simulate.network import PARAMETERS, accuracy, initial_weights
from shopfloor.simulate.outcome import Outcome, Point, slow_share, smoothed
from shopfloor.simulate.scenario import Limits, Scenario
from shopfloor.simulate.settings import Tables
from shopfloor.simulate.workshop import Workshop

ADMISSION_S = 5.0
"""Between two looks at who waits for a slot; a new round of `fedavg` does not wait for it."""
JITTER = 0.25
"""Sigma of the logarithm of one training's time about the agent's usual one."""
MODEL_BYTES = 4 * PARAMETERS

Late = Literal["send", "drop"]
Progress = Callable[[Point], None]


class Event(IntEnum):
    """What happens at a planned moment."""

    ADMISSION = 0
    TRANSFER = 1
    TRAINED = 2
    DEADLINE = 3


@dataclass
class _Counts:
    """What the run has cost so far."""

    made: int = 0
    uplinks: int = 0
    dropped: int = 0
    downlinks: int = 0
    saturated: int = 0
    restarts: int = 0


class Simulation:
    """One run.

    Args:
      scenario: the plant floor.
      tables: how the coordinator aggregates.
      limits: when to end.
      late: what an agent does that is connected and whose round of `fedavg` is over.  `send`: as
        the product's, finish, send, and be refused.  `drop`: give it up and be free for the next
        round, which flatters synchronous training.
      witness: told of every update that comes.
      progress: told of every evaluation.

    Attributes:
      federation: the coordinator's half, to be looked at when the run is over.
    """

    def __init__(
        self,
        scenario: Scenario,
        tables: Tables,
        limits: Limits,
        *,
        late: Late = "send",
        witness: Witness | None = None,
        progress: Progress | None = None,
    ) -> None:
        seed = scenario.seed
        self._scenario, self._tables, self._limits = scenario, tables, limits
        self._progress = progress
        self._has_rounds = tables.strategy.name == "fedavg"
        self._drops_late = self._has_rounds and late == "drop"
        self._fleet = make_fleet(scenario)
        self._links = Links(scenario)
        self._agents = idle_agents(scenario.agents)
        first = initial_weights(np.random.default_rng([seed, 3]))
        self._rng = np.random.default_rng([seed, 4])
        self._codec = Codec(tables.policy, PARAMETERS, np.random.default_rng([seed, 5]))
        self._shop = Workshop(self._fleet, tables.recipe(), np.random.default_rng([seed, 6]))
        self._admission = Admission(tables, self._fleet, np.random.default_rng([seed, 7]))
        self.federation = Federation(tables, self._fleet, first, witness)
        self._events: list[tuple[float, int, Event, int, int]] = []
        self._planned = 0
        self._now_s = 0.0
        self._counts = _Counts()
        self._staleness: list[int] = []
        self._curve: list[Point] = []
        self._reached: Point | None = None
        self._ended = ""

    def run(self) -> Outcome:
        """Go on until a limit is met."""
        self._judge()
        self._plan(0.0, Event.ADMISSION)
        horizon_s = self._limits.hours * 3600.0
        try:
            while not self._ended:
                at_s, _, event, agent, serial = heapq.heappop(self._events)
                if at_s >= horizon_s:
                    self._now_s, self._ended = horizon_s, "time"
                elif event in (Event.ADMISSION, Event.DEADLINE) or (
                    serial == self._agents.serial[agent]
                ):
                    self._now_s = at_s
                    self._move_links()
                    self._happen(event, agent)
        except Diverged:
            self._ended = "diverged"
        return self._outcome()

    def _plan(self, delay_s: float, event: Event, agent: int = 0) -> None:
        self._planned += 1
        serial = int(self._agents.serial[agent])
        heapq.heappush(self._events, (self._now_s + delay_s, self._planned, event, agent, serial))

    def _happen(self, event: Event, agent: int) -> None:
        match event:
            case Event.ADMISSION:
                self._admit()
                self._plan(ADMISSION_S, Event.ADMISSION)
            case Event.TRANSFER:
                self._transfer(agent)
            case Event.TRAINED:
                self._trained(agent)
            case Event.DEADLINE:
                self._step()

    # Links and slots

    def _move_links(self) -> None:
        lost = self._links.advance(self._now_s)
        if not lost.size:
            return
        self._agents.forget_ask(lost)
        self._admission.on_gone(lost)
        if self._tables.policy.offline_training:
            idle = self._agents.may_begin(
                self.federation.version, self._tables.policy.updates_per_version
            )
            for agent in lost[idle[lost]].tolist():
                self._begin(agent)
                self._start_training(agent)

    def _admit(self) -> None:
        if self._drops_late:
            self._drop_late()
        version = self.federation.version
        for agent in self._admission.begin(self._agents, self._links.is_up, version, self._now_s):
            self._begin(agent)
            self._counts.downlinks += 1
            self._agents.state[agent] = State.FETCHING
            self._transfer(agent)

    def _begin(self, agent: int) -> None:
        agents, federation = self._agents, self.federation
        if agents.base[agent] != federation.version:
            agents.base[agent], agents.made[agent] = federation.version, 0
        agents.made[agent] += 1
        self._shop.begin(
            agent, Work(federation.version, federation.weights, self._scenario.downlink_s)
        )

    def _drop_late(self) -> None:
        agents = self._agents
        late = (agents.state != State.IDLE) & (agents.base != self.federation.version)
        for agent in np.flatnonzero(late & self._links.is_up).tolist():
            self._give_up(agent)

    def _give_up(self, agent: int) -> None:
        if self._agents.state[agent] == State.SENDING:
            self._counts.dropped += 1
        self._shop.drop(agent)
        self._agents.serial[agent] += 1
        self._agents.state[agent] = State.IDLE

    # One training

    def _transfer(self, agent: int) -> None:
        """Move bytes while the link is up; then the training starts, or the update is there."""
        work, until_s = self._shop.works[agent], float(self._links.until_s[agent])
        if not self._links.is_up[agent]:
            self._plan(until_s - self._now_s, Event.TRANSFER, agent)
            return
        is_late = work.base_version != self.federation.version
        if self._drops_late and is_late:
            self._give_up(agent)
        elif work.left_s <= 0.0:
            if self._agents.state[agent] == State.FETCHING:
                self._start_training(agent)
            else:
                self._arrive(agent)
        else:
            moving_s = min(work.left_s, until_s - self._now_s)
            # What rounding leaves of a transfer must not plan the same moment for ever.
            work.left_s = 0.0 if moving_s == work.left_s else work.left_s - moving_s
            self._plan(moving_s, Event.TRANSFER, agent)

    def _start_training(self, agent: int) -> None:
        usual_s = float(self._fleet.compute_s[agent])
        takes_s = usual_s * math.exp(JITTER * self._rng.standard_normal())
        self._agents.state[agent] = State.TRAINING
        self._shop.works[agent].ends_s = self._now_s + takes_s
        self._plan(takes_s, Event.TRAINED, agent)

    def _trained(self, agent: int) -> None:
        work, scenario = self._shop.works[agent], self._scenario
        if scenario.dropout and self._rng.random() < scenario.dropout:
            self._counts.restarts += 1
            again_s = scenario.restart_s + float(self._fleet.compute_s[agent])
            work.ends_s = self._now_s + again_s
            self._plan(again_s, Event.TRAINED, agent)
            return
        self._counts.made += 1
        self._agents.state[agent] = State.SENDING
        work.left_s = scenario.uplink_s
        self._transfer(agent)

    def _arrive(self, agent: int) -> None:
        work, delta = self._shop.finish(agent)
        encoded = self._codec.encode(agent, delta)
        self._counts.uplinks += 1
        self._counts.saturated += encoded.saturated
        agents, federation = self._agents, self.federation
        agents.state[agent] = State.IDLE
        agents.loss[agent] = work.loss
        agents.uplink_s[agent] = self._now_s - work.ends_s
        was_empty = not federation.buffer.members
        refused = federation.offer(agent, work.base_version, encoded.content, self._now_s)
        self._admission.on_update(agent, self._now_s)
        if not refused:
            agents.awaits[agent] = self._tables.policy.calibration > 0.0
            if was_empty:
                self._plan(self._tables.strategy.deadline_s, Event.DEADLINE)
            self._step()
        if self._counts.uplinks >= self._limits.uplinks:
            self._ended = self._ended or "uplinks"

    # Versions

    def _step(self) -> None:
        folded = self.federation.step(self._now_s)
        if not folded:
            return
        for update in folded:
            self._codec.folded(update.agent, update.integers)
            self._agents.awaits[update.agent] = False
            self._agents.folded[update.agent] += 1
            self._staleness.append(update.staleness)
        if self._now_s - self._curve[-1].at_s >= self._limits.evaluate_s:
            self._judge()
        if self._has_rounds:
            self._admit()

    def _judge(self) -> None:
        federation = self.federation
        right = accuracy(federation.weights, self._fleet)
        point = Point(self._now_s, self._counts.uplinks, federation.version, right)
        self._curve.append(point)
        if self._reached is None and smoothed(self._curve) >= self._limits.target:
            self._reached = point
            if self._limits.stop_at_target:
                self._ended = "target"
        if self._progress is not None:
            self._progress(point)

    def _outcome(self) -> Outcome:
        counts, federation, agents = self._counts, self.federation, self._agents
        staleness: NDArray[np.int64] = np.array(self._staleness or [0])
        return Outcome(
            seed=self._scenario.seed,
            ended=self._ended,
            hours=self._now_s / 3600.0,
            versions=federation.version,
            reached=self._reached,
            final_accuracy=smoothed(self._curve, min(10, len(self._curve))),
            served_accuracy=accuracy(federation.average.astype(np.float32), self._fleet),
            made=counts.made,
            uplinks=counts.uplinks,
            folded=len(self._staleness),
            buffered=len(federation.buffer.members),
            dropped=counts.dropped,
            in_flight=int(np.count_nonzero(agents.state == State.SENDING)),
            refused=dict(federation.refused),
            downlinks=counts.downlinks,
            uplink_bytes=federation.received_bytes,
            downlink_bytes=counts.downlinks * MODEL_BYTES,
            saturated=counts.saturated,
            staleness_mean=float(staleness.mean()),
            staleness_p95=float(np.percentile(staleness, 95)),
            slow_share=slow_share(agents.folded, self._fleet.compute_s),
            took_part=int(np.count_nonzero(agents.folded)),
            restarts=counts.restarts,
            digest=federation.digest.hexdigest(),
            curve=tuple(self._curve),
        )


def simulate(
    scenario: Scenario, tables: Tables, limits: Limits, *, progress: Progress | None = None
) -> Outcome:
    """Run once, with agents that behave as the product's do."""
    return Simulation(scenario, tables, limits, progress=progress).run()
