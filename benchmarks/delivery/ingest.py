"""Durable ingest: eight agents, real broker, real coordinator program, against SQLite alone.

The limit is what the disk and SQLite allow: the same rows, buffers and versions in the same
transactions, written through the coordinator's own `Store`, with no MQTT, signature, hash or fold.
Afterwards every update must have exactly one outcome, the one that its agent was told, and the
versions are folded again, bit by bit, from the recorded memberships.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.delivery.publishers import Observer, Publisher, make_publishers, pump
from benchmarks.testbed import (
    PARAMETERS,
    BenchmarkError,
    Testbed,
    cpu_s,
    mlp_bundle,
    real_disk,
    testbed,
)
from coordinator.aggregate import Buffer, Member
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.store import Saved, Store
from shopfloor.ports import free_port
from wire.bundle import read_bundle
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.keys import read_federation
from wire.messages import Policy, UpdateHeader
from wire.tensors import flatten, unflatten, write_params

AGENTS = 8
GOAL = 256
TABLES = f"""
[strategy]
goal = {GOAL}
deadline_s = 3600
[gate]
every = 10000
[policy]
clip_norm = 100.0
"""
TARGET = 1_200.0
TARGET_SHARE = 0.85
_BETWEEN_BATCHES_S = 0.001
"""Rows of one transaction are written within microseconds; between two lies at least an fsync."""


@dataclass(frozen=True)
class Ingest:
    """What was measured; times as their names say."""

    updates: int
    updates_s: float
    limit_s: float
    coordinator_ms: float
    broker_ms: float
    load_ms: float
    receipt_p50_ms: float
    receipt_p99_ms: float
    batches: list[int]
    resent: int
    versions: int

    @property
    def threshold_s(self) -> float:
        """Updates a second that are asked for: the target, or a share of the limit."""
        return min(TARGET, TARGET_SHARE * self.limit_s)


def measure(updates: int) -> Ingest:
    """Take `updates` updates in, verify what became of them, and write the same to SQLite alone.

    Raises:
      BenchmarkError: an update was lost or counted twice, or a version is not the sum
        of its members.
    """
    with testbed(real_disk(), mlp_bundle) as bed:
        port = free_port()
        broker = bed.start_broker(port)
        bed.write_coordinator(port, TABLES)
        observer = Observer.connect(port)
        coordinator = bed.start_coordinator()
        observer.wait_online()
        publishers = make_publishers(bed, port, observer.heads[-1], AGENTS, updates // AGENTS)
        _settle_births(bed)
        before = [cpu_s(pid) for pid in (coordinator.pid, broker.pid)]
        load, began_s = time.process_time(), time.monotonic()
        pump(publishers, observer, lambda: all(each.is_done for each in publishers), 300.0)
        wall_s, load_s = time.monotonic() - began_s, time.process_time() - load
        after = [cpu_s(pid) for pid in (coordinator.pid, broker.pid)]
        pump(publishers, observer, lambda: _is_folded(publishers), 30.0)
        bed.processes.stop()
        batches = _batches(bed.store)
        versions = _verify(bed, publishers, observer)
        limit_s = _straight(bed, publishers, batches)
    took_ms = 1e3 * np.concatenate([[*each.committed.values()] for each in publishers])
    coordinator_ms, broker_ms = (
        1e3 * (b - a) / updates for a, b in zip(before, after, strict=True)
    )
    return Ingest(
        updates,
        updates / wall_s,
        limit_s,
        coordinator_ms,
        broker_ms,
        1e3 * load_s / updates,
        float(np.quantile(took_ms, 0.5)),
        float(np.quantile(took_ms, 0.99)),
        batches,
        sum(each.resent for each in publishers),
        versions,
    )


def _settle_births(bed: Testbed) -> None:
    """Wait until the coordinator knows the agents."""
    store = Store(bed.store)
    until_s = time.monotonic() + 30
    while len(store.agents()) < AGENTS:
        if time.monotonic() > until_s:
            raise BenchmarkError("the coordinator does not hear the births")
        time.sleep(0.05)
    store.close()


def _is_folded(publishers: list[Publisher]) -> bool:
    """Whether every update but those of the last, open buffer was told to be folded."""
    made = sum(len(each.headers) for each in publishers)
    return sum(len(each.folded) for each in publishers) >= made // GOAL * GOAL


def _rows(path: Path) -> list[tuple[float, str, str, int, str, int]]:
    """(received_at, agent, incarnation, sequence, status, version) in the order of arrival."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(
            "SELECT received_at, agent, incarnation, sequence, status, version FROM updates"
            " ORDER BY received_at, agent, sequence"
        ).fetchall()


def _batches(path: Path) -> list[int]:
    """Sizes of the transactions, from when their rows were written."""
    at_s = np.array([row[0] for row in _rows(path)])
    starts = np.flatnonzero(np.diff(at_s) > _BETWEEN_BATCHES_S) + 1
    return [int(size) for size in np.diff([0, *starts, len(at_s)])]


