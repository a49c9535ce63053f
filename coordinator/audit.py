"""The audit log: what the coordinator decided, in a Merkle tree that only grows.

    audit        the entries (`wire/audit_entries.py`), numbered from 0; never changed or deleted
    audit_tree   one row: size and full subtrees, so that the root is known without the entries

An entry is written in the transaction of the decision that it records: either both are on the disk
or neither.  Entries are collected during the transaction and written at its end, so the root after
each is known at once; a transaction that fails forgets its entries (`Store.transaction`).

Every head carries size and root as they were before its own entry, so what is behind a signed head
can not be changed afterwards without anybody who kept that head noticing
(`journeyman audit compare`).  `docs/audit.md` says what is recorded and what is not.
"""

import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Final

from wire.audit_entries import (
    AgentNoted,
    CharterNoted,
    ContributionsNoted,
    Decided,
    DecisionNoted,
    EarlierNoted,
    Entry,
    FirstStatus,
    HeadNoted,
    InitialNoted,
    InitialSource,
    LastStatus,
    ManifestNoted,
    SettledNoted,
    SettledUpdate,
    SiteValue,
    SummedReport,
    UpdateNoted,
    VersionNoted,
    charge_of,
    encode_entry,
)
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.merkle import Frontier, leaf_hash
from wire.messages import Head, Manifest, TreeHead, UpdateHeader

