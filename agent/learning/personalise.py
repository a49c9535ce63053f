"""Which model a site serves: the federation's, or one of its own made from it or beside it.

    served weights ─┬─► global ─────────────────────────────────────┐
                    ├─► fine_tuned   a few epochs on own rows       ├─► judged on rows that no
    own rows ───────┼─► ditto        the same, held near the start  │   training saw ─► chosen
                    └─► local        own rows alone ────────────────┘
    each of them once on the shared inputs and once on inputs standardised by the site's own rows

`ditto`: Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization",
arXiv:2012.04221, algorithm 1: the personal model minimises its own loss plus lambda/2 |p - w|^2, w
the federation's weights.  Local normalisation: Li et al., "FedBN", arXiv:2102.07623, for sensors
that are scaled or mounted differently; applied to the inputs, so that it needs no layer of its own;
on the untouched global weights it is AdaBN (Li et al., arXiv:1603.04779).

Responsible for making the candidates and for the choice.  Pure but for the trainer that it is
given, which runs a child process on a gateway and nothing but the loop in a benchmark.

The choice is the one-standard-error rule (Breiman et al., "Classification and Regression Trees",
1984, section 3.4.3) on paired differences: a candidate replaces the global model when its mean loss
is smaller by more than a multiple of the standard error of the difference; what is served already
stays until it is beaten in the same way or is worse than the global model.  The error is that of
the means of blocks of consecutive rows (batch means), because neighbours in time, and windows that
overlap, are not independent.

Refuses to choose by fewer rows than the settings say.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.losses import Loss, example_losses
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.split import split_by_time
from agent.learning.train import TrainingResult
from wire.settings import Settings

ModelName = Literal["global", "fine_tuned", "ditto", "local"]
Normalisation = Literal["shared", "local"]
Losses = NDArray[np.float64]
"""(N,): the loss of each row that judges, weighed as in training."""

BLOCKS = 30
"""Blocks of consecutive rows whose means tell the error of a mean."""
_STOP_SHARE = 0.2
_STOP_BLOCKS = 10
import os

_TAIL = float(os.environ.get("TAIL", "0.5"))


class PersonalTable(Settings, frozen=True, kw_only=True):
    """The `[personal]` table: whether and how a site makes models of its own.

    Attributes:
      enabled: false: the global model is served, always.
      models: which to try besides `global`.
      local_normalisation: whether to try each on inputs standardised by the site's own rows too.
      min_rows: training rows below which the global model is served.
      min_judges: held-out rows below which the global model is served.
      evidence: standard errors by which a model must be better to replace another.
      fine_tune_epochs: of `fine_tuned`.
      ditto_epochs: of `ditto`.
      ditto_proximal: how strongly `ditto` is held near the global model.
      local_epochs: of `local` at most; it stops where rows set aside from its own get worse.
      local_patience: epochs without improvement after which it stops.
      learning_rate: of all of them; 0: the federation's.
    """

    enabled: bool = True
    models: Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=4)] = (
        "global",
        "fine_tuned",
        "ditto",
        "local",
    )
    local_normalisation: bool = True
    min_rows: Annotated[int, msgspec.Meta(ge=10, le=100_000_000)] = 200
    min_judges: Annotated[int, msgspec.Meta(ge=10, le=100_000_000)] = 20
    evidence: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0
    fine_tune_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    ditto_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    ditto_proximal: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 0.1
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    local_patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    learning_rate: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0


@dataclass(frozen=True)
class Kind:
    """What sort of model a candidate is."""

    model: ModelName = "global"
    normalisation: Normalisation = "shared"

    def __str__(self) -> str:
        """In words: `ditto, local normalisation`."""
        name = self.model.replace("_", "-")
        return f"{name}, local normalisation" if self.normalisation == "local" else name


GLOBAL = Kind()


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and deviation of each input column over a site's rows: float32, shape (1, C, 1...)."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    def standardised(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs (N, C, ...) with mean 0 and deviation 1 in each column, where these rows are."""
        return (x - self.mean) / self.deviation


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that a site may serve; `moments` are None where inputs are taken as they are."""

    kind: Kind
    params: Params
    moments: Moments | None = None

    def inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs as this model takes them."""
        return x if self.moments is None else self.moments.standardised(x)


@dataclass(frozen=True, eq=False)
class OwnRows:
    """A site's own rows in time order: what candidates learn from, and what judges them."""

    train: Labelled
    judges: Labelled


