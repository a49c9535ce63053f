"""When to train, and what becomes of it: one client update in the outbox.

    new head or new rows ─► may train? ─► child process ─► delta ─► clip ─► integers ─► outbox

Training goes on while the link is down, from the last version the agent holds: its update is
delivered later, with its staleness.  A training that a stop or a crash cuts short goes on at the
next start (`unfinished`), as if it had never been cut; so does one that the gateway's budget
interrupts (`agent/budget`), once the budget allows it.  `reason_to_wait` is pure; what an update is
made of is `agent/making.py`'s.
"""

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass, field

from agent.adoption import Adopted, Adoption
from agent.asking import Decision
from agent.budget import Budget
from agent.config import Identity
from agent.encrypting import unready
from agent.health import Beat, Progress, no_beat, rest, until
from agent.history import History
from agent.learning.losses import Loss
from agent.learning.memory import give_memory_back
from agent.learning.place import TrainingPlace
from agent.learning.plan import TrainingPlan
from agent.learning.train import TrainingResult
from agent.learning.worker import TrainingFailed, TrainingProcessDied
from agent.making import Trained, make_update
from agent.orders import Operator
from agent.outbox import Outbox, UpdateId
from agent.privacy import BudgetSpent, Privacy, private_plan
from agent.signals.rows import Rows
from agent.status import Status
from agent.tombstones import bury_doomed
from agent.turn import Turn
from agent.unfinished import Job, TrainingRows, Unfinished
from agent.wrapping import unmaskable
from wire.chunks import CHUNK_BYTES
from wire.codec import Counter
from wire.database import DiskError
from wire.manifest import Symmetry
from wire.messages import Policy, Spent

logger = logging.getLogger(__name__)

_AFTER_FAILURE_S = 5.0
_STOP_S = 1.0
_SILENT_S = 3600.0
"""A training says by its checkpoints that it goes on; a step of it, or a graph that is derived, is
never this long."""
_PAUSE_LOOK_S = 1.0
_LONG_PAUSE_S = 900.0
"""After so long a newer version is trained from rather than an old one to the end."""
_USELESS_CHECKPOINT = ("CheckpointError", "CheckpointMismatch")


class PolicyError(Exception):
    """A head's policy that nobody can train by; waiting for the next head is all that helps."""


def reason_to_wait(adopted: Adopted | None, rows: int, made: int, operator: Operator) -> str:
    """Why not to train now; empty when training may start.

    Args:
      adopted: the head in use.
      rows: number of training rows so far.
      made: updates already made from the head's train version.
      operator: pause switch.
    """
    if adopted is None:
        return "waiting for a model"
    if adopted.head.training == "closed":
        return "training is closed"
    if operator.paused:
        return "paused by command"
    policy = adopted.head.policy
    if rows < policy.min_rows:
        return f"waiting for rows ({rows} of {policy.min_rows})"
    if made >= policy.updates_per_version:
        return f"waiting for a version after {adopted.head.train.version}"
    return ""


def plan_for(
    policy: Policy, agent: str, version: int, loss: Loss, symmetry: Symmetry = "none"
) -> TrainingPlan:
    """The head's policy as a training plan; the seed differs for every agent and version.

    Args:
      policy: the head's.
      agent: whose training it is.
      version: what it starts from.
      loss: of the bundle; `positive_weight` means something for two classes only.
      symmetry: of the bundle.

    Raises:
      PolicyError: the policy can not be followed, such as a learning rate of 0.
    """
    is_weighted = policy.positive_weight != 1 and loss is Loss.BINARY_CROSS_ENTROPY
    seed = int.from_bytes(hashlib.sha256(f"{agent}/{version}".encode()).digest()[:4], "big")
    try:
        return TrainingPlan(
            epochs=policy.epochs,
            batch_size=policy.batch_size,
            optimizer=policy.optimizer,
            learning_rate=policy.learning_rate,
            class_weights=(1.0, policy.positive_weight) if is_weighted else (),
            proximal=policy.proximal,
            average_tail=policy.average_tail,
            seed=seed,
            symmetry=symmetry,
        )
    except ValueError as error:
        raise PolicyError(f"the head's policy can not be followed: {error}") from None


