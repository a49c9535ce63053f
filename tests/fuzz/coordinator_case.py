"""The coordinator's whole receiving path: any messages, in any order, at any time.

A case is a sequence of records (`tests/fuzz/mutating.py`); each becomes a message, rightly signed
where its operation says so, or time that passes.  After each is checked: the listener goes on, a
refused message changed no row, and the chunks held are within the budget.
"""

import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import numpy as np

from coordinator.admissions import Admissions
from coordinator.config import Identity
from coordinator.connection import Connection
from coordinator.contribution import from_bytes
from coordinator.evaluation_log import EvaluationLog
from coordinator.federation import Federation
from coordinator.ingest import Ingest
from coordinator.selection import SelectionSettings
from coordinator.store import Store
from coordinator.strategies.choice import StrategySettings
from tests.coordinator.small_federation import (
    AUTHOR_KEY,
    FEDERATION,
    MANIFEST,
    PARAMS,
    SCALE,
    P,
    evaluation,
    identity,
    settings,
)
from tests.fuzz.decoders import WRONG_SHAPE, held_bytes
from tests.fuzz.mutating import (
    Mutate,
    Record,
    messagepack,
    read_records,
    records_of,
    scrambled,
    topic,
    write_records,
)
from tests.fuzz.people import (
    AGENT,
    AGENT_KEY,
    INCARNATION,
    OTHER,
    OTHER_KEY,
    STRANGER,
    STRANGER_KEY,
    TOPICS,
    credential,
    signed,
)
from tests.fuzz.script import UnfitWordsError, changes, database, listen, watching
from tests.fuzz.seeds import bodies, judgements, topic_seeds
from wire.bundle import GOLDEN, MODEL, WEIGHTS, read_bundle, write_bundle
from wire.chunks import describe, split
from wire.codec import Counter, seal_bytes
from wire.errors import TooLargeError
from wire.messages import (
    BINS,
    NOVELTY_BINS,
    AgentState,
    Choice,
    Evaluation,
    Grant,
    Readiness,
    Report,
    Statistics,
    UpdateHeader,
)
from wire.mqtt import BrokerSettings, Received
from wire.signing import PrivateKey
from wire.standards import read_standard
from wire.tensors import write_params

MOST_RECORDS = 40
BUDGET_BYTES = 16 * P
NOT_FINITE = """
SELECT value, loss FROM quality WHERE abs(value) > 1e30 OR abs(loss) > 1e30
UNION ALL SELECT value, 0 FROM pooled WHERE abs(value) > 1e30
UNION ALL SELECT value, error FROM contributions WHERE abs(value) > 1e60 OR abs(error) > 1e60
"""
"""SQLite keeps infinity as it is, and refuses to keep NaN where a column may not be empty."""
STRATEGY = (
    "[strategy]\ngoal = 2\n[gate]\nevery = 1\nquorum = 1\n[contribution]\nleast_versions = 3\n"
)
PEOPLE: tuple[tuple[str, PrivateKey], ...] = (
    (AGENT, AGENT_KEY),
    (OTHER, OTHER_KEY),
    (STRANGER, STRANGER_KEY),
    (AGENT, STRANGER_KEY),
)
OPERATIONS = (
    *("raw", "birth", "update", "report", "chunk", "honest", "again", "altered", "time"),
    *("whole", "judgement", "ask", "ready", "account", "revoked"),
)
BUNDLED = settings(STRATEGY)
LEARNS_TOGETHER = msgspec.structs.replace(MANIFEST, standardise="federated")
COLUMNS = 1
_FILES = {MODEL: b"not read here", WEIGHTS: write_params(PARAMS), GOLDEN: b"nor this"}


@cache
def bundled() -> Identity:
    """A coordinator whose bundle is standardised by the statistics of all sites."""
    plain = identity()
    data = write_bundle(LEARNS_TOGETHER, _FILES, FEDERATION, AUTHOR_KEY)
    bundle = read_bundle(data, plain.trust)
    return replace(plain, bundle=bundle, bundle_bytes=data)


def _admissions() -> Admissions:
    return Admissions(SelectionSettings(), StrategySettings(), 1, np.random.default_rng(0))


