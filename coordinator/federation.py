"""The federation's state machine: verified updates in, outcomes and a new head out.

    update ──► known? ──yes──► duplicate: its outcome again
                 │no
                 ▼
               valid? ──no───► refused(reason), recorded
                 │yes
                 ▼
               admitted by the strategy, folded into the buffer, committed
                 │ buffer ready
                 ▼
               mean delta ─► server optimizer ─► version + 1 ─► average ─► head + 1

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
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import empty, fold, mean_delta, settled
from coordinator.average import add_version
from coordinator.config import CoordinatorSettings, Identity
from coordinator.gate import decide
from coordinator.ingest import Update, receipt
from coordinator.server_optimizer import make_server_optimizer
from coordinator.store import Saved, Store
from coordinator.strategy import Rejected, make_strategy
from wire.chunks import describe, sha256
from wire.codec import open_envelope, parse_body, seal
from wire.deltas import encode
from wire.messages import (
    CONFLICT,
    MAX_DELTAS,
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
from wire.tensors import (
    flatten,
    parameter_count,
    read_integers,
    read_params,
    unflatten,
    write_params,
)
from wire.trust import COORDINATOR

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What the caller has to send: receipts by agent, and whether the head moved."""

    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    head_moved: bool = False


@dataclass(frozen=True)
class Named:
    """Bytes that the head names, to be published in the chunks that `content` lists."""

    kind: Literal["bundle", "model"]
    content: Content
    data: bytes


