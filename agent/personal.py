"""What this site serves: the federation's model or one of its own, chosen anew as it learns.

    served version, or rows ─► candidates (training child, in the learner's spare time)
                                  │
                                  ▼ judged on the older held-out rows
    scores ◄── serving ◄──────── chosen ──► kept in `personal.model`
                                  │
                                  ▼ judged on the newest held-out rows
                                choice ──► report

Responsible for when to choose: after each newly served version, and when there are a quarter more
training rows.  Rows, losses and candidates never leave the site; the choice does, with counts and
sums of how it does on held-out rows that took no part in it.

Invariant: something is always served.  It is the global model until something is chosen, whenever
that is what was chosen, and while there is another bundle than the choice is about.  An own model
stays while the federation's versions move on, until the next choice; but when the version that it
was made from is taken back, it goes with it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.adopted import Adopted, Examples
from agent.adoption import Adoption
from agent.history import History
from agent.judge import evaluation_of
from agent.learner import PolicyError, plan_for
from agent.learning.graph import initial_params, read_graph
from agent.learning.personalise import (
    GLOBAL,
    Candidate,
    Making,
    OwnRows,
    PersonalTable,
    Start,
    personalise,
)
from agent.learning.place import TrainingPlace
from agent.learning.rows import Labelled
from agent.learning.worker import TrainingFailed, TrainingProcessDied
from agent.model import scores
from agent.own_model import Basis, Chosen, OwnModelFile, Serving
from agent.signals.rows import Rows
from agent.spare_time import SpareTime, Superseded
from wire.chunks import sha256
from wire.messages import Choice
from wire.tensors import Params, write_params

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_AFTER_FAILURE_S = 300.0
_GROWTH = 1.25
_REPORT_SHARE = 0.25
_LONGEST_REASON = 500
"""Characters that a `Choice` has room for."""


class TooFewRows(Exception):  # noqa: N818 - states what is wrong
    """There are too few labelled rows to learn from or to choose by."""


@dataclass(frozen=True, eq=False)
class _Alone:
    """Models of own rows alone: a new version changes nothing about them, many more rows do."""

    bundle: bytes = b""
    rows: int = 0
    candidates: tuple[Candidate, ...] = ()

    def known(self, basis: Basis) -> tuple[Candidate, ...]:
        """Those that need not be made again."""
        is_fresh = self.bundle == basis.bundle and basis.rows < _GROWTH * self.rows
        return self.candidates if is_fresh else ()


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model gave for live rows.

    Attributes:
      ends: int64 (N,), the rows that end a whole window.
      inputs, outputs: of the graph, float32 (N, ...).
    """

    ends: NDArray[np.int64]
    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]


