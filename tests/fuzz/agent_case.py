"""The agent's whole receiving path: any messages on the topics that it hears.

As `tests/fuzz/coordinator_case.py`.  A refused message on the inbox or on a state changed no row; a
head or a chunk may be refused for what it completed (a bundle that fails its checks) after it was
rightly stored, so there it is the model in use that must not have changed.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import msgspec
import numpy as np

from agent.adoption import Adoption
from agent.asking import Standing
from agent.config import Identity, OrderKind
from agent.connection import Connection
from agent.delivery import Schedule
from agent.downloads import FLUSH_BYTES
from agent.history import History
from agent.learning.personalise import PersonalTable
from agent.learning.worker import TrainingProcess
from agent.models import Models
from agent.orders import Operator, Orders
from agent.outbox import Outbox
from agent.personal import Personal
from agent.remote import RemoteTables
from agent.renewal import Renewal
from agent.reporting import Reporting
from agent.status import Status
from agent.turn import Turn
from tests.coordinator.small_federation import FEDERATION, ROOT_KEY
from tests.fuzz.coordinator_case import birth_body
from tests.fuzz.decoders import lying
from tests.fuzz.mutating import (
    Mutate,
    Record,
    messagepack,
    read_records,
    records_of,
    safetensors,
    scrambled,
    topic,
    write_records,
)
from tests.fuzz.people import (
    AGENT,
    AGENT_KEY,
    CHANNELS,
    SIGNERS,
    STRANGER_KEY,
    TOPICS,
    TRUST,
    bundle,
    credential,
)
from tests.fuzz.script import UnfitWordsError, changes, listen, unfit, watching
from tests.fuzz.seeds import bodies, standards, topic_seeds
from wire.bundle import read_bundle
from wire.chunks import describe, sha256, split
from wire.codec import Counter, seal_bytes
from wire.deltas import encode
from wire.errors import TooLargeError
from wire.messages import (
    AgentState,
    Content,
    Delta,
    Grant,
    Head,
    Policy,
    Receipt,
    Receipts,
    VersionRef,
)
from wire.mqtt import BrokerSettings, Received
from wire.standards import Standard, read_standard, write_standard
from wire.tensors import write_params
from wire.trust import COORDINATOR, read_credential

MOST_RECORDS = 30
CHUNK_BYTES = 512
COLUMNS = 5
"""That the features of the bundle make."""
OPERATIONS = (
    *("raw", "head", "receipts", "command", "coordinator-state", "agent-state"),
    *("publication", "content", "chunk", "again", "altered", "forged", "made", "receipt"),
    *("delta", "lie", "watermark", "own-state", "pause", "grant", "leave", "standard"),
    *("renewed", "revoked"),
)
STATUSES: tuple[Any, ...] = get_args(Receipt.__annotations__["status"])
SEALED = (*OPERATIONS[1:6], "grant", "renewed", "revoked")
"""Operations whose payload is the body of a rightly signed message of that kind."""


@cache
def weights(step: int) -> bytes:
    """Weights of the bundle's model, moved by `step` tenths."""
    start = read_bundle(bundle(), TRUST).weights
    return write_params({name: (value + step / 10).astype("<f4") for name, value in start.items()})


