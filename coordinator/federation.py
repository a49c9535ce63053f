"""The federation's state machine: verified updates in, outcomes and a new head out.

    update ──► known? ──yes──► duplicate: its outcome again
                 │no
                 ▼
               valid? ──no───► refused(reason), recorded
                 │yes
                 ▼
               taken into the buffer (`coordinator/aggregation.py`), committed
                 │ buffer ready
                 ▼
               next version ─► average ─► head + 1          diverged ─► its members end `void`

    candidate ──► judged by the sites ──► not worse: served
                       │ worse, `patience` times in a row, or far worse at once
                       ▼
               a new lineage: training goes on from what is served; open updates end `refused`

Everything that one call changes is one transaction: updates, buffer, version, average and head are
on the disk together or not at all, and receipts go out afterwards.  So a crash at any instruction
leaves a state in which each update is either not seen (it will be offered again) or seen once.
When a transaction fails, memory goes back with the file.

The buffer is the only large thing that a batch writes; optimizer, average and weights are written
when they change, which is with a version.

No version has fewer distinct sites behind it than the charter's `k_min`, whatever the strategy.

No I/O but the store; the caller passes monotonic time and sends what is returned.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Member, empty, settled
from coordinator.aggregation import Diverged, Model, Rules, advance, begin, is_ready, take
from coordinator.average import add_version
from coordinator.config import CoordinatorSettings, Identity
from coordinator.gate import decide, is_given_up
from coordinator.ingest import Update, receipt
from coordinator.initial import site_alone
from coordinator.observing import Observing
from coordinator.publication import (
    Named,
    delta_between,
    keep,
    named,
    parse_head,
    recut,
    seal_head,
    still_useful,
)
from coordinator.record import Served, Verdict
from coordinator.server_optimizer import make_server_optimizer
from coordinator.store import Saved, Store
from coordinator.strategies.choice import make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.chunks import describe, sha256
from wire.errors import MalformedError
from wire.messages import (
    CONFLICT,
    Content,
    Delta,
    Head,
    Policy,
    Receipt,
    Report,
    UpdateHeader,
    VersionRef,
)
from wire.settings import settings_error
from wire.sparse import decode_sparse, kept_count, largest_sparse_bytes
from wire.tensors import (
    flatten,
    parameter_count,
    read_integers,
    read_params,
    unflatten,
    update_bytes,
    write_params,
)

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What the caller has to send: receipts by agent, and whether the head moved."""

    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    head_moved: bool = False