@dataclass
class Learner:
    """The agent's learning task."""

    adoption: Adoption
    history: History
    outbox: Outbox
    process: TrainingPlace
    identity: Identity
    counter: Counter
    operator: Operator
    status: Status
    pause_s: float
    made: asyncio.Event
    unfinished: Unfinished
    turn: Turn
    checkpoint_s: float = 30.0
    chunk_bytes: int = CHUNK_BYTES
    progress: Progress = field(default_factory=Progress)
    budget: Budget = field(default_factory=Budget)
    privacy: Privacy = field(default_factory=Privacy)
    _beat: Beat = no_beat

    async def run(self) -> None:
        """Train whenever the head and the rows allow it, until cancelled."""
        with self.progress.watching("learn", _SILENT_S) as self._beat:
            await self._learn()

    async def _learn(self) -> None:
        while True:
            self._beat()
            self._standardise_first()
            adopted = self.adoption.current
            reason = self._reason_to_wait(adopted)
            decision = Decision("wait")
            if reason:
                self.turn.withdraw()
            elif adopted is not None:
                reason, decision = self._ask(adopted)
            self.status.learning = reason or "training"
            if reason or adopted is None:
                await self._wait_for_news()
                continue
            self.operator.hurry.clear()
            self.turn.begin()
            await self._train(self._standardise(adopted), decision)
            self.turn.end()
            give_memory_back()  # of the rows and examples
            await self._rest()

    async def _rest(self) -> None:
        """Pause between two trainings, unless an operator is in a hurry."""
        self.status.learning = "resting between two trainings"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pause_s):
                await until(self.operator.hurry, self._beat)

    def _standardise_first(self) -> None:
        """Give a model that is standardised by this site's own rows the first ones, once enough."""
        adopted = self.adoption.current
        if adopted is None or not adopted.unready:
            return
        if self._rows(adopted) >= adopted.head.policy.min_rows:
            self._standardise(adopted)

    def _rows(self, adopted: Adopted | None) -> int:
        in_stretches = adopted is not None and adopted.in_stretches
        return self.history.training_rows(in_stretches=in_stretches)

    def _training_rows(self, adopted: Adopted) -> Rows:
        return self.history.read(held_out=False, in_stretches=adopted.in_stretches)

    def _standardise(self, adopted: Adopted) -> Adopted:
        """The same head, standardised by all rows that this site has now where they decide."""
        if adopted.model.manifest.standardise == "local":
            self.adoption.set_moments(adopted.moments(self._training_rows(adopted)))
        current = self.adoption.current
        return current if current is not None and current.head is adopted.head else adopted

    def _ask(self, adopted: Adopted) -> tuple[str, Decision]:
        """Whether it is this agent's turn: why not, or the decision to train under."""
        head = adopted.head
        reason = adopted.unready or unready(head.policy, self.identity)
        if reason:
            return reason, Decision("wait")
        decision = self.turn.decide(head.policy, asyncio.get_running_loop().time())
        if decision.action == "train":
            return "", decision
        self.turn.wish(
            head.train.version,
            self._rows(adopted),
            head.bundle.digest,
            lambda: adopted.examples(self._training_rows(adopted)).inputs,
            is_private=(head.policy.privacy, head.policy.protection) != ("none", "none"),
        )
        return decision.reason or "asking to train", decision

    def _reason_to_wait(self, adopted: Adopted | None) -> str:
        made = 0
        if adopted is not None:
            try:
                made = self.outbox.made_from(adopted.head.lineage, adopted.head.train.version)
            except DiskError as error:
                return f"waiting for the disk: {error}"
        reason = reason_to_wait(adopted, self._rows(adopted), made, self.operator)
        if not reason and adopted is not None:
            reason = unmaskable(adopted.head.policy, self.identity.trust.charter)
        if adopted is not None:  # asked in any case: the status says what it would cost
            policy, manifest = adopted.head.policy, adopted.model.manifest
            charter, rows = self.identity.trust.charter, self._rows(adopted)
            refused = self.privacy.reason_to_wait(policy, charter, manifest, rows)
            reason = reason or refused
        if not reason and self.outbox.is_full:
            return "waiting for the link: dropped updates alone fill the outbox"
        if not reason and adopted is not None and adopted.head.policy.calibration > 0:
            waiting = self.outbox.open_updates()
            if waiting:
                return f"waiting for the outcome of update {waiting[0]}"
        if not reason and self.budget.reason:
            return f"waiting: {self.budget.reason}"
        return reason

    async def _wait_for_news(self) -> None:
        self.adoption.changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.adoption.changed.wait()

    async def _train(self, adopted: Adopted, decision: Decision) -> None:
        version = adopted.head.train.version
        try:
            trained_on = await self._train_to_the_end(adopted)
        except (TrainingFailed, TrainingProcessDied, PolicyError) as error:
            logger.warning("training from version %d failed: %s", version, error)
            self.status.learning = f"training failed: {error}"
            if isinstance(error, TrainingFailed):  # and would fail again from where it was
                self.unfinished.discard()
            await asyncio.sleep(_AFTER_FAILURE_S)
            return
        if trained_on is None:
            return
        result, rows = trained_on
        trained = Trained(result.params, rows)
        try:
            made = await self._make_durable(adopted, trained)
        except BudgetSpent as error:
            logger.warning("no update is made of a training: %s", error)
            self.unfinished.discard()
            return
        self.adoption.keep_local(adopted, result.params)
        now_s, loss = asyncio.get_running_loop().time(), result.loss_first_epoch
        self.turn.made(decision, (made.incarnation, made.sequence), loss, now_s)
        self.unfinished.discard()
        self.status.base_version = version
        logger.info(
            "update %s from version %d: %d rows, loss %.4f to %.4f",
            made,
            version,
            rows,
            result.loss_first_epoch,
            result.loss_last_epoch,
        )
        bury_doomed(self.outbox, self.identity, self.counter)
        self.made.set()

    async def _train_to_the_end(self, adopted: Adopted) -> tuple[TrainingResult, int] | None:
        """Train, with the pauses that the gateway's budget wants; None when another head is due."""
        job = self._job(adopted)
        while True:
            model = adopted.model
            await self.process.prepare(model.graph, model.loss, model.golden)
            result, rows = await self._resume_or_begin(adopted, job)
            if not result.stopped:
                return result, rows
            if not await self._is_worth_going_on(adopted):
                return None
            self.status.learning = "training"

    async def _is_worth_going_on(self, adopted: Adopted) -> bool:
        """Wait until the budget allows training; whether it should still be this one."""
        now_s = asyncio.get_running_loop().time
        since_s, base = now_s(), adopted.head
        while True:
            current = self.adoption.current
            if current is None or current.head.training == "closed" or self.operator.paused:
                return False
            head = current.head
            if (head.bundle.digest, head.lineage) != (base.bundle.digest, base.lineage):
                return False
            if head.train.version != base.train.version and now_s() - since_s > _LONG_PAUSE_S:
                return False
            if not self.budget.reason:
                return True
            self.status.learning = f"waiting: {self.budget.reason}"
            await rest(_PAUSE_LOOK_S, self._beat)

    async def _make_durable(self, adopted: Adopted, trained: Trained) -> UpdateId:
        """Make the update; while the disk refuses it, hold what was trained and try again.

        It is charged once, and first: a crash before it is made costs budget.

        Raises:
          BudgetSpent: it must not be made.
        """
        spent: Spent | None = None
        while True:
            try:
                spent = spent or self.privacy.charge(adopted.head.policy, trained.examples)
                return make_update(
                    adopted,
                    trained,
                    self.identity,
                    self.outbox,
                    self.counter,
                    self.chunk_bytes,
                    spent,
                )
            except DiskError as error:  # logged by the outbox
                self.status.learning = f"waiting for the disk: {error}"
                await rest(_AFTER_FAILURE_S, self._beat)

    def _job(self, adopted: Adopted) -> Job:
        head = adopted.head
        return Job(
            bundle=head.bundle.digest,
            lineage=head.lineage,
            base_version=head.train.version,
            base_digest=head.train.content.digest,
            incarnation=self.outbox.incarnation,
            sequence=self.outbox.produced + 1,
            plan=private_plan(
                plan_for(
                    head.policy,
                    self.identity.agent,
                    head.train.version,
                    adopted.model.loss,
                    adopted.model.manifest.symmetry,
                ),
                head.policy,
            ),
        )

    async def _resume_or_begin(self, adopted: Adopted, job: Job) -> tuple[TrainingResult, int]:
        """Go on with an unfinished training of this job, or begin; return its number of rows."""
        found = self.unfinished.load(job)
        if found is not None:
            rows, checkpoint = found
            logger.info("going on with the training from version %d", job.base_version)
            try:
                return await self._run_child(adopted, job, rows, checkpoint), len(rows.x)
            except TrainingFailed as error:
                if error.kind not in _USELESS_CHECKPOINT:
                    raise
                logger.warning("an unfinished training is discarded: %s", error)
                self.unfinished.discard()
        examples = adopted.examples(self._training_rows(adopted))
        rows = TrainingRows(examples.inputs, examples.labels)
        return await self._run_child(adopted, job, rows, None), len(rows.x)

    async def _run_child(
        self, adopted: Adopted, job: Job, rows: TrainingRows, checkpoint: bytes | None
    ) -> TrainingResult:
        """Train; keep where it is interrupted, by the budget, or within a second by cancelling."""

        def keep(checkpoint: bytes) -> None:
            self._beat()
            self.unfinished.keep(job, rows, checkpoint)

        training = asyncio.ensure_future(
            self.process.train(
                adopted.train,
                rows.x,
                rows.y,
                job.plan,
                checkpoint=checkpoint,
                checkpoint_s=self.checkpoint_s,
                on_checkpoint=keep,
            )
        )
        try:
            # Shielded, because cancelling the call itself would kill the child with its work.
            result = await asyncio.shield(training)
        except asyncio.CancelledError:
            self.process.interrupt()
            with contextlib.suppress(TrainingFailed, TrainingProcessDied, TimeoutError):
                # The child may have been busy with a personal model, and this training not begun.
                async with asyncio.timeout(_STOP_S):
                    result = await training
                if result.checkpoint is not None:
                    keep(result.checkpoint.to_bytes())
            raise
        if result.checkpoint is not None:
            keep(result.checkpoint.to_bytes())
        return result