def _verify(bed: Testbed, publishers: list[Publisher], observer: Observer) -> int:
    """Check outcomes, and fold again; return the number of versions."""
    made = {
        (each.agent, each.incarnation, sequence): each
        for each in publishers
        for sequence in range(1, len(each.headers) + 1)
    }
    found = {(row[1], row[2], row[3]): (row[4], row[5]) for row in _rows(bed.store)}
    if found.keys() != made.keys():
        raise BenchmarkError(f"{len(made)} updates were made and {len(found)} recorded")
    for (agent, incarnation, sequence), (status, version) in found.items():
        told = made[agent, incarnation, sequence].folded.get(sequence, 0)
        if status not in ("folded", "committed") or told != version:
            reason = f"{agent} {sequence} is {status} in version {version} and was told {told}"
            raise BenchmarkError(reason)
    store = Store(bed.store)
    digests = _refold(bed, publishers, store)
    published = {head.train.version: head.train.content.digest for head in observer.heads}
    for version, digest in digests.items():
        if not store.version_digest(version) == digest == published.get(version, digest):
            raise BenchmarkError(f"version {version} is not the sum of its recorded members")
    store.close()
    if max(published) not in digests:
        raise BenchmarkError("the newest version was not published")
    return len(digests)


def _refold(bed: Testbed, publishers: list[Publisher], store: Store) -> dict[int, bytes]:
    """Every version's SHA-256 again, from the memberships and the publishers' own bytes."""
    _, _, trust = read_federation(bed.keys)
    bundle = read_bundle(bed.bundle.read_bytes(), trust)
    shapes = bundle.manifest.shared_shapes
    by_agent = {each.agent: each for each in publishers}
    rule = make_server_optimizer(ServerOptimizerSettings())
    state, params = rule.init(PARAMETERS), flatten(bundle.weights)
    digests: dict[int, bytes] = {}
    for version, members in groupby(store.memberships(), key=itemgetter(0)):
        total, weight = np.zeros(PARAMETERS, np.int64), 0
        for _, agent, _, sequence, coefficient in members:
            delta = np.frombuffer(by_agent[agent].content_of(sequence), np.int8)
            total += np.multiply(delta, coefficient, dtype=np.int64)
            weight += coefficient
        mean = np.multiply(total, Policy().scale / weight, dtype=np.float64)
        state, params = rule.apply(mean, state, params)
        digests[version] = sha256(write_params(unflatten(params, shapes)))
    return digests


def _straight(bed: Testbed, publishers: list[Publisher], batches: list[int]) -> float:
    """Updates a second when the same transactions are written and nothing else is done."""
    by_agent = {each.agent: each for each in publishers}
    headers = [
        parse_body(open_envelope(by_agent[agent].headers[sequence - 1], "update"), UpdateHeader)
        for _, agent, _, sequence, _, _ in _rows(bed.store)
    ]
    source = Store(bed.store)
    saved = source.load()
    if saved is None:
        raise BenchmarkError("the coordinator left no state")
    topics = source.published()
    contents = [source.content(content.digest) for content in saved.contents[1:]]
    source.close()
    with TemporaryDirectory(prefix="straight-", dir=bed.directory) as folder:
        store = Store(Path(folder) / "coordinator.db")
        writer = _Writer(store, saved, contents, topics)
        began_s = time.perf_counter()
        for size in batches:
            writer.write([headers.pop() for _ in range(size)])
        took_s = time.perf_counter() - began_s
        store.close()
    return sum(batches) / took_s


@dataclass
class _Writer:
    """What the coordinator writes, and nothing of what it computes."""

    store: Store
    saved: Saved
    contents: list[bytes]
    """Of one version: weights and, where it was worth it, a delta; their bytes are made unique."""
    topics: set[str]

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self._buffer = Buffer(random.integers(-(1 << 22), 1 << 22, (1, PARAMETERS)), ())
        self._average = random.normal(size=PARAMETERS)
        self._version = 0

    def write(self, headers: list[UpdateHeader]) -> None:
        """Write one transaction, and the versions that it completes."""
        store, versions = self.store, 0
        with store.transaction():
            for header in headers:
                store.known_update(header)
                store.version_digest(header.base_version)
                member = Member(
                    agent=header.agent,
                    site=header.agent,
                    base_version=header.base_version,
                    weight=header.weight,
                    coefficient=header.weight,
                )
                store.add_update(header, "committed", "", member, time.time())
                self._buffer = replace(self._buffer, members=(*self._buffer.members, member))
                if len(self._buffer.members) == GOAL:
                    self._write_version()
                    versions += 1
            store.save_buffer(self._buffer)
            store.count_duplicates(0)
        for _ in range(versions):
            store.set_published(self.topics, set())
            store.set_published(set(), self.topics)

    def _write_version(self) -> None:
        store = self.store
        self._version += 1
        store.save_vector("optimizer", np.zeros(0))
        store.save_vector("average", self._average)
        kept = []
        for content in self.contents[-2:]:
            data = self._version.to_bytes(8, "little") + content[8:]
            kept.append(sha256(data[:64]))
            store.keep_content(kept[-1], data)
        store.add_version(self._version, 0, kept[0], GOAL, time.time())
        store.settle_committed("folded", "", self._version)
        self._buffer = replace(self._buffer, members=())
        store.save_buffer(self._buffer)
        store.save(self.saved)
        store.keep_only(kept, [])
