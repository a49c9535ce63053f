"""The durable ring of rows that a site trains on; it never leaves the site.

One SQLite file (WAL).  Rows hold the raw values of every configured channel, the label's too, so
that a new bundle with other features finds its past.  `synchronous=NORMAL`: a power cut may take the last moments, never the file.  A row
is kept once, whatever is replayed; the oldest rows go when the ring is full.

A row is held out of training by a hash of its source timestamp, so the split survives restarts and
does not depend on order.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.signals.rows import Row
from wire.database import open_database, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
  source_timestamp_us INTEGER PRIMARY KEY,
  held_out INTEGER NOT NULL,
  row_values BLOB NOT NULL
) STRICT
"""
_GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15


def is_held_out(source_timestamp_us: int, share: float) -> bool:
    """Whether the row of this timestamp is held out; the same on every run (Fibonacci hashing)."""
    mixed = (source_timestamp_us * _GOLDEN_RATIO_64) & 0xFFFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    mixed = (mixed * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 11) / (1 << 53) < share


class History:
    """Owner of the ring's file."""

    def __init__(self, path: Path, channels: int, capacity_rows: int, holdout_share: float) -> None:
        self._channels = channels
        self._capacity = capacity_rows
        self._share = holdout_share
        self._db = open_database(path, _SCHEMA, durable=False)
        self.count = int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def append(self, rows: Iterable[Row]) -> int:
        """Keep new rows in one transaction; return how many were new."""
        before = self._db.total_changes
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO rows VALUES (?, ?, ?)",
                (
                    (
                        row.source_timestamp_us,
                        is_held_out(row.source_timestamp_us, self._share),
                        np.asarray(row.values, "<f8").tobytes(),
                    )
                    for row in rows
                ),
            )
            added = self._db.total_changes - before
            self.count += added
            if self.count > self._capacity:
                self._forget(self.count - self._capacity)
        return added

    def _forget(self, number: int) -> None:
        self._db.execute(
            "DELETE FROM rows WHERE source_timestamp_us IN"
            " (SELECT source_timestamp_us FROM rows ORDER BY source_timestamp_us LIMIT ?)",
            (number,),
        )
        self.count -= number

    def read(self, *, held_out: bool) -> NDArray[np.float64]:
        """Read the training rows or the held-out rows: float64, shape (N, C), oldest first.

        Rows of another number of channels (an older configuration) are left out.
        """
        found = self._db.execute(
            "SELECT row_values FROM rows WHERE held_out = ? AND length(row_values) = ?"
            " ORDER BY source_timestamp_us",
            (held_out, 8 * self._channels),
        ).fetchall()
        values = np.frombuffer(b"".join(blob for (blob,) in found), "<f8")
        return values.reshape(len(found), self._channels)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
