"""A federation in one process, of the product's own parts, and what each of its sites then serves.

Training is `agent/learning`, an update is clipped, rounded and read back by `wire/tensors`, a
version is made by `coordinator/aggregation`, what is served is the average of the versions, and the
choice is `agent/learning/personalise`.  Nothing is sent: the wire would change no bit of it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import open_backend
from agent.learning.graph import Graph, Params, initial_params
from agent.learning.losses import Loss
from agent.learning.personalise import (
    GLOBAL,
    Candidate,
    CandidateFailed,
    Making,
    OwnRows,
    Personalised,
    PersonalTable,
    Start,
    personalise,
)
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.runtime import Backend
from agent.learning.train import TrainingDiverged, TrainingResult, train
from coordinator import aggregation
from coordinator.average import add_version
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy
from wire.tensors import clip, flatten, quantize, read_integers, unflatten


@dataclass(frozen=True, eq=False)
class Site:
    """One site's rows: to train on, to choose by, and untouched ones that judge what it serves."""

    name: str
    train: Labelled
    choose: Labelled
    test: Labelled


@dataclass(frozen=True)
class Recipe:
    """How a federation learns.

    Attributes:
      plan: one local training; its seed is replaced.
      versions: how many are made, each from one update of every site.
      scale: of an update's integers.
      clip_norm: of an update.
      server_rate: of the server optimizer.
      decay: of the average that is served.
    """

    plan: TrainingPlan
    versions: int
    scale: float = 0.002
    clip_norm: float = 10.0
    server_rate: float = 1.0
    decay: float = 8.0


@dataclass(frozen=True, eq=False)
class InProcess:
    """A trainer without a child."""

    backend: Backend

    async def train(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
    ) -> TrainingResult:
        """Train from `params` on rows x with labels y."""
        try:
            return train(self.backend, params, x, y, plan, held_out=held_out)
        except TrainingDiverged as error:
            raise CandidateFailed(str(error)) from error

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's outputs."""
        return self.backend.infer(params, x)


@dataclass(frozen=True, eq=False)
class Job:
    """A model and what it is trained for."""

    graph: Graph
    loss: Loss
    backend: Backend

    @property
    def initial(self) -> Params:
        """The weights that it begins with."""
        return initial_params(self.graph)


def open_job(graph: Graph, loss: Loss) -> Job:
    """Make a model ready to train."""
    return Job(graph, loss, open_backend(graph, loss))


def federate(job: Job, sites: Sequence[Site], recipe: Recipe, seed: int) -> Params:
    """Learn together; return what is served in the end."""
    policy = Policy(scale=recipe.scale, clip_norm=recipe.clip_norm)
    rules = aggregation.Rules(
        strategy=make_strategy(StrategySettings(name="fedbuff", goal=len(sites)), policy),
        robust=RobustSettings(),
        optimizer=make_server_optimizer(ServerOptimizerSettings(learning_rate=recipe.server_rate)),
        clip_norm=recipe.clip_norm,
    )
    shapes = [(name, value.shape) for name, value in job.initial.items()]
    model = aggregation.begin(rules, flatten(job.initial))
    average = np.zeros(len(model.params))
    random = np.random.default_rng(seed)
    for version in range(1, recipe.versions + 1):
        for at, site in enumerate(sites):
            base = unflatten(model.params, shapes)
            plan = replace(recipe.plan, seed=1000 * seed + 50 * version + at)
            params = train(job.backend, base, *site.train, plan).params
            delta = flatten(params).astype(np.float64) - model.params
            content, _ = quantize(clip(delta, recipe.clip_norm), recipe.scale, 8, random)
            offer = Offer(site.name, site.name, len(site.train[0]), model.version)
            integers = read_integers(content, 8, len(model.params))
            taken = aggregation.take(rules, model, offer, integers, recipe.scale)
            if isinstance(taken, Rejected):
                raise RuntimeError(  # noqa: TRY004  a value, not a type, is wrong
                    f"update of {site.name} was refused: {taken.reason}"
                )
            model = taken
        model = aggregation.advance(rules, model, recipe.scale)
        average = add_version(average, model.params, version, recipe.decay)
    return unflatten(average, shapes)


def personalised(
    job: Job, served: Params, site: Site, plan: TrainingPlan, table: PersonalTable
) -> Personalised:
    """What one site serves, chosen as an agent does.

    Raises:
      RuntimeError: it is worse than the global model on the very rows that chose it.
    """
    making = Making(
        trainer=InProcess(job.backend),
        loss=job.loss,
        start=Start(served, job.initial),
        rows=OwnRows(site.train, site.choose),
        plan=plan,
        table=table,
    )
    found = asyncio.run(personalise(making))
    if not found.losses[found.chosen.kind].mean() <= found.losses[GLOBAL].mean():
        raise RuntimeError(f"{site.name} chose what is worse than the global model: {found.reason}")
    return found


def train_alone(
    job: Job, start: Candidate, site: Site, plan: TrainingPlan, epochs: int
) -> Candidate:
    """Train on one site's rows alone for so many epochs, whatever becomes of it."""
    x, y = site.train
    fixed = replace(plan, epochs=epochs, proximal=0.0)
    trained = train(job.backend, start.params, start.inputs(x), y, fixed)
    return replace(start, params=trained.params)


def outputs(job: Job, candidate: Candidate, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a candidate gives for inputs as the federation has them."""
    return job.backend.infer(candidate.params, candidate.inputs(x))
