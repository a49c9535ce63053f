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
MAX_TABLES = 16_384
"""Characters of the tables that an order may hold."""
MAX_CLASSES = 32
"""Classes of a confusion matrix: 1,024 counts fit a report three times over."""
MAX_COLUMNS = 4096
"""Columns that all features of a bundle together may give, and statistics may be about."""
MAX_DER_BYTES = 4096
"""Of a certificate or a request for one; ours have 500."""
MAX_REVOKED = 4096
"""Agents whose credentials were revoked; one entry each, however often."""
NOVELTY_BINS = 64
"""Numbers of the noised histogram by which a site shows how its data differs."""
HELPERS = 3
"""Of secure aggregation; any two suffice (`wire/SECURE.md`)."""
BOX_BYTES = 80
"""Two seeds of 32 bytes and the tag of ChaCha20-Poly1305."""
MAX_MEMBERS = 10_000
"""Of one manifest: 0.5 MB."""
RENYI_ORDERS = 32
"""Orders at which a ledger adds up what sampled releases cost (`agent/privacy`)."""

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
Unit = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Sum = Annotated[float, msgspec.Meta(ge=-1e24, le=1e24)]
"""Of values, and of squares, which are larger than what is `Finite`."""
Finite = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Common shape of all bodies; not a behavior to inherit."""


class HelperKeys(Message, frozen=True, kw_only=True):
    """Public keys of one secure-aggregation helper, as the charter lists them."""

    name: Name
    signing: PublicKey
    sealing: PublicKey


Protection = Literal["none", "masked", "encrypted"]
"""Of what leaves a site, on its way into a sum: masks of secure aggregation, or BFV."""
PrivacyUnit = Literal["none", "record", "update"]
"""Whose presence differential privacy hides: one row's, or all rows' behind one update."""


class Safeguards(Message, frozen=True, kw_only=True):
    """The least that every policy of a federation must give; a head below it is refused."""

    protection: Protection = "none"
    privacy: PrivacyUnit = "none"
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)] = 0.0


class Recipient(Message, frozen=True, kw_only=True):
    """Who may decrypt sums under homomorphic encryption, and with which key.

    Attributes:
      signing: signs the decrypted sums.
      context: SHA-256 of its public BFV context, which agents encrypt with.
    """

    name: Name
    signing: PublicKey
    context: Digest


class Charter(Message, frozen=True, kw_only=True):
    """Who may do what in a federation, signed by its offline root.

    Attributes:
      epoch: grows with every new charter; a lower one is refused.
      enrolment_key: signs agents' credentials; not the coordinator's operator.
      coordinator_key: signs heads, receipts, commands.
      author_keys: sign model bundles.
      k_min: least number of distinct sites behind any published sum.
      agreement: SHA-256 of the consortium's agreement text.
      endorsements: helpers that must endorse a sum before two open it: with 2 one may be away, with
        3 one may even lie.
      coordinator_sealing_key: X25519; what only the coordinator may read is sealed to it.
      sites: the only ones that count for `k_min`; none: all that the enrolment authority admits.
      least: what every policy must give.
      recipient: of homomorphic encryption, where that is used.
      recovery: grows when the coordinator was set up again from an old backup; see `Head.recovery`.
    """

    federation: Name
    epoch: Positive
    enrolment_key: PublicKey
    coordinator_key: PublicKey
    author_keys: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=1, max_length=16)]
    helpers: Annotated[tuple[HelperKeys, ...], msgspec.Meta(max_length=3)] = ()
    k_min: Positive = 1
    agreement: Digest = bytes(32)
    endorsements: Literal[2, 3] = 2
    coordinator_sealing_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    sites: Annotated[tuple[Name, ...], msgspec.Meta(max_length=512)] = ()
    least: Safeguards = Safeguards()
    recipient: Recipient | None = None
    recovery: Annotated[int, msgspec.Meta(ge=0, lt=1 << 15)] = 0


class Credential(Message, frozen=True, kw_only=True):
    """Binds an agent's id and site to its key; signed by the enrolment authority."""

    agent: Name
    site: Name
    public_key: PublicKey
    serial: Positive