class Federation:
    """The current model of the federation and everything that may change it."""

    def __init__(
        self, store: Store, settings: CoordinatorSettings, identity: Identity, now_s: float
    ) -> None:
        self._store, self._settings, self._identity = store, settings, identity
        self._shapes = identity.bundle.manifest.shared_shapes
        self._parameters = parameter_count(self._shapes)
        self._chunk_bytes = settings.coordinator.chunk_bytes
        self._policy = msgspec.convert(msgspec.structs.asdict(settings.policy), Policy)
        self._usual_rules = make_rules(settings, self._policy, identity.trust.charter.k_min)
        self._observing = Observing(store, settings, identity)
        self._buffer_since_s = now_s
        self._candidate_since_s = now_s
        self._duplicates = 0
        saved = store.load()
        if saved is None:
            saved = self._begin()
        elif saved.bundle.digest != sha256(identity.bundle_bytes):
            reason = f"the state in {settings.coordinator.state_dir} belongs to another bundle; "
            reason += "give every bundle a state_dir of its own"
            raise settings_error(identity.source, "coordinator.bundle", reason)
        self._load(saved)
        self._publish_settings(now_s)

    def _load(self, saved: Saved) -> None:
        self.saved = saved
        self._head = parse_head(saved.head) if saved.head else None
        fresh = begin(self._usual_rules, self._weights(saved.train.content), saved.version)
        buffer = self._store.load_buffer(self._parameters, self._settings.robust.buckets)
        if buffer is None:
            reason = "the buffer has members in another number of buckets; keep the old number "
            reason += "until they are folded"
            raise settings_error(self._identity.source, "robust.buckets", reason)
        self._model = replace(
            fresh,
            buffer=buffer,
            radius=saved.radius or fresh.radius,
            optimizer=self._vectors("optimizer", fresh.optimizer),
            memory=self._vectors("memory", fresh.memory),
            centre=self._vectors("centre", fresh.centre),
        )
        self._average = self._store.vector("average")

    def _vectors(
        self, name: Literal["optimizer", "memory", "centre"], fresh: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Saved vectors, or fresh ones when other rules than before need another number."""
        saved = self._store.vector(name)
        if saved.size == fresh.size:
            return saved.reshape(fresh.shape)
        logger.warning("other rules than before: the memory of the %s starts at zero", name)
        return fresh

    def _weights(self, content: Content) -> NDArray[np.float32]:
        return flatten(read_params(self._store.content(content.digest), self._shapes))

    def _begin(self) -> Saved:
        """Version 0: the first weights, served until something better is there."""
        data = write_params(self._identity.initial)
        with self._store.transaction():
            first = VersionRef(version=0, content=keep(self._store, data, self._chunk_bytes))
            saved = Saved(
                version=0,
                lineage=0,
                head_sequence=0,
                head=b"",
                bundle=keep(self._store, self._identity.bundle_bytes, self._chunk_bytes),
                train=first,
                candidate=None,
                serve=first,
                judged=0,
            )
            self._store.add_version(0, 0, first.content.digest, 0, time.time())
            self._store.record.note_served(Served(0, 0, first.content.digest), time.time())
            model = begin(self._usual_rules, flatten(self._identity.initial))
            self._save_vectors(model, model.params.astype(np.float64))
            self._store.save(saved)
        return saved

    def _publish_settings(self, now_s: float) -> None:
        """Publish a head when the policy or the training switch is not what the last one says."""
        head = self._head
        if (
            head is not None
            and head.policy.scale != self._policy.scale
            and self._model.buffer.members
        ):
            self._close_buffer(head.policy.scale, now_s)
        if head is None or head.policy != self.policy or head.training != self._store.training:
            with self._step():
                self._save_with_new_head({})
        self.limit_chunks(self._chunk_bytes)

    def limit_chunks(self, chunk_bytes: int) -> None:
        """Cut what the head names into chunks of at most this size, and say so in a new head.

        A broker's maximum packet size is known only once it is connected to.
        """
        self._chunk_bytes = min(chunk_bytes, self._settings.coordinator.chunk_bytes)
        if all(content.chunk_bytes == self._chunk_bytes for content in self.saved.contents):
            return

        def again(content: Content) -> Content:
            return describe(self._store.content(content.digest), self._chunk_bytes)

        logger.info("chunks of %d bytes from here on", self._chunk_bytes)
        with self._step():
            self._save_with_new_head(recut(self.saved, again))

    def _close_buffer(self, scale: float, now_s: float) -> None:
        """Integers of two scales do not add: what the buffer holds becomes a version of its own."""
        buffer = self._model.buffer
        if len(buffer.sites) < self._usual_rules.k_min:
            reason = f"the buffer holds {len(buffer.members)} updates at scale {scale} and too few "
            reason += "sites to publish them; keep the old scale until they are folded"
            raise settings_error(self._identity.source, "policy.scale", reason)
        with self._step():
            self._advance(Result(), now_s, scale)

    @contextmanager
    def _step(self) -> Iterator[None]:
        """One transaction; when it fails, memory goes back to what the file says."""
        before = dict(self.__dict__)
        try:
            with self._store.transaction():
                yield
        except BaseException:
            self.__dict__.update(before)
            raise

    # What the caller reads

    @property
    def head(self) -> Head:
        """The current head."""
        if self._head is None:
            reason = "no head before the federation began"
            raise RuntimeError(reason)
        return self._head

    @property
    def head_envelope(self) -> bytes:
        """The current head, signed."""
        return self.saved.head

    @property
    def policy(self) -> Policy:
        """The head's policy; while one site trains alone, only who is granted trains."""
        if self.site_alone:
            return msgspec.structs.replace(self._policy, admission="granted")
        return self._policy

    @property
    def site_alone(self) -> str:
        """The site that trains the first versions alone, while it does; else empty."""
        initial = self._settings.initial
        is_first = self.saved.lineage == 0 and self.saved.version < initial.versions
        return initial.site if initial.source == "site" and is_first else ""

    @property
    def _rules(self) -> Rules:
        if self.site_alone:
            return site_alone(self._usual_rules, self._settings.initial)
        return self._usual_rules

    def contents(self) -> list[Named]:
        """What the head names, each content once."""
        return named(self._store, self.saved)

    @property
    def update_bytes(self) -> int:
        """Largest size of a client update's content under the policy."""
        if self._policy.kept_share < 1:
            return largest_sparse_bytes(self._policy.bits, self._parameters, self._most_kept)
        return update_bytes(self._policy.bits, self._parameters)

    @property
    def _most_kept(self) -> int:
        return kept_count(self._policy.kept_share, self._parameters)

    # What may happen

    def commit(self, updates: list[Update], now_s: float) -> Result:
        """Take complete, verified updates in one transaction."""
        result = Result()
        with self._step():
            for update in updates:
                result.receipts.append((update.header.agent, self._take(update, now_s)))
                if self._is_ready(now_s):
                    self._advance(result, now_s, self._policy.scale)
            self._save_buffer()
            self._store.count_duplicates(self._duplicates)
        self._duplicates = 0
        return result

    def status_of(self, header: UpdateHeader) -> Receipt | None:
        """The receipt of an update that is already known, else None; counts the duplicate.

        An id that comes back with other content is refused and alarmed: the agent's state was
        cloned or restored from a backup.
        """
        known = self._store.known_update(header)
        if known is None:
            return None
        if known.digest != header.content.digest:
            reason = f"{CONFLICT}: this id was here before with another hash"
            self._store.raise_alarm(
                header.agent,
                "two contents",
                f"update {header.incarnation}/{header.sequence} came with another content than "
                "before: its card was cloned or restored from a backup",
            )
            logger.error("ALARM update %d of %s: %s", header.sequence, header.agent, reason)
            return receipt(header, "refused", reason=reason)
        self._duplicates += 1
        return receipt(header, known.status, reason=known.reason, version=known.version)

    def tick(self, now_s: float) -> Result:
        """Do what time alone asks for: deadlines, and the operator's switches."""
        result = Result()
        if self._duplicates:
            with self._store.soft_transaction():
                self._store.count_duplicates(self._duplicates)
            self._duplicates = 0
        if self._is_ready(now_s):
            with self._step():
                self._advance(result, now_s, self._policy.scale)
        if self.head.training != self._store.training:
            with self._step():
                self._save_with_new_head({})
            result.head_moved = True
        self._roll_back_on_request(result)
        self._judge(result, now_s)
        return result

    def on_report(self, agent: str, site: str, report: Report, now_s: float) -> Result:
        """Take what a site says about the versions that the head names, and about itself.

        Raises:
          MalformedError: it says what can not be true of this bundle's models.
        """
        result = Result()
        self._observing.check(report, self.saved)
        with self._step():
            changes = self._observing.take(agent, site, report, self.saved, self._chunk_bytes)
            if changes:
                self._save_with_new_head(changes)
                result.head_moved = True
        self._judge(result, now_s)
        return result

    # Updates, inside the caller's transaction

    def _take(self, update: Update, now_s: float) -> Receipt:
        header = update.header
        known = self.status_of(header)
        if known is not None:
            return known
        if header.dropped:
            self._store.add_update(header, "dropped", header.dropped, None, time.time())
            return receipt(header, "dropped", reason=header.dropped)
        taken = self._fold(update)
        if isinstance(taken, Rejected):
            logger.warning(
                "refused update %d of %s: %s", header.sequence, header.agent, taken.reason
            )
            self._store.add_update(header, "refused", taken.reason, None, time.time())
            return receipt(header, "refused", reason=taken.reason)
        if len(self._model.buffer.members) == 1:
            self._buffer_since_s = now_s
        self._store.add_update(header, "committed", "", taken, time.time())
        return receipt(header, "committed")

    def _fold(self, update: Update) -> Member | Rejected:
        """Put a valid update into the buffer, or say why it does not count."""
        refused = self.problem_with(update.header)
        if refused is not None:
            return refused
        try:
            delta = self._integers(update)
        except MalformedError as error:
            return Rejected(str(error))
        taken = take(
            self._rules, self._model, self._offer(update.header), delta, self._policy.scale
        )
        if isinstance(taken, Rejected):
            return taken
        self._model = taken
        return taken.buffer.members[-1]

    def _integers(self, update: Update) -> NDArray[np.signedinteger]:
        header, data = update.header, update.content
        if len(data) != header.content.size:
            raise MalformedError(f"{len(data)} bytes came of {header.content.size}")
        if self._policy.kept_share < 1:
            return decode_sparse(data, header.bits, self._parameters, self._most_kept)
        return read_integers(data, header.bits, self._parameters)

    def problem_with(self, header: UpdateHeader) -> Rejected | None:
        """What the header alone decides, so that no chunk is taken in vain."""
        policy = self._policy
        if header.lineage != self.saved.lineage:
            return Rejected(f"lineage {header.lineage} was abandoned")
        if self._store.version_digest(header.base_version) != header.base_digest:
            return Rejected(f"base version {header.base_version} is not one of ours")
        if (header.scale, header.bits) != (policy.scale, policy.bits):
            return Rejected(f"scale {header.scale} x {header.bits} bits is not the policy's")
        size, is_sparse = header.content.size, policy.kept_share < 1
        fits = size <= self.update_bytes if is_sparse else size == self.update_bytes
        if not fits or header.kept > (self._most_kept if is_sparse else 0):
            return Rejected(f"{size} bytes do not fit {self._parameters} parameters")
        if header.weight > min(policy.weight_cap, max(header.examples, 1)):
            return Rejected(f"weight {header.weight} exceeds examples or the policy's cap")
        admitted = self._rules.strategy.admit(
            self._offer(header), self._model.buffer, self._model.version
        )
        return admitted if isinstance(admitted, Rejected) else None

    def _offer(self, header: UpdateHeader) -> Offer:
        known = self._store.agent(header.agent)
        return Offer(
            header.agent, known.site if known else header.agent, header.weight, header.base_version
        )

    # Versions, inside the caller's transaction

    def _is_ready(self, now_s: float) -> bool:
        return is_ready(self._rules, self._model, now_s - self._buffer_since_s)

    def _advance(self, result: Result, now_s: float, scale: float) -> None:
        """Turn the buffer, whose steps have this scale, into a version and settle its members."""
        members = self._model.buffer.members
        version = self._model.version + 1
        try:
            self._model = advance(
                self._rules,
                replace(self._model, buffer=settled(self._model.buffer)),
                scale,
                population=self._store.population if self._usual_rules.strategy.memory else 0,
                base=self._base_of(members),
            )
        except Diverged as error:
            self._void_buffer(result, f"version {version} would have diverged: {error}")
            return
        averaged = self.saved.averaged + 1
        self._average = add_version(
            self._average, self._model.params, averaged, self._settings.average.decay
        )
        self._save_vectors(self._model, self._average)
        before = self.saved.train.content.digest
        train = self._keep(version, self._model.params)
        self._store.add_version(
            version, self.saved.lineage, train.content.digest, len(members), time.time()
        )
        self._settle(result, "folded", "", version)
        logger.info("version %d from %s", version, ", ".join(member.agent for member in members))
        self._save_buffer()
        self._observing.account_for(version)
        changes: dict[str, object] = {"version": version, "train": train, "averaged": averaged}
        changes["radius"] = self._model.radius
        ways = [self._delta(before, train.content.digest)]
        since_serve = version - max(self.saved.serve.version, self.saved.judged)
        if self.saved.candidate is None and since_serve >= self._settings.gate.every:
            candidate = self._keep(version, self._average)
            changes["candidate"] = candidate
            # Both are averages of the versions, so they are nearer to each other than to either.
            ways.append(self._delta(self.saved.serve.content.digest, candidate.content.digest))
            self._candidate_since_s = now_s
        changes["deltas"] = still_useful(self.saved, ways)
        self._save_with_new_head(changes)
        result.head_moved = True

    def _base_of(self, members: tuple[Member, ...]) -> NDArray[np.float32] | None:
        """Weights that the oldest member was trained from, if the strategy needs and keeps them."""
        if not self._usual_rules.strategy.kept_bases:
            return None
        digest = self._store.version_digest(min(member.base_version for member in members))
        if digest is None or not self._store.has_content(digest):
            return None
        return flatten(read_params(self._store.content(digest), self._shapes))

    def _void_buffer(self, result: Result, reason: str) -> None:
        """Give up what would have made the model diverge."""
        logger.error("ALARM %s", reason)
        self._store.raise_alarm("coordinator", "diverged", reason)
        self._settle(result, "void", reason, 0)
        self._model = replace(
            self._model, buffer=empty(self._parameters, self._settings.robust.buckets)
        )
        self._save_buffer()

    def _settle(
        self,
        result: Result,
        status: Literal["folded", "refused", "void"],
        reason: str,
        version: int,
    ) -> None:
        """Give the buffer's members their outcome."""
        for agent, incarnation, sequence, digest in self._store.settle_committed(
            status, reason, version
        ):
            outcome = Receipt(
                incarnation=incarnation,
                sequence=sequence,
                digest=digest,
                status=status,
                reason=reason[:500],
                version=version,
            )
            result.receipts.append((agent, outcome))

    def _delta(self, base: bytes, target: bytes) -> Delta | None:
        return delta_between(self._store, base, target, self._chunk_bytes)

    def _keep(self, version: int, params: NDArray[np.floating]) -> VersionRef:
        data = write_params(unflatten(params, self._shapes))
        return VersionRef(version=version, content=keep(self._store, data, self._chunk_bytes))

    # The gate

    def _judge(self, result: Result, now_s: float) -> None:
        """Promote, keep back or give up the candidate; abandon a lineage that got worse."""
        candidate, gate = self.saved.candidate, self._settings.gate
        if candidate is None:
            self._propose_last(result, now_s)
            return
        verdict = decide(
            self._store.evaluations(candidate.content.digest),
            self._store.evaluations(self.saved.serve.content.digest),
            gate,
        )
        if verdict is None and now_s - self._candidate_since_s < gate.deadline_s:
            return
        with self._step():
            if verdict is None:
                self._drop_candidate("no quorum", f"no quorum within {gate.deadline_s:g} s", 0)
            elif verdict.outcome == "promote":
                self._promote(candidate, verdict.reason)
            else:
                is_over = is_given_up(verdict, self.saved.worse, gate)
                self._drop_candidate("kept back", verdict.reason, self.saved.worse + 1)
                if is_over:
                    self._begin_lineage(result, self.saved.serve, "abandoned", verdict.reason)
        result.head_moved = True

    def _promote(self, candidate: VersionRef, reason: str) -> None:
        self._decide(candidate.version, "promoted", reason)
        self._store.record.note_served(
            Served(candidate.version, self.saved.lineage, candidate.content.digest), time.time()
        )
        self._save_with_new_head(
            {"serve": candidate, "candidate": None, "judged": candidate.version, "worse": 0}
        )

    def _drop_candidate(self, verdict: Verdict, reason: str, worse: int) -> None:
        candidate = self.saved.candidate
        if candidate is not None:
            self._decide(candidate.version, verdict, reason)
            self._save_with_new_head(
                {"candidate": None, "judged": candidate.version, "worse": worse}
            )

    def _begin_lineage(
        self, result: Result, good: VersionRef, verdict: Verdict, reason: str
    ) -> None:
        """Go on from weights that the sites found good; what was trained since ends refused."""
        abandoned = self.saved.lineage
        self._settle(result, "refused", f"lineage {abandoned} was abandoned: {reason}", 0)
        version = self._model.version + 1
        params = self._weights(good.content)
        self._model = replace(begin(self._usual_rules, params, version), radius=self._model.radius)
        self._average = params.astype(np.float64)
        self._save_vectors(self._model, self._average)
        self._save_buffer()
        train = VersionRef(version=version, content=good.content)
        self._store.add_version(version, abandoned + 1, good.content.digest, 0, time.time())
        self._decide(version, verdict, reason)
        logger.error("lineage %d begins from served version %d", abandoned + 1, good.version)
        self._save_with_new_head(
            {
                "version": version,
                "lineage": abandoned + 1,
                "train": train,
                "serve": good,
                "candidate": None,
                "judged": version,
                "worse": 0,
                "averaged": 0,
            }
        )

    def _roll_back_on_request(self, result: Result) -> None:
        """Go back to earlier served weights because the operator asked for it."""
        wanted = self._store.rollback
        if wanted is None:
            return
        self._store.request_rollback(None)
        known = {served.version: served for served in self._store.record.served()}
        if wanted not in known:
            logger.error("no rollback to version %d: kept are %s", wanted, sorted(known))
            return
        with self._step():
            data = self._store.content(known[wanted].digest)
            good = VersionRef(version=wanted, content=keep(self._store, data, self._chunk_bytes))
            reason = f"the operator went back to version {wanted}"
            self._store.record.note_served(
                Served(wanted, self.saved.lineage + 1, known[wanted].digest), time.time()
            )
            self._begin_lineage(result, good, "rolled back", reason)
        result.head_moved = True

    def _decide(self, version: int, verdict: Verdict, reason: str) -> None:
        logger.info("version %d %s: %s", version, verdict, reason)
        self._store.record.decide(version, self.saved.lineage, verdict, reason, time.time())

    def _propose_last(self, result: Result, now_s: float) -> None:
        """Once training is closed, have the last average judged."""
        saved = self.saved
        is_last = self._store.training == "closed" and not self._model.buffer.members
        if not is_last or saved.version <= max(saved.serve.version, saved.judged):
            return
        with self._step():
            candidate = self._keep(saved.version, self._average)
            self._candidate_since_s = now_s
            self._save_with_new_head({"candidate": candidate})
        result.head_moved = True

    # What is written

    def _save_buffer(self) -> None:
        self._model = replace(self._model, buffer=settled(self._model.buffer))
        self._store.save_buffer(self._model.buffer)

    def _save_vectors(self, model: Model, average: NDArray[np.float64]) -> None:
        self._store.save_vector("optimizer", model.optimizer)
        self._store.save_vector("memory", model.memory)
        self._store.save_vector("centre", model.centre)
        self._store.save_vector("average", average)

    def _save_with_new_head(self, changes: dict[str, object]) -> None:
        saved = msgspec.structs.replace(
            self.saved, **changes, head_sequence=self.saved.head_sequence + 1
        )
        self.saved = saved  # the policy depends on the version
        self._head, envelope = seal_head(saved, self.policy, self._store.training, self._identity)
        self.saved = msgspec.structs.replace(saved, head=envelope)
        self._store.save(self.saved)
        bases = self._store.newest_digests(self._usual_rules.strategy.kept_bases)
        served = [served.digest for served in self._store.record.served()]
        self._store.keep_only(
            [content.digest for content in self.saved.contents], [*bases, *served]
        )


def make_rules(settings: CoordinatorSettings, policy: Policy, k_min: int) -> Rules:
    """How a federation with these settings aggregates."""
    return Rules(
        strategy=make_strategy(settings.strategy, policy),
        robust=settings.robust,
        optimizer=make_server_optimizer(settings.server_optimizer),
        clip_norm=policy.clip_norm,
        k_min=k_min,
    )