@dataclass(frozen=True)
class Verdict:
    """What is to be served, and why, in words with figures."""

    kind: Kind
    reason: str


@dataclass(frozen=True, eq=False)
class Personalised:
    """The outcome of one personalisation; `losses` has each candidate's on the judging rows."""

    chosen: Candidate
    reason: str
    candidates: tuple[Candidate, ...]
    losses: Mapping[Kind, Losses] = field(default_factory=dict)


class Trainer(Protocol):
    """Trains and runs one model; `worker.TrainingProcess` does it in a child."""

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

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's outputs, float32 (N, ...)."""


@dataclass(frozen=True, eq=False)
class Start:
    """What candidates are made from: the served weights, and those that the bundle begins with."""

    served: Params
    initial: Params


def moments_of(x: NDArray[np.float32]) -> Moments:
    """Mean and deviation of each column of inputs (N, C, ...); a constant column's deviation is 1.

    Axis 1 is the column: a feature, a signal of a window, a channel of an image.
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = x.std(axis=axes, keepdims=True, dtype=np.float64)
    # What a constant column's rounding leaves must not be blown up to a signal.
    is_constant = deviation <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return Moments(
        mean.astype(np.float32), np.where(is_constant, 1.0, deviation).astype(np.float32)
    )


def kinds(table: PersonalTable, loss: Loss, *, is_standardised: bool = False) -> Iterator[Kind]:
    """The candidates to make; the global model as it is comes first.

    Args:
      table: the settings.
      loss: of a reconstruction the inputs are the labels, so it keeps their shared scale.
      is_standardised: whether the bundle has inputs standardised by each site's own rows already.
    """
    yield GLOBAL
    can_shift = loss is not Loss.RECONSTRUCTION and not is_standardised
    for normalisation in (
        ("shared", "local") if table.local_normalisation and can_shift else ("shared",)
    ):
        for model in dict.fromkeys(table.models):
            kind = Kind(model, normalisation)
            if kind != GLOBAL:
                yield kind


async def personalise(  # noqa: PLR0913 - all that decides, named by its callers
    trainer: Trainer,
    loss: Loss,
    start: Start,
    rows: OwnRows,
    plan: TrainingPlan,
    table: PersonalTable,
    *,
    serving: Kind = GLOBAL,
    known: Sequence[Candidate] = (),
    is_standardised: bool = False,
) -> Personalised:
    """Make every candidate and choose among them.

    Args:
      trainer: of the model.
      loss: what it is trained for.
      start: where candidates begin.
      rows: the site's own.
      plan: how the federation trains; epochs and the proximal term are the settings'.
      table: the settings.
      serving: what is served now.
      known: candidates that need not be made again, such as `local` ones of the same rows.
      is_standardised: whether the bundle has inputs standardised by each site's own rows already.

    Raises:
      whatever the trainer raises; a candidate whose training diverges is left to it.
    """
    made = {candidate.kind: candidate for candidate in known}
    moments = moments_of(rows.train[0])
    losses: dict[Kind, Losses] = {}
    for kind in kinds(table, loss, is_standardised=is_standardised):
        if kind not in made:
            made[kind] = await _make(trainer, kind, start, rows.train, plan, table, moments)
        candidate = made[kind]
        output = await trainer.infer(candidate.params, candidate.inputs(rows.judges[0]))
        losses[kind] = _weighed_losses(loss, output, rows.judges, plan)
    verdict = choose(losses, table.evidence, serving)
    return Personalised(made[verdict.kind], verdict.reason, tuple(made.values()), losses)


async def _make(
    trainer: Trainer,
    kind: Kind,
    start: Start,
    train: Labelled,
    plan: TrainingPlan,
    table: PersonalTable,
    moments: Moments,
) -> Candidate:
    shift = moments if kind.normalisation == "local" else None
    if kind.model == "global":
        return Candidate(kind, start.served, shift)
    x, y = train if shift is None else (shift.standardised(train[0]), train[1])
    if kind.model == "local":
        return Candidate(kind, await _alone(trainer, start.initial, (x, y), plan, table), shift)
    own = plan_of(kind.model, plan, table)
    return Candidate(kind, (await trainer.train(start.served, x, y, own)).params, shift)


async def _alone(
    trainer: Trainer, initial: Params, rows: Labelled, plan: TrainingPlan, table: PersonalTable
) -> Params:
    """Train on own rows alone: once to learn when to stop, then on all of them until there."""
    x, y = rows
    at = np.arange(len(x))
    longest = plan_of("local", plan, table)
    split = split_by_time(at, at, _STOP_SHARE, seed=plan.seed, blocks=_STOP_BLOCKS)
    held_out = (x[split.held_out], y[split.held_out])
    found = await trainer.train(initial, x[split.train], y[split.train], longest, held_out=held_out)
    final = replace(longest, epochs=max(1, found.best_epoch), patience=0)
    return (await trainer.train(initial, x, y, final)).params


def plan_of(model: ModelName, plan: TrainingPlan, table: PersonalTable) -> TrainingPlan:
    """How a candidate trains: as the federation does, but for what makes it that candidate."""
    epochs = {"fine_tuned": table.fine_tune_epochs, "ditto": table.ditto_epochs}
    return replace(
        plan,
        epochs=epochs.get(model, table.local_epochs),
        learning_rate=table.learning_rate or plan.learning_rate,
        last_learning_rate=0.0,
        proximal=table.ditto_proximal if model == "ditto" else 0.0,
        average_tail=_TAIL if model != "local" else 0.0,
        patience=table.local_patience if model == "local" else 0,
    )


def _weighed_losses(
    loss: Loss, output: NDArray[np.float32], judges: Labelled, plan: TrainingPlan
) -> Losses:
    """Each row's loss times its class weight over the mean weight."""
    x, y = judges
    losses = example_losses(loss, output, x if loss is Loss.RECONSTRUCTION else y)
    if not plan.class_weights:
        return losses
    if loss is Loss.CROSS_ENTROPY:
        weights = np.array(plan.class_weights)[y]
    else:
        zero, one = plan.class_weights
        weights = zero + (one - zero) * y.reshape(len(y)).astype(np.float64)
    return losses * weights / weights.mean()


