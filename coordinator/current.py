"""What is current: saved state, model and average, in memory exactly as on the disk.

Moved in steps.  A step is one transaction: everything that it changes is on the disk together or
not at all, and when it fails, memory goes back with the file.  So a crash at any instruction leaves
a state in which each update is either not seen (it will be offered again) or seen once.

The buffer is the only large thing that a batch writes; optimizer, average and weights are written
when they change, which is with a version.  Decides nothing: `coordinator/federation.py` takes
updates, `coordinator/judging.py` says what is served.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import empty, settled
from coordinator.aggregation import Model, Rules, begin
from coordinator.config import CoordinatorSettings, Identity
from coordinator.gate import metric_of, sites_of
from coordinator.initial import contributor_of, site_alone
from coordinator.publication import (
    Named,
    delta_between,
    keep,
    named,
    parse_head,
    recut,
    seal_head,
)
from coordinator.record import Judged, Pooled, Served, Verdict
from coordinator.server_optimizer import make_server_optimizer
from coordinator.store import Saved, Store
from coordinator.strategies.choice import make_strategy
from coordinator.threshold import renewed, threshold_of, words_of
from wire.chunks import describe, sha256
from wire.evaluation import add
from wire.figures import figure
from wire.messages import Content, Delta, Head, Policy, Receipt, VersionRef
from wire.safeguards import own_deviation
from wire.settings import settings_error
from wire.tensors import flatten, parameter_count, read_params, unflatten, write_params

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What the caller has to send: receipts by agent, and whether the head moved."""

    receipts: list[tuple[str, Receipt]] = field(default_factory=list)
    head_moved: bool = False


