"""What a recipient must never forget: which sum each update was promised to.

One SQLite file.  A promise is one transaction with fsync, committed before anything is decrypted,
so that a recipient that is killed at any moment decrypts the same sums and no others.

Invariant: an update (by its header's digest, and by its id) is in one manifest, for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.revocations import REVOCATION_SCHEMA, Revocations
from wire.database import open_database, transaction

DATABASE = "recipient.db"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  store TEXT NOT NULL,            -- random
  session INTEGER NOT NULL        -- of the last connection
) STRICT;
INSERT OR IGNORE INTO identity VALUES (1, lower(hex(randomblob(8))), 0);
CREATE TABLE IF NOT EXISTS reports (
  report BLOB PRIMARY KEY,        -- SHA-256 of the signed header
  agent TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,
  manifest BLOB NOT NULL,         -- whose sum it was promised to
  UNIQUE (agent, incarnation, sequence)
) STRICT;
CREATE TABLE IF NOT EXISTS manifests (
  manifest BLOB PRIMARY KEY,      -- SHA-256 of the envelope
  number INTEGER NOT NULL UNIQUE, -- of this recipient's promises
  envelope BLOB NOT NULL,
  decrypted INTEGER NOT NULL      -- whether an answer was given
) STRICT;
"""


@dataclass(frozen=True)
class Promise:
    """One member of a sum.

    Attributes:
      report: SHA-256 of its header's envelope.
      agent, incarnation, sequence: its id.
    """

    report: bytes
    agent: str
    incarnation: str
    sequence: int


class RecipientStore:
    """Owner of the file; `:memory:` for one that dies with the process."""

    def __init__(self, path: Path | str) -> None:
        self._database = open_database(path, _SCHEMA + REVOCATION_SCHEMA, durable=True)
        self.revocations = Revocations(self._database)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def name(self) -> str:
        """Of the store; random."""
        return str(self._database.execute("SELECT store FROM identity").fetchone()[0])

    @property
    def promised(self) -> int:
        """Manifests so far."""
        return int(self._database.execute("SELECT count(*) FROM manifests").fetchone()[0])

    def next_session(self) -> int:
        """Number of this connection, above all before."""
        with transaction(self._database):
            self._database.execute("UPDATE identity SET session = session + 1")
        return int(self._database.execute("SELECT session FROM identity").fetchone()[0])

    def manifest(self, digest: bytes) -> tuple[int, bytes] | None:
        """Number and envelope of a manifest that members were promised to."""
        row = self._database.execute(
            "SELECT number, envelope FROM manifests WHERE manifest = ?", (digest,)
        ).fetchone()
        return (int(row[0]), bytes(row[1])) if row else None

    def taken(self, members: Sequence[Promise]) -> list[bytes]:
        """Digests of the members that are in a manifest already, under this header or another."""
        found = []
        for each in members:
            row = self._database.execute(
                "SELECT 1 FROM reports WHERE report = ?"
                " OR (agent, incarnation, sequence) = (?, ?, ?)",
                (each.report, each.agent, each.incarnation, each.sequence),
            ).fetchone()
            if row is not None:
                found.append(each.report)
        return found

    def promise(self, digest: bytes, envelope: bytes, members: Sequence[Promise]) -> int:
        """Promise members, none of which is taken, to a manifest for ever; returns its number."""
        with transaction(self._database):
            number = self.promised + 1
            self._database.execute(
                "INSERT INTO manifests VALUES (?, ?, ?, 0)", (digest, number, envelope)
            )
            self._database.executemany(
                "INSERT INTO reports VALUES (?, ?, ?, ?, ?)",
                [
                    (each.report, each.agent, each.incarnation, each.sequence, digest)
                    for each in members
                ],
            )
        return number

    def note_decrypted(self, digest: bytes) -> None:
        """Note that a manifest's sum was told."""
        with transaction(self._database):
            self._database.execute(
                "UPDATE manifests SET decrypted = 1 WHERE manifest = ?", (digest,)
            )
