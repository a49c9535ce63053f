"""The protocol's values: frozen structs, each with the range of its fields.

Every struct here travels as the MessagePack body of a signed envelope (`wire/codec.py`).  Unknown
fields are ignored, so that a newer peer may add some; a change of meaning needs a new protocol
version.  Sign convention: a delta is `trained - base`, so the server adds it.
"""

from typing import Annotated, Final, Literal

import msgspec

PROTOCOL_VERSION: Final = 1
MAX_CHUNKS = 4096
MAX_CONTENT_BYTES = 256 << 20
MAX_DELTAS = 4
BINS = 256
"""Bins of an evaluation; all sites use the same ones, or their counts would not add."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Rows = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
"""Of one bin: int64 holds the sum of all bins of 8,000 sites."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
Session = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Text = Annotated[str, msgspec.Meta(max_length=500)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Incarnation = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Finite = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Common shape of all bodies; not a behavior to inherit."""


class HelperKeys(Message, frozen=True, kw_only=True):
    """Public keys of one secure-aggregation helper, as the charter lists them."""

    name: Name
    signing: PublicKey
    sealing: PublicKey


class Charter(Message, frozen=True, kw_only=True):
    """Who may do what in a federation, signed by its offline root.

    Attributes:
      epoch: grows with every new charter; a lower one is refused.
      enrolment_key: signs agents' credentials; not the coordinator's operator.
      coordinator_key: signs heads, receipts, commands.
      author_keys: sign model bundles.
      k_min: least number of distinct sites behind any published sum.
      agreement: SHA-256 of the consortium's agreement text.
    """

    federation: Name
    epoch: Positive
    enrolment_key: PublicKey
    coordinator_key: PublicKey
    author_keys: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=1, max_length=16)]
    helpers: Annotated[tuple[HelperKeys, ...], msgspec.Meta(max_length=3)] = ()
    k_min: Positive = 1
    agreement: Digest = bytes(32)


class Credential(Message, frozen=True, kw_only=True):
    """Binds an agent's id and site to its key; signed by the enrolment authority."""

    agent: Name
    site: Name
    public_key: PublicKey
    serial: Positive


class AgentState(Message, frozen=True, kw_only=True):
    """Birth (`online`) or will (`offline`) of an agent.

    Attributes:
      session: grows with every connection of this incarnation; a will with an older session than
        the birth is stale, and the agent answers it with a new birth.
      credential: the signed `Credential` envelope.
      produced: highest update sequence made so far.
    """

    status: Literal["online", "offline"]
    incarnation: Incarnation
    session: Session
    credential: Annotated[bytes, msgspec.Meta(max_length=2000)]
    software: Text = ""
    produced: Count = 0


class CoordinatorState(Message, frozen=True, kw_only=True):
    """Birth or will of the coordinator; agents send bulk only while it is `online`."""

    status: Literal["online", "offline"]
    session: Session


class Content(Message, frozen=True, kw_only=True):
    """Bytes spread over retained chunks, each named by its SHA-256."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTENT_BYTES)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)]
    chunks: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=MAX_CHUNKS)]


class Delta(Message, frozen=True, kw_only=True):
    """Bytes that turn the content `base` into the content `target` (`wire/deltas.py`).

    What comes out is checked against `target`, so a wrong delta costs time and nothing else.
    """

    base: Digest
    target: Digest
    content: Content


class VersionRef(Message, frozen=True, kw_only=True):
    """Weights as a safetensors file, as of one version.

    `train` weights are the version itself; `candidate` and `serve` weights are the average of the
    versions up to it (`coordinator/average.py`).
    """

    version: Count
    content: Content


class Policy(Message, frozen=True, kw_only=True):
    """How a site trains and what it may send; the head's part of the agreement.

    Attributes:
      clip_norm: L2 bound of the delta before quantization.
      scale: value of one integer step of an update, the same for everybody.
      bits: width of an update's integers, 8 or 16.
      weight_cap: an update weighs min(training rows, weight_cap).
      updates_per_version: updates one agent may make from one base version.
      staleness_cap: versions beyond which the weight decays to `staleness_floor`.
    """

    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 32
    optimizer: Literal["sgd", "momentum", "adam"] = "adam"
    learning_rate: NonNegative = 1e-3
    positive_weight: NonNegative = 1.0
    proximal: NonNegative = 0.0
    average_tail: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    min_rows: Positive = 64
    clip_norm: NonNegative = 10.0
    scale: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1e-3
    bits: Literal[8, 16] = 8
    weight_cap: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 10_000
    updates_per_version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    staleness_cap: Count = 20
    staleness_floor: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class Head(Message, frozen=True, kw_only=True):
    """What is current: the one message that moves a federation.

    Attributes:
      sequence: only grows; an agent refuses a head at or below the last one it accepted.
      lineage: a failed gate or a rollback opens a new one; updates of another lineage are refused.
      train: newest fold, the base of new client updates.
      candidate: what the sites are asked to judge against `serve`, when there is one.
      serve: newest version that passed the gate; what scores the live signal.
      deltas: shorter ways from older contents to the ones named here; an agent may ignore them.
      training: `open`, or `closed`: deliver what you have, train nothing new.
    """

    sequence: Positive
    lineage: Count
    bundle: Content
    train: VersionRef
    candidate: VersionRef | None = None
    serve: VersionRef
    deltas: Annotated[tuple[Delta, ...], msgspec.Meta(max_length=MAX_DELTAS)] = ()
    policy: Policy
    training: Literal["open", "closed"] = "open"


class Evaluation(Message, frozen=True, kw_only=True):
    """How some weights did on a site's own held-out rows: counts that add, never rows.

    Attributes:
      digest: SHA-256 of the weights' safetensors file.
      positives, negatives: rows per bin, equal bins of the score's logit in [-10, 10].
    """

    digest: Digest
    positives: Annotated[tuple[Rows, ...], msgspec.Meta(min_length=BINS, max_length=BINS)]
    negatives: Annotated[tuple[Rows, ...], msgspec.Meta(min_length=BINS, max_length=BINS)]


class Report(Message, frozen=True, kw_only=True):
    """A site's judgement of everything one head names, all on the same held-out rows."""

    head: Positive
    evaluations: Annotated[tuple[Evaluation, ...], msgspec.Meta(min_length=1, max_length=4)]


class UpdateHeader(Message, frozen=True, kw_only=True):
    """Announces one client update; signed by the agent, and never encoded twice.

    The update's id is (federation, agent, incarnation, sequence); `content.digest` must be the same
    whenever the id is offered again.  `dropped` makes it a tombstone: the content is gone (quota),
    the sequence is accounted for.
    """

    agent: Name
    incarnation: Incarnation
    sequence: Positive
    lineage: Count
    base_version: Count
    base_digest: Digest
    examples: Count
    weight: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    scale: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
    bits: Literal[8, 16]
    saturated: Count = 0
    content: Content
    dropped: Annotated[str, msgspec.Meta(max_length=40)] = ""


CONFLICT = "conflict"
"""How the reason of a refusal begins when the id was here before with another content."""
TERMINAL: tuple[str, ...] = ("folded", "refused", "void", "dropped")


class Receipt(Message, frozen=True, kw_only=True):
    """The coordinator's word about one update.

    `wanted`: these chunks are missing (bitmap, least significant bit first).  `later`: no room now,
    offer again after a while.  `committed`: durable here, stop sending.  The rest is terminal:
    delete it.

    Attributes:
      digest: SHA-256 of the update's content.  Two machines with copies of one card make two
        contents under one id, and a receipt settles only the one it names.  Empty: any.
    """

    incarnation: Incarnation
    sequence: Positive
    status: Literal["wanted", "later", "committed", "folded", "refused", "void", "dropped"]
    reason: Text = ""
    version: Count = 0
    wanted: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNKS // 8)] = b""
    digest: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Receipts(Message, frozen=True, kw_only=True):
    """Receipts for one agent, in one message; without items it is the answer to a birth.

    Attributes:
      incarnation: whose watermark `highest` is; empty when the message holds none.
      highest: highest sequence that the coordinator knows of this incarnation.  An agent that has
        produced fewer runs on a restored or copied card, and begins a new incarnation.
    """

    items: Annotated[tuple[Receipt, ...], msgspec.Meta(max_length=256)] = ()
    incarnation: Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{16})?\Z")] = ""
    highest: Count = 0


class Command(Message, frozen=True, kw_only=True):
    """An operator's order to one agent; never code, never a path."""

    name: Literal["pause", "resume"]
