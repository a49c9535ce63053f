"""Adoption: from a signed head to weights in use.

    head accepted ──► contents missing? ──► subscribe to their chunks ──► verified, kept ──► in use
        ▲                                                                                      │
        └─────────────── the old version stays in use until the new one is whole ◄─────────────┘

Nothing is believed before its check: the head by the coordinator's key and its growing sequence,
each chunk by the head's hashes, the bundle by its author's key and its golden vectors.
"""

import asyncio
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import BackendName
from agent.model import Model, check_live, prepare
from agent.models import Downloads, Models
from wire.bundle import read_bundle
from wire.chunks import check_content
from wire.codec import unseal
from wire.errors import BundleError, ReplayError, WireError
from wire.manifest import Label
from wire.messages import Content, Head
from wire.tensors import Params, read_params
from wire.topics import Topics
from wire.trust import COORDINATOR, Trust

logger = logging.getLogger(__name__)


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
        self._downloads = Downloads()
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
            self._adopt()
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
        for content in contents(head).values():
            check_content(content)
        return head

    def on_head(self, envelope: bytes) -> bool:
        """Take a head from the network; return whether it was new.

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
        self._models.accept_head(envelope, head, self.current.head if self.current else None)
        self.head, self._envelope = head, envelope
        self._adopt()
        return True

    def wanted(self) -> list[str]:
        """Topic filters of what the head names and this agent lacks; downloads are set up."""
        if self.head is None:
            return []
        missing = {
            topic_key(kind, content): content
            for kind, content in contents(self.head).items()
            if self._models.read(content.digest) is None
        }
        self._downloads.forget_all_but(set(missing))
        for key, content in missing.items():
            self._downloads.expect(key, content)
        return [f"{self._topics.base}/{key}/+" for key in missing]

    def on_chunk(self, topic: str, data: bytes) -> bool:
        """Take a chunk of a bundle or model; return whether something became complete.

        Raises:
          WireError: the chunk is not what the head announced, or what it completed is refused; the
            model in use stays.
        """
        key, _, chunk = topic.removeprefix(f"{self._topics.base}/").rpartition("/")
        if not chunk.isdecimal() or len(chunk) > 6:
            return False
        done = self._downloads.add(key, int(chunk), data)
        if done is None:
            return False
        content, whole = done
        self._models.keep(content.digest, whole)
        self._adopt()
        return True

    def _adopt(self) -> None:
        """Put the head in use when everything it names is here and passes its checks."""
        head = self.head
        if head is None or (self.current is not None and self.current.head is head):
            return
        parts = {key: self._models.read(content.digest) for key, content in contents(head).items()}
        if any(data is None for data in parts.values()):
            return
        data = {key: part for key, part in parts.items() if part is not None}
        ready = self._ready_model(head.bundle.digest, data["bundle"])
        model = ready.model
        inputs, label = self._columns(ready)
        weights = {
            key: read_params(part, model.manifest.shapes)
            for key, part in data.items()
            if key != "bundle"
        }
        self.current = Adopted(
            head,
            model,
            weights["train"],
            weights.get("candidate"),
            weights["serve"],
            inputs,
            label,
        )
        if self._models.head_in_use != self._envelope:
            self._models.use_head(self._envelope)
        self.changed.set()

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


def topic_key(kind: str, content: Content) -> str:
    """Where in the topic tree a content's chunks are."""
    return f"{'bundle' if kind == 'bundle' else 'model'}/{content.digest.hex()}"
