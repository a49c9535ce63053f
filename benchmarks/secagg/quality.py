"""Accuracy with integers and masks, beside float32 without: the same events, method by method.

Task, network, clients' times and the float32 baseline are those of `benchmarks/update_bytes`:
asynchronous training of 500 clients with one or two of ten classes, FedBuff.  Under masks a weight
is in units of rows, capped so that a full buffer fits a ring of 16 bits, and levelled in each sum;
every version is opened by two helpers (`hall.py`).  The next version is made by the coordinator's
own `advance`.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.wrapping import weight_of
from benchmarks.secagg.hall import Hall, Sent, report
from benchmarks.small_network import Network
from benchmarks.update_bytes.methods import (
    CLIP_NORM,
    FLOAT32,
    Method,
    Senders,
    integers,
    received,
)
from benchmarks.update_bytes.task import Task, make_task
from benchmarks.update_bytes.training import (
    AVERAGE_DECAY,
    CONCURRENCY,
    GOAL,
    Clock,
    Folding,
    Training,
)
from coordinator.aggregate import Buffer, Member
from coordinator.aggregation import Model, Rules, advance, begin
from coordinator.average import add_version
from coordinator.robust import RobustSettings
from coordinator.secure.rules import most_members, problem_with_ring
from coordinator.secure.sums import Opened, Terms
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer
from wire.chunks import sha256
from wire.messages import Policy

NETWORK = Network((32, 128, 48, 10))
SERVER_RATE = 1.5
K_MIN = 3
SCALE = 1e-3
INT8 = integers("int8", 8, SCALE)
MASKED = Policy(
    bits=8,
    scale=SCALE,
    clip_norm=CLIP_NORM,
    protection="masked",
    ring=16,
    weight_unit=12,
    weight_cap=25,
)
"""258 units of weight fit such a ring: ten updates of 25.  Most clients have 20 to 300 rows."""


@dataclass(frozen=True)
class Accuracy:
    """Of one seed, what each way reaches, in percent."""

    float32: float
    int8: float
    masked: float

    @property
    def lost(self) -> float:
        """Points that integers and masks cost."""
        return self.float32 - self.masked


class MaskedFolding:
    """The coordinator's half under masks: a model, and sums that two helpers open."""

    def __init__(self, hall: Hall, start: NDArray[np.float32]) -> None:
        self._hall = hall
        self._strategy = StrategySettings(name="fedbuff", goal=GOAL)
        if problem := problem_with_ring(MASKED, self._strategy.members):
            raise ValueError(problem)
        self._rules = Rules(
            strategy=make_strategy(self._strategy, MASKED),
            robust=RobustSettings(),
            optimizer=make_server_optimizer(ServerOptimizerSettings(learning_rate=SERVER_RATE)),
            clip_norm=MASKED.clip_norm,
            k_min=K_MIN,
        )
        self.model: Model = begin(self._rules, start)
        self._agents: dict[str, Identity] = {}
        self._waiting: list[Sent] = []

    def fold(self, steps: NDArray[np.signedinteger], offer: Offer, number: int) -> bool:
        """Take an update of an agent, `number` of all; return whether it made a version."""
        agent = self._agents.get(offer.agent) or self._hall.enrol(offer.agent, offer.site)
        self._agents[offer.agent] = agent
        base = (offer.base_version, sha256(b"version %d" % offer.base_version))
        weight = weight_of(MASKED, offer.weight)
        sent = report(agent, steps, MASKED, base, sequence=number + 1, weight=weight)
        self._waiting.append(sent)
        if len(self._waiting) < GOAL:
            return False
        self._hall.take(self._waiting)
        self._waiting.clear()
        buffer = _buffer(self._hall.open(self._terms(), GOAL))
        self.model = advance(self._rules, replace(self.model, buffer=buffer), MASKED.scale)
        return True

    def _terms(self) -> Terms:
        return Terms(
            version=self.model.version,
            weight_cap=MASKED.weight_cap,
            staleness_cap=MASKED.staleness_cap,
            staleness_floor=MASKED.staleness_floor,
            is_damped=True,
            most=most_members(MASKED),
        )


def _buffer(opened: Opened) -> Buffer:
    members = tuple(
        Member(
            agent=sealed.agent,
            site=sealed.site,
            base_version=sealed.base_version,
            weight=share.coefficient,
            coefficient=share.coefficient,
        )
        for sealed, share in zip(opened.members, opened.manifest.members, strict=True)
    )
    return Buffer(opened.sums, members, sum(member.weight for member in members))


def compare(seed: int, versions: int, directory: Path) -> Accuracy:
    """Train three times by one seed; `directory` is new or empty."""
    task = make_task(seed)
    plain = [_train(task, seed, versions, method, None) for method in (FLOAT32, INT8)]
    hall = Hall(directory, k_min=K_MIN, down="insurer")
    try:
        masked = _train(task, seed, versions, INT8, hall)
    finally:
        hall.close()
    return Accuracy(*(100 * each for each in (*plain, masked)))


def _train(task: Task, seed: int, versions: int, method: Method, hall: Hall | None) -> float:
    """Accuracy of the average after so many versions, the share of rows whose class is found."""
    start, senders = NETWORK.initial(seed), Senders(method)
    plain = Folding(method, start, SERVER_RATE)
    masked = MaskedFolding(hall, start) if hall is not None else None
    clock = Clock(task, seed)
    for _ in range(CONCURRENCY):
        clock.start(0.0, 0, start)
    average = start.astype(np.float64)
    for number in itertools.count():
        now_s, training = clock.next()
        offer, delta = _trained(task, training, seed, number)
        sent = senders.send(training.client, delta, np.random.default_rng([seed, 5, number]))
        if masked is not None:
            steps = received(MASKED, sent, NETWORK.parameters)
            is_new, model = masked.fold(steps, offer, number), masked.model
        else:
            is_new, model = plain.fold(sent, offer), plain.model
        clock.start(now_s, model.version, model.params)
        if is_new:
            average = add_version(average, model.params, model.version, AVERAGE_DECAY)
            if model.version == versions:
                break
    return NETWORK.accuracy(average, task.test)


def _trained(
    task: Task, training: Training, seed: int, number: int
) -> tuple[Offer, NDArray[np.float64]]:
    """What a client offers, and its delta; the same for every method that asks."""
    rows = task.clients[training.client]
    after = NETWORK.trained(training.base, rows, np.random.default_rng([seed, 4, number]))
    name = str(training.client)
    offer = Offer(name, name, len(rows.y), training.base_version)
    return offer, after.astype(np.float64) - training.base