class Renewal(Message, frozen=True, kw_only=True):
    """An agent asks the enrolment authority what is newer: certificate, credential, charter.

    Attributes:
      credential: its signed `Credential` envelope, whose key signed this.
      signing_request: PKCS #10, DER; the key is the one of its present certificate.
    """

    credential: Annotated[bytes, msgspec.Meta(max_length=2000)]
    signing_request: Annotated[bytes, msgspec.Meta(max_length=MAX_DER_BYTES)]


class Renewed(Message, frozen=True, kw_only=True):
    """The authority's answer to `Renewal`; what is not newer is as the agent has it.

    Attributes:
      charter: envelope, signed by the root; it names the key that signed this.
      credential: envelope.
      certificate: X.509, DER.
    """

    charter: Annotated[bytes, msgspec.Meta(max_length=16_384)]
    credential: Annotated[bytes, msgspec.Meta(max_length=2000)]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_DER_BYTES)]


class Revoked(Message, frozen=True, kw_only=True):
    """Credentials of one agent up to this serial are not to be believed any more."""

    agent: Name
    serial: Positive


class RevocationList(Message, frozen=True, kw_only=True):
    """All revoked credentials, signed by the enrolment authority; a larger `number` replaces it."""

    number: Positive
    entries: Annotated[tuple[Revoked, ...], msgspec.Meta(max_length=MAX_REVOKED)] = ()


class Outcome(Message, frozen=True, kw_only=True):
    """What became of an agent's last order.

    Attributes:
      number: the order's.
      status: `done`; `refused` by the site or because it can not be done; on `trial` until the
        agent has shown that it is healthy; `undone`: it was not, and is configured as before.
      reason: for people.
    """

    number: Count
    status: Literal["done", "refused", "trial", "undone"] = "done"
    reason: Text = ""


class AgentState(Message, frozen=True, kw_only=True):
    """Birth (`online`) or will (`offline`) of an agent.

    Attributes:
      session: grows with every connection of this incarnation; a will with an older session than
        the birth is stale, and the agent answers it with a new birth.
      credential: the signed `Credential` envelope.
      produced: highest update sequence made so far.
      order: what became of the coordinator's last order; None when there was none.
    """

    status: Literal["online", "offline"]
    incarnation: Incarnation
    session: Session
    credential: Annotated[bytes, msgspec.Meta(max_length=2000)]
    software: Text = ""
    produced: Count = 0
    order: Outcome | None = None


class CoordinatorState(Message, frozen=True, kw_only=True):
    """Birth or will of the coordinator; agents send bulk only while it is `online`.

    Attributes:
      session: number of this process run.
      connection: number of this connection in it, from 1; 0: not counted.
    """

    status: Literal["online", "offline"]
    session: Session
    connection: Count = 0


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
      epochs: passes over a site's rows.
      batch_size: rows in a step.
      optimizer: of the steps at the site.
      learning_rate: its step size.
      positive_weight: weight of failures against normal rows in the loss.
      proximal: pull towards the base version (FedProx, arXiv:1812.06127); 0 for none.
      average_tail: share of the last steps whose average is sent.
      min_rows: a site with fewer does not train yet.
      clip_norm: L2 bound of the delta before quantization.
      scale: value of one integer step of an update, the same for everybody.
      bits: width of an update's integers, 4, 8 or 16.
      kept_share: share of the parameters that an update may change; below 1 the largest are sent
        and the rest is remembered for the next one (error feedback).
      calibration: beta of calibrated aggregation: an agent sends its delta minus what it remembers
        of earlier ones.  Above 0 it waits for the outcome of an update before it makes the next.
      admission: `open`: whoever is ready trains.  `granted`: an agent asks, and trains when told.
      offline_training: whether an agent without a link may train all the same, ungranted too.
      weight_cap: an update weighs min(training rows, weight_cap).
      weight_unit: rows that make one unit of weight; above 1 for small rings.
      updates_per_version: updates one agent may make from one base version.
      staleness_cap: versions beyond which the weight decays to `staleness_floor`.
      staleness_floor: least weight of a stale update.
      protection: `masked`: helpers open sums only (`wire/SECURE.md`); `encrypted`: BFV.
      ring: bits of a masked integer.
      privacy: `record`: examples are clipped one by one and steps noised; `update`: the clipped
        delta is noised.
      noise_multiplier: standard deviation of the noise over the clipping norm.
      example_clip: L2 bound of one example's gradient under `record`.
      noise_sites: under `update` and masks, honest sites in each sum that share the noise; each
        adds its part, and the claim holds only if so many do.
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
    bits: Literal[4, 8, 16] = 8
    kept_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    calibration: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    weight_cap: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 10_000
    weight_unit: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1
    updates_per_version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    staleness_cap: Count = 20
    staleness_floor: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    admission: Literal["open", "granted"] = "open"
    offline_training: bool = True
    protection: Protection = "none"
    ring: Literal[16, 32] = 32
    privacy: PrivacyUnit = "none"
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)] = 0.0
    example_clip: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 1.0
    noise_sites: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1


