"""Which model a site serves: the federation's, or one of its own made from it or beside it.

    served weights ─┬─► global ─────────────────────────────────────┐
                    ├─► fine_tuned   a few epochs on own rows       ├─► judged on rows that no
    own rows ───────┼─► ditto        more, but held near the start  │   training saw ─► chosen
                    └─► local        own rows alone ────────────────┘
    each of them once on the shared inputs and once on inputs standardised by the site's own rows

`ditto`: Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization",
arXiv:2012.04221, algorithm 1: the personal model minimises its own loss plus lambda/2 |p - w|^2, w
the federation's weights.  Local normalisation: after Li et al., "FedBN", arXiv:2102.07623, for
sensors that are scaled or mounted differently; done to the inputs, so that it needs no layer of its
own; on untouched global weights it is a form of AdaBN (Li et al., arXiv:1603.04779).

Responsible for making the candidates (`personalise`) and for the choice (`choose`).  Pure but for
the trainer that it is given: a child process on a gateway, the bare loop in a benchmark.

The choice follows the one-standard-error rule (Breiman et al., "Classification and Regression
Trees", 1984, section 3.4.3), on paired differences: a candidate replaces another when its mean loss
is smaller by more than a multiple of the standard error of the difference.  What is served already
stays until it is beaten that clearly, or is worse than the global model.  The error is that of the
means of blocks of consecutive rows (batch means), because neighbours in time, and windows that
overlap, are not independent.

Not here: mixing the outputs of the global and the own model (as APFL does, arXiv:2003.13461).  It
would double the cost of every scored row for nothing that the criteria of bench-personal need.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from wire.standards import Standard

ModelName = Literal["global", "fine_tuned", "ditto", "local"]
Normalisation = Literal["shared", "local"]
Losses = NDArray[np.float64]
"""(N,): the loss of each row that judges, weighed as in training."""

BLOCKS = 30
"""Blocks of consecutive rows whose means tell the error of a mean."""
_AVERAGED = 0.75
"""Last share of the steps whose weights are averaged (Polyak): without it log loss on rare failures
was a tenth worse, because a few steps on a few rows make a model too sure."""
_STOP_SHARE = 0.2
_STOP_BLOCKS = 10
_SEARCHES, _FEW_ROWS = 5, 1000
"""With fewer rows, several searches for where `local` stops: 16 rows set aside of 80 stopped one of
twenty factories at .36 accuracy that had .50 with the median of five."""
LEAST_ROWS = 50
"""So that the rows by which `local` stops, and the blocks, have a few rows each."""


class PersonalTable(Settings, frozen=True, kw_only=True):
    """The `[personal]` table: whether and how a site makes models of its own.

    Attributes:
      enabled: false: the global model is served, always.
      rest_s: least time between two choices, so that a gateway does not train all day.
      models: which to try; `global` is always among them.
      local_normalisation: whether to try each on inputs standardised by the site's own rows too.
      min_rows: training rows below which the global model is served.
      min_judges: held-out rows below which the global model is served.
      evidence: standard errors by which a model must be better to replace another.
      fine_tune_epochs: of `fine_tuned`.
      ditto_epochs: of `ditto`.
      ditto_proximal: lambda of `ditto`: how strongly it is held near the global model.
      local_epochs: of `local` at most; it stops where rows set aside from its own get worse.
      local_patience: epochs without improvement after which it stops.
      learning_rate: of all of them; 0: the federation's.
      keep_unseen: a site whose rows lack one of the classes makes no model that is trained on
        them: it would forget that class, and no row of the site's could tell.
    """

    enabled: bool = True
    rest_s: Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)] = 300.0
    models: Annotated[tuple[ModelName, ...], msgspec.Meta(max_length=4)] = (
        "global",
        "fine_tuned",
        "ditto",
        "local",
    )
    local_normalisation: bool = True
    min_rows: Annotated[int, msgspec.Meta(ge=LEAST_ROWS, le=100_000_000)] = 200
    min_judges: Annotated[int, msgspec.Meta(ge=10, le=100_000_000)] = 30
    evidence: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0
    fine_tune_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    ditto_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 40
    ditto_proximal: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 0.1
    local_epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    local_patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    learning_rate: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    keep_unseen: bool = False


class CandidateFailed(Exception):  # noqa: N818 - states what happened, as the receipts do
    """One candidate could not be trained, such as by diverging; the others can."""


@dataclass(frozen=True)
class Kind:
    """What sort of model a candidate is; `is_kept`: it was made earlier and is served now."""

    model: ModelName = "global"
    normalisation: Normalisation = "shared"
    is_kept: bool = False

    def __str__(self) -> str:
        """In words: `ditto, local normalisation`."""
        words = [self.model.replace("_", "-")]
        words += ["local normalisation"] * (self.normalisation == "local")
        return ", ".join([*words, *["as it is served now"] * self.is_kept])


GLOBAL = Kind()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that a site may serve; `standard` is None where inputs are taken as they are."""

    kind: Kind
    params: Params
    standard: Standard | None = None

    def inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs (N, C, ...) as this model takes them."""
        return x if self.standard is None else standardised(x, self.standard)


@dataclass(frozen=True, eq=False)
class Start:
    """What candidates are made from: the served weights, and those that the bundle begins with."""

    served: Params
    initial: Params


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
    """The outcome of one personalisation.

    Attributes:
      chosen: what is to be served.
      reason: why, in words with figures.
      candidates: all that could be made, `chosen` among them.
      losses: of each, on the judging rows.
      failed: why the others could not be made.
    """

    chosen: Candidate
    reason: str
    candidates: tuple[Candidate, ...]
    losses: Mapping[Kind, Losses]
    failed: Mapping[Kind, str]


class Trainer(Protocol):
    """Trains and runs one model."""

    async def train(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
    ) -> TrainingResult:
        """Train from `params` on rows x with labels y.

        Raises:
          CandidateFailed: this training came to nothing; others may not.
        """

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's outputs, float32 (N, ...)."""


