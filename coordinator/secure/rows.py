"""Masked reports on their way into a sum: tables of the coordinator's file.

    sealed           each report that waits, as the agent signed and masked it; gone once it has its
                     outcome
    verdicts         what each helper said of it
    manifests        sums that were decided on; final from the moment they are stored
    endorsements     the helpers' words about them, as they signed them
    agent_envelopes  the agents' credentials, which helpers want to see

Every method that writes does so inside the caller's transaction.  Contents are read one at a time:
memory does not grow with what waits.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from wire.codec import open_envelope, parse_body
from wire.messages import HELPERS, Manifest, Purpose

SECURE_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealed (
  report BLOB PRIMARY KEY,        -- SHA-256 of the header's envelope
  purpose TEXT NOT NULL, subject BLOB NOT NULL,
  agent TEXT NOT NULL, site TEXT NOT NULL,
  incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,   -- empty, 0: figures
  weight INTEGER NOT NULL, base_version INTEGER NOT NULL, base_digest BLOB NOT NULL,
  lineage INTEGER NOT NULL, count INTEGER NOT NULL, ring INTEGER NOT NULL,
  scale REAL NOT NULL, bits INTEGER NOT NULL,
  place INTEGER NOT NULL,         -- order of arrival
  manifest BLOB,                  -- the one that it is in
  header BLOB NOT NULL,
  content BLOB NOT NULL           -- last: what stands behind it is found by reading all of it
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS sealed_places ON sealed (place);
CREATE INDEX IF NOT EXISTS sealed_free ON sealed (purpose, subject) WHERE manifest IS NULL;
CREATE TABLE IF NOT EXISTS verdicts (
  report BLOB NOT NULL, helper TEXT NOT NULL, accepted INTEGER NOT NULL, number INTEGER NOT NULL,
  reason TEXT NOT NULL, PRIMARY KEY (report, helper)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifests (
  digest BLOB PRIMARY KEY, number INTEGER NOT NULL, purpose TEXT NOT NULL, envelope BLOB NOT NULL,
  status TEXT NOT NULL            -- waiting, opened, void
) STRICT;
CREATE TABLE IF NOT EXISTS endorsements (
  manifest BLOB NOT NULL, helper TEXT NOT NULL, accepted INTEGER NOT NULL, envelope BLOB NOT NULL,
  PRIMARY KEY (manifest, helper)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS agent_envelopes (
  agent TEXT PRIMARY KEY, credential BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS figures_taken (
  agent TEXT NOT NULL, purpose TEXT NOT NULL, subject BLOB NOT NULL,
  PRIMARY KEY (agent, purpose, subject)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = (
    "report, purpose, subject, agent, site, incarnation, sequence, weight, base_version,"
    " base_digest, lineage, count, ring, scale, bits"
)


@dataclass(frozen=True)
class Sealed:
    """One masked report that waits, without its bytes.

    Attributes:
      report: SHA-256 of its header's envelope.
      incarnation, sequence: of an update; empty and 0 for figures.
    """

    report: bytes
    purpose: Purpose
    subject: bytes
    agent: str
    site: str
    incarnation: str
    sequence: int
    weight: int
    base_version: int
    base_digest: bytes
    lineage: int
    count: int
    ring: int
    scale: float
    bits: int

    @property
    def kind(self) -> tuple[object, ...]:
        """What reports of one sum have in common."""
        return (
            self.purpose,
            self.subject,
            self.lineage,
            self.count,
            self.ring,
            self.scale,
            self.bits,
        )


@dataclass(frozen=True)
class Opinion:
    """A helper's verdict.

    Attributes:
      helper: its signing key, hexadecimal: a helper with new keys is another one.
      number: of the box that it opened.
    """

    helper: str
    accepted: bool
    number: int
    reason: str


class SecureRows:
    """Owner of the tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    # Reports

    def add(self, sealed: Sealed, header: bytes, content: bytes) -> None:
        """Keep a report that is new."""
        self._db.execute(
            f"INSERT INTO sealed ({_COLUMNS}, header, content, place, manifest) VALUES"  # noqa: S608
            " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
            " (SELECT coalesce(max(place), 0) + 1 FROM sealed), NULL)",
            (*_row_of(sealed), header, content),
        )

    def take_figures(self, agent: str, purpose: str, subject: bytes) -> bool:
        """Note that an agent's figures about a subject are here; whether they are the first."""
        changed = self._db.execute(
            "INSERT OR IGNORE INTO figures_taken VALUES (?, ?, ?)", (agent, purpose, subject)
        ).rowcount
        return changed == 1

    def free(self, purpose: Purpose) -> list[Sealed]:
        """Reports that are in no manifest, in order of arrival."""
        return self._read("purpose = ? AND manifest IS NULL", (purpose,))

    def members(self, manifest: bytes) -> list[Sealed]:
        """Reports of a manifest, in order of arrival."""
        return self._read("manifest = ?", (manifest,))

    def waiting(self, purpose: Purpose) -> int:
        """Number of reports without an outcome."""
        found = self._db.execute("SELECT count(*) FROM sealed WHERE purpose = ?", (purpose,))
        return int(found.fetchone()[0])

    def envelope(self, report: bytes) -> tuple[bytes, bytes] | None:
        """A report's header envelope, and its agent's credential; None when one is not here."""
        row = self._db.execute(
            "SELECT header, credential FROM sealed JOIN agent_envelopes USING (agent)"
            " WHERE report = ?",
            (report,),
        ).fetchone()
        return (bytes(row[0]), bytes(row[1])) if row else None

    def contents(self, reports: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """(report, masked vector), one at a time."""
        for report in reports:
            row = self._db.execute(
                "SELECT content FROM sealed WHERE report = ?", (report,)
            ).fetchone()
            if row is not None:
                yield report, bytes(row[0])

    def forget(self, reports: list[bytes]) -> None:
        """Drop reports that have their outcome."""
        for table in ("sealed", "verdicts"):
            self._db.executemany(
                f"DELETE FROM {table} WHERE report = ?",  # noqa: S608
                [(report,) for report in reports],
            )

    def forget_updates(self) -> None:
        """Drop all updates: their lineage was abandoned."""
        self.forget([each.report for each in self._read("purpose = 'update'", ())])
        self._db.execute(
            "UPDATE manifests SET status = 'void' WHERE status = 'waiting' AND purpose = 'update'"
        )

    def set_free(self, manifest: bytes) -> None:
        """Take the reports of a manifest out of it again; nobody endorsed it twice."""
        self._db.execute("UPDATE sealed SET manifest = NULL WHERE manifest = ?", (manifest,))

    def keep_credential(self, agent: str, credential: bytes) -> None:
        """Remember the envelope of an agent's newest credential."""
        self._db.execute(
            "INSERT OR REPLACE INTO agent_envelopes VALUES (?, ?)", (agent, credential)
        )

    # Verdicts

    def judge(self, report: bytes, opinion: Opinion) -> None:
        """Note what a helper says; about a report that is not here nothing is kept."""
        self._db.execute(
            "INSERT OR REPLACE INTO verdicts SELECT report, ?, ?, ?, ? FROM sealed"
            " WHERE report = ?",
            (opinion.helper, opinion.accepted, opinion.number, opinion.reason, report),
        )

    def opinions(self, purpose: Purpose) -> dict[bytes, list[Opinion]]:
        """What helpers said of reports that wait."""
        found: dict[bytes, list[Opinion]] = {}
        rows = self._db.execute(
            "SELECT report, helper, accepted, verdicts.number, reason FROM verdicts"
            " JOIN sealed USING (report) WHERE purpose = ? ORDER BY helper",
            (purpose,),
        )
        for report, helper, accepted, number, reason in rows:
            opinion = Opinion(helper, bool(accepted), number, reason)
            found.setdefault(bytes(report), []).append(opinion)
        return found

    def unseen(self, helper: str, most: int) -> list[Sealed]:
        """Reports that this helper has said nothing of, in order of arrival."""
        where = (
            "NOT EXISTS (SELECT 1 FROM verdicts WHERE verdicts.report = sealed.report"
            " AND helper = ?)"
        )
        return self._read(where, (helper,), most)

    # Manifests

    def next_number(self) -> int:
        """Of the next manifest."""
        row = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM manifests").fetchone()
        return int(row[0])

    def decide(
        self, digest: bytes, number: int, purpose: Purpose, envelope: bytes, members: list[bytes]
    ) -> None:
        """Keep a manifest, and take its members out of what is free."""
        self._db.execute(
            "INSERT INTO manifests VALUES (?, ?, ?, ?, 'waiting')",
            (digest, number, purpose, envelope),
        )
        self._db.executemany(
            "UPDATE sealed SET manifest = ? WHERE report = ?",
            [(digest, report) for report in members],
        )

    def undecided(self) -> list[tuple[bytes, bytes]]:
        """(digest, envelope) of manifests that are not opened yet, the oldest first."""
        rows = self._db.execute(
            "SELECT digest, envelope FROM manifests WHERE status = 'waiting' ORDER BY number"
        )
        return [(bytes(digest), bytes(envelope)) for digest, envelope in rows]

    def undecided_of(self, purpose: Purpose) -> list[bytes]:
        """Digests of manifests of one kind that are not opened yet."""
        rows = self._db.execute(
            "SELECT digest FROM manifests WHERE status = 'waiting' AND purpose = ?", (purpose,)
        )
        return [bytes(digest) for (digest,) in rows]

    def give_up_outdated(self, epoch: int, needed: int) -> int:
        """Free the reports of manifests that nobody will endorse any more; returns how many.

        Args:
          epoch: of the charter; helpers endorse no manifest of another one.
          needed: endorsements with which a manifest opens whatever its epoch.
        """
        given_up = 0
        for digest, envelope in self.undecided():
            manifest = parse_body(open_envelope(envelope, "manifest"), Manifest)
            endorsed = sum(accepted for accepted, _ in self.endorsements(digest).values())
            if manifest.epoch != epoch and endorsed < needed:
                self.close(digest, "void")
                self.set_free(digest)
                given_up += 1
        return given_up

    def close(self, manifest: bytes, status: str) -> None:
        """A manifest was opened, or is void."""
        self._db.execute("UPDATE manifests SET status = ? WHERE digest = ?", (status, manifest))

    def endorse(self, manifest: bytes, helper: str, envelope: bytes, *, accepted: bool) -> None:
        """Keep a helper's word about a manifest that is here; a later one replaces it."""
        self._db.execute(
            "INSERT OR REPLACE INTO endorsements SELECT digest, ?, ?, ? FROM manifests"
            " WHERE digest = ?",
            (helper, accepted, envelope, manifest),
        )

    def endorsements(self, manifest: bytes) -> dict[str, tuple[bool, bytes]]:
        """(accepted, envelope) by helper."""
        rows = self._db.execute(
            "SELECT helper, accepted, envelope FROM endorsements WHERE manifest = ?"
            " ORDER BY helper",
            (manifest,),
        )
        return {str(helper): (bool(yes), bytes(envelope)) for helper, yes, envelope in rows}

    def _read(self, where: str, values: tuple[object, ...], most: int = -1) -> list[Sealed]:
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM sealed WHERE {where} ORDER BY place LIMIT ?",  # noqa: S608
            (*values, most),
        )
        return [_sealed_of(row) for row in rows]


def agreed(opinions: list[Opinion]) -> dict[str, int]:
    """Helpers that accepted a report, and the number of the box that each opened."""
    return {each.helper: each.number for each in opinions if each.accepted}


def is_lost(opinions: list[Opinion], needed: int) -> bool:
    """Whether so many helpers refused a report that too few are left to endorse a sum with it."""
    return sum(not each.accepted for each in opinions) > HELPERS - needed


def _row_of(sealed: Sealed) -> tuple[object, ...]:
    return tuple(getattr(sealed, name.strip()) for name in _COLUMNS.split(","))


def _sealed_of(row: tuple[object, ...]) -> Sealed:
    names = (name.strip() for name in _COLUMNS.split(","))
    return Sealed(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]  # STRICT table