class TreeHead(Message, frozen=True, kw_only=True):
    """State of the coordinator's audit log: a Merkle tree (RFC 6962, section 2.1).

    Attributes:
      size: entries.
      root: Merkle Tree Hash over them.
    """

    size: Count
    root: Digest


class Head(Message, frozen=True, kw_only=True):
    """What is current: the one message that moves a federation.

    Attributes:
      sequence: only grows; an agent refuses a head at or below the last one it accepted.
      lineage: a failed gate or a rollback opens a new one; updates of another lineage are refused.
      train: newest fold, the base of new client updates.
      candidate: what the sites are asked to judge against `serve`, when there is one.
      serve: newest version that passed the gate; what scores the live signal.
      statistics: means and deviations of the features over all sites, for a bundle that asks to be
        standardised by them; None until enough sites have reported theirs.
      deltas: shorter ways from older contents to the ones named here; an agent may ignore them.
      training: `open`, or `closed`: deliver what you have, train nothing new.
      recovery: the charter's; heads are ordered by (recovery, sequence), so that a coordinator that
        lost its newest decisions can be followed again, and only when the root says so.
      log: the audit log as it was before this head was recorded in it.
      threshold: score from which a row raises an alarm while this is served, as the sites' counts
        say by the bundle's `alarm`; None: the bundle's own `threshold`.
    """

    sequence: Positive
    lineage: Count
    bundle: Content
    train: VersionRef
    candidate: VersionRef | None = None
    serve: VersionRef
    statistics: Content | None = None
    deltas: Annotated[tuple[Delta, ...], msgspec.Meta(max_length=MAX_DELTAS)] = ()
    policy: Policy
    training: Literal["open", "closed"] = "open"
    recovery: Count = 0
    log: TreeHead | None = None
    threshold: NonNegative | None = None


class Errors(Message, frozen=True, kw_only=True):
    """How far predictions of numbers were off, as sums over held-out rows in the label's unit.

    Attributes:
      rows: how many.
      error, absolute, squared: sums of prediction - label, of its absolute value, of its square.
      label, label_squared: sums of the label and of its square, so that a share of explained
        variance can be told.
    """

    rows: Rows
    error: Sum
    absolute: Sum
    squared: Sum
    label: Sum
    label_squared: Sum


class Evaluation(Message, frozen=True, kw_only=True):
    """How some weights did on a site's own held-out rows: counts and sums that add, never rows.

    Which of the three is filled depends on the task: bins for two classes, a confusion matrix for
    more, errors for numbers and reconstruction.

    Attributes:
      digest: SHA-256 of the weights' safetensors file.
      positives, negatives: rows per bin, equal bins of the score's logit in [-10, 10].
      alarms: rows at or above the threshold in use, the head's or the bundle's: true, false ones.
      confusion: classes x classes counts, row by row: a row for each true class.
      loss: sum of the rows' losses, without class weights.
      errors: of numbers.
      rows_by_error: rows per bin of their error (`wire/bins.py`), beside errors and of the same
        rows, where a bundle of reconstruction sets its threshold by a share of them.
    """

    digest: Digest
    positives: Annotated[tuple[Rows, ...], msgspec.Meta(max_length=BINS)] = ()
    negatives: Annotated[tuple[Rows, ...], msgspec.Meta(max_length=BINS)] = ()
    alarms: tuple[Rows, Rows] = (0, 0)
    confusion: Annotated[tuple[Rows, ...], msgspec.Meta(max_length=MAX_CLASSES**2)] = ()
    loss: Sum = 0.0
    errors: Errors | None = None
    rows_by_error: Annotated[tuple[Rows, ...], msgspec.Meta(max_length=BINS)] = ()


