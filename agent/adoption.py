"""Adoption: from a signed head to weights in use.

    head accepted ──► what is missing, by the cheapest way ──► chunks ──► verified, kept ──► in use
        ▲              (in full, or by deltas from what is here)                              │
        └─────────────── the old version stays in use until the new one is whole ◄────────────┘

Nothing is believed before its check: the head by the coordinator's key and its growing sequence,
each chunk by the head's hashes, what deltas make by its own hash, the bundle by its author's key
and its golden vectors.  A delta that leads elsewhere is told once and not used again: the content
is fetched in full.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.downloads import Downloads, Way, cheapest_ways
from agent.learning.choice import BackendName
from agent.model import Model, check_live, prepare
from agent.models import Models
from wire.bundle import read_bundle
from wire.chunks import check_content, sha256
from wire.codec import unseal
from wire.database import DiskError
from wire.deltas import decode
from wire.errors import BundleError, MalformedError, ReplayError, WireError
from wire.manifest import Label
from wire.messages import Content, Delta, Head
from wire.tensors import Params, read_params
from wire.topics import Topics
from wire.trust import COORDINATOR, Trust

logger = logging.getLogger(__name__)

URGENCY = ("bundle", "serve", "train", "candidate")
"""The order of fetching: scoring the live signal comes before training, and both before judging."""


@dataclass(frozen=True)
class Examples:
    """What the model learns from: `inputs` float32 (N, F), `labels` bool (N,)."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Adopted:
    """A head whose contents are all here and checked."""

    head: Head
    model: Model
    train: Params
    candidate: Params | None
    serve: Params
    input_columns: tuple[int, ...]
    label_column: int

    def score(self, params: Params, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score rows of this agent's channels: float64 (N, C) to (N,)."""
        return self.model.score(params, rows[:, self.input_columns])

    def examples(self, rows: NDArray[np.float64]) -> Examples:
        """Cut rows of this agent's channels into the model's inputs and labels."""
        inputs = self.model.inputs(rows[:, self.input_columns])
        return Examples(inputs, rows[:, self.label_column] >= 0.5)


@dataclass(frozen=True)
class _Ready:
    """The checked model of the bundle with this SHA-256, and its label."""

    digest: bytes
    model: Model
    label: Label


class Adoption:
    """The current model of this agent and what it still downloads."""

    def __init__(
        self,
        models: Models,
        trust: Trust,
        channels: list[str],
        backend: BackendName = "auto",
    ) -> None:
        self._backend = backend
        self._channels = channels
        self._models = models
        self._trust = trust
        self._topics = Topics(trust.federation)
        self._downloads = Downloads(models)
        self._ready: _Ready | None = None
        self.head: Head | None = None
        self.current: Adopted | None = None
        self.changed = asyncio.Event()
        self._envelope = b""
        for envelope in dict.fromkeys((models.head_in_use, models.head_envelope)):
            if envelope is not None:
                self._resume(envelope)

    def _resume(self, envelope: bytes) -> None:
        """Take a head of an earlier process; what is refused then is refused now, with a reason."""
        try:
            self.head, self._envelope = self._verify(envelope), envelope
            with suppress(DiskError):
                self._advance()
        except WireError as error:
            logger.warning("a head of an earlier run is not used: %s", error)

    def _verify(self, envelope: bytes) -> Head:
        head, _ = unseal(
            envelope,
            Head,
            federation=self._trust.federation,
            signer=COORDINATOR,
            key=self._trust.coordinator,
        )
        for content in (*contents(head).values(), *(delta.content for delta in head.deltas)):
            check_content(content)
        return head

    def on_head(self, envelope: bytes) -> bool:
        """Take a head from the network; return whether it was new.

        A disk that fails does not stop a head whose contents are here, nor the next one: `stalled`
        says that nothing can be fetched, and `retry` tries to catch up.

        Raises:
          WireError: not signed by the coordinator, older than the newest one, or its contents were
            here already and are refused; the model in use stays.
        """
        head = self._verify(envelope)
        if self.head is not None:
            if head.sequence == self.head.sequence:
                return False
            if head.sequence < self.head.sequence:
                reason = f"head {head.sequence} is older than head {self.head.sequence} in use"
                raise ReplayError(reason)
        self.head, self._envelope = head, envelope
        with suppress(DiskError):
            self._models.accept_head(envelope, head, self.current.head if self.current else None)
        with suppress(DiskError):
            self._advance()
        logger.info("head %d: %d chunks to fetch", head.sequence, len(self._downloads.missing()))
        return True

    @property
    def stalled(self) -> str:
        """Why nothing can be stored now, or empty; the model in use stays in use."""
        return self._models.problem

    def retry(self) -> None:
        """Try again what the disk did not do."""
        with suppress(DiskError):
            self._models.keep_parts(())  # a write of nothing: says whether the file takes any
            if self.head is not None and self._models.head_envelope != self._envelope:
                in_use = self.current.head if self.current else None
                self._models.accept_head(self._envelope, self.head, in_use)
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
        inputs, label = self._columns(ready)
        weights: dict[bytes, Params] = {}
        for kind, content in contents(head).items():
            if kind == "bundle" or content.digest in weights:
                continue
            data = self._models.read(content.digest)
            if data is None:
                return None
            weights[content.digest] = read_params(data, ready.model.manifest.shapes)
        return Adopted(
            head,
            ready.model,
            weights[head.train.content.digest],
            weights[head.candidate.content.digest] if head.candidate else None,
            weights[head.serve.content.digest],
            inputs,
            label,
        )

    def _columns(self, ready: _Ready) -> tuple[tuple[int, ...], int]:
        """Where this agent's rows hold the model's inputs and its label."""
        model = ready.model
        needed = [*model.channels, ready.label.channel]
        absent = [name for name in needed if name not in self._channels]
        if absent:
            reason = f"bundle {model.manifest.name} needs channel {absent[0]!r}; configure a "
            reason += f"[[source.opcua.channel]] of that name (configured: {self._channels})"
            raise BundleError(reason)
        columns = [self._channels.index(name) for name in needed]
        return tuple(columns[:-1]), columns[-1]

    def _ready_model(self, digest: bytes, data: bytes) -> _Ready:
        if self._ready is None or self._ready.digest != digest:
            bundle = read_bundle(data, self._trust)
            label = check_live(bundle.manifest)
            self._ready = _Ready(digest, prepare(bundle, self._backend), label)
        return self._ready


def contents(head: Head) -> dict[str, Content]:
    """Every content that a head names, by what it is."""
    named = {"bundle": head.bundle, "train": head.train.content, "serve": head.serve.content}
    if head.candidate is not None:
        named["candidate"] = head.candidate.content
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