class Current:
    """The current state of one federation, and its owner.

    Attributes:
      store, settings, identity: given.
      usual_rules: how versions are made once everybody takes part.
      saved: what the last decision made current.
      model: all that the next version depends on.
      average: of the versions since the lineage began, float64 (P,).
    """

    def __init__(self, store: Store, settings: CoordinatorSettings, identity: Identity) -> None:
        self.store, self.settings, self.identity = store, settings, identity
        self.usual_policy = msgspec.convert(msgspec.structs.asdict(settings.policy), Policy)
        self.usual_rules = _rules(settings, self.usual_policy, identity.trust.charter.k_min)
        self._shapes = identity.bundle.manifest.shared_shapes
        self.parameters = parameter_count(self._shapes)
        self.chunk_bytes = settings.coordinator.chunk_bytes
        with store.transaction():
            store.audit.begin(identity.trust.envelope)
        saved = store.load()
        if saved is None:
            saved = self._begin()
        elif saved.bundle.digest != sha256(identity.bundle_bytes):
            reason = f"the state in {settings.coordinator.state_dir} belongs to another bundle; "
            reason += "give every bundle a state_dir of its own"
            raise settings_error(identity.source, "coordinator.bundle", reason)
        self.saved = saved
        self._head = parse_head(saved.head) if saved.head else None
        self.model = self._load_model(saved)
        self.average = store.vector("average")

    def _begin(self) -> Saved:
        """Version 0: the first weights, served until something better is there."""
        data = write_params(self.identity.initial)
        with self.store.transaction():
            first = VersionRef(version=0, content=keep(self.store, data, self.chunk_bytes))
            saved = Saved(
                version=0,
                lineage=0,
                head_sequence=0,
                head=b"",
                bundle=keep(self.store, self.identity.bundle_bytes, self.chunk_bytes),
                train=first,
                candidate=None,
                serve=first,
                judged=0,
            )
            source, contributor = contributor_of(
                self.settings.initial, self.identity.bundle.manifest
            )
            self.store.audit.note_initial(source, contributor, first.content.digest)
            self.store.add_version(0, 0, first.content.digest, 0, time.time())
            self.store.record.note_served(Served(0, 0, first.content.digest), time.time())
            model = begin(self.usual_rules, flatten(self.identity.initial))
            self._save_vectors(model, model.params.astype(np.float64))
            self.store.save(saved)
        return saved

    def _load_model(self, saved: Saved) -> Model:
        fresh = begin(self.usual_rules, self.weights(saved.train.content), saved.version)
        buffer = self.store.load_buffer(self.parameters, self.settings.robust.buckets)
        if buffer is None:
            reason = "the buffer has members in another number of buckets; keep the old number "
            reason += "until they are folded"
            raise settings_error(self.identity.source, "robust.buckets", reason)
        return replace(
            fresh,
            buffer=buffer,
            radius=saved.radius or fresh.radius,
            optimizer=self._vectors("optimizer", fresh.optimizer),
            memory=self._vectors("memory", fresh.memory),
            centre=self._vectors("centre", fresh.centre),
        )

    def _vectors(
        self, name: Literal["optimizer", "memory", "centre"], fresh: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Saved vectors, or fresh ones when other rules than before need another number."""
        saved = self.store.vector(name)
        if saved.size == fresh.size:
            return saved.reshape(fresh.shape)
        logger.warning("other rules than before: the memory of the %s starts at zero", name)
        return fresh

    @contextmanager
    def step(self) -> Iterator[None]:
        """One transaction; when it fails, memory goes back to what the file says."""
        before = dict(self.__dict__)
        try:
            with self.store.transaction():
                yield
        except BaseException:
            self.__dict__.update(before)
            raise

    # What holds now

    @property
    def head(self) -> Head:
        """The current head."""
        if self._head is None:
            reason = "no head before the federation began"
            raise RuntimeError(reason)
        return self._head

    @property
    def has_head(self) -> bool:
        """Whether there is a head at all, as there is after the first start."""
        return self._head is not None

    @property
    def policy(self) -> Policy:
        """The head's policy: the usual one, with the learning rate of the current version.

        While one site trains alone, only who is granted trains.
        """
        first = self.usual_policy.learning_rate
        rate = self.settings.schedule.rate(first, self.saved.version)
        admission = "granted" if self.site_alone else self.usual_policy.admission
        return msgspec.structs.replace(self.usual_policy, learning_rate=rate, admission=admission)

    @property
    def site_alone(self) -> str:
        """The site that trains the first versions alone, while it does; else empty."""
        initial = self.settings.initial
        is_first = self.saved.lineage == 0 and self.saved.version < initial.versions
        return initial.site if initial.source == "site" and is_first else ""

    @property
    def rules(self) -> Rules:
        """How the next version is made."""
        if self.site_alone:
            return site_alone(self.usual_rules, self.settings.initial)
        return self.usual_rules

    def contents(self) -> list[Named]:
        """What the head names, each content once."""
        return named(self.store, self.saved)

    def weights(self, content: Content) -> NDArray[np.float32]:
        """A version's flat vector, float32 (P,)."""
        return self.weights_of(content.digest)

    def weights_of(self, digest: bytes) -> NDArray[np.float32]:
        """The flat vector of kept weights with this SHA-256, float32 (P,)."""
        return flatten(read_params(self.store.content(digest), self._shapes))

    # What a step does

    def keep_version(self, version: int, params: NDArray[np.floating]) -> VersionRef:
        """Keep weights that the next head names."""
        data = write_params(unflatten(params, self._shapes))
        return VersionRef(version=version, content=keep(self.store, data, self.chunk_bytes))

    def keep_again(self, version: int, digest: bytes) -> VersionRef:
        """Name weights again that are kept from before."""
        data = self.store.content(digest)
        return VersionRef(version=version, content=keep(self.store, data, self.chunk_bytes))

    def way(self, base: bytes, target: bytes) -> Delta | None:
        """A shorter way from one content to another, or None where it would save nothing."""
        return delta_between(self.store, base, target, self.chunk_bytes)

    def settle(
        self,
        result: Result,
        status: Literal["folded", "refused", "void"],
        reason: str,
        version: int,
        keys: Sequence[tuple[str, str, int]] | None = None,
    ) -> None:
        """Give updates their outcome: the ones of these keys, or all that were committed."""
        if keys is None:
            self.store.secure.forget_updates()
        for agent, incarnation, sequence, digest in self.store.settle_committed(
            status, reason, version, keys
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

    def empty_buffer(self) -> None:
        """Forget the buffer's members, which have their outcome."""
        buffer = empty(self.parameters, self.settings.robust.buckets)
        self.model = replace(self.model, buffer=buffer)
        self.save_buffer()

    def save_buffer(self) -> None:
        """Write the buffer."""
        self.model = replace(self.model, buffer=settled(self.model.buffer))
        self.store.save_buffer(self.model.buffer)

    def save_model(self, model: Model, average: NDArray[np.float64]) -> None:
        """Make a new version's model and average current, with its empty buffer."""
        self.model, self.average = model, average
        self._save_vectors(model, average)
        self.save_buffer()

    def _save_vectors(self, model: Model, average: NDArray[np.float64]) -> None:
        self.store.save_vector("optimizer", model.optimizer)
        self.store.save_vector("memory", model.memory)
        self.store.save_vector("centre", model.centre)
        self.store.save_vector("average", average)

    def publish(self, changes: dict[str, object]) -> None:
        """Change the saved state and make the head that says so."""
        saved = msgspec.structs.replace(
            self.saved, **changes, head_sequence=self.saved.head_sequence + 1
        )
        self._note_pooled(
            [each for each in self.saved.judged_refs if each not in saved.judged_refs]
        )
        threshold, words = self._threshold(saved)
        if words:
            self.note_decision(saved.serve.version, saved.lineage, "alarm threshold", words)
        saved = msgspec.structs.replace(saved, threshold=threshold)
        self.saved = saved  # the policy depends on the version
        audit = self.store.audit
        self._head, envelope = seal_head(
            saved, self.policy, self.store.training, self.identity, audit.tree
        )
        audit.note_head(self._head, envelope)
        self.saved = msgspec.structs.replace(saved, head=envelope)
        self.store.save(self.saved)
        bases = self.store.newest_digests(self.usual_rules.strategy.kept_bases)
        served = [served.digest for served in self.store.record.served()]
        named_now = [content.digest for content in self.saved.contents]
        self.store.keep_only(named_now, [*bases, *served])

    @property
    def is_threshold_new(self) -> bool:
        """Whether the next head would say another threshold of alarms than this one."""
        return bool(self._threshold(self.saved)[1])

    def _threshold(self, saved: Saved) -> tuple[float | None, str]:
        """From which score on rows raise an alarm under the next head, and in words if it is new.

        What was known of the weights stays until the counts say otherwise by more than a bin.
        """
        alarm = self.identity.bundle.manifest.alarm
        if alarm is None:
            return None, ""
        is_same = saved.serve.content.digest == self.saved.serve.content.digest
        before = self.saved.threshold if is_same else None
        reports = self.store.evaluations(saved.serve.content.digest)
        enough = max(self.settings.gate.quorum, self.identity.trust.charter.k_min)
        sites = len(sites_of(reports))
        if sites < enough:
            return before, ""
        tally = add(reports[reporter] for reporter in sorted(reports))
        found = renewed(before, threshold_of(tally, alarm), alarm)
        if found is None or found == before:
            return found, ""
        return found, f"{words_of(found, tally, alarm)} of {sites} sites"

    def note_decision(self, version: int, lineage: int, verdict: Verdict, reason: str) -> None:
        """Note a decision for people, and in the audit log."""
        logger.info("version %d %s: %s", version, verdict, reason)
        self.store.record.decide(version, lineage, verdict, reason, time.time())
        self.store.audit.note_decision(version, lineage, verdict, reason)

    def _note_pooled(self, replaced: list[tuple[Judged, VersionRef]]) -> None:
        """Note how what is named no more did over all sites, before its counts are dropped."""
        record, gate = self.store.record, self.settings.gate
        for model, ref in replaced:
            reports = self.store.evaluations(ref.content.digest)
            tally = add(reports.values())
            metric = metric_of(tally, gate)
            if metric is not None:
                value, sites = figure(metric, tally), len(sites_of(reports))
                record.note_pooled(Pooled(ref.version, model, metric, value, sites, tally.rows))
        record.forget_old_quality(self.saved.version)

    def limit_chunks(self, chunk_bytes: int) -> None:
        """Cut what the head names into chunks of at most this size, and say so in a new head.

        A broker's maximum packet size is known only once it is connected to.
        """
        self.chunk_bytes = min(chunk_bytes, self.settings.coordinator.chunk_bytes)
        if all(content.chunk_bytes == self.chunk_bytes for content in self.saved.contents):
            return

        def again(content: Content) -> Content:
            return describe(self.store.content(content.digest), self.chunk_bytes)

        logger.info("chunks of %d bytes from here on", self.chunk_bytes)
        with self.step():
            self.publish(recut(self.saved, again))


def _rules(settings: CoordinatorSettings, policy: Policy, k_min: int) -> Rules:
    return Rules(
        strategy=make_strategy(settings.strategy, policy),
        robust=settings.robust,
        optimizer=make_server_optimizer(settings.server_optimizer),
        clip_norm=policy.clip_norm,
        k_min=k_min,
        noise=own_deviation(policy),
    )
