"""The outbox: every client update from the moment it is made until its outcome is known.

Durable (SQLite WAL, synchronous=FULL).  It holds the final bytes of header and content, which are
never encoded again.  An update leaves only by a terminal receipt of the coordinator; a PUBACK
changes nothing here.  What remains of a settled update is one small row: the site's own account.

Identity: (incarnation, sequence).  The incarnation is random, made with the file; a wiped disk
therefore never reuses an id.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wire.database import open_database, transaction
from wire.messages import TERMINAL, Receipt

_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation TEXT NOT NULL,
  session INTEGER NOT NULL,
  receipt_counter INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS updates (
  sequence INTEGER PRIMARY KEY,
  lineage INTEGER NOT NULL,
  base_version INTEGER NOT NULL,
  status TEXT NOT NULL,          -- pending, committed, or the terminal outcome
  reason TEXT NOT NULL DEFAULT '',
  version INTEGER,               -- the version it was folded into
  made_at REAL NOT NULL,         -- wall clock, display only
  settled_at REAL,
  bytes INTEGER NOT NULL,
  header BLOB,
  content BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS open_updates ON updates (sequence) WHERE header IS NOT NULL;
"""


@dataclass(frozen=True)
class Offer:
    """What goes on the wire for one update; `content` is None for a tombstone."""

    sequence: int
    header: bytes
    content: bytes | None


@dataclass(frozen=True)
class Entry:
    """One update in the site's own account; times are wall clock, for display."""

    sequence: int
    status: str
    base_version: int
    version: int
    made_at: float
    settled_at: float | None


class Outbox:
    """Owner of the outbox's file."""

    def __init__(self, path: Path | str, quota_bytes: int) -> None:
        self._db = open_database(path, _SCHEMA, durable=True)
        self._quota_bytes = quota_bytes
        with transaction(self._db):
            self._db.execute(
                "INSERT OR IGNORE INTO identity VALUES (1, ?, 0, -1)", (os.urandom(8).hex(),)
            )
        row = self._db.execute("SELECT incarnation FROM identity").fetchone()
        self.incarnation: str = row[0]

    def next_session(self) -> int:
        """Return a session number above all earlier ones; durable before it is returned."""
        with transaction(self._db):
            self._db.execute("UPDATE identity SET session = session + 1")
        return int(self._db.execute("SELECT session FROM identity").fetchone()[0])

    @property
    def receipt_counter(self) -> int:
        """Highest counter accepted from the coordinator's inbox messages."""
        return int(self._db.execute("SELECT receipt_counter FROM identity").fetchone()[0])

    def add(
        self, lineage: int, base_version: int, build: Callable[[int], tuple[bytes, bytes]]
    ) -> int:
        """Make the next update durable and return its sequence.

        Args:
          lineage: the head's lineage.
          base_version: the version it was trained from.
          build: gets the sequence, returns the signed header and the content.
        """
        with transaction(self._db):
            sequence = self.produced + 1
            header, content = build(sequence)
            self._db.execute(
                "INSERT INTO updates (sequence, lineage, base_version, status, made_at, bytes,"
                " header, content) VALUES (?, ?, ?, 'pending', ?, ?, ?, ?)",
                (
                    sequence,
                    lineage,
                    base_version,
                    time.time(),
                    len(header) + len(content),
                    header,
                    content,
                ),
            )
        return sequence

    def over_quota(self) -> list[tuple[int, bytes]]:
        """Oldest uncommitted updates that must go to meet the quota: (sequence, header)."""
        rows = self._db.execute(
            "SELECT sequence, header, bytes FROM updates"
            " WHERE status = 'pending' AND content IS NOT NULL ORDER BY sequence"
        ).fetchall()
        excess = sum(size for *_, size in rows) - self._quota_bytes
        victims: list[tuple[int, bytes]] = []
        for sequence, header, size in rows:
            if excess <= 0:
                break
            victims.append((sequence, header))
            excess -= size
        return victims

    def bury(self, sequence: int, tombstone: bytes) -> None:
        """Replace a pending update by its tombstone header; its sequence stays accounted for."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE updates SET header = ?, content = NULL, bytes = ?"
                " WHERE sequence = ? AND status = 'pending'",
                (tombstone, len(tombstone), sequence),
            )

    def settle(self, receipts: tuple[Receipt, ...], counter: int) -> list[int]:
        """Apply committed and terminal receipts; return the sequences that became terminal.

        Receipts of another incarnation or of settled updates change nothing.
        """
        settled: list[int] = []
        with transaction(self._db):
            for receipt in receipts:
                if receipt.incarnation != self.incarnation:
                    continue
                if receipt.status == "committed":
                    self._db.execute(
                        "UPDATE updates SET status = 'committed' WHERE sequence = ?"
                        " AND status = 'pending'",
                        (receipt.sequence,),
                    )
                elif receipt.status in TERMINAL and self._settle(receipt):
                    settled.append(receipt.sequence)
            self._db.execute("UPDATE identity SET receipt_counter = ?", (counter,))
        return settled

    def _settle(self, receipt: Receipt) -> bool:
        changed = self._db.execute(
            "UPDATE updates SET status = ?, reason = ?, version = ?, settled_at = ?,"
            " header = NULL, content = NULL WHERE sequence = ?"
            " AND status IN ('pending', 'committed')",
            (receipt.status, receipt.reason, receipt.version, time.time(), receipt.sequence),
        )
        return changed.rowcount == 1

    def open_sequences(self) -> list[int]:
        """Sequences without a terminal outcome, oldest first."""
        rows = self._db.execute(
            "SELECT sequence FROM updates WHERE header IS NOT NULL ORDER BY sequence"
        )
        return [sequence for (sequence,) in rows]

    def offer(self, sequence: int) -> Offer | None:
        """The bytes of an open update, or None when it is settled."""
        row: tuple[bytes, bytes | None] | None = self._db.execute(
            "SELECT header, content FROM updates WHERE sequence = ? AND header IS NOT NULL",
            (sequence,),
        ).fetchone()
        return Offer(sequence, row[0], row[1]) if row else None

    def made_from(self, lineage: int, base_version: int) -> int:
        """How many updates were made from this base version."""
        row = self._db.execute(
            "SELECT count(*) FROM updates WHERE lineage = ? AND base_version = ?",
            (lineage, base_version),
        ).fetchone()
        return int(row[0])

    @property
    def produced(self) -> int:
        """Number of updates ever made, which is also the highest sequence."""
        return int(self._db.execute("SELECT max(sequence) FROM updates").fetchone()[0] or 0)

    def counts(self) -> dict[str, int]:
        """Updates per status: pending, committed, folded, refused, void, dropped."""
        rows = self._db.execute("SELECT status, count(*) FROM updates GROUP BY status")
        return {str(status): int(number) for status, number in rows}

    def account(self) -> list[Entry]:
        """Every update ever made, in order."""
        rows = self._db.execute(
            "SELECT sequence, status, base_version, coalesce(version, 0), made_at, settled_at"
            " FROM updates ORDER BY sequence"
        )
        return [Entry(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