class Federation:
    """The current model of the federation and everything that may change it."""

    def __init__(
        self, store: Store, settings: CoordinatorSettings, identity: Identity, now_s: float
    ) -> None:
        self._store, self._settings, self._identity = store, settings, identity
        self._shapes = identity.bundle.manifest.shapes
        self._parameters = parameter_count(self._shapes)
        self._chunk_bytes = settings.coordinator.chunk_bytes
        self._policy = msgspec.convert(msgspec.structs.asdict(settings.policy), Policy)
        self._strategy = make_strategy(settings.strategy, self._policy)
        self._optimizer = make_server_optimizer(settings.server_optimizer)
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
        store = self._store
        self.saved = saved
        self._head = _parse_head(saved.head) if saved.head else None
        weights = read_params(store.content(saved.train.content.digest), self._shapes)
        self._params: NDArray[np.float32] = flatten(weights)
        self._average = store.vector("average")
        self._buffer = store.load_buffer(self._parameters)
        state = store.vector("optimizer").reshape(-1, self._parameters)
        fresh = self._optimizer.init(self._parameters)
        if state.shape != fresh.shape:
            logger.warning("another server optimizer than before: its memory starts at zero")
            state = fresh
        self._optimizer_state = state

    def _begin(self) -> Saved:
        """Version 0: the bundle's weights."""
        weights = self._identity.bundle.weights
        data = write_params(weights)
        content = describe(data, self._chunk_bytes)
        first = VersionRef(version=0, content=content)
        saved = Saved(
            version=0,
            lineage=0,
            head_sequence=0,
            head=b"",
            bundle=describe(self._identity.bundle_bytes, self._chunk_bytes),
            train=first,
            candidate=None,
            serve=first,
            judged=0,
        )
        with self._store.transaction():
            self._store.keep_content(content.digest, data)
            self._store.keep_content(saved.bundle.digest, self._identity.bundle_bytes)
            self._store.add_version(0, 0, content.digest, 0, time.time())
            self._store.save_vector("optimizer", self._optimizer.init(self._parameters))
            self._store.save_vector("average", flatten(weights).astype(np.float64))
            self._store.save(saved)
        return saved

    def _publish_settings(self, now_s: float) -> None:
        """Publish a head when the policy or the training switch is not what the last one says."""
        head = self._head
        if head is not None and head.policy.scale != self._policy.scale and self._buffer.members:
            self._close_buffer(head.policy.scale, now_s)
        if head is None or head.policy != self._policy or head.training != self._store.training:
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

        def recut(ref: VersionRef) -> VersionRef:
            return msgspec.structs.replace(ref, content=again(ref.content))

        saved = self.saved
        changes: dict[str, object] = {
            "bundle": again(saved.bundle),
            "train": recut(saved.train),
            "serve": recut(saved.serve),
            "candidate": recut(saved.candidate) if saved.candidate else None,
            "deltas": tuple(
                msgspec.structs.replace(delta, content=again(delta.content))
                for delta in saved.deltas
            ),
        }
        logger.info("chunks of %d bytes from here on", self._chunk_bytes)
        with self._step():
            self._save_with_new_head(changes)

    def _close_buffer(self, scale: float, now_s: float) -> None:
        """Integers of two scales do not add: what the buffer holds becomes a version of its own."""
        if not self._has_enough_sites():
            reason = (
                f"the buffer holds {self._buffer.members} updates at scale {scale} and too few "
            )
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

    def contents(self) -> list[Named]:
        """What the head names, each content once."""
        saved = self.saved
        return [
            Named(
                "bundle" if content is saved.bundle else "model",
                content,
                self._store.content(content.digest),
            )
            for content in saved.contents
        ]

    @property
    def update_bytes(self) -> int:
        """Size of a client update's content under the policy."""
        return self._parameters * self._policy.bits // 8

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
        """Do what time alone asks for: deadlines, and the operator's switch."""
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
        if self._judge(now_s):
            result.head_moved = True
        return result

    def on_report(self, agent: str, site: str, report: Report, now_s: float) -> Result:
        """Take a site's evaluations of what the head names."""
        saved = self.saved
        named = {saved.train.content.digest, saved.serve.content.digest}
        if saved.candidate is not None:
            named.add(saved.candidate.content.digest)
        fitting = tuple(item for item in report.evaluations if item.digest in named)
        self._store.keep_evaluations(f"{site}/{agent}", fitting)
        return Result(head_moved=self._judge(now_s))

    # Steps, each inside the caller's transaction

    def _take(self, update: Update, now_s: float) -> Receipt:
        header = update.header
        known = self.status_of(header)
        if known is not None:
            return known
        if header.dropped:
            self._store.add_update(header, "dropped", header.dropped, 0, time.time())
            return receipt(header, "dropped", reason=header.dropped)
        admitted = self._admit(update)
        if isinstance(admitted, Rejected):
            logger.warning(
                "refused update %d of %s: %s", header.sequence, header.agent, admitted.reason
            )
            self._store.add_update(header, "refused", admitted.reason, 0, time.time())
            return receipt(header, "refused", reason=admitted.reason)
        if self._buffer.members == 0:
            self._buffer_since_s = now_s
        delta = read_integers(update.content, header.bits, self._parameters)
        self._buffer = fold(self._buffer, delta, admitted, header.agent)
        self._store.add_update(header, "committed", "", admitted, time.time())
        return receipt(header, "committed")

    def _admit(self, update: Update) -> int | Rejected:
        """The coefficient of a valid update, or why it does not count."""
        admitted = self.admit(update.header)
        if not isinstance(admitted, Rejected) and len(update.content) != self.update_bytes:
            return Rejected(f"{len(update.content)} bytes came of {self.update_bytes}")
        return admitted

    def admit(self, header: UpdateHeader) -> int | Rejected:
        """What the header alone decides, so that no chunk is taken in vain."""
        policy = self._policy
        if header.lineage != self.saved.lineage:
            return Rejected(f"lineage {header.lineage} was abandoned")
        if self._store.version_digest(header.base_version) != header.base_digest:
            return Rejected(f"base version {header.base_version} is not one of ours")
        if (header.scale, header.bits) != (policy.scale, policy.bits):
            return Rejected(f"scale {header.scale} x {header.bits} bits is not the policy's")
        if header.content.size != self.update_bytes:
            return Rejected(f"{header.content.size} bytes do not fit {self._parameters} parameters")
        if header.weight > min(policy.weight_cap, max(header.examples, 1)):
            return Rejected(f"weight {header.weight} exceeds examples or the policy's cap")
        return self._strategy.admit(header, self._buffer, self.saved.version)

    def _is_ready(self, now_s: float) -> bool:
        age_s = now_s - self._buffer_since_s
        is_ready = self._buffer.members > 0 and self._strategy.is_ready(self._buffer, age_s)
        return is_ready and self._has_enough_sites()

    def _has_enough_sites(self) -> bool:
        """Whether the charter allows to publish this sum: K_min counts sites, not agents."""
        k_min = self._identity.trust.charter.k_min
        if k_min == 1:
            return True
        known = (self._store.agent(agent) for agent in set(self._buffer.agents))
        return len({agent.site for agent in known if agent is not None}) >= k_min

    def _advance(self, result: Result, now_s: float, scale: float) -> None:
        """Turn the buffer, whose steps have this scale, into a version and settle its members."""
        delta = mean_delta(self._buffer, scale)
        self._optimizer_state, self._params = self._optimizer.apply(
            delta, self._optimizer_state, self._params
        )
        if not np.isfinite(self._params).all():
            reason = f"version {self.saved.version + 1} is not finite; lower the learning rates"
            raise FloatingPointError(reason)
        version = self.saved.version + 1
        self._average = add_version(
            self._average, self._params, version, self._settings.average.decay
        )
        self._store.save_vector("optimizer", self._optimizer_state)
        self._store.save_vector("average", self._average)
        before = self.saved.train.content.digest
        train = self._keep(version, self._params)
        self._store.add_version(
            version, self.saved.lineage, train.content.digest, self._buffer.members, time.time()
        )
        for agent, incarnation, sequence, digest in self._store.fold_committed(version):
            folded = Receipt(
                incarnation=incarnation,
                sequence=sequence,
                digest=digest,
                status="folded",
                version=version,
            )
            result.receipts.append((agent, folded))
        logger.info("version %d from %s", version, ", ".join(self._buffer.agents))
        self._buffer = empty(self._parameters)
        self._save_buffer()
        changes: dict[str, object] = {"version": version, "train": train}
        ways = [self._delta(before, train.content.digest)]
        since_serve = version - max(self.saved.serve.version, self.saved.judged)
        if self.saved.candidate is None and since_serve >= self._settings.gate.every:
            candidate = self._keep(version, self._average)
            changes["candidate"] = candidate
            # Both are averages of the versions, so they are nearer to each other than to either.
            ways.append(self._delta(self.saved.serve.content.digest, candidate.content.digest))
            self._candidate_since_s = now_s
        changes["deltas"] = self._still_useful(ways)
        self._save_with_new_head(changes)
        result.head_moved = True

    def _delta(self, base: bytes, target: bytes) -> Delta | None:
        """The way from one content to another, kept, or None where it would save nothing."""
        data = encode(self._store.content(base), self._store.content(target))
        if data is None:
            return None
        content = describe(data, self._chunk_bytes)
        self._store.keep_content(content.digest, data)
        return Delta(base=base, target=target, content=content)

    def _still_useful(self, ways: list[Delta | None]) -> tuple[Delta, ...]:
        """The newest ways, so that an agent some versions behind is served by deltas too."""
        return (*self.saved.deltas, *(way for way in ways if way is not None))[-MAX_DELTAS:]

    def _keep(self, version: int, params: NDArray[np.floating]) -> VersionRef:
        data = write_params(unflatten(params, self._shapes))
        content = describe(data, self._chunk_bytes)
        self._store.keep_content(content.digest, data)
        return VersionRef(version=version, content=content)

    def _judge(self, now_s: float) -> bool:
        """Promote or give up the candidate; propose the last average once training is closed."""
        candidate, gate = self.saved.candidate, self._settings.gate
        if candidate is None:
            return self._propose_last(now_s)
        verdict = decide(
            self._store.evaluations(candidate.content.digest),
            self._store.evaluations(self.saved.serve.content.digest),
            gate,
        )
        if verdict is None and now_s - self._candidate_since_s < gate.deadline_s:
            return False
        changes: dict[str, object] = {"candidate": None, "judged": candidate.version}
        if verdict is not None and verdict.promote:
            changes["serve"] = candidate
        reason = verdict.reason if verdict else f"no quorum within {gate.deadline_s:g} s"
        promoted = "promoted" if "serve" in changes else "not promoted"
        logger.info("version %d %s: %s", candidate.version, promoted, reason)
        with self._step():
            self._save_with_new_head(changes)
        return True

    def _propose_last(self, now_s: float) -> bool:
        saved = self.saved
        is_last = self._store.training == "closed" and self._buffer.members == 0
        if not is_last or saved.version <= max(saved.serve.version, saved.judged):
            return False
        with self._step():
            candidate = self._keep(saved.version, self._average)
            self._candidate_since_s = now_s
            self._save_with_new_head({"candidate": candidate})
        return True

    def _save_buffer(self) -> None:
        self._buffer = settled(self._buffer)
        self._store.save_buffer(self._buffer)

    def _save_with_new_head(self, changes: dict[str, object]) -> None:
        saved = msgspec.structs.replace(
            self.saved, **changes, head_sequence=self.saved.head_sequence + 1
        )
        head = Head(
            sequence=saved.head_sequence,
            lineage=saved.lineage,
            bundle=saved.bundle,
            train=saved.train,
            candidate=saved.candidate,
            serve=saved.serve,
            deltas=saved.deltas,
            policy=self._policy,
            training=self._store.training,
        )
        envelope = seal(
            head,
            federation=self._identity.trust.federation,
            signer=COORDINATOR,
            counter=head.sequence,
            key=self._identity.key,
        )
        self._head = head
        self.saved = msgspec.structs.replace(saved, head=envelope)
        self._store.save(self.saved)
        self._store.keep_only([content.digest for content in self.saved.contents])


def _parse_head(envelope: bytes) -> Head:
    return parse_body(open_envelope(envelope, "head"), Head)