@dataclass
class Personal:
    """The agent's task of choosing what it serves.

    Attributes:
      adoption, history, process: the agent's own.
      agent: its id, for the trainings' seeds.
      table: the settings.
      directory: the agent's state directory, locked by this process.
      is_busy: whether the learner needs the training child, or training is paused.
      withheld: why the gateway can not spare a training now, in words; empty when it can.
      changed: set when something was chosen, so that it is reported.
      state: what is going on, in words, for the status file.
    """

    adoption: Adoption
    history: History
    process: TrainingPlace
    agent: str
    table: PersonalTable
    directory: Path
    is_busy: Callable[[], bool]
    withheld: Callable[[], str] = str
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = "waiting for a model"

    def __post_init__(self) -> None:
        self._file = OwnModelFile(self.directory)
        self._chosen = self._file.load() if self.table.enabled else None
        self._alone = _Alone()
        self._rests_until_s = 0.0

    # What is served, and what is said about it

    def serving(self, adopted: Adopted) -> Serving:
        """What scores the live signal while this head is in use."""
        head, chosen = adopted.head, self._chosen
        plain = Serving(Candidate(GLOBAL, adopted.serve), head.serve.content.digest)
        if chosen is None or chosen.basis.bundle != head.bundle.digest:
            return plain
        if _shapes(chosen.serving.params) != _shapes(adopted.serve):
            return plain  # a file with a right checksum, and wrong all the same
        kind = chosen.serving.kind
        if kind == GLOBAL:
            return replace(plain, reason=chosen.serving.reason)
        is_taken_back = head.serve.version < chosen.basis.version
        return plain if is_taken_back and kind.model != "local" else chosen.serving

    def scored(self, adopted: Adopted, rows: Rows, after: int = 0) -> Scored:
        """Run what is served on rows of this agent's channels.

        Args:
          adopted: the head in use.
          rows: oldest first.
          after: how many rows at the beginning are only there for the windows of later ones.

        Raises:
          BundleError: the head is not ready to score with.
        """
        serving, live = self.serving(adopted), adopted.live(rows, after)
        inputs = live.inputs if serving.kind == GLOBAL else serving.inputs(live.inputs)
        return Scored(live.ends, inputs, adopted.outputs(serving.params, inputs))

    def score(self, adopted: Adopted, rows: Rows) -> NDArray[np.float64]:
        """The scores of rows with what is served, as `Adopted.score`: float64 (R,)."""
        scored = self.scored(adopted, rows)
        by_row = np.full(len(rows), np.nan)
        by_row[scored.ends] = scores(adopted.model.manifest, scored.outputs, scored.inputs)
        return by_row

    def choice(self, adopted: Adopted, held_out: Rows) -> Choice | None:
        """What this site serves, for its report; None before it has chosen.

        Args:
          adopted: the head in use.
          held_out: all held-out rows of this agent's channels, oldest first; the newest quarter of
            the examples, which took no part in the choice, judges.
        """
        serving = self.serving(adopted)
        if not serving.reason or adopted.unready:
            return None
        _, (x, y) = _divided(adopted.examples(held_out))
        if not len(x):
            return None
        manifest, inputs = adopted.model.manifest, serving.inputs(x)
        answers = inputs if manifest.loss == "reconstruction" else y
        outputs = adopted.outputs(serving.params, inputs)
        return Choice(
            model=serving.kind.model,
            normalisation=serving.kind.normalisation,
            reason=serving.reason[:_LONGEST_REASON],
            evaluation=evaluation_of(manifest, serving.digest, outputs, answers, adopted.threshold),
        )

    # The task

    async def run(self) -> None:
        """Choose whenever there is something new to choose by, until cancelled."""
        while True:
            adopted = self.adoption.current
            self.state = self._reason_to_wait(adopted)
            if not self.state and adopted is not None:
                self.state = "preparing"
                await self._choose(adopted)
            await asyncio.sleep(_LOOK_S)

    def _reason_to_wait(self, adopted: Adopted | None) -> str:
        """Why not to choose now; empty when there is something to choose by."""
        if not self.table.enabled:
            return "off: the global model is served"
        if adopted is None or adopted.unready:
            return adopted.unready if adopted is not None else "waiting for a model"
        rows = self.history.training_rows(in_stretches=adopted.in_stretches)
        if rows < self.table.min_rows:
            return f"waiting for rows ({rows} of {self.table.min_rows})"
        if self._is_settled(adopted, rows):
            return self.serving(adopted).reason
        if asyncio.get_running_loop().time() < self._rests_until_s:
            return f"{self.serving(adopted).reason or 'global'}; the next choice comes later"
        return self._reason_to_give_way()

    def _reason_to_give_way(self) -> str:
        """Why the training child is not for this now; empty when it is."""
        if self.is_busy():
            return "waiting for the learner"
        withheld = self.withheld()
        return f"waiting: {withheld}" if withheld else ""

    def _is_settled(self, adopted: Adopted, rows: int) -> bool:
        """Whether the choice is about this served version and about as many rows."""
        if self._chosen is None:
            return False
        basis, head = self._chosen.basis, adopted.head
        is_same = (basis.bundle, basis.served) == (head.bundle.digest, head.serve.content.digest)
        return is_same and rows < _GROWTH * basis.rows

    async def _choose(self, adopted: Adopted) -> None:
        try:
            chosen = await self._personalise(adopted)
        except Superseded:
            return
        except (TooFewRows, TrainingFailed, TrainingProcessDied, PolicyError) as error:
            logger.warning("no model was chosen to serve: %s", error)
            rest_s = max(_AFTER_FAILURE_S, self.table.rest_s)
            self._rests_until_s = asyncio.get_running_loop().time() + rest_s
            return
        self._chosen = chosen
        self._rests_until_s = asyncio.get_running_loop().time() + self.table.rest_s
        logger.info("serving %s", chosen.serving.reason)
        self._file.keep(chosen)
        self.changed.set()

    async def _personalise(self, adopted: Adopted) -> Chosen:
        """Make the candidates and choose.

        Raises:
          TooFewRows, PolicyError, Superseded, and what the training child raises.
        """
        head = adopted.head
        rows = self.history.read(held_out=False, in_stretches=adopted.in_stretches)
        basis = Basis(head.bundle.digest, head.serve.content.digest, head.serve.version, len(rows))
        making = self._making(adopted, adopted.examples(rows))
        serving, alone = self.serving(adopted), self._alone.known(basis)
        kept: tuple[Candidate, ...] = ()
        if serving.kind != GLOBAL:
            kept = (replace(serving.candidate, kind=replace(serving.kind, is_kept=True)),)
        found = await personalise(making, serving=serving.kind, known=(*alone, *kept))
        for kind, reason in found.failed.items():
            logger.warning("no %s model to choose from: %s", kind, reason)
        if not alone:
            made = (each for each in found.candidates if each.kind.model == "local")
            fresh = tuple(each for each in made if not each.kind.is_kept)
            self._alone = _Alone(basis.bundle, basis.rows, fresh)
        # From here on it is of its kind, and not what was served before.
        candidate = replace(found.chosen, kind=replace(found.chosen.kind, is_kept=False))
        digest = sha256(write_params(candidate.params))
        return Chosen(basis, Serving(candidate, digest, found.reason))

    def _making(self, adopted: Adopted, train: Examples) -> Making:
        head, model, table = adopted.head, adopted.model, self.table
        held_out = self.history.read(held_out=True, in_stretches=adopted.in_stretches)
        judges, _ = _divided(adopted.examples(held_out))
        if len(train) < table.min_rows or len(judges[0]) < table.min_judges:
            raise TooFewRows(
                f"{len(train)} labelled rows to learn from and {len(judges[0])} held-out ones to "
                f"choose by; [personal] min_rows = {table.min_rows}, min_judges = "
                f"{table.min_judges}; [history] holdout_share says how many rows are held out"
            )
        return Making(
            trainer=SpareTime(
                self.process, adopted, self.adoption, lambda: bool(self._reason_to_give_way())
            ),
            loss=model.loss,
            start=Start(adopted.serve, initial_params(read_graph(model.graph))),
            rows=OwnRows((train.inputs, train.labels), judges),
            plan=plan_for(
                head.policy,
                self.agent,
                head.serve.version,
                model.loss,
                model.manifest.symmetry,
            ),
            table=table,
            has_own_standard=model.manifest.standardise == "local",
        )


def _shapes(params: Params) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, value.shape) for name, value in params.items()]


def _divided(examples: Examples) -> tuple[Labelled, Labelled]:
    """Held-out examples, oldest first: those that choose; the newest, which tell how it does."""
    at = len(examples) - int(len(examples) * _REPORT_SHARE)
    x, y = examples.inputs, examples.labels
    return (x[:at], y[:at]), (x[at:], y[at:])
