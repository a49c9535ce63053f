"""The durable ring of rows that a site trains on; it never leaves the site.

One SQLite file (WAL).  Rows hold the raw values of every configured channel, the label's too, so
that a new bundle with other features finds its past; each row knows the names of its values, so a
configuration whose channels were reordered does not mix them up.  `synchronous=NORMAL`: a power cut
may take the last moments, never the file.  A row is kept once, whatever is replayed; the oldest
rows go when the ring is full.  On a bad disk (`agent/storage.py`) rows are not kept and none are
read, and of a damaged file the readable ones are taken over.

A row is held out of training by a hash of its source timestamp, so the split survives restarts and
does not depend on order.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.signals.rows import Row
from agent.storage import DurableFile, readable_rows
from wire.database import DiskError, set_aside_files, transaction

logger = logging.getLogger(__name__)

_TABLES = (
    """CREATE TABLE IF NOT EXISTS layouts (
  layout INTEGER PRIMARY KEY,
  channels TEXT NOT NULL UNIQUE  -- JSON array of names, in the order of a row's values
) STRICT""",
    """CREATE TABLE IF NOT EXISTS rows (
  source_timestamp_us INTEGER PRIMARY KEY,
  held_out INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts,
  row_values BLOB NOT NULL
) STRICT""",
)
_SALVAGED_AT_ONCE = 1000
_GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15


def is_held_out(source_timestamp_us: int, share: float) -> bool:
    """Whether the row of this timestamp is held out; the same on every run (Fibonacci hashing)."""
    mixed = (source_timestamp_us * _GOLDEN_RATIO_64) & 0xFFFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    mixed = (mixed * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 11) / (1 << 53) < share


@dataclass(frozen=True)
class _Layout:
    """How many values a row has, and where today's channels are among them."""

    width: int
    order: tuple[int, ...]