class Choice(Message, frozen=True, kw_only=True):
    """Which model a site scores its live signal with, and how that one does on its held-out rows.

    Attributes:
      model: `global` is the served version; the others are the site's own.
      normalisation: `local` when inputs are standardised by the site's own rows first.
      reason: in words, with the figures that decided.
      evaluation: of the chosen weights, whose digest is that of no version unless `global`.
    """

    model: Literal["global", "fine_tuned", "ditto", "local"]
    normalisation: Literal["shared", "local"] = "shared"
    reason: Text = ""
    evaluation: Evaluation


class Statistics(Message, frozen=True, kw_only=True):
    """Sums over a site's training rows of each input column and of its square.

    Attributes:
      bundle: SHA-256 of the bundle whose features these are.
      count: numbers in each column.
      sums, squares: one for each column.
    """

    bundle: Digest
    count: Rows
    sums: Annotated[tuple[Sum, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]
    squares: Annotated[tuple[Sum, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]


Box = Annotated[bytes, msgspec.Meta(min_length=BOX_BYTES, max_length=BOX_BYTES)]


class Masked(Message, frozen=True, kw_only=True):
    """How a vector of integers is masked, and what the helpers need (`wire/SECURE.md`).

    Attributes:
      ring: bits of an integer on the wire; sums are modulo 2**ring.
      ephemeral: X25519 public key, made for this one report.
      commitments: SHA-256 of each of the three seeds.
      boxes: for each helper, in the charter's order, the two seeds that are not its own number's.
    """

    ring: Literal[16, 32, 64]
    ephemeral: PublicKey
    commitments: tuple[Digest, Digest, Digest]
    boxes: tuple[Box, Box, Box]


class Spent(Message, frozen=True, kw_only=True):
    """What a site's releases have cost so far, all together; it only grows.

    Attributes:
      gaussian: sum of 1 / noise_multiplier^2 over releases without sampling (mu^2 of Gaussian
        differential privacy: Dong, Roth and Su, arXiv:1905.02383, corollary 3.3).
      sampled: Renyi divergences of sampled releases, added up order by order.
      releases: how many.
    """

    gaussian: NonNegative = 0.0
    sampled: Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=RENYI_ORDERS)] = ()
    releases: Count = 0


Purpose = Literal["update", "evaluation", "statistics"]


class FiguresHeader(Message, frozen=True, kw_only=True):
    """Announces masked sums over a site's own rows; signed by the agent.

    Its id is (federation, agent, purpose, subject): a sum takes it once, for ever.

    Attributes:
      purpose: what is summed.
      subject: SHA-256 of what it is about: the weights judged, in order, or the bundle.
      count: integers in the vector.
      digest: SHA-256 of the vector's bytes.
    """

    agent: Name
    purpose: Literal["evaluation", "statistics"]
    subject: Digest
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    digest: Digest
    masked: Masked


class SealedFigures(Message, frozen=True, kw_only=True):
    """A signed `FiguresHeader` envelope and its vector, little-endian."""

    header: Annotated[bytes, msgspec.Meta(max_length=2000)]
    vector: Annotated[bytes, msgspec.Meta(max_length=200_000)]


class Report(Message, frozen=True, kw_only=True):
    """What a site says about itself and one head: sums and counts, replaced by the next report.

    Attributes:
      head: sequence of the head that it is about.
      evaluations: judgements of everything that the head names, all on the same held-out rows.
      choice: what the site serves; None before it has chosen.
      statistics: for a bundle that is standardised by the statistics of all sites.
      sealed: in place of evaluations and statistics where the policy is `masked`.
    """

    head: Positive
    evaluations: Annotated[tuple[Evaluation, ...], msgspec.Meta(max_length=4)] = ()
    choice: Choice | None = None
    statistics: Statistics | None = None
    sealed: Annotated[tuple[SealedFigures, ...], msgspec.Meta(max_length=2)] = ()


