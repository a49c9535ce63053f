"""Asynchronous training over simulated time, folded by the coordinator's own functions.

The product's parts: `agent.feedback`, `wire.tensors`, `wire.sparse` on the way out and in, and
`coordinator.aggregation` from integers to the next version. For float32, which the product does
not have, the mean is taken in float64 and goes through the same server optimizer.

Who trains when, from which version and over which batches is drawn from streams of the seed that
no method touches: methods are compared on the same events.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_network import Network, Vector
from benchmarks.update_bytes.methods import (
    CLIP_NORM,
    Method,
    Senders,
    Sent,
    bytes_on_the_wire,
    received,
)
from benchmarks.update_bytes.task import CLIENTS, Task
from coordinator.aggregation import Model, Rules, advance, begin, is_ready, take
from coordinator.average import add_version
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy

GOAL = 10
CONCURRENCY = 50
"""Clients that train at a time: an update is five versions old in the mean."""
AVERAGE_DECAY = 2.0
"""The coordinator's default: what is served covers about the last third of the versions."""


@dataclass(frozen=True)
class Point:
    """How far a training is.

    Attributes:
      version: versions made.
      uplink_bytes: what all updates so far weighed.
      accuracy: of the average of the versions, which is what is served.
    """

    version: int
    uplink_bytes: int
    accuracy: float


@dataclass(frozen=True)
class Run:
    """A training that is over.

    Attributes:
      points: the start, and one for each version.
      updates: that were sent.
      saturated: share of all sent parameters that did not fit.
    """

    points: tuple[Point, ...]
    updates: int
    saturated: float

    def at_version(self, version: int) -> float:
        """Accuracy after so many versions, or after the last one before."""
        return [point.accuracy for point in self.points if point.version <= version][-1]

    def at_bytes(self, budget: float) -> Point:
        """Where so many bytes of uplink lead."""
        return [point for point in self.points if point.uplink_bytes <= budget][-1]

    @property
    def update_bytes(self) -> float:
        """Bytes of a mean update."""
        return self.points[-1].uplink_bytes / self.updates


@dataclass(frozen=True)
class Training:
    """One update on its way: when it is done, whose it is, what it is trained from."""

    client: int
    base_version: int
    base: Vector


class Clock:
    """Who is done next. A free client is drawn whenever one is done."""

    def __init__(self, task: Task, seed: int) -> None:
        self._seconds = task.seconds
        self._rng = np.random.default_rng([seed, 3])
        self._events: list[tuple[float, int, Training]] = []
        self._busy: set[int] = set()
        self._number = 0

    def start(self, now_s: float, version: int, params: Vector) -> None:
        """Let a client that is free train from this version."""
        client = int(self._rng.integers(CLIENTS))
        while client in self._busy:
            client = int(self._rng.integers(CLIENTS))
        self._busy.add(client)
        self._number += 1
        done_s = now_s + self._seconds[client] * np.exp(self._rng.normal(0.0, 0.25))
        heapq.heappush(self._events, (done_s, self._number, Training(client, version, params)))

    def next(self) -> tuple[float, Training]:
        """The next one that is done, and when."""
        done_s, _, training = heapq.heappop(self._events)
        self._busy.remove(training.client)
        return done_s, training


class Folding:
    """The coordinator's half: a model, and the float32 sum that stands in for it."""

    def __init__(self, method: Method, start: Vector, server_rate: float) -> None:
        self._policy = method.policy
        policy = method.policy or Policy(clip_norm=CLIP_NORM)
        self._rules = Rules(
            strategy=make_strategy(StrategySettings(name="fedbuff", goal=GOAL), policy),
            robust=RobustSettings(),
            optimizer=make_server_optimizer(ServerOptimizerSettings(learning_rate=server_rate)),
            clip_norm=policy.clip_norm,
        )
        self.model: Model = begin(self._rules, start)
        self._floats: list[tuple[int, NDArray[np.float64]]] = []

    def fold(self, sent: Sent, offer: Offer) -> bool:
        """Take an update; return whether it made a version."""
        if self._policy is None:
            return self._fold_floats(sent, offer)
        delta = received(self._policy, sent, len(self.model.params))
        match take(self._rules, self.model, offer, delta, self._policy.scale):
            case Rejected(reason):
                raise RuntimeError(f"an honest update was refused: {reason}")
            case after:
                self.model = after
        if not is_ready(self._rules, self.model, age_s=0.0):
            return False
        self.model = advance(self._rules, self.model, self._policy.scale)
        return True

    def _fold_floats(self, sent: Sent, offer: Offer) -> bool:
        weight = self._rules.strategy.admit(offer, self.model.buffer, self.model.version)
        if not isinstance(weight, Rejected):
            self._floats.append((weight, np.frombuffer(sent.content, "<f4").astype(np.float64)))
        if len(self._floats) < GOAL:
            return False
        self._step_by_floats()
        return True

    def _step_by_floats(self) -> None:
        total = sum(weight for weight, _ in self._floats)
        mean = sum((delta * (weight / total) for weight, delta in self._floats), np.float64(0.0))
        state, params = self._rules.optimizer.apply(
            np.asarray(mean), self.model.optimizer, self.model.params
        )
        self.model = replace(
            self.model, version=self.model.version + 1, optimizer=state, params=params
        )
        self._floats = []


def run(
    task: Task,
    network: Network,
    method: Method,
    *,
    seed: int,
    versions: int,
    budget: float = 0.0,
    server_rate: float = 1.0,
) -> Run:
    """Train for so many versions, and on until `budget` bytes are used."""
    start = network.initial(seed)
    folding, senders, clock = (
        Folding(method, start, server_rate),
        Senders(method),
        Clock(task, seed),
    )
    for _ in range(CONCURRENCY):
        clock.start(0.0, 0, start)
    points: list[Point] = [Point(0, 0, network.accuracy(start, task.test))]
    average = start.astype(np.float64)
    uplink_bytes = saturated = number = 0
    for number, (sent, offer) in enumerate(_updates(task, network, senders, folding, clock, seed)):
        uplink_bytes += bytes_on_the_wire(
            method, sent, int(offer.agent), number, offer.base_version
        )
        saturated += sent.saturated
        if not folding.fold(sent, offer):
            continue
        version = folding.model.version
        average = add_version(average, folding.model.params, version, AVERAGE_DECAY)
        points.append(Point(version, uplink_bytes, network.accuracy(average, task.test)))
        if version >= versions and uplink_bytes >= budget:
            break
    sent_parameters = (number + 1) * network.parameters * method.kept_share
    return Run(tuple(points), number + 1, saturated / sent_parameters)


def _updates(
    task: Task, network: Network, senders: Senders, folding: Folding, clock: Clock, seed: int
) -> Iterator[tuple[Sent, Offer]]:
    """Updates as they come; whoever takes one folds it before the next is asked for."""
    number = 0
    while True:
        now_s, training = clock.next()
        rows = task.clients[training.client]
        rng = np.random.default_rng([seed, 4, number])
        after = network.trained(training.base, rows, rng)
        delta = after.astype(np.float64) - training.base
        sent = senders.send(training.client, delta, np.random.default_rng([seed, 5, number]))
        name = str(training.client)
        yield sent, Offer(name, name, len(rows.y), training.base_version)
        clock.start(now_s, folding.model.version, folding.model.params)
        number += 1