def standard_of_rows(x: NDArray[np.float32]) -> Standard:
    """Mean and deviation of each column of inputs (N, C, ...), rounded to float32, shape (C,).

    Axis 1 is the column: a feature, a signal of a window, a channel of an image.  A column that
    never changes has deviation 1: what rounding leaves of it must not be blown up to a signal.
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, dtype=np.float64)
    deviation = x.std(axis=axes, dtype=np.float64)
    is_constant = deviation <= 1e-6 * np.maximum(1.0, np.abs(mean))
    deviation = np.where(is_constant, 1.0, deviation)
    return Standard(*(each.astype(np.float32).astype(np.float64) for each in (mean, deviation)))


def standardised(x: NDArray[np.float32], standard: Standard) -> NDArray[np.float32]:
    """Inputs (N, C, ...) minus the mean, over the deviation, of each column: float32."""
    shape = (-1, *(1,) * (x.ndim - 2))
    mean, deviation = (
        each.astype(np.float32).reshape(shape) for each in (standard.mean, standard.deviation)
    )
    return (x - mean) / deviation


def kinds(table: PersonalTable, loss: Loss, *, has_own_standard: bool = False) -> Iterator[Kind]:
    """The candidates to make; the global model as it is comes first.

    Args:
      table: the settings.
      loss: of a reconstruction the inputs are the labels, so it keeps their shared scale.
      has_own_standard: whether the bundle standardises by each site's own rows already.
    """
    yield GLOBAL
    is_shifted = table.local_normalisation and not has_own_standard
    ways: tuple[Normalisation, ...] = ("shared", "local")
    for way in ways if is_shifted and loss is not Loss.RECONSTRUCTION else ways[:1]:
        yield from (
            Kind(model, way) for model in dict.fromkeys(table.models) if Kind(model, way) != GLOBAL
        )


@dataclass(frozen=True, eq=False)
class Making:
    """All that candidates are made with.

    Attributes:
      trainer: of the model.
      loss: what it is trained for.
      start: where candidates begin.
      rows: the site's own.
      plan: how the federation trains; epochs and the proximal term are the settings'.
      table: the settings.
      has_own_standard: whether the bundle standardises by each site's own rows already.
    """

    trainer: Trainer
    loss: Loss
    start: Start
    rows: OwnRows
    plan: TrainingPlan
    table: PersonalTable
    has_own_standard: bool = False


async def personalise(
    making: Making, *, serving: Kind = GLOBAL, known: Sequence[Candidate] = ()
) -> Personalised:
    """Make every candidate and choose among them.

    Args:
      making: what with.
      serving: what is served now.
      known: candidates that need not be made again, such as `local` ones of the same rows, and
        the one that is served now.

    Raises:
      Whatever the trainer raises but `CandidateFailed`, which costs one candidate.
    """
    forgets = await _forgets(making)
    made = {each.kind: each for each in known if not forgets or each.kind.model == "global"}
    own = standard_of_rows(making.rows.train[0])
    failed: dict[Kind, str] = {}
    for kind in kinds(making.table, making.loss, has_own_standard=making.has_own_standard):
        if forgets and kind.model != "global":
            failed[kind] = forgets
        elif kind not in made:
            try:
                made[kind] = await _make(making, kind, own)
            except CandidateFailed as error:
                failed[kind] = str(error)
    losses = {kind: await _judged(making, candidate) for kind, candidate in made.items()}
    verdict = choose(losses, making.table.evidence, serving)
    chosen = made[verdict.kind]
    return Personalised(chosen, verdict.reason, tuple(made.values()), losses, failed)


async def _forgets(making: Making) -> str:
    """Why a model that is trained on the site's rows would forget something; empty: it would not.

    Training lowers the output of a class that no row has, whatever the row.
    """
    if making.loss is not Loss.CROSS_ENTROPY or not making.table.keep_unseen:
        return ""
    x, y = making.rows.train
    output = await making.trainer.infer(making.start.served, x[:1])
    unseen = sorted(set(range(output.shape[-1])) - set(np.unique(y).tolist()))
    if not unseen:
        return ""
    names = ", ".join(map(str, unseen))
    return (
        f"no row of this site is of class {names}, which it would forget ([personal] keep_unseen)"
    )


async def _make(making: Making, kind: Kind, own: Standard) -> Candidate:
    start, standard = making.start, own if kind.normalisation == "local" else None
    if kind.model == "global":
        return Candidate(kind, start.served, standard)
    x, y = making.rows.train
    rows = (x if standard is None else standardised(x, standard), y)
    if kind.model == "local":
        return Candidate(kind, await _alone(making, rows), standard)
    plan = plan_of(kind.model, making.plan, making.table)
    return Candidate(kind, (await making.trainer.train(start.served, *rows, plan)).params, standard)


async def _alone(making: Making, rows: Labelled) -> Params:
    """Train on own rows alone: to learn when to stop, then on all of them until there.

    Few rows set aside tell a stopping point badly, so it is the median over several such searches.
    """
    x, y = rows
    initial, trainer = making.start.initial, making.trainer
    longest = plan_of("local", making.plan, making.table)
    at, best = np.arange(len(x)), []
    for search in range(_SEARCHES if len(x) < _FEW_ROWS else 1):
        seed = (longest.seed + search) % (1 << 32)
        split = split_by_time(at, at, _STOP_SHARE, seed=seed, blocks=_STOP_BLOCKS)
        aside = (x[split.held_out], y[split.held_out])
        found = await trainer.train(
            initial, x[split.train], y[split.train], longest, held_out=aside
        )
        best.append(found.best_epoch)
    epochs = max(1, int(np.median(best)))
    final = replace(longest, epochs=epochs, patience=0)
    return (await trainer.train(initial, x, y, final)).params


def plan_of(model: ModelName, plan: TrainingPlan, table: PersonalTable) -> TrainingPlan:
    """How a candidate trains: as the federation does, but for what makes it that candidate."""
    epochs = {"fine_tuned": table.fine_tune_epochs, "ditto": table.ditto_epochs}
    is_local = model == "local"
    return replace(
        plan,
        epochs=epochs.get(model, table.local_epochs),
        learning_rate=table.learning_rate or plan.learning_rate,
        last_learning_rate=0.0,
        proximal=table.ditto_proximal if model == "ditto" else 0.0,
        average_tail=0.0 if is_local else _AVERAGED,
        patience=table.local_patience if is_local else 0,
    )


async def _judged(making: Making, candidate: Candidate) -> Losses:
    """Each judging row's loss, times its class weight over the mean weight."""
    x, y = making.rows.judges
    loss, weights = making.loss, making.plan.class_weights
    inputs = candidate.inputs(x)
    output = await making.trainer.infer(candidate.params, inputs)
    # What overflows has lost.
    with np.errstate(over="ignore", invalid="ignore"):
        losses = example_losses(loss, output, inputs if loss is Loss.RECONSTRUCTION else y)
    if not weights:
        return losses
    if loss is Loss.CROSS_ENTROPY:
        of_row = np.array(weights, np.float64)[y]
    else:
        of_row = weights[0] + (weights[1] - weights[0]) * y.reshape(len(y)).astype(np.float64)
    return np.asarray(losses * (of_row / of_row.mean()))