class Readiness(Message, frozen=True, kw_only=True):
    """An agent asks to train: what it has, and what training would cost it.

    Attributes:
      base_version: the `train` version that it would train from.
      examples: training rows.
      loss: mean loss of that version on its training rows, to two digits; None before it is known.
      novelty: noised histogram of its rows (`wire/novelty.py`), numbers in [0, 1]; may be empty.
      uplink_s: seconds that its last updates took from made to committed, 0 before the first.
      power: what feeds it.
      battery: charge in [0, 1]; None on mains.
      temperature_c: of the hottest thermal zone; None where there is none.
    """

    base_version: Count
    examples: Count
    loss: NonNegative | None = None
    novelty: Annotated[tuple[Unit, ...], msgspec.Meta(max_length=NOVELTY_BINS)] = ()
    uplink_s: NonNegative = 0.0
    power: Literal["mains", "battery"] = "mains"
    battery: Unit | None = None
    temperature_c: Annotated[float, msgspec.Meta(ge=-100.0, le=300.0)] | None = None


class Grant(Message, frozen=True, kw_only=True):
    """Leave to train once: the answer to `Readiness`, repeated when the agent asks again.

    Attributes:
      number: only grows; the same number again is the same grant.
      base_version: the newest version when it was granted; the agent trains from what it has.
    """

    number: Positive
    base_version: Count


class UpdateHeader(Message, frozen=True, kw_only=True):
    """Announces one client update; signed by the agent, and never encoded twice.

    The update's id is (federation, agent, incarnation, sequence); `content.digest` must be the same
    whenever the id is offered again.  `dropped` makes it a tombstone: the content is gone (quota),
    the sequence is accounted for.

    Attributes:
      kept: parameters in a sparse content (`wire/sparse.py`); 0: the content is dense.
      masked: of a masked content; None: it is not.
      encrypted: SHA-256 of the BFV context that the content is encrypted with; empty: it is not.
      spent: of this agent, with this update; None without differential privacy.
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
    bits: Literal[4, 8, 16]
    kept: Count = 0
    saturated: Count = 0
    content: Content
    dropped: Annotated[str, msgspec.Meta(max_length=40)] = ""
    masked: Masked | None = None
    encrypted: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    spent: Spent | None = None


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
      spent: the highest that any incarnation of this agent said it has spent; in every answer to a
        birth, and None elsewhere.
    """

    items: Annotated[tuple[Receipt, ...], msgspec.Meta(max_length=256)] = ()
    incarnation: Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{16})?\Z")] = ""
    highest: Count = 0
    spent: Spent | None = None


OrderName = Literal["pause", "resume", "train", "configure"]


class Command(Message, frozen=True, kw_only=True):
    """An operator's order to one agent; never code, never a path.

    The site decides which orders it takes (`[remote]`).  An order is sent with every birth until
    one tells its outcome, and is done once: a number that the agent knows is only answered.

    Attributes:
      name: `pause` and `resume` training, `train` without waiting for the rest between trainings,
        or `configure`.
      number: grows with every order to this agent.
      tables: for `configure`, in TOML: keys that take the place of the file's.
      deadline_s: for `configure`: within so long the agent has to be healthy, or it goes back.
    """

    name: OrderName
    number: Count = 0
    tables: Annotated[str, msgspec.Meta(max_length=MAX_TABLES)] = ""
    deadline_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 300


class HelperState(Message, frozen=True, kw_only=True):
    """Birth or will of a helper.

    Attributes:
      session: grows with every connection.
      store: random, made with the helper's store; keys and store belong together.
      endorsed: manifests that it has endorsed so far; a store that says less was restored.
    """

    status: Literal["online", "offline"]
    session: Session
    store: Incarnation
    endorsed: Count = 0