class AgentCase:
    """One agent with empty files in memory, and a coordinator that says anything."""

    def __init__(self) -> None:
        signed_credential = credential()
        identity = Identity(
            TRUST, read_credential(signed_credential, TRUST), signed_credential, AGENT_KEY
        )
        memory = Path(":memory:")
        self.outbox = Outbox(":memory:", 1 << 20)
        self.models = Models(":memory:")
        self.adoption = Adoption(self.models, TRUST, CHANNELS, "numpy")
        self.history = History(memory, CHANNELS, 100, 0.1)
        self.status = Status(agent=AGENT, site="site-a", federation=FEDERATION, pid=1)
        self.turn = Turn(memory, 0, self.adoption.changed)
        self.connection = Connection(
            broker=BrokerSettings(),
            identity=identity,
            outbox=self.outbox,
            reporting=Reporting(self.adoption, self.history, self._personal()),
            turn=self.turn,
            adoption=self.adoption,
            orders=self._orders(),
            status=self.status,
            schedule=Schedule([], random.Random(0)),
            made=asyncio.Event(),
            renewal=Renewal(identity, ROOT_KEY.public, memory, self.status),
        )
        self._counter = Counter(3)
        self._sent: list[Received] = []
        self._chunks: list[Received] = []
        self._sequence = 0

    def _orders(self) -> Orders:
        """Takes every order; what it keeps goes with this case."""
        self._directory = TemporaryDirectory()
        state = Path(self._directory.name)
        allow: tuple[OrderKind, ...] = ("pause", "train", "configure")
        return Orders(state, RemoteTables(state), allow, Operator())

    def _personal(self) -> Personal:
        """Serves what the federation serves."""
        return Personal(
            self.adoption,
            self.history,
            TrainingProcess(),
            AGENT,
            PersonalTable(enabled=False),
            Path(":memory:"),
            lambda: True,
        )

    def messages(self, record: Record) -> list[Received]:
        """What a record makes the broker say."""
        operation = OPERATIONS[record.operation % len(OPERATIONS)]
        make: dict[str, Callable[[Record], list[Received]]] = {
            "raw": self._raw,
            "publication": self._publication,
            "content": self._content,
            "chunk": self._chunk,
            "again": self._again,
            "altered": self._altered,
            "forged": self._forged,
            "made": self._made,
            "receipt": self._receipt,
            "delta": self._delta,
            "lie": self._lie,
            "watermark": self._watermark,
            "own-state": self._own_state,
            "pause": self._pause,
            "leave": self._leave,
            "standard": self._standard,
        }
        try:
            found = make.get(operation, self._any_body)(record)
        except TooLargeError:
            return []
        self._sent += found
        return found

    def close(self) -> None:
        """Free the databases in memory."""
        for owner in (self.outbox, self.models, self.history):
            owner.close()

    def held_bytes(self) -> tuple[int, int]:
        """Bytes of chunks in memory, and how many there may be."""
        downloads = vars(self.adoption)["_downloads"]
        fresh = [each.fresh for each in vars(downloads)["_downloads"].values()]
        held = sum(len(chunk) for chunks in fresh for chunk in chunks.values())
        return held, FLUSH_BYTES + CHUNK_BYTES

    def _any_body(self, record: Record) -> list[Received]:
        return [self._signed(OPERATIONS[record.operation % len(OPERATIONS)], record)]

    def _signed(self, kind: str, record: Record) -> Received:
        signer, key = SIGNERS[kind]
        counter = self._counter.next() if record.argument < 250 else record.argument
        data = seal_bytes(
            kind, record.payload, federation=FEDERATION, signer=signer, counter=counter, key=key
        )
        return Received(_topic_of(kind), data, retained=False)

    def _raw(self, record: Record) -> list[Received]:
        name, _, payload = record.payload.partition(b"\0")
        return [Received(name.decode("utf-8", "replace"), payload, retained=False)]

    def _publication(self, record: Record) -> list[Received]:
        """A valid head over a good bundle, and in most cases all its chunks after it."""
        train, serve = weights(record.argument % 4), weights(record.argument // 4 % 2)
        head, *chunks = self._published([bundle(), train, serve])
        self._chunks = chunks
        return [head] if record.argument & 128 else [head, *chunks]

    def _content(self, record: Record) -> list[Received]:
        """A head whose weights or whose bundle are these bytes, rightly described; its chunks."""
        data = record.payload or b"x"
        if record.argument & 1:
            return self._published([data, weights(0), weights(0)])
        return self._published([bundle(), data, weights(0)])

    def _delta(self, record: Record) -> list[Received]:
        """A head with a delta from one step's weights to another's: an honest one, or any bytes."""
        base, target = weights(record.argument % 4), weights(record.argument // 4 % 4)
        patch = record.payload or encode(base, target) or b"x"
        named = describe(patch, CHUNK_BYTES)
        delta = Delta(base=sha256(base), target=sha256(target), content=named)
        parts = [bundle(), target, base if record.argument & 16 else target]
        return self._published(parts, (delta,)) + list(_chunks(TOPICS.model, named, patch))

    def _lie(self, record: Record) -> list[Received]:
        """A head that contradicts itself about its train weights, with their chunks."""
        parts = [bundle(), weights(record.argument // 8), weights(0)]
        told = [describe(data, CHUNK_BYTES) for data in parts]
        told[1] = lying(told[1], record.argument % 6)
        head = self._head(told, ())
        chunks = [split(data, CHUNK_BYTES) for data in parts]
        names = (TOPICS.bundle, TOPICS.model, TOPICS.model)
        return [head] + [
            Received(name(content.digest.hex(), index), chunk, retained=True)
            for name, content, cut in zip(names, told, chunks, strict=True)
            for index, chunk in enumerate(cut)
        ]

    def _leave(self, record: Record) -> list[Received]:
        """Leave to train, of this number."""
        grant = Grant(number=1 + record.argument, base_version=record.argument % 3)
        return [self._signed("grant", Record(0, 0, msgspec.msgpack.encode(grant)))]

    def _standard(self, record: Record) -> list[Received]:
        """A head with statistics: fit ones, ones of another shape, or any bytes.

        One time of four the bundle does not ask for any.
        """
        choice, columns = record.argument % 8, COLUMNS + record.argument % 8 // 4 * 5
        values = np.linspace(1.0, 2.0, columns), np.full(columns, -1.0 if choice == 3 else 2.0)
        statistics = record.payload or write_standard(Standard(*values))
        is_asked = record.argument // 8 % 4
        parts = [bundle("federated" if is_asked else "given"), weights(choice % 2), weights(0)]
        return self._published([*parts, statistics])

    def check_standard(self) -> None:
        """What inputs are standardised by is what the head in use names, and fits the features."""
        current = self.adoption.current
        if current is None:
            return
        named, standard = current.head.statistics, current.standard
        is_asked = current.model.manifest.standardise == "federated"
        if (standard is not None) != (is_asked and named is not None):
            raise AssertionError(f"{named} is named, and {standard} is used")
        if standard is None or named is None:
            return
        data = self.models.read(named.digest)
        if data is None or write_standard(standard) != write_standard(read_standard(data, COLUMNS)):
            raise AssertionError(f"standardised by {standard}, which the head does not name")

    @property
    def granted(self) -> tuple[int, bool]:
        """Number of the newest grant, and whether the coordinator is there."""
        standing: Standing = vars(self.turn)["_standing"]
        return standing.granted, standing.is_linked

    def _published(self, parts: list[bytes], deltas: tuple[Delta, ...] = ()) -> list[Received]:
        """A head over bundle, train and serve weights, and statistics; then all their chunks."""
        named = [describe(data, CHUNK_BYTES) for data in parts]
        names = (TOPICS.bundle, TOPICS.model, TOPICS.model, TOPICS.model)
        found = [self._head(named, deltas)]
        for name, content, data in zip(names, named, parts, strict=False):
            found += _chunks(name, content, data)
        return found

    def _head(self, named: list[Content], deltas: tuple[Delta, ...]) -> Received:
        self._sequence += 1
        body = head_body(self._sequence, named, deltas)
        return self._signed("head", Record(0, 0, body))

    def _chunk(self, record: Record) -> list[Received]:
        if not self._chunks:
            return []
        chunk = self._chunks[record.argument % len(self._chunks)]
        return [Received(chunk.topic, record.payload or chunk.payload, retained=True)]

    def _again(self, record: Record) -> list[Received]:
        return [self._sent[record.argument % len(self._sent)]] if self._sent else []

    def _altered(self, record: Record) -> list[Received]:
        if not self._sent:
            return []
        earlier = self._sent[record.argument % len(self._sent)]
        changed = bytearray(earlier.payload)
        if changed and len(record.payload) >= 3:
            changed[int.from_bytes(record.payload[:2], "big") % len(changed)] ^= record.payload[2]
        return [Received(earlier.topic, bytes(changed), earlier.retained)]

    def _forged(self, record: Record) -> list[Received]:
        """A message in the coordinator's name under a key of nobody."""
        kind = SEALED[record.argument % len(SEALED)]
        data = seal_bytes(
            kind,
            record.payload,
            federation=FEDERATION,
            signer=COORDINATOR,
            counter=self._counter.next(),
            key=STRANGER_KEY,
        )
        return [Received(_topic_of(kind), data, retained=False)]

    def _made(self, record: Record) -> list[Received]:
        """The agent makes an update; nothing is received."""
        self.outbox.add(0, 0, lambda *_id: (b"header", record.payload or b"content"))
        return []

    def _receipt(self, record: Record) -> list[Received]:
        """A receipt for one of the agent's own updates; the argument chooses which and what."""
        receipt = Receipt(
            incarnation=self.outbox.incarnation,
            sequence=1 + record.argument % 5,
            digest=record.payload[:32].ljust(32, b"\0"),
            status=STATUSES[record.argument % len(STATUSES)],
            wanted=record.payload[:512],
        )
        body = msgspec.msgpack.encode(Receipts(items=(receipt,)))
        return [self._signed("receipts", Record(0, 0, body))]

    def _watermark(self, record: Record) -> list[Received]:
        """The answer to a birth: so many updates of this incarnation are known."""
        said = Receipts(incarnation=self.outbox.incarnation, highest=record.argument)
        return [self._signed("receipts", Record(0, 0, msgspec.msgpack.encode(said)))]

    def _own_state(self, record: Record) -> list[Received]:
        """A birth or will of this very incarnation, of an earlier or a later connection."""
        state = AgentState(
            status="offline" if record.argument & 1 else "online",
            incarnation=self.outbox.incarnation,
            session=record.argument // 64,
            credential=credential(),
        )
        return [self._signed("agent-state", Record(0, 0, msgspec.msgpack.encode(state)))]

    def _pause(self, _record: Record) -> list[Received]:
        """Chunks are stored, and a second process would find the same model in use."""
        self.adoption.keep_chunks()
        after = Adoption(self.models, TRUST, CHANNELS, "numpy").current
        before = self.adoption.current
        if (before and before.head) != (after and after.head):
            raise AssertionError("a restart would put another model in use")
        return []


def _topic_of(kind: str) -> str:
    found = {"head": TOPICS.head, "coordinator-state": TOPICS.coordinator_state}
    found |= {"renewed": TOPICS.renewed(AGENT), "revoked": TOPICS.revoked}
    found["agent-state"] = TOPICS.state(AGENT)
    return found.get(kind, TOPICS.to(AGENT))


def _chunks(name: Callable[[str, int], str], content: Content, data: bytes) -> Iterator[Received]:
    for index, chunk in enumerate(split(data, content.chunk_bytes)):
        yield Received(name(content.digest.hex(), index), chunk, retained=True)


def head_body(sequence: int, named: list[Content], deltas: tuple[Delta, ...] = ()) -> bytes:
    """A head that names a bundle, train and serve weights, and perhaps statistics."""
    head = Head(
        sequence=sequence,
        lineage=0,
        bundle=named[0],
        train=VersionRef(version=sequence, content=named[1]),
        serve=VersionRef(version=0, content=named[2]),
        statistics=named[3] if len(named) > 3 else None,
        deltas=deltas,
        policy=Policy(admission="granted"),
    )
    return msgspec.msgpack.encode(head)


def run(data: bytes) -> None:
    """One case."""
    case = AgentCase()
    with closing(case), watching() as watch:
        listen(case.connection, _steps(case, data, lambda: watch.refused))
    problem = watch.unfit or unfit(case.status.refused)
    if problem:
        raise UnfitWordsError(problem)


def _steps(case: AgentCase, data: bytes, refused: Callable[[], int]) -> Iterator[Received]:
    for record in read_records(data, MOST_RECORDS):
        for message in case.messages(record):
            before = refused(), changes(case.outbox), changes(case.models), case.adoption.current
            granted = case.granted
            yield message
            case.adoption.wanted()  # as `_fetch` does; sets up the downloads
            is_refused = refused() > before[0]
            if is_refused:
                _check_refused(case, message, *before[1:])
            if case.granted[0] < granted[0] or (is_refused and case.granted != granted):
                raise AssertionError(f"granted {granted}, after {message.topic!r} {case.granted}")
            if case.adoption.current is not before[3]:
                case.check_standard()
            _check_downloads(case)


def _check_refused(
    case: AgentCase, message: Received, outbox: int, models: int, current: Any
) -> None:
    if case.adoption.current is not current:
        raise AssertionError(f"a refused message to {message.topic!r} changed the model in use")
    content = (
        message.topic == TOPICS.head or "/model/" in message.topic or "/bundle/" in message.topic
    )
    if changes(case.outbox) != outbox or (changes(case.models) != models and not content):
        raise AssertionError(f"a refused message to {message.topic!r} changed rows")


def _check_downloads(case: AgentCase) -> None:
    held, most = case.held_bytes()
    if held > most:
        raise AssertionError(f"{held} bytes of chunks in memory, at most {most}")


def seeds() -> list[bytes]:
    """Whole cases: publications adopted one after the other, receipts, and the golden bodies."""
    pool = record_pool()
    at = OPERATIONS.index
    adopted = [Record(at("publication"), argument, b"") for argument in (0, 5, 130)]
    patched = [Record(at("delta"), argument, b"") for argument in (4, 25, 2)]
    lies = [Record(at("lie"), argument, b"") for argument in (1, 2, 3, 4, 5, 0)]
    renewed = [Record(at("own-state"), argument, b"") for argument in (0, 1, 64, 65)]
    made = [Record(at("made"), 0, bytes([number])) for number in range(3)]
    settled = [Record(at("receipt"), argument, b"\5") for argument in range(7)]
    pause = [Record(at("pause"), 0, b"")]
    cases = [adopted + patched + pause, lies + pause + adopted + lies, renewed + made]
    wrong = [Record(at("publication"), 128, b""), Record(at("chunk"), 0, b"wrong")]
    cases += [[*wrong, *(Record(at("chunk"), number, b"") for number in range(12))]]
    cases += [made + settled, [*adopted[2:], *pause, Record(at("chunk"), 0, b"")], pool[:30]]
    told = [Record(at("standard"), argument, b"") for argument in (8, 12, 11, 0, 9)]
    leave = [Record(at("leave"), argument, b"") for argument in (3, 3, 1, 9)]
    cases += [told + pause + adopted + told, [*leave, *adopted[:1], *leave]]
    cases += [[told[0], Record(at("standard"), 8, data), *adopted[:1]] for data in standards()]
    return [write_records(case) for case in cases] + [write_records([each]) for each in pool]


@cache
def record_pool() -> list[Record]:
    """Single steps to begin with."""
    at = OPERATIONS.index
    golden = bodies()
    pool = [Record(at(kind), 0, body) for kind in SEALED for body in golden[kind]]
    pool += [Record(at("agent-state"), 0, birth_body())]
    pool += [Record(at("raw"), 0, name + b"\0x") for name in topic_seeds()]
    pool += [
        Record(at("raw"), 0, name.encode() + b"\0") for name in (TOPICS.to(AGENT), TOPICS.head)
    ]
    pool += [Record(at("publication"), argument, b"") for argument in (0, 4, 128)]
    pool += [Record(at("content"), 0, weights(1)), Record(at("content"), 1, bundle())]
    pool += [Record(at("chunk"), argument, b"") for argument in range(8)]
    pool += [Record(at("again"), argument, b"") for argument in range(4)]
    pool += [Record(at("altered"), argument, b"\0\x50\1") for argument in range(4)]
    pool += [Record(at("forged"), at_kind, golden[kind][0]) for at_kind, kind in enumerate(SEALED)]
    pool += [Record(at("receipt"), argument, b"\5") for argument in range(7)]
    pool += [Record(at("delta"), argument, b"") for argument in (1, 4, 17)]
    pool += [Record(at("delta"), 1, encode(weights(1), weights(2)) or b"\1")]
    pool += [Record(at("lie"), argument, b"") for argument in range(6)]
    pool += [Record(at("watermark"), argument, b"") for argument in (0, 2, 200)]
    pool += [Record(at("leave"), argument, b"") for argument in (0, 1, 255)]
    pool += [Record(at("standard"), argument, b"") for argument in (0, 8, 11, 12, 20)]
    pool += [Record(at("standard"), 8, data) for data in standards()]
    pool += [Record(at("own-state"), argument, b"") for argument in (0, 1, 64, 65)]
    return [*pool, Record(at("made"), 0, b""), Record(at("pause"), 0, b"")]


def mutate() -> Mutate:
    """Mutations of cases."""
    inner: dict[str, Mutate] = dict.fromkeys((*SEALED, "forged"), messagepack)
    inner |= {"raw": topic, "content": safetensors, "standard": safetensors}
    return records_of(
        record_pool(),
        MOST_RECORDS,
        lambda record: inner.get(OPERATIONS[record.operation % len(OPERATIONS)], scrambled),
    )