def choose(losses: Mapping[Kind, Losses], evidence: float, serving: Kind = GLOBAL) -> Verdict:
    """Choose what to serve.

    Args:
      losses: of each candidate on the same rows in time order, each (N,); `GLOBAL` among them.
      evidence: standard errors by which a candidate must be better to replace another.
      serving: what is served now.
    """
    usable = {kind: each for kind, each in losses.items() if np.isfinite(each).all()}
    reference = usable.get(GLOBAL)
    if reference is None:
        return Verdict(GLOBAL, "global: its loss is not finite on held-out rows")
    kept = GLOBAL
    if serving in usable and usable[serving].mean() <= reference.mean():
        kept = serving
    better = [
        kind
        for kind, each in usable.items()
        if kind != kept and _is_better(each, usable[kept], evidence)
    ]
    chosen = min(better, key=lambda kind: float(usable[kind].mean()), default=kept)
    return Verdict(chosen, _reason(chosen, usable))


def gain(losses: Losses, reference: Losses) -> tuple[float, float]:
    """Mean of reference - losses, both (N,), and its standard error by the means of blocks."""
    difference = reference - losses
    blocks = np.array_split(difference, min(BLOCKS, len(difference)))
    means = np.array([block.mean() for block in blocks])
    error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.inf
    return float(difference.mean()), float(error)


def _is_better(losses: Losses, reference: Losses, evidence: float) -> bool:
    mean, error = gain(losses, reference)
    return mean > 0 and mean > evidence * error


def _reason(chosen: Kind, losses: Mapping[Kind, Losses]) -> str:
    """Such as `ditto: loss 0.113 against 0.121 of global (+-0.004) on 412 held-out rows`."""
    rows = len(losses[GLOBAL])
    mean = float(losses[chosen].mean())
    if chosen != GLOBAL:
        error = gain(losses[chosen], losses[GLOBAL])[1]
        other = float(losses[GLOBAL].mean())
        return (
            f"{chosen}: loss {mean:.3g} against {other:.3g} of global, difference "
            f"{other - mean:.2g} +- {error:.1g}, on {rows} held-out rows"
        )
    rivals = {kind: float(each.mean()) for kind, each in losses.items() if kind != GLOBAL}
    if not rivals:
        return f"global: loss {mean:.3g} on {rows} held-out rows, nothing else to choose from"
    rival = min(rivals, key=lambda kind: rivals[kind])
    return (
        f"global: loss {mean:.3g}, and {rivals[rival]:.3g} of {rival} is not clearly better, on "
        f"{rows} held-out rows"
    )