def choose(losses: Mapping[Kind, Losses], evidence: float, serving: Kind = GLOBAL) -> Verdict:
    """Choose what to serve.

    Args:
      losses: of each candidate on the same rows in time order, each (N,); `GLOBAL` among them.
      evidence: standard errors by which a candidate must be better to replace another.
      serving: what is served now.
    """
    usable = {kind: each for kind, each in losses.items() if np.isfinite(each).all()}
    kept = GLOBAL
    if GLOBAL not in usable:  # whatever gives numbers is better
        kept = min(usable, key=lambda kind: float(usable[kind].mean()), default=GLOBAL)
    elif serving in usable and usable[serving].mean() <= usable[GLOBAL].mean():
        kept = serving
    better = [kind for kind in usable if _is_better(usable[kind], usable[kept], evidence)]
    chosen = min(better, key=lambda kind: float(usable[kind].mean()), default=kept)
    return Verdict(chosen, _reason(chosen, losses))


def gain(losses: Losses, reference: Losses) -> tuple[float, float]:
    """Mean of reference - losses, both (N,), and its standard error by the means of blocks."""
    with np.errstate(invalid="ignore"):  # of a model that gives no numbers
        difference = reference - losses
        blocks = np.array_split(difference, min(BLOCKS, len(difference)))
        means = np.array([block.mean() for block in blocks])
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.inf
        return float(difference.mean()), float(error)