AUDIT_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audit_tree (
  one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL,
  peaks BLOB NOT NULL,            -- of full subtrees, the largest first, 32 bytes each
  charter BLOB NOT NULL           -- SHA-256 of the last charter's envelope; empty before
) STRICT;
INSERT OR IGNORE INTO audit_tree VALUES (1, 0, x'', x'');
CREATE TRIGGER IF NOT EXISTS audit_keeps_entries BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER IF NOT EXISTS audit_keeps_words BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
"""
_DIGEST: Final = 32
_LONGEST: Final = 500
"""Characters of a reason, as in receipts."""


def load_tree(database: sqlite3.Connection) -> Frontier:
    """The tree of the entries that are in this file."""
    size, peaks = database.execute("SELECT size, peaks FROM audit_tree").fetchone()
    cut = range(0, len(peaks), _DIGEST)
    return Frontier(int(size), tuple(bytes(peaks[at : at + _DIGEST]) for at in cut))


class Audit:
    """Writer of the audit log; one part of the store, in its file.

    Every `note_...` belongs into a `Store.transaction`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._tree: Frontier | None = None
        self._pending: list[tuple[int, bytes]] = []

    @property
    def tree(self) -> TreeHead:
        """Size and root, with the entries of the transaction that is under way."""
        tree = self._current()
        return TreeHead(size=tree.size, root=tree.root)

    def _current(self) -> Frontier:
        if self._tree is None:
            self._tree = load_tree(self._db)
        return self._tree

    def append(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
          RuntimeError: no transaction is under way, so it would be written apart from its decision.
        """
        if not self._db.in_transaction:
            raise RuntimeError("an audit entry outside the transaction of what it records")
        tree, data = self._current(), encode_entry(entry)
        self._pending.append((tree.size, data))
        self._tree = tree.add(leaf_hash(data))

    def write(self) -> None:
        """Write what was added: the last thing that a transaction does."""
        if not self._pending:
            return
        tree = self._current()
        self._db.executemany("INSERT INTO audit VALUES (?, ?)", self._pending)
        self._db.execute(
            "UPDATE audit_tree SET size = ?, peaks = ?", (tree.size, b"".join(tree.peaks))
        )
        self._pending.clear()

    def forget(self) -> None:
        """Drop what was added by a transaction that failed."""
        self._pending.clear()
        self._tree = None

    # What is recorded

    def begin(self, charter: bytes) -> None:
        """Record the charter if it is new, and what an older program left that kept no log.

        Args:
          charter: the envelope, verified.
        """
        is_first = self._current().size == 0
        self.note_charter(charter)
        if is_first:
            self._note_earlier()

    def note_charter(self, envelope: bytes) -> None:
        """Record a verified charter, unless it is the one recorded last."""
        digest = sha256(envelope)
        (last,) = self._db.execute("SELECT charter FROM audit_tree").fetchone()
        if digest != last:
            self._db.execute("UPDATE audit_tree SET charter = ?", (digest,))
            self.append(CharterNoted(envelope, _now()))

    def _note_earlier(self) -> None:
        """Record where this log begins, and whatever is still open there."""
        newest = self._db.execute(
            "SELECT version, lineage, digest FROM versions ORDER BY version DESC LIMIT 1"
        ).fetchone()
        if newest is None:
            return
        query = "SELECT count(*) FROM updates WHERE status != 'committed'"
        (settled,) = self._db.execute(query).fetchone()
        self.append(EarlierNoted(newest[0], newest[1], bytes(newest[2]), settled))
        for row in self._db.execute("SELECT agent, site, public_key, serial FROM agents"):
            self.note_agent(*row)
        for agent, incarnation, sequence, digest, base in self._db.execute(
            "SELECT agent, incarnation, sequence, digest, base_version FROM updates"
            " WHERE status = 'committed'"
        ):
            self.append(UpdateNoted(agent, incarnation, sequence, bytes(digest), base, "committed"))

    def note_initial(self, source: InitialSource, contributor: str, digest: bytes) -> None:
        """Record whose weights version 0 has."""
        self.append(InitialNoted(source, contributor[:_LONGEST], digest))

    def note_agent(self, agent: str, site: str, public_key: bytes, serial: int) -> None:
        """Record a verified credential that is new."""
        self.append(AgentNoted(agent, site, bytes(public_key), serial))

    def note_update(
        self, header: UpdateHeader, status: FirstStatus, reason: str, report: bytes = b""
    ) -> None:
        """Record the first decision about an update.

        Args:
          header: the update's.
          status: what became of it.
          reason: why, where that has one.
          report: SHA-256 of the signed header, which manifests name masked updates by.
        """
        self.append(
            UpdateNoted(
                header.agent,
                header.incarnation,
                header.sequence,
                header.content.digest,
                header.base_version,
                status,
                reason[:_LONGEST],
                charge_of(header.spent),
                report,
            )
        )

    def note_settled(
        self,
        status: LastStatus,
        reason: str,
        version: int,
        updates: Iterable[tuple[str, str, int, bytes, int]],
    ) -> None:
        """Record the outcome of committed updates.

        Args:
          status: all of theirs.
          reason: why, where that has one.
          version: which they were folded into; 0 otherwise.
          updates: (agent, incarnation, sequence, content's digest, coefficient).
        """
        settled = tuple(SettledUpdate(*update) for update in updates)
        if settled:
            self.append(SettledNoted(status, reason[:_LONGEST], version, settled))

    def note_version(self, version: int, lineage: int, digest: bytes, members: int) -> None:
        """Record a new version."""
        self.append(VersionNoted(version, lineage, digest, members, _now()))

    def note_manifest(self, envelope: bytes, helpers: tuple[str, ...]) -> None:
        """Record a sum that was opened: when its masks are here, with what comes of the sum.

        Args:
          envelope: the signed manifest.
          helpers: those who endorsed it, by name or by signing key in hexadecimal.

        Raises:
          MalformedError: it is no manifest.
        """
        manifest = parse_body(open_envelope(envelope, "manifest"), Manifest)
        members = tuple(
            SummedReport(member.report, member.coefficient, member.bucket)
            for member in manifest.members
        )
        self.append(
            ManifestNoted(
                manifest.number,
                manifest.epoch,
                manifest.purpose,
                manifest.version,
                sha256(envelope),
                helpers,
                members,
                _now(),
            )
        )

    def note_decision(self, version: int, lineage: int, verdict: Decided, reason: str) -> None:
        """Record what became of a candidate, a rollback, or a new threshold of alarms."""
        self.append(DecisionNoted(version, lineage, verdict, reason[:_LONGEST], _now()))

    def note_contributions(
        self, version: int, values: Mapping[str, tuple[float, float, int]]
    ) -> None:
        """Record what each site brings: (value, error, versions) by site."""
        if values:
            shown = tuple(SiteValue(site, *numbers) for site, numbers in sorted(values.items()))
            self.append(ContributionsNoted(version, shown))

    def note_head(self, head: Head, envelope: bytes) -> None:
        """Record a head that was signed over `tree` as it is before this entry."""
        self.append(HeadNoted(head.recovery, head.sequence, sha256(envelope)))


def _now() -> int:
    return max(int(time.time()), 0)
