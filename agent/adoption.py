"""Adoption: from a signed head to weights in use.

    head accepted ──► what is missing, by the cheapest way ──► chunks ──► verified, kept ──► in use
        ▲              (in full, or by deltas from what is here)                              │
        └─────────────── the old version stays in use until the new one is whole ◄────────────┘

Nothing is believed before its check: the head by the coordinator's key, its growing order and the
charter's floor, each chunk by the head's hashes, what deltas make by its own hash, the bundle by
its author's key and its golden vectors, the statistics by their form.  A delta that leads elsewhere
is told once and not used again: the content is fetched in full.

A newer charter (`follow`) judges what comes after it.  What is in use goes on, after a restart
too: a head is verified again with the key that it was accepted under, and the bundle of an author
whom the charter no longer names is known by its hash.

What is in use can still lack what its inputs are standardised by: the statistics of all sites
(`federated`), or this site's own (`local`, `set_moments`).  Then `Adopted.unready` says so, and it
is neither trained nor scored with.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from agent.adopted import Adopted, Examples
from agent.downloads import Downloads, Way, cheapest_ways
from agent.learning.choice import BackendName
from agent.local_tensors import LocalTensors
from agent.model import Model, local_of, prepare, with_local
from agent.models import Models
from agent.signals.features import Moments
from wire.bundle import read_bundle, read_draft
from wire.chunks import check_content, sha256
from wire.codec import unseal
from wire.database import DiskError
from wire.deltas import decode
from wire.errors import BundleError, MalformedError, ReplayError, WireError
from wire.manifest import Manifest, columns
from wire.messages import Content, Delta, Head
from wire.safeguards import below
from wire.signing import PublicKey
from wire.standards import Standard, read_standard
from wire.tensors import Params, read_params
from wire.topics import Topics
from wire.trust import COORDINATOR, Trust

__all__ = ["URGENCY", "Adopted", "Adoption", "Examples", "contents", "topic_key"]

logger = logging.getLogger(__name__)

URGENCY = ("bundle", "statistics", "serve", "train", "candidate")
"""The order of fetching: scoring the live signal comes before training, and both before judging."""


@dataclass(frozen=True)
class _Ready:
    """The checked model of the bundle with this SHA-256, and its own first weights."""

    digest: bytes
    model: Model
    weights: Params


class Adoption:
    """The current model of this agent and what it still downloads."""

    def __init__(
        self,
        models: Models,
        trust: Trust,
        channels: list[str],
        backend: BackendName = "auto",
        local_tensors: LocalTensors | None = None,
        shapes: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        self._backend = backend
        self._shapes = dict(shapes or {})
        self._channels = channels
        self._models = models
        self._trust = trust
        self._topics = Topics(trust.federation)
        self._downloads = Downloads(models)
        self._local = local_tensors or LocalTensors()
        self._own: tuple[bytes, Standard] | None = None
        """Of which bundle, and what this site standardises by where its own rows decide."""
        self._ready: _Ready | None = None
        self.head: Head | None = None
        self.current: Adopted | None = None
        self.changed = asyncio.Event()
        self._envelope = self._signer = self._believed = b""
        """The newest head, who signed it, and SHA-256 of a bundle that an earlier run used."""
        in_use = models.head_in_use
        for envelope in dict.fromkeys((in_use, models.head_envelope)):
            if envelope is not None:
                self._resume(envelope, was_used=envelope == in_use)

    def follow(self, trust: Trust) -> None:
        """Judge by a newer charter whatever comes from now on."""
        self._trust = trust

    def _resume(self, envelope: bytes, *, was_used: bool) -> None:
        """Take a head of an earlier process; what is refused then is refused now, with a reason."""
        signer = self._models.signer_of(envelope) or self._trust.coordinator.raw
        try:
            self.head, self._envelope = self._verify(envelope, signer), envelope
            self._signer = signer
            if was_used:
                self._believed = self.head.bundle.digest
            with suppress(DiskError):
                self._advance()
        except WireError as error:
            logger.warning("a head of an earlier run is not used: %s", error)

    def _verify(self, envelope: bytes, signer: bytes) -> Head:
        head, _ = unseal(
            envelope,
            Head,
            federation=self._trust.federation,
            signer=COORDINATOR,
            key=PublicKey(signer),
        )
        for content in (*contents(head).values(), *(delta.content for delta in head.deltas)):
            check_content(content)
        return head

    def on_head(self, envelope: bytes) -> bool:
        """Take a head from the network; return whether it was new.

        A disk that fails does not stop a head whose contents are here, nor the next one: `stalled`
        says that nothing can be fetched, and `retry` tries to catch up.

        Raises:
          WireError: not signed by the coordinator, older than the newest one, below the charter's
            floor, or its contents were here already and are refused; the model in use stays.
        """
        signer = self._trust.coordinator.raw
        head = self._verify(envelope, signer)
        if not self._is_new(head):
            return False
        self.head, self._envelope, self._signer = head, envelope, signer
        with suppress(DiskError):
            self._accept()
        with suppress(DiskError):
            self._advance()
        logger.info("head %d: %d chunks to fetch", head.sequence, len(self._downloads.missing()))
        return True

    def _is_new(self, head: Head) -> bool:
        """Whether a verified head replaces the one here; refused when it may not."""
        charter = self._trust.charter
        if self.head is not None:
            order, newest = _order(head), _order(self.head)
            if order == newest:
                return False
            if order < newest:
                reason = f"head {head.sequence} is older than head {self.head.sequence} in use"
                raise ReplayError(reason)
        if head.recovery != charter.recovery:
            reason = f"head {head.sequence} is of recovery {head.recovery}, charter "
            raise MalformedError(f"{reason}{charter.epoch} here of {charter.recovery}")
        if refused := below(head.policy, charter.least):
            raise MalformedError(f"head {head.sequence}: {refused} by the charter")
        return True

    def _accept(self) -> None:
        if self.head is not None:
            in_use = self.current.head if self.current else None
            self._models.accept_head(self._envelope, self.head, in_use, self._signer)

    @property
    def stalled(self) -> str:
        """Why nothing can be stored now, or empty; the model in use stays in use."""
        return self._models.problem

    def retry(self) -> None:
        """Try again what the disk did not do."""
        with suppress(DiskError):
            self._models.keep_parts(())  # a write of nothing: says whether the file takes any
            if self.head is not None and self._models.head_envelope != self._envelope:
                self._accept()
            self._downloads.flush()
            self._advance_alone()

    def keep_chunks(self) -> None:
        """Store the chunks that are only in memory, as far as the disk lets us."""
        with suppress(DiskError):
            if self._downloads.flush():
                self._advance_alone()

    def _advance_alone(self) -> None:
        """Advance where no message from the network is to blame for what is refused."""
        try:
            self._advance()
        except WireError as error:
            logger.warning("head %d is not used: %s", self.head.sequence if self.head else 0, error)

    def wanted(self, limit: int | None = None) -> list[str]:
        """Topics of chunks that are named by the head and missing here, most urgent first."""
        return [f"{self._topics.base}/{at}" for at in self._downloads.missing(limit)]

    def is_wanted(self, topic: str) -> bool:
        """Whether `wanted()` has this topic."""
        return self._downloads.lacks(*self._place(topic))

    def _place(self, topic: str) -> tuple[str, int]:
        """Content and chunk of a topic; chunk -1 where it is none."""
        key, _, chunk = topic.removeprefix(f"{self._topics.base}/").rpartition("/")
        return key, int(chunk) if chunk.isdecimal() and len(chunk) <= 6 else -1

    def on_chunk(self, topic: str, data: bytes) -> bool:
        """Take a chunk of a bundle, a model or a delta; return whether something became complete.

        Raises:
          WireError: the chunk is not what the head announced, or what it completed is refused; the
            model in use stays.
        """
        is_cleared = not data  # a retained chunk that no head names any more
        if is_cleared or self.stalled or not self.is_wanted(topic):
            return False
        try:
            if not self._downloads.add(*self._place(topic), data):
                return False
            self._advance()
        except DiskError:  # the file logged it; `stalled` says so until a write succeeds
            return False
        return True

    def _advance(self) -> None:
        """Apply what deltas are here, plan what to fetch, put the head in use when it is whole."""
        self._plan()
        self._adopt()

    def _plan(self) -> None:
        """Choose what to fetch; apply the deltas that are here on the way."""
        head = self.head
        if head is None:
            return
        named = contents(head)
        self._downloads.forget_broken_but(
            (*named.values(), *(delta.content for delta in head.deltas))
        )
        urgency = [named[kind] for kind in URGENCY if kind in named]
        while True:
            usable = [delta for delta in head.deltas if delta.content not in self._downloads.broken]
            held = {digest for digest in _mentioned(head) if self._models.has(digest)}
            ways = cheapest_ways(urgency, usable, held, self._downloads.left_bytes)
            applicable = [
                way
                for way in ways
                if way.deltas
                and way.deltas[0].base in held
                and all(content.digest in held for content in way.fetched)
            ]
            if not [way for way in applicable if self._apply(way)]:
                break
        missing = {
            topic_key("bundle" if content == head.bundle else "model", content): content
            for way in ways
            for content in way.fetched
            if content.digest not in held
        }
        self._downloads.expect(missing)

    def _apply(self, way: Way) -> bool:
        """Follow deltas to their target; return whether anything changed that plans rest on.

        It does when the target is here, when a delta leads elsewhere, and when something rotted on
        the disk, unless the disk does not let go of that either.
        """
        data = self._models.read(way.deltas[0].base)
        if data is None:
            return not self._models.has(way.deltas[0].base)
        for delta in way.deltas:
            patch = self._models.read(delta.content.digest)
            if patch is None:
                return not self._models.has(delta.content.digest)
            target = self._applied(delta, data, patch)
            if target is None:
                return True
            data = target
        self._models.keep(way.target.digest, data)
        return True

    def _applied(self, delta: Delta, base: bytes, patch: bytes) -> bytes | None:
        """Return the delta's target; None, and never use it again, when it is another content."""
        try:
            target = decode(base, patch, len(base))
            if sha256(target) == delta.target:
                return target
            reason = "its result does not have the announced SHA-256"
        except MalformedError as error:
            reason = str(error)
        logger.warning("delta to %s not used: %s; fetching it in full", delta.target.hex(), reason)
        self._downloads.broken.add(delta.content)
        return None

    def _adopt(self) -> None:
        """Put the head in use when everything it names is here and passes its checks."""
        head = self.head
        if head is None or not all(
            self._models.has(content.digest) for content in contents(head).values()
        ):
            return
        if self.current is None or self.current.head is not head:
            adopted = self._load(head)
            if adopted is None:
                self._plan()  # what rotted is fetched again
                return
            self.current = adopted
            self.changed.set()
        if self._models.head_in_use != self._envelope:
            self._models.use_head(self._envelope, head)

    def _load(self, head: Head) -> Adopted | None:
        """Read and check what the head names; None when some of it rotted on the disk."""
        bundle = self._models.read(head.bundle.digest)
        if bundle is None:
            return None
        ready = self._ready_model(head.bundle.digest, bundle)
        manifest = ready.model.manifest
        inputs, label = self._columns(ready.model)
        standard = self._own_standard(head, manifest)
        shared: dict[bytes, Params] = {}
        for kind, content in contents(head).items():
            if kind == "bundle" or content.digest in shared:
                continue
            data = self._models.read(content.digest)
            if data is None:
                return None
            if kind != "statistics":
                shared[content.digest] = read_params(data, manifest.shared_shapes)
            elif manifest.standardise == "federated":
                standard = read_standard(data, sum(map(columns, manifest.features)))
        local = self._local.load(head.bundle.digest, manifest, ready.weights)
        weights = {digest: with_local(manifest, each, local) for digest, each in shared.items()}
        return Adopted(
            head,
            ready.model,
            weights[head.train.content.digest],
            weights[head.candidate.content.digest] if head.candidate else None,
            weights[head.serve.content.digest],
            inputs,
            label,
            standard,
        )

    def _own_standard(self, head: Head, manifest: Manifest) -> Standard | None:
        """What this site's own rows said about this bundle's inputs, where they decide."""
        is_own = self._own is not None and self._own[0] == head.bundle.digest
        return self._own[1] if self._own and is_own and manifest.standardise == "local" else None

    def set_moments(self, moments: Moments) -> None:
        """Standardise by this site's own training rows from now on (`Adopted.moments`).

        Nothing happens for a bundle that is standardised otherwise, and without any rows.  Moments
        are forgotten with their bundle: those of another one are of other features.

        Raises:
          ValueError: they are not of the columns of the bundle in use.
        """
        current = self.current
        if current is None or current.model.manifest.standardise != "local" or not moments.count:
            return
        expected = sum(map(columns, current.model.manifest.features))
        if moments.sums.shape != (expected,):
            reason = f"moments of shape {moments.sums.shape}, the bundle's features make {expected}"
            raise ValueError(f"{reason} columns")
        self._own = (current.head.bundle.digest, moments.standard)
        self.current = replace(current, standard=moments.standard)
        if current.unready:
            self.changed.set()

    def keep_local(self, trained: Adopted, params: Params) -> None:
        """Keep the local tensors that a training made, and use them from now on.

        Args:
          trained: what the training started from.
          params: all tensors that it ended with; those of a bundle that is no longer in use are
            dropped.
        """
        current, bundle = self.current, trained.head.bundle.digest
        if current is None or current.head.bundle.digest != bundle:
            return
        manifest = current.model.manifest
        if not local_of(manifest, params):
            return
        self._local.keep(bundle, manifest, params)
        local = self._local.load(bundle, manifest, current.train)
        candidate = current.candidate
        self.current = replace(
            current,
            train=with_local(manifest, current.train, local),
            candidate=None if candidate is None else with_local(manifest, candidate, local),
            serve=with_local(manifest, current.serve, local),
        )

    def _columns(self, model: Model) -> tuple[tuple[int, ...], int | None]:
        """Where this agent's rows hold the model's inputs and its label."""
        label = model.manifest.label
        needed = [*model.channels, *([] if label is None else [label.channel])]
        absent = [name for name in needed if name not in self._channels]
        if absent:
            reason = f"bundle {model.manifest.name} needs channel {absent[0]!r}; configure a "
            reason += f"channel of that name in a [source] (configured: {self._channels})"
            raise BundleError(reason)
        at = [self._channels.index(name) for name in needed]
        for channel, column in zip(model.manifest.channels, at, strict=False):
            shape = self._shapes.get(column, ())
            if channel.shape != shape:
                reason = f"bundle {model.manifest.name} needs channel {channel.name!r} of shape "
                reason += f"{list(channel.shape)}; it is configured with shape = {list(shape)}"
                raise BundleError(reason)
        inputs = len(model.channels)
        return tuple(at[:inputs]), None if label is None else at[inputs]

    def _ready_model(self, digest: bytes, data: bytes) -> _Ready:
        if self._ready is None or self._ready.digest != digest:
            # What ran before is not judged again: an author who was removed makes no new ones.
            is_believed = digest == self._believed
            bundle = read_draft(data)[0] if is_believed else read_bundle(data, self._trust)
            self._ready = _Ready(digest, prepare(bundle, self._backend), bundle.weights)
        return self._ready


def _order(head: Head) -> tuple[int, int]:
    """Which of two heads is newer: the root's word counts before the coordinator's."""
    return head.recovery, head.sequence


def contents(head: Head) -> dict[str, Content]:
    """Every content that a head names, by what it is."""
    named = {"bundle": head.bundle, "train": head.train.content, "serve": head.serve.content}
    if head.candidate is not None:
        named["candidate"] = head.candidate.content
    if head.statistics is not None:
        named["statistics"] = head.statistics
    return named


def _mentioned(head: Head) -> set[bytes]:
    """SHA-256 of every content that has to do with a head, also of what its deltas start from."""
    named = {content.digest for content in contents(head).values()}
    for delta in head.deltas:
        named |= {delta.base, delta.target, delta.content.digest}
    return named


def topic_key(kind: str, content: Content) -> str:
    """Where in the topic tree a content's chunks are."""
    return f"{'bundle' if kind == 'bundle' else 'model'}/{content.digest.hex()}"