def _is_better(losses: Losses, reference: Losses, evidence: float) -> bool:
    mean, error = gain(losses, reference)
    return mean > 0 and mean > evidence * error


def _reason(chosen: Kind, losses: Mapping[Kind, Losses]) -> str:
    """Such as `ditto: loss 0.113 against 0.121 of global (less by 0.008 +- 0.004) on 412 ...`."""
    mean = {kind: float(each.mean()) for kind, each in losses.items()}
    rows = f"on {len(losses[GLOBAL])} held-out rows"
    if chosen != GLOBAL:
        less, error = gain(losses[chosen], losses[GLOBAL])
        return (
            f"{chosen}: loss {mean[chosen]:.3g} against {mean[GLOBAL]:.3g} of global "
            f"(less by {less:.2g} +- {error:.1g}) {rows}"
        )
    rivals = [kind for kind in mean if kind != GLOBAL and math.isfinite(mean[kind])]
    if not rivals:
        return f"global: loss {mean[GLOBAL]:.3g} {rows}, nothing else to choose from"
    rival = min(rivals, key=lambda kind: mean[kind])
    return (
        f"global: loss {mean[GLOBAL]:.3g}; the nearest, {rival}, has {mean[rival]:.3g}, which is "
        f"not clearly better {rows}"
    )