class Base(Message, frozen=True, kw_only=True, array_like=True):
    """A version that updates were trained from, as the coordinator states it."""

    version: Count
    digest: Digest


class Examine(Message, frozen=True, kw_only=True):
    """The coordinator shows reports to a helper, which answers each with a verdict.

    Attributes:
      reports: `update` or `figures` envelopes, as the agents signed them.
      credentials: envelopes of these agents.
      bases: versions that the updates were trained from.
    """

    reports: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=256)]
    credentials: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=256)] = ()
    bases: Annotated[tuple[Base, ...], msgspec.Meta(max_length=256)] = ()


class Verdict(Message, frozen=True, kw_only=True):
    """What a helper says of one report, named by the SHA-256 of its envelope.

    Attributes:
      number: of the box that it opened, 0 to 2; the helper holds the seeds of the other numbers.
    """

    report: Digest
    accepted: bool
    number: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    reason: Text = ""


class Verdicts(Message, frozen=True, kw_only=True):
    """A helper's answer to `Examine`."""

    items: Annotated[tuple[Verdict, ...], msgspec.Meta(max_length=256)]


class ManifestMember(Message, frozen=True, kw_only=True, array_like=True):
    """One report in a sum."""

    report: Digest
    coefficient: Positive
    bucket: Annotated[int, msgspec.Meta(ge=0, lt=64)] = 0


class Manifest(Message, frozen=True, kw_only=True):
    """One sum, in final form: whose masks are to be released together, and never otherwise.

    Attributes:
      number: the coordinator's, only grows.
      epoch: of the charter.
      purpose, subject: of all members; the subject of updates is zero.
      version: newest version when it was made; staleness is counted from it.
      count: integers in each vector.
      ring, scale, bits: of all members.
      weight_cap, staleness_cap, staleness_floor, is_damped: what coefficients follow from.
      members: who, with which coefficient, in which bucket's sum.
    """

    number: Positive
    epoch: Positive
    purpose: Purpose = "update"
    subject: Digest = bytes(32)
    lineage: Count = 0
    version: Count = 0
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)]
    ring: Literal[16, 32, 64]
    scale: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    bits: Annotated[int, msgspec.Meta(ge=1, le=63)]
    weight_cap: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1
    staleness_cap: Count = 0
    staleness_floor: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    is_damped: bool = True
    members: Annotated[
        tuple[ManifestMember, ...], msgspec.Meta(min_length=1, max_length=MAX_MEMBERS)
    ]


class Endorsement(Message, frozen=True, kw_only=True):
    """A helper's word about a manifest, named by the SHA-256 of its envelope.

    Attributes:
      accepted: the helper releases masks of these reports for this manifest alone, for ever.
      number: of this helper's endorsements, from 1; 0 when it refuses.
      refused: members that stand in its way, so that the coordinator can leave them out.
    """

    manifest: Digest
    accepted: bool
    reason: Text = ""
    number: Count = 0
    refused: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=256)] = ()


class Release(Message, frozen=True, kw_only=True):
    """The coordinator asks for summed masks, against the endorsements of two helpers.

    Attributes:
      manifest: SHA-256 of its envelope.
      endorsements: envelopes of as many different helpers as the charter asks for.
      seeds: which of the three seeds' masks; only a helper that holds them can answer.
      chunk_bytes: of the answer.
      wanted: chunks that are missing (bitmap as in receipts); empty: all.
    """

    manifest: Digest
    endorsements: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=16_384)], ...],
        msgspec.Meta(min_length=2, max_length=HELPERS),
    ]
    seeds: Annotated[tuple[Literal[0, 1, 2], ...], msgspec.Meta(min_length=1, max_length=2)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)]
    wanted: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNKS // 8)] = b""


class Masks(Message, frozen=True, kw_only=True):
    """A helper's answer to `Release`: sums of masks, bucket after bucket, modulo 2**ring.

    Attributes:
      content: of the raw chunks; None when it refuses.
    """

    manifest: Digest
    seeds: Annotated[tuple[Literal[0, 1, 2], ...], msgspec.Meta(min_length=1, max_length=2)]
    reason: Text = ""
    content: Content | None = None
