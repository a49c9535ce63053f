"""The durable ring of rows that a site trains on; it never leaves the site.

One SQLite file (WAL).  Rows hold the raw values of every configured channel, the label's too, so
that a new bundle with other features finds its past; each row knows the names of its values, so a
configuration whose channels were reordered does not mix them up.  `synchronous=NORMAL`: a power cut
may take the last moments, never the file.  A row is kept once, whatever is replayed; the oldest
rows go when the ring is full.

A row is held out of training by a hash of its source timestamp, so the split survives restarts and
does not depend on order.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.signals.rows import Row
from wire.database import open_database, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS layouts (
  layout INTEGER PRIMARY KEY,
  channels TEXT NOT NULL UNIQUE  -- JSON array of names, in the order of a row's values
) STRICT;
CREATE TABLE IF NOT EXISTS rows (
  source_timestamp_us INTEGER PRIMARY KEY,
  held_out INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts,
  row_values BLOB NOT NULL
) STRICT;
"""
_GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15


def is_held_out(source_timestamp_us: int, share: float) -> bool:
    """Whether the row of this timestamp is held out; the same on every run (Fibonacci hashing)."""
    mixed = (source_timestamp_us * _GOLDEN_RATIO_64) & 0xFFFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    mixed = (mixed * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 11) / (1 << 53) < share


class History:
    """Owner of the ring's file.

    Args:
      path: the file.
      channels: names of the values of a row, in order.
      capacity_rows: the ring's size.
      holdout_share: share of the rows that training never sees.
    """

    def __init__(
        self, path: Path, channels: Sequence[str], capacity_rows: int, holdout_share: float
    ) -> None:
        self._channels = list(channels)
        self._capacity = capacity_rows
        self._share = holdout_share
        self._db = open_database(path, _SCHEMA, durable=False)
        named = json.dumps(self._channels)
        with transaction(self._db):
            self._db.execute("INSERT OR IGNORE INTO layouts (channels) VALUES (?)", (named,))
        found = self._db.execute("SELECT layout FROM layouts WHERE channels = ?", (named,))
        self._layout = int(found.fetchone()[0])
        self.count = int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def append(self, rows: Iterable[Row]) -> int:
        """Keep new rows in one transaction; return how many were new."""
        before = self._db.total_changes
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?)",
                (
                    (
                        row.source_timestamp_us,
                        is_held_out(row.source_timestamp_us, self._share),
                        self._layout,
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

        Rows of an older configuration that lacked one of today's channels are left out.
        """
        columns = self._readable_layouts()
        found = self._db.execute(
            "SELECT layout, row_values FROM rows WHERE held_out = ? ORDER BY source_timestamp_us",
            (held_out,),
        )
        readable = [(layout, blob) for layout, blob in found if layout in columns]
        of_row = np.array([layout for layout, _ in readable], np.int64)
        values = np.empty((len(readable), len(self._channels)))
        for layout, order in columns.items():
            blobs = [blob for at, blob in readable if at == layout]
            if blobs:
                rows = np.frombuffer(b"".join(blobs), "<f8").reshape(len(blobs), -1)
                values[of_row == layout] = rows[:, order]
        return values

    def training_rows(self) -> int:
        """How many rows `read(held_out=False)` would give."""
        layouts = list(self._readable_layouts())
        marks = ",".join("?" * len(layouts))
        found = self._db.execute(
            f"SELECT count(*) FROM rows WHERE held_out = 0 AND layout IN ({marks})",  # noqa: S608
            layouts,
        )
        return int(found.fetchone()[0])

    def _readable_layouts(self) -> dict[int, list[int]]:
        """Where each layout that has all of today's channels keeps them."""
        columns: dict[int, list[int]] = {}
        for layout, text in self._db.execute("SELECT layout, channels FROM layouts"):
            names: list[str] = json.loads(text)
            if set(self._channels) <= set(names):
                columns[layout] = [names.index(name) for name in self._channels]
        return columns

    def close(self) -> None:
        """Close the file."""
        self._db.close()
