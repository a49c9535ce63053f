"""The coordinator's durable memory: one SQLite file, one owner, one transaction per decision.

    updates      every update ever received, by (agent, incarnation, sequence): outcome and version.
                 Rows never expire, so neither does deduplication.
    state        one row: version, head and what it names
    buffer       one row: what has been folded since the last version; the only large thing that
                 changes with every batch
    vectors      optimizer and average, which change with every version
    versions     digest of every version, so that a stale update can prove its base
    contents     bytes that the head names
    agents       verified credentials and the last birth
    orders       the operator's last order to each agent, and what became of it
    evaluations  the sites' judgements of what the head names
    alarms       what a person has to look at, by agent and kind

Whose credentials were revoked is in `coordinator/revocations.py`, in the same file.  The audit log
(`coordinator/audit.py`) is written there too, with the decisions that it records.

What people and reports read (`decisions`, `quality`, `choices`, `served`, `link_events`,
`site_statistics`, `contributions`) is written by `coordinator/record.py`, in the same file.

synchronous=FULL: what was receipted is on the disk.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer, Member, empty, settled
from coordinator.audit import AUDIT_SCHEMA, Audit
from coordinator.drift import is_baseline_for
from coordinator.marks import MARKS_SCHEMA, Marks
from coordinator.record import RECORD_SCHEMA, Judged, Record
from coordinator.revocations import REVOCATION_SCHEMA, Revocations
from coordinator.secure.rows import SECURE_SCHEMA, SecureRows
from wire.audit_entries import FirstStatus
from wire.database import open_database, sqlite_errors, transaction
from wire.messages import (
    Command,
    Content,
    Delta,
    Evaluation,
    OrderName,
    Outcome,
    Spent,
    UpdateHeader,
    VersionRef,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS updates (
  agent TEXT NOT NULL,
  incarnation TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  digest BLOB NOT NULL,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  version INTEGER NOT NULL,       -- the version it was folded into, 0 before
  base_version INTEGER NOT NULL,
  coefficient INTEGER NOT NULL,   -- 0 unless folded or committed
  weight INTEGER NOT NULL,        -- the same; larger than the coefficient where it was clipped
  bucket INTEGER NOT NULL,
  received_at REAL NOT NULL,      -- wall clock, display only
  PRIMARY KEY (agent, incarnation, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS buffered ON updates (status) WHERE status = 'committed';
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS buffer (
  one INTEGER PRIMARY KEY CHECK (one = 1), members BLOB NOT NULL,
  total BLOB NOT NULL             -- of each bucket; little-endian, int32 where it fits, else int64
) STRICT;
CREATE TABLE IF NOT EXISTS vectors (name TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS control (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  boot INTEGER NOT NULL,
  training TEXT NOT NULL,
  duplicates INTEGER NOT NULL,
  rollback INTEGER                -- the served version that the operator asked to go back to
) STRICT;
INSERT OR IGNORE INTO control VALUES (1, 0, 'open', 0, NULL);
CREATE TABLE IF NOT EXISTS weights (agent TEXT PRIMARY KEY, weight INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS versions (
  version INTEGER PRIMARY KEY, lineage INTEGER NOT NULL, digest BLOB NOT NULL,
  members INTEGER NOT NULL, made_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS contents (digest BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS published (topic TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS agents (
  agent TEXT PRIMARY KEY, site TEXT NOT NULL, public_key BLOB NOT NULL,
  serial INTEGER NOT NULL,        -- of the credential
  incarnation TEXT NOT NULL, session INTEGER NOT NULL, status TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS orders (
  agent TEXT PRIMARY KEY, name TEXT NOT NULL,
  number INTEGER NOT NULL,        -- one more than the agent's order before
  tables TEXT NOT NULL, deadline_s INTEGER NOT NULL,
  is_due INTEGER NOT NULL, is_paused INTEGER NOT NULL,
  status TEXT NOT NULL,           -- what the agent says of it; empty until it does
  reason TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS evaluations (
  digest BLOB NOT NULL, agent TEXT NOT NULL,
  body BLOB NOT NULL,             -- the newest
  first BLOB NOT NULL,            -- the first, which drift is told by
  PRIMARY KEY (digest, agent)
) STRICT;
CREATE TABLE IF NOT EXISTS alarms (
  agent TEXT NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL, number INTEGER NOT NULL,
  last_at REAL NOT NULL,          -- wall clock, display only
  PRIMARY KEY (agent, kind)
) STRICT;
"""
AlarmKind = Literal["two contents", "new incarnation", "drift", "diverged", "revoked"]
VectorName = Literal["optimizer", "average", "memory", "centre"]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What the last decision made current; the numbers are in `contents`, `buffer`, `vectors`.

    Attributes:
      deltas: shorter ways to what the head names, the newest last.
      judged: version of the last candidate that was decided on.
      worse: candidates in a row that the sites found worse.
      averaged: versions in the average since the lineage began.
      radius: the adaptive clipping radius.
      statistics: of the features over all sites, once there are enough.
      recovery: of the charter under which the lineage began.
      threshold: of alarms with what is served, where the sites' counts say one.
    """

    version: int
    lineage: int
    head_sequence: int
    head: bytes
    bundle: Content
    train: VersionRef
    candidate: VersionRef | None
    serve: VersionRef
    judged: int
    deltas: tuple[Delta, ...] = ()
    worse: int = 0
    averaged: int = 0
    radius: float = 0.0
    statistics: Content | None = None
    recovery: int = 0
    threshold: float | None = None

    @property
    def judged_refs(self) -> list[tuple[Judged, VersionRef]]:
        """What sites are asked to judge, and as what; one content can be several of them."""
        refs: list[tuple[Judged, VersionRef]] = [("train", self.train), ("serve", self.serve)]
        return [*refs, ("candidate", self.candidate)] if self.candidate else refs

    @property
    def contents(self) -> list[Content]:
        """Everything that the head names, each content once; the bundle first."""
        versions = [version for version in (self.train, self.serve, self.candidate) if version]
        models = [version.content for version in versions]
        statistics = [self.statistics] if self.statistics else []
        named = [self.bundle, *statistics, *models, *(delta.content for delta in self.deltas)]
        return list({content.digest: content for content in named}.values())


@dataclass(frozen=True)
class KnownUpdate:
    """What the store has about one update id."""

    digest: bytes
    status: str
    reason: str
    version: int


@dataclass(frozen=True)
class KnownAgent:
    """A verified agent: what its newest credential and birth say."""

    agent: str
    site: str
    public_key: bytes
    serial: int
    incarnation: str
    session: int

    @property
    def credential(self) -> tuple[str, str, bytes, int]:
        """What its credential says: agent, site, key, serial."""
        return self.agent, self.site, self.public_key, self.serial


class Store:
    """Owner of `coordinator.db`."""

    def __init__(self, path: Path | str) -> None:
        schema = _SCHEMA + RECORD_SCHEMA + REVOCATION_SCHEMA + AUDIT_SCHEMA + SECURE_SCHEMA
        self._db = open_database(path, schema + MARKS_SCHEMA, durable=True)
        self._path = str(path)
        self.record = Record(self._db)
        self.revocations = Revocations(self._db)
        self.audit = Audit(self._db)
        self.secure = SecureRows(self._db)
        self._marks = Marks(self._db)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic, durable step, with the audit entries of what it decides."""
        try:
            with transaction(self._db):
                yield
                self.audit.write()
        except BaseException:
            self.audit.forget()
            raise

    @contextmanager
    def soft_transaction(self) -> Iterator[None]:
        """One atomic step that a power cut may undo: for what the other side says again.

        In WAL mode a commit under synchronous=NORMAL does not wait for the disk
        (sqlite.org/pragma.html, "synchronous"); the next durable one takes it along.
        """
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            with self.transaction():
                yield
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def next_boot(self, recovery: int = 0) -> int:
        """Number of this process run, above all earlier ones.

        Args:
          recovery: the charter's; runs of an earlier recovery may be unknown here, so that each
            begins a range of its own.  Below 2**31, because a `Session` is.
        """
        with self.transaction():
            self._db.execute("UPDATE control SET boot = max(boot, ?) + 1", (recovery << 16,))
        return int(self._db.execute("SELECT boot FROM control").fetchone()[0])

    def give_boot_back(self, boot: int) -> None:
        """Forget the number of a run that said nothing, however often that is tried again."""
        with self.transaction():
            self._db.execute("UPDATE control SET boot = boot - 1 WHERE boot = ?", (boot,))

    @property
    def training(self) -> Literal["open", "closed"]:
        """The operator's switch; the command line may change it while the coordinator runs."""
        row = self._db.execute("SELECT training FROM control").fetchone()
        return "closed" if row[0] == "closed" else "open"

    def set_training(self, training: Literal["open", "closed"]) -> None:
        """Turn the operator's switch."""
        with self.transaction():
            self._db.execute("UPDATE control SET training = ?", (training,))

    @property
    def rollback(self) -> int | None:
        """The served version that the operator asked to go back to."""
        row = self._db.execute("SELECT rollback FROM control").fetchone()
        return None if row[0] is None else int(row[0])

    def request_rollback(self, version: int | None) -> None:
        """Ask for an earlier served version, or take the request back."""
        with self.transaction():
            self._db.execute("UPDATE control SET rollback = ?", (version,))

    # Updates

    def known_update(self, header: UpdateHeader) -> KnownUpdate | None:
        """What became of this update id so far."""
        row = self._db.execute(
            "SELECT digest, status, reason, version FROM updates"
            " WHERE agent = ? AND incarnation = ? AND sequence = ?",
            (header.agent, header.incarnation, header.sequence),
        ).fetchone()
        return KnownUpdate(*row) if row else None

    def add_update(
        self,
        header: UpdateHeader,
        status: FirstStatus,
        reason: str,
        member: Member | None,
        at: float,
        report: bytes = b"",
    ) -> None:
        """Record the first sight of an update (inside a transaction); its id must be new.

        Args:
          header: the update's.
          status: what became of it.
          reason: why, where that has one.
          member: what it counts in the buffer, where it does.
          at: wall clock.
          report: SHA-256 of its envelope, by which manifests name it; empty where none will.
        """
        self._db.execute(
            "INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
            (
                header.agent,
                header.incarnation,
                header.sequence,
                header.content.digest,
                status,
                reason,
                header.base_version,
                member.coefficient if member else 0,
                member.weight if member else 0,
                member.bucket if member else 0,
                at,
            ),
        )
        self.audit.note_update(header, status, reason, report)
        if member is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO weights VALUES (?, ?)", (member.agent, header.weight)
            )

    @property
    def population(self) -> int:
        """Sum of the last weights of all agents that ever took part."""
        row = self._db.execute("SELECT coalesce(sum(weight), 0) FROM weights").fetchone()
        return int(row[0])

    def highest(self, agent: str, incarnation: str) -> int:
        """Highest sequence ever received of an incarnation, 0 when none was."""
        row = self._db.execute(
            "SELECT max(sequence) FROM updates WHERE agent = ? AND incarnation = ?",
            (agent, incarnation),
        ).fetchone()
        return int(row[0] or 0)

    def keep_credential(self, agent: str, credential: bytes) -> None:
        """Remember the envelope of an agent's newest credential, which helpers want to see."""
        with self.soft_transaction():
            self.secure.keep_credential(agent, credential)

    def settle_committed(
        self,
        status: Literal["folded", "refused", "void"],
        reason: str,
        version: int,
        keys: Sequence[tuple[str, str, int]] | None = None,
    ) -> list[tuple[str, str, int, bytes]]:
        """Give committed updates their outcome; (agent, incarnation, sequence, digest).

        Args:
          status: the outcome.
          reason: why, where that has one.
          version: the one they are folded into, else 0.
          keys: (agent, incarnation, sequence) of those meant; None: all.
        """
        update = "UPDATE updates SET status = ?, reason = ?, version = ? WHERE status = 'committed'"
        told = " RETURNING agent, incarnation, sequence, digest, coefficient"
        what = (status, reason, version)
        if keys is None:
            rows = self._db.execute(update + told, what).fetchall()
        else:
            one = f"{update} AND agent = ? AND incarnation = ? AND sequence = ? {told}"
            rows = [row for key in keys for row in self._db.execute(one, (*what, *key))]
        self.audit.note_settled(status, reason, version, rows)
        return [(str(row[0]), str(row[1]), int(row[2]), bytes(row[3])) for row in rows]

    def recount(self, keys: Sequence[tuple[str, str, int]], members: Sequence[Member]) -> None:
        """Note what updates count in the end, where that was not known when they came."""
        self._db.executemany(
            "UPDATE updates SET coefficient = ?, weight = ?, bucket = ?"
            " WHERE agent = ? AND incarnation = ? AND sequence = ?",
            [
                (member.coefficient, member.weight, member.bucket, *key)
                for key, member in zip(keys, members, strict=True)
            ],
        )

    def count_duplicates(self, number: int) -> None:
        """Count offers of updates that were already here."""
        self._db.execute("UPDATE control SET duplicates = duplicates + ?", (number,))

    def counts(self) -> dict[str, int]:
        """Updates by status, and `duplicates`."""
        rows = self._db.execute("SELECT status, count(*) FROM updates GROUP BY status")
        counts = {str(status): int(number) for status, number in rows}
        row = self._db.execute("SELECT duplicates FROM control").fetchone()
        return {**counts, "duplicates": int(row[0])}

    def memberships(self) -> list[tuple[int, str, str, int, int]]:
        """Folded updates: (version, agent, incarnation, sequence, coefficient), in that order."""
        return self._db.execute(
            "SELECT version, agent, incarnation, sequence, coefficient FROM updates"
            " WHERE status = 'folded' ORDER BY version, agent, incarnation, sequence"
        ).fetchall()

    # Versions and contents

    def load(self) -> Saved | None:
        """The state of the last committed decision."""
        row = self._db.execute("SELECT body FROM state").fetchone()
        return msgspec.msgpack.decode(row[0], type=Saved) if row else None

    def save(self, saved: Saved) -> None:
        """Replace the state (inside a transaction)."""
        body = msgspec.msgpack.encode(saved)
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (body,))

    def load_buffer(self, parameters: int, buckets: int) -> Buffer | None:
        """The buffer as it was last saved; None when it had another number of buckets."""
        row = self._db.execute("SELECT members, total FROM buffer").fetchone()
        if row is None:
            return empty(parameters, buckets)
        members = msgspec.msgpack.decode(row[0], type=tuple[Member, ...])
        kinds = {4 * parameters * buckets: "<i4", 8 * parameters * buckets: "<i8"}
        if len(row[1]) not in kinds:
            return None
        total = np.frombuffer(row[1], kinds[len(row[1])]).astype(np.int64)
        weight = sum(member.weight for member in members)
        return Buffer(total.reshape(buckets, parameters), members, weight)

    def save_buffer(self, buffer: Buffer) -> None:
        """Replace the saved buffer (inside a transaction)."""
        total = settled(buffer).summed
        fits = not total.size or max(total.max(), -total.min()) < 1 << 31
        self._db.execute(
            "INSERT OR REPLACE INTO buffer VALUES (1, ?, ?)",
            (
                msgspec.msgpack.encode(buffer.members),
                total.astype("<i4" if fits else "<i8").tobytes(),
            ),
        )

    def vector(self, name: VectorName) -> NDArray[np.float64]:
        """A saved vector, float64; empty when none was saved."""
        row = self._db.execute("SELECT data FROM vectors WHERE name = ?", (name,)).fetchone()
        return np.frombuffer(row[0] if row else b"", "<f8").astype(np.float64)

    def save_vector(self, name: VectorName, vector: NDArray[np.float64]) -> None:
        """Replace a saved vector (inside a transaction)."""
        self._db.execute(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?)", (name, vector.astype("<f8").tobytes())
        )

    def add_version(
        self, version: int, lineage: int, digest: bytes, members: int, at: float
    ) -> None:
        """Record a version's digest."""
        self._db.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (version, lineage, digest, members, at)
        )
        self.audit.note_version(version, lineage, digest, members)

    def versions(self) -> dict[int, str]:
        """SHA-256 (hex) of every version's weights."""
        rows = self._db.execute("SELECT version, digest FROM versions ORDER BY version")
        return {int(version): bytes(digest).hex() for version, digest in rows}

    def newest_digests(self, number: int) -> list[bytes]:
        """SHA-256 of the newest versions' weights."""
        rows = self._db.execute(
            "SELECT digest FROM versions ORDER BY version DESC LIMIT ?", (number,)
        )
        return [bytes(row[0]) for row in rows]

    def has_content(self, digest: bytes) -> bool:
        """Whether these bytes are here."""
        found = self._db.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone()
        return found is not None

    def version_digest(self, version: int) -> bytes | None:
        """SHA-256 of a version's weights."""
        row = self._db.execute(
            "SELECT digest FROM versions WHERE version = ?", (version,)
        ).fetchone()
        return bytes(row[0]) if row else None

    def keep_content(self, digest: bytes, data: bytes) -> None:
        """Store bytes that the next head will name."""
        self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (digest, data))

    def keep_only(self, named: list[bytes], others: list[bytes]) -> None:
        """Drop every other content, and every evaluation but of what the head names."""
        for table, digests in (("contents", [*named, *others]), ("evaluations", named)):
            marks = ",".join("?" * len(digests))
            self._db.execute(f"DELETE FROM {table} WHERE digest NOT IN ({marks})", digests)  # noqa: S608

    def content(self, digest: bytes) -> bytes:
        """Bytes that the head names."""
        row = self._db.execute("SELECT data FROM contents WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            reason = f"content {digest.hex()[:16]} is missing from the store"
            raise sqlite3.IntegrityError(reason)
        return bytes(row[0])

    def published(self) -> set[str]:
        """Retained topics that this federation's broker may hold."""
        return {str(topic) for (topic,) in self._db.execute("SELECT topic FROM published")}

    def set_published(self, added: set[str], removed: set[str]) -> None:
        """Remember which retained topics to clear one day."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO published VALUES (?)", [(topic,) for topic in sorted(added)]
            )
            self._db.executemany(
                "DELETE FROM published WHERE topic = ?", [(topic,) for topic in sorted(removed)]
            )

    # Agents

    def agent(self, agent: str) -> KnownAgent | None:
        """A verified agent by id."""
        row = self._db.execute(
            "SELECT agent, site, public_key, serial, incarnation, session FROM agents"
            " WHERE agent = ?",
            (agent,),
        ).fetchone()
        return KnownAgent(*row) if row else None

    def keep_agent(self, known: KnownAgent, status: str) -> None:
        """Remember a verified birth or will; the broker retains it, so it is said again."""
        before = self.agent(known.agent)
        with self.soft_transaction():
            if before is None or before.credential != known.credential:
                self.audit.note_agent(*known.credential)
            self.record.note_link(known.agent, status, time.time())
            self._db.execute(
                "INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    known.agent,
                    known.site,
                    known.public_key,
                    known.serial,
                    known.incarnation,
                    known.session,
                    status,
                ),
            )

    def agents(self) -> list[tuple[str, str, str]]:
        """All known agents: (agent, site, status)."""
        return self._db.execute("SELECT agent, site, status FROM agents ORDER BY agent").fetchall()

    def spent(self, agent: str) -> Spent:
        """What an agent has spent on differential privacy, as far as is known."""
        return self._marks.of(agent)

    def note_spent(self, agent: str, spent: Spent | None) -> None:
        """Raise an agent's mark to what a header says; it is durable with the next decision."""
        if spent is None or not self._marks.rises(agent, spent):
            return
        with self.soft_transaction():
            self._marks.note(agent, spent)

    # Commands

    def order(self, agent: str, name: OrderName, tables: str = "", deadline_s: int = 300) -> int:
        """Keep the operator's order to an agent; it replaces an earlier one.

        Returns:
          Its number.
        """
        with self.transaction():
            query = "SELECT number, is_paused FROM orders WHERE agent = ?"
            before, is_paused = self._db.execute(query, (agent,)).fetchone() or (0, 0)
            if name in ("pause", "resume"):
                is_paused = int(name == "pause")
            self._db.execute(
                "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, 1, ?, '', '')",
                (agent, name, before + 1, tables, deadline_s, is_paused),
            )
        return int(before) + 1

    def due_orders(self) -> list[tuple[str, Command]]:
        """Orders to send now, each with its agent."""
        rows = self._db.execute(
            "SELECT agent, name, number, tables, deadline_s FROM orders WHERE is_due ORDER BY agent"
        )
        return [
            (agent, Command(name=name, number=number, tables=tables, deadline_s=deadline_s))
            for agent, name, number, tables, deadline_s in rows
        ]

    def set_order_sent(self, agent: str, number: int) -> None:
        """Note that an order was sent, unless there is a newer one."""
        with self.soft_transaction():
            self._db.execute(
                "UPDATE orders SET is_due = 0 WHERE agent = ? AND number = ?", (agent, number)
            )

    def answered(self, agent: str, outcome: Outcome | None) -> None:
        """Note what a birth says of the last order.

        An order that the agent does not know of is due again; under a higher number where it knows
        more orders than this store, which was restored then.
        """
        known = outcome.number if outcome is not None else 0
        with self.soft_transaction():
            self._db.execute(
                "UPDATE orders SET is_due = 1, number = max(number, ?) WHERE agent = ?"
                " AND (number > ? OR (number < ? AND status = ''))",
                (known + 1, agent, known, known),
            )
            if outcome is not None:
                self._db.execute(
                    "UPDATE orders SET status = ?, reason = ?, is_due = 0"
                    " WHERE agent = ? AND number = ?",
                    (outcome.status, outcome.reason, agent, outcome.number),
                )

    def orders(self) -> list[tuple[str, OrderName, int, str, str]]:
        """The last order to each agent: (agent, name, number, status, reason)."""
        return self._db.execute(
            "SELECT agent, name, number, status, reason FROM orders ORDER BY agent"
        ).fetchall()

    # Evaluations

    def forget_cohorts(self, digest: bytes, but: str) -> None:
        """Drop opened sums of these weights' evaluations about another subject.

        They are of the same rows, which would count twice.
        """
        self._db.execute(
            "DELETE FROM evaluations WHERE digest = ? AND agent GLOB '[*]*'"
            " AND substr(agent, 1, ?) != ?",
            (digest, len(but), but),
        )

    def keep_evaluations(self, agent: str, evaluations: Iterable[Evaluation]) -> None:
        """Remember a site's newest judgements, inside a transaction.

        The first one stays what drift is told by, once it has rows enough for that
        (`coordinator/drift.py`).
        """
        for evaluation in evaluations:
            body = msgspec.msgpack.encode(evaluation)
            first = self.first_evaluation(evaluation.digest, agent)
            stays = first is not None and is_baseline_for(first, evaluation)
            baseline = None if stays else body
            self._db.execute(
                "INSERT INTO evaluations VALUES (:digest, :agent, :body, :body) ON CONFLICT"
                " (digest, agent) DO UPDATE SET body = :body, first = coalesce(:baseline, first)",
                {
                    "digest": evaluation.digest,
                    "agent": agent,
                    "body": body,
                    "baseline": baseline,
                },
            )

    def evaluations(self, digest: bytes) -> dict[str, Evaluation]:
        """Judgements of one content, by agent."""
        rows = self._db.execute("SELECT agent, body FROM evaluations WHERE digest = ?", (digest,))
        return {str(agent): msgspec.msgpack.decode(body, type=Evaluation) for agent, body in rows}

    def first_evaluation(self, digest: bytes, agent: str) -> Evaluation | None:
        """A site's first judgement of a content."""
        row = self._db.execute(
            "SELECT first FROM evaluations WHERE digest = ? AND agent = ?", (digest, agent)
        ).fetchone()
        return msgspec.msgpack.decode(row[0], type=Evaluation) if row else None

    # Alarms

    def raise_alarm(self, agent: str, kind: AlarmKind, detail: str) -> None:
        """Remember what a person has to look at; the same kind again replaces the detail."""
        with sqlite_errors(self._path):
            self._db.execute(
                "INSERT INTO alarms VALUES (?, ?, ?, 1, ?) ON CONFLICT (agent, kind) DO UPDATE SET"
                " detail = excluded.detail, number = number + 1, last_at = excluded.last_at",
                (agent, kind, detail, time.time()),
            )

    def alarm(self, agent: str, kind: AlarmKind) -> str:
        """Newest detail of an alarm; empty when there was none."""
        row = self._db.execute(
            "SELECT detail FROM alarms WHERE agent = ? AND kind = ?", (agent, kind)
        ).fetchone()
        return str(row[0]) if row else ""

    def alarms(self) -> list[tuple[str, str, str, int]]:
        """All alarms so far: (agent, kind, newest detail, how often)."""
        return self._db.execute(
            "SELECT agent, kind, detail, number FROM alarms ORDER BY last_at DESC"
        ).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()