class CoordinatorCase:
    """One coordinator with an empty store in memory, and whoever writes to it."""

    def __init__(self) -> None:
        self.store = Store(":memory:")
        self.federation = Federation(self.store, BUNDLED, bundled(), 0.0)
        log = EvaluationLog(self.store, is_synchronous=False, sites=1)
        self.connection = Connection(
            BrokerSettings(), bundled(), self.store, self.federation, log, _admissions(), 1
        )
        self.connection.ingest = Ingest(BUDGET_BYTES)
        self._counters = {agent: Counter(7) for agent, _ in PEOPLE}
        self._sequences = dict.fromkeys(self._counters, 0)
        self._sent: list[Received] = []
        self._chunks: list[Received] = []
        self._ahead_s = 0.0
        self._granted: dict[str, int] = {}

    def begin(self) -> Iterator[Received]:
        """Births of the two agents that are enrolled."""
        for agent, key in PEOPLE[:2]:
            yield self._sealed("agent-state", birth_body(agent), agent, key, TOPICS.state(agent))

    def messages(self, record: Record) -> list[Received]:
        """What a record sends; nothing when it is time that passes, or can not be sent."""
        make: dict[str, Callable[[Record], list[Received]]] = {
            "raw": self._raw,
            "birth": self._birth,
            "update": self._update,
            "report": self._report,
            "chunk": self._chunk,
            "honest": lambda record: self._honest(record)[:1],
            "again": self._again,
            "altered": self._altered,
            "time": self._time,
            "whole": self._honest,
            "judgement": self._judgement,
            "ask": self._ask,
            "ready": self._ready,
            "account": self._account,
            "revoked": self._revoked,
        }
        try:
            found = make[OPERATIONS[record.operation % len(OPERATIONS)]](record)
        except TooLargeError:
            return []
        self._sent += found
        return found

    def held(self) -> tuple[int, int]:
        """Bytes of chunks held, and bytes pledged."""
        incoming: dict[object, Any] = vars(self.connection.ingest)["_incoming"]
        held = sum(held_bytes(each.assembly) for each in incoming.values())
        return held, self.connection.ingest.pledged_bytes

    def _sealed(self, kind: str, body: bytes, agent: str, key: PrivateKey, to: str) -> Received:
        counter = self._counters[agent].next()
        data = seal_bytes(kind, body, federation=FEDERATION, signer=agent, counter=counter, key=key)
        return Received(to, data, retained=False)

    def _raw(self, record: Record) -> list[Received]:
        name, _, payload = record.payload.partition(b"\0")
        return [Received(name.decode("utf-8", "replace"), payload, retained=False)]

    def _birth(self, record: Record) -> list[Received]:
        agent, key = PEOPLE[record.argument % len(PEOPLE)]
        return [self._sealed("agent-state", record.payload, agent, key, TOPICS.state(agent))]

    def _revoked(self, record: Record) -> list[Received]:
        """Any list of revoked credentials, rightly signed."""
        return [Received(TOPICS.revoked, signed("revoked", record.payload), retained=True)]

    def _report(self, record: Record) -> list[Received]:
        agent, key = PEOPLE[record.argument % len(PEOPLE)]
        return [self._sealed("report", record.payload, agent, key, TOPICS.report(agent))]

    def _update(self, record: Record) -> list[Received]:
        """A header published where it says, as far as it says where."""
        agent, key = PEOPLE[record.argument % len(PEOPLE)]
        at: tuple[str, int] = (INCARNATION, 9)
        try:
            said = msgspec.msgpack.decode(record.payload)
            at = (str(said["incarnation"]), int(said["sequence"]))
        except (msgspec.MsgspecError, *WRONG_SHAPE):
            pass
        self._chunks = [
            Received(TOPICS.update(agent, *at, index), b"", retained=False) for index in range(3)
        ]
        to = TOPICS.update(agent, *at, "h")
        return [self._sealed("update", record.payload, agent, key, to)]

    def _chunk(self, record: Record) -> list[Received]:
        """A chunk of the last header: the honest one where nothing else is given."""
        if not self._chunks:
            return []
        chunk = self._chunks[record.argument % len(self._chunks)]
        return [Received(chunk.topic, record.payload or chunk.payload, retained=False)]

    def _honest(self, record: Record) -> list[Received]:
        """An update: header and chunks; the payload seeds its integers, the argument its lies."""
        agent, key = PEOPLE[record.argument % 2]
        is_tombstone, is_twin, is_lie = (record.argument & bit for bit in (4, 8, 16))
        if not is_twin:
            self._sequences[agent] += 1
        sequence = self._sequences[agent]
        dice = random.Random(record.payload)
        content = np.frombuffer(dice.randbytes(P), np.int8).tobytes()
        base = self.federation.head.train
        told = describe(content, 256)
        if is_lie:
            told = msgspec.structs.replace(told, digest=bytes(32))
        header = UpdateHeader(
            agent=agent,
            incarnation=INCARNATION,
            sequence=sequence,
            lineage=self.federation.head.lineage,
            base_version=base.version,
            base_digest=base.content.digest,
            examples=10,
            weight=10,
            scale=SCALE,
            bits=8,
            content=told,
            dropped="quota" if is_tombstone else "",
        )
        self._chunks = [
            Received(TOPICS.update(agent, INCARNATION, sequence, index), chunk, retained=False)
            for index, chunk in enumerate(split(content, 256))
        ]
        to = TOPICS.update(agent, INCARNATION, sequence, "h")
        body = msgspec.msgpack.encode(header)
        return [self._sealed("update", body, agent, key, to), *self._chunks]

    def _judgement(self, record: Record) -> list[Received]:
        """A site's report on everything that the head names, of a quality that it chooses."""
        agent, key = PEOPLE[record.argument % 2]
        head = self.federation.head
        named = [head.train, head.serve, *([head.candidate] if head.candidate else [])]
        digests = dict.fromkeys(version.content.digest for version in named)
        counts = judged(record.argument // 2 % 3)
        report = Report(
            head=head.sequence,
            evaluations=tuple(msgspec.structs.replace(counts, digest=digest) for digest in digests),
        )
        body = msgspec.msgpack.encode(report)
        return [self._sealed("report", body, agent, key, TOPICS.report(agent))]

    def _ask(self, record: Record) -> list[Received]:
        agent, key = PEOPLE[record.argument % len(PEOPLE)]
        return [self._sealed("readiness", record.payload, agent, key, TOPICS.ask(agent))]

    def _ready(self, record: Record) -> list[Received]:
        """An ask that a coordinator takes; the argument chooses figures at their edges."""
        agent, key = PEOPLE[record.argument % 2]
        choice = record.argument // 2
        asked = Readiness(
            base_version=self.federation.saved.version,
            examples=(0, 100, (1 << 53) - 1)[choice % 3],
            loss=(None, 0.0, 1e12)[choice // 3 % 3],
            novelty=((), (0.0,) * NOVELTY_BINS, (1.0,) * NOVELTY_BINS, (0.5,) * 7)[choice // 9 % 4],
            power="battery" if choice & 1 else "mains",
            battery=0.9 if choice & 1 else None,
            temperature_c=(None, -100.0, 40.0)[choice % 3],
        )
        body = msgspec.msgpack.encode(asked)
        return [self._sealed("readiness", body, agent, key, TOPICS.ask(agent))]

    def _account(self, record: Record) -> list[Received]:
        """A report with everything in it, true of a bundle of two classes or of another task."""
        agent, key = PEOPLE[record.argument % 2]
        head, choice = self.federation.head, record.argument // 2
        tasks = [*(each for _, each in judgements()), judged(1)]
        about = msgspec.structs.replace(tasks[choice % 6], digest=head.train.content.digest)
        served = msgspec.structs.replace(tasks[choice // 6 % 6], digest=head.serve.content.digest)
        columns = 2 if choice > 100 else COLUMNS
        statistics = Statistics(
            bundle=head.bundle.digest,
            count=(10, 1, (1 << 40) - 1)[choice % 3],
            sums=(30.0,) * columns,
            squares=((90.0, 1e24, 900.0)[choice // 3 % 3],) * columns,
        )
        report = Report(
            head=head.sequence,
            evaluations=(about, served) if choice & 1 else (),
            choice=Choice(model="local", normalisation="local", reason="\x1b", evaluation=served),
            statistics=statistics if choice & 2 else None,
        )
        body = msgspec.msgpack.encode(report)
        return [self._sealed("report", body, agent, key, TOPICS.report(agent))]

    def _again(self, record: Record) -> list[Received]:
        return [self._sent[record.argument % len(self._sent)]] if self._sent else []

    def _altered(self, record: Record) -> list[Received]:
        """An earlier message with one byte changed."""
        if not self._sent:
            return []
        earlier = self._sent[record.argument % len(self._sent)]
        changed = bytearray(earlier.payload)
        if changed and len(record.payload) >= 3:
            changed[int.from_bytes(record.payload[:2], "big") % len(changed)] ^= record.payload[2]
        return [Received(earlier.topic, bytes(changed), earlier.retained)]

    def _time(self, record: Record) -> list[Received]:
        """What `_tick` does, later and later."""
        self._ahead_s += record.argument / 2
        now_s = time.monotonic() + self._ahead_s
        connection = self.connection
        connection._send(connection.ingest.ask(now_s))  # noqa: SLF001 - `_tick` does no more
        connection._after(self.federation.tick(now_s))  # noqa: SLF001
        version = self.federation.saved.version
        for agent, grant in connection.admissions.grants(now_s, version):  # as `_send_grants` does
            number = self._granted.get(agent, 0)
            msgspec.convert(msgspec.to_builtins(grant), Grant)
            if grant.number < number or grant.base_version > version:
                raise AssertionError(f"{grant} for {agent} after {number}, at version {version}")
            self._granted[agent] = grant.number
        return []

    def check_record(self) -> None:
        """Nothing that a report said left a figure that is no number, or statistics of nobody."""
        found = database(self.store).execute(NOT_FINITE).fetchall()
        if found:
            raise AssertionError(f"not finite: {found}")
        _, body = self.store.record.accounting()
        if body:
            from_bytes(body, BUNDLED.contribution)
        named = self.federation.head.statistics
        if named is not None:
            data = {each.content.digest: each.data for each in self.federation.contents()}
            read_standard(data[named.digest], COLUMNS)


def run(data: bytes) -> None:
    """One case."""
    case = CoordinatorCase()
    # What a person at the terminal sees of each version is not for whoever fuzzes.
    with closing(case.store), redirect_stdout(io.StringIO()), watching() as watch:
        listen(case.connection, _steps(case, data, lambda: watch.refused))
    if watch.unfit:
        raise UnfitWordsError(watch.unfit)


def _steps(case: CoordinatorCase, data: bytes, refusals: Callable[[], int]) -> Iterator[Received]:
    yield from case.begin()
    for record in read_records(data, MOST_RECORDS):
        for message in case.messages(record):
            before, rows = refusals(), changes(case.store)
            yield message
            if refusals() > before and changes(case.store) != rows:
                raise AssertionError(f"a refused message to {message.topic!r} changed rows")
            if message.topic.startswith(f"{TOPICS.base}/report/"):
                case.check_record()
            held, pledged = case.held()
            if held > pledged or pledged > BUDGET_BYTES:
                raise AssertionError(f"{held} bytes held, {pledged} pledged of {BUDGET_BYTES}")


@cache
def judged(quality: int) -> Evaluation:
    """Counts of a model of this quality; 2 stands for counts as large as they may be."""
    if quality == 2:
        most = ((1 << 40) - 1,) * BINS
        return Evaluation(digest=bytes(32), positives=most, negatives=most)
    return evaluation(bytes(32), 2.0 * quality)


def birth_body(agent: str = AGENT, session: int = 7) -> bytes:
    """A valid birth."""
    state = AgentState(
        status="online", incarnation=INCARNATION, session=session, credential=credential(agent)
    )
    return msgspec.msgpack.encode(state)


def seeds() -> list[bytes]:
    """Whole cases: versions and candidates, judged and promoted; replays; the golden bodies."""
    at = OPERATIONS.index
    chunks = [Record(at("chunk"), index, b"") for index in range(3)]
    slow = [Record(at("honest"), 0, b"1"), *chunks, Record(at("honest"), 1, b"2"), *chunks]
    fast = [Record(at("whole"), number, bytes([number])) for number in range(4)]
    judged_well = [Record(at("judgement"), argument, b"") for argument in (0, 3)]
    judged_most = [Record(at("judgement"), argument, b"") for argument in (4, 5)]
    late = [Record(at("time"), 250, b""), *chunks, Record(at("again"), 2, b"")]
    cases = [slow, fast + judged_well + fast, fast + judged_most + fast, slow[:2] + late]
    lies = [Record(at("whole"), argument, b"4") for argument in (0, 8, 4, 12, 16, 24)]
    cases.append([*lies, *late])
    both = [Record(at("judgement"), argument, b"") for argument in (2, 3)]
    grown = [
        [Record(at("whole"), agent, bytes([number])) for agent in (0, 1)] + both
        for number in range(9)
    ]
    cases.append([record for step in grown for record in step])
    asked = [Record(at("ready"), argument, b"") for argument in (2, 3, 22, 41)]
    told = [Record(at("account"), argument, b"") for argument in (134, 142, 135)]
    cases.append([*asked, Record(at("time"), 2, b""), *fast, *asked, Record(at("time"), 2, b"")])
    cases.append([*told, *fast, *told])
    out = [Record(at("revoked"), 0, body) for body in bodies()["revoked"]]
    cases.append([*fast[:1], *out, *fast, *told, Record(at("birth"), 0, birth_body(AGENT, 9))])
    cases.append([*fast[:1], *(Record(at("again"), index, b"") for index in (2, 2, 3))])
    pool = record_pool()
    return [write_records(case) for case in [*cases, pool]] + [
        write_records([record]) for record in pool
    ]


@cache
def record_pool() -> list[Record]:
    """Single steps to begin with."""
    at = OPERATIONS.index
    digest = Federation(Store(":memory:"), BUNDLED, bundled(), 0.0).head.train.content.digest
    report = Report(head=1, evaluations=(evaluation(digest, 2.0),))
    golden = bodies()
    pool = [Record(at("report"), 0, msgspec.msgpack.encode(report))]
    pool += [Record(at("update"), 0, body) for body in golden["update"]]
    pool += [Record(at("report"), 0, body) for body in golden["report"]]
    pool += [Record(at("birth"), 0, birth_body(AGENT, session)) for session in (6, 8)]
    pool += [Record(at("raw"), 0, name + b"\0x") for name in topic_seeds()]
    pool += [Record(at("honest"), argument, b"") for argument in (0, 1, 4, 8)]
    pool += [Record(at("whole"), argument, b"") for argument in (0, 1, 4, 8, 16)]
    pool += [Record(at("judgement"), argument, b"") for argument in range(6)]
    pool += [Record(at("ask"), 0, body) for body in golden["readiness"]]
    pool += [Record(at("ready"), argument, b"") for argument in (0, 3, 38, 71)]
    pool += [Record(at("revoked"), 0, body) for body in golden["revoked"]]
    pool += [Record(at("account"), argument, b"") for argument in range(0, 256, 17)]
    pool += [Record(at("chunk"), argument, b"") for argument in range(3)]
    pool += [Record(at("again"), argument, b"") for argument in range(4)]
    pool += [Record(at("altered"), argument, b"\0\x50\1") for argument in range(4)]
    return pool + [Record(at("time"), argument, b"") for argument in (1, 8, 250)]


def mutate() -> Mutate:
    """Mutations of cases."""
    inner: dict[str, Mutate] = dict.fromkeys(
        ("birth", "update", "report", "ask", "revoked"), messagepack
    )
    inner["raw"] = topic
    return records_of(
        record_pool(),
        MOST_RECORDS,
        lambda record: inner.get(OPERATIONS[record.operation % len(OPERATIONS)], scrambled),
    )