class History:
    """Owner of the ring's file.

    Args:
      path: the file.
      channels: names of the values of a row, in order.
      capacity_rows: the ring's size.
      holdout_share: share of the rows that training never sees.

    Raises:
      DiskError: there is no file to read and none can be made.
    """

    def __init__(
        self, path: Path, channels: Sequence[str], capacity_rows: int, holdout_share: float
    ) -> None:
        self._path = path
        self._channels = list(channels)
        self._capacity = capacity_rows
        self._share = holdout_share
        self._layout = 0
        self.count = 0
        self._file = DurableFile(path, self._prepare, durable=False)

    @property
    def problem(self) -> str:
        """What is wrong with the disk now; empty when nothing is."""
        return self._file.problem

    @property
    def set_aside(self) -> list[Path]:
        """Damaged files that were kept beside this one."""
        return self._file.set_aside

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Make what is missing; a file that has everything is only looked at."""
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'rows'").fetchone():
            with transaction(database):
                for statement in _TABLES:
                    database.execute(statement)
            for file in set_aside_files(self._path)[-1:]:
                _salvage(database, file)
        named = json.dumps(self._channels)
        query = "SELECT layout FROM layouts WHERE channels = ?"
        found = database.execute(query, (named,)).fetchone()
        if found is None:
            with transaction(database):
                database.execute("INSERT OR IGNORE INTO layouts (channels) VALUES (?)", (named,))
            found = database.execute(query, (named,)).fetchone()
        self._layout = int(found[0])
        self.count = int(database.execute("SELECT count(*) FROM rows").fetchone()[0])

    def append(self, rows: Iterable[Row]) -> int:
        """Keep new rows in one transaction; return how many were new.

        Raises:
          DiskError: none was kept.
        """
        new = list(rows)

        def insert(database: sqlite3.Connection) -> tuple[int, int]:
            before = database.total_changes
            database.executemany(
                "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?)",
                (
                    (
                        row.source_timestamp_us,
                        is_held_out(row.source_timestamp_us, self._share),
                        self._layout,
                        np.asarray(row.values, "<f8").tobytes(),
                    )
                    for row in new
                ),
            )
            added = database.total_changes - before
            excess = max(0, self.count + added - self._capacity)
            if excess:
                _forget_oldest(database, excess)
            return added, self.count + added - excess

        added, self.count = self._file.write(insert)
        return added

    def read(self, *, held_out: bool) -> NDArray[np.float64]:
        """Read the training rows or the held-out rows: float64, shape (N, C), oldest first.

        Rows of an older configuration that lacked one of today's channels are left out, and so are
        all while the disk can not be read.
        """

        def find(database: sqlite3.Connection) -> NDArray[np.float64]:
            layouts = self._readable_layouts(database)
            found = database.execute(
                "SELECT layout, row_values FROM rows WHERE held_out = ?"
                " ORDER BY source_timestamp_us",
                (held_out,),
            )
            readable = [
                (layout, blob)
                for layout, blob in found
                if layout in layouts and len(blob) == 8 * layouts[layout].width
            ]
            of_row = np.array([layout for layout, _ in readable], np.int64)
            values = np.empty((len(readable), len(self._channels)))
            for layout, kept in layouts.items():
                blobs = [blob for at, blob in readable if at == layout]
                if blobs:
                    rows = np.frombuffer(b"".join(blobs), "<f8").reshape(len(blobs), kept.width)
                    values[of_row == layout] = rows[:, list(kept.order)]
            return values

        return self._file.read(find, np.empty((0, len(self._channels))))

    def training_rows(self) -> int:
        """How many rows `read(held_out=False)` would give."""

        def count(database: sqlite3.Connection) -> int:
            layouts = list(self._readable_layouts(database))
            marks = ",".join("?" * len(layouts))
            found = database.execute(
                f"SELECT count(*) FROM rows WHERE held_out = 0 AND layout IN ({marks})",  # noqa: S608
                layouts,
            )
            return int(found.fetchone()[0])

        return self._file.read(count, 0)

    def _readable_layouts(self, database: sqlite3.Connection) -> dict[int, _Layout]:
        """The layouts that have all of today's channels."""
        layouts: dict[int, _Layout] = {}
        for layout, text in database.execute("SELECT layout, channels FROM layouts"):
            names: list[str] = json.loads(text)
            if set(self._channels) <= set(names):
                order = tuple(names.index(name) for name in self._channels)
                layouts[layout] = _Layout(len(names), order)
        return layouts

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _forget_oldest(database: sqlite3.Connection, number: int) -> None:
    database.execute(
        "DELETE FROM rows WHERE source_timestamp_us IN"
        " (SELECT source_timestamp_us FROM rows ORDER BY source_timestamp_us LIMIT ?)",
        (number,),
    )


def _salvage(database: sqlite3.Connection, damaged: Path) -> None:
    """Take over the rows of a damaged file that can still be read; a full disk ends it."""
    widths: dict[int, int] = {}
    taken = 0
    try:
        with transaction(database):
            for layout, text in readable_rows(damaged, "layouts", "layout", "layout, channels"):
                names = _names(text)
                if names:
                    widths[layout] = len(names)
                    database.execute("INSERT OR IGNORE INTO layouts VALUES (?, ?)", (layout, text))
        rows = _salvageable(damaged, widths)
        while some := list(islice(rows, _SALVAGED_AT_ONCE)):
            with transaction(database):
                database.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?)", some)
            taken += len(some)
    except DiskError as error:
        logger.warning("not all rows of %s were salvaged: %s", damaged, error)
    logger.warning("%d rows were salvaged from %s", taken, damaged)


def _salvageable(damaged: Path, widths: dict[int, int]) -> Iterator[tuple[int, int, int, bytes]]:
    columns = "source_timestamp_us, held_out, layout, row_values"
    for at_us, held_out, layout, values in readable_rows(
        damaged, "rows", "source_timestamp_us", columns
    ):
        is_whole = isinstance(values, bytes) and len(values) == 8 * widths.get(layout, 0)
        if is_whole and isinstance(at_us, int) and held_out in (0, 1):
            yield at_us, held_out, layout, values


def _names(text: object) -> list[str]:
    """The channels that a layout of a damaged file names; none if that is damaged."""
    try:
        names = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return []
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else []
