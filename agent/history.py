"""The durable ring of rows that a site trains on; it never leaves the site.

One SQLite file (WAL).  Rows hold the raw values of every configured channel, the label's too, so
that a new bundle with other features finds its past; each row knows the names of its values, so a
configuration whose channels were reordered does not mix them up.  Labels that came later are
joined when rows are read.  `synchronous=NORMAL`: a power cut
may take the last moments, never the file.  A row is kept once, whatever is replayed; the oldest
rows go when the ring is full.  On a bad disk (`agent/storage.py`) rows are not kept and none are
read, and of a damaged file the readable ones are taken over.

A row is held out of training by a hash of its source timestamp, so the split survives restarts and
does not depend on order.  For models that learn from windows of rows, whole stretches of time are
held out by the same hash, so that no window holds rows of both sides.
"""

import json
import logging
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from agent.signals.rows import Rows, joined, no_rows
from agent.storage import DurableFile, readable_rows
from wire.database import DiskError, set_aside_files, transaction

logger = logging.getLogger(__name__)

_TABLES = (
    """CREATE TABLE IF NOT EXISTS layouts (
  layout INTEGER PRIMARY KEY,
  channels TEXT NOT NULL UNIQUE  -- JSON array in the order of a row's values: a number's name, or
                                 -- [name, shape] of an array
) STRICT""",
    """CREATE TABLE IF NOT EXISTS rows (
  source_timestamp_us INTEGER PRIMARY KEY,
  held_out INTEGER NOT NULL,
  layout INTEGER NOT NULL REFERENCES layouts,
  row_values BLOB NOT NULL,               -- float64 of every channel, then float32 of every array
  follows INTEGER NOT NULL DEFAULT 0,     -- nothing is missing between the row before and this one
  in_held_out_stretch INTEGER NOT NULL DEFAULT 0
) STRICT""",
)
_COLUMNS = "source_timestamp_us, held_out, layout, row_values, follows, in_held_out_stretch"
_LATER_COLUMNS = ("follows", "in_held_out_stretch")
"""Columns that a file of an older version lacks."""
_SALVAGED_AT_ONCE = 1000
_READ_AT_ONCE = 1000
_GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15


def is_held_out(source_timestamp_us: int, share: float) -> bool:
    """Whether the row of this timestamp is held out; the same on every run (Fibonacci hashing)."""
    mixed = (source_timestamp_us * _GOLDEN_RATIO_64) & 0xFFFFFFFFFFFFFFFF
    mixed ^= mixed >> 29
    mixed = (mixed * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 11) / (1 << 53) < share


Relabel = Callable[[Rows], None]
"""Writes labels that came later than their rows into the values of these."""


def _no_later_labels(_rows: Rows) -> None:
    pass


Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Layout:
    """How the values of a row lie in its blob: names of numbers, names and shapes of arrays."""

    channels: tuple[tuple[str, Shape], ...]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.channels]

    @property
    def record(self) -> np.dtype[np.void]:
        """Of one row: `numbers`, and an array each, named by its position."""
        arrays = [(f"{at}", "<f4", shape) for at, (_, shape) in enumerate(self.channels) if shape]
        return np.dtype([("numbers", "<f8", (len(self.channels),)), *arrays])

    @property
    def text(self) -> str:
        return json.dumps([[name, shape] if shape else name for name, shape in self.channels])


def _layout(text: object) -> _Layout | None:
    """A layout as the file names it; None if that is damaged."""
    try:
        entries = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if not isinstance(entries, list):
        return None
    channels = []
    for entry in entries:
        name, shape = entry if isinstance(entry, list) and len(entry) == 2 else (entry, [])
        is_shape = isinstance(shape, list) and all(isinstance(size, int) for size in shape)
        if not isinstance(name, str) or not is_shape:
            return None
        channels.append((name, tuple(shape)))
    return _Layout(tuple(channels))


class History:
    """Owner of the ring's file.

    Args:
      path: the file.
      channels: names of the values of a row, in order.
      capacity_rows: the ring's size.
      holdout_share: share of the rows that training never sees.
      shapes: of the channels that hold arrays, by their index.
      capacity_bytes: of all rows' values; a ring of large rows holds fewer of them.
      holdout_stretch_s: for models of windows, how long a stretch is that is held out as a whole.
      relabel: labels that came later.

    Raises:
      DiskError: there is no file to read and none can be made.
    """

    def __init__(
        self,
        path: Path,
        channels: Sequence[str],
        capacity_rows: int,
        holdout_share: float,
        *,
        shapes: Mapping[int, Shape] | None = None,
        capacity_bytes: int = 1 << 40,
        holdout_stretch_s: float = 3600.0,
        relabel: Relabel = _no_later_labels,
    ) -> None:
        self._path = path
        self._shapes = dict(shapes or {})
        self._layout = _Layout(
            tuple((name, self._shapes.get(at, ())) for at, name in enumerate(channels))
        )
        self.resize(capacity_rows, capacity_bytes)
        self._share = holdout_share
        self._stretch_us = max(1, round(holdout_stretch_s * 1e6))
        self._relabel = relabel
        self._layout_number = 0
        self.count = 0
        self._file = DurableFile(path, self._prepare, durable=False)

    def resize(self, capacity_rows: int, capacity_bytes: int) -> None:
        """Keep so many rows from the next append on; see the arguments."""
        self._capacity = max(1, min(capacity_rows, capacity_bytes // self._layout.record.itemsize))

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
                _salvage(database, file, self._in_held_out_stretch)
        _add_later_columns(database)
        query = "SELECT layout FROM layouts WHERE channels = ?"
        named = self._layout.text
        found = database.execute(query, (named,)).fetchone()
        if found is None:
            with transaction(database):
                database.execute("INSERT OR IGNORE INTO layouts (channels) VALUES (?)", (named,))
            found = database.execute(query, (named,)).fetchone()
        self._layout_number = int(found[0])
        self.count = int(database.execute("SELECT count(*) FROM rows").fetchone()[0])

    def append(self, rows: Rows) -> int:
        """Keep new rows in one transaction; return how many were new.

        Raises:
          DiskError: none was kept.
        """
        records = list(self._records(rows))

        def insert(database: sqlite3.Connection) -> tuple[int, int]:
            before = database.total_changes
            database.executemany(
                f"INSERT OR IGNORE INTO rows ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                records,
            )
            added = database.total_changes - before
            excess = max(0, self.count + added - self._capacity)
            if excess:
                _forget_oldest(database, excess)
            return added, self.count + added - excess

        added, self.count = self._file.write(insert)
        return added

    def _records(self, rows: Rows) -> Iterator[tuple[int, bool, int, bytes, bool, bool]]:
        packed = np.zeros(len(rows), self._layout.record)
        packed["numbers"] = rows.values
        for at in self._shapes:
            packed[f"{at}"] = rows.arrays[at]
        for at_us, follows, record in zip(
            rows.source_timestamp_us.tolist(), rows.follows.tolist(), packed, strict=True
        ):
            yield (
                at_us,
                is_held_out(at_us, self._share),
                self._layout_number,
                record.tobytes(),
                follows,
                self._in_held_out_stretch(at_us),
            )

    def _in_held_out_stretch(self, at_us: int) -> bool:
        return is_held_out(at_us // self._stretch_us, self._share)

    def read(self, *, held_out: bool, in_stretches: bool = False) -> Rows:
        """Read the training rows or the held-out rows, oldest first, with their labels.

        Rows of an older configuration that lacked one of today's channels are left out, and so are
        all while the disk can not be read.

        Args:
          held_out: which side.
          in_stretches: divided by stretches of time, for models of windows.
        """
        side = "in_held_out_stretch" if in_stretches else "held_out"

        def find(database: sqlite3.Connection) -> Rows:
            layouts = self._readable_layouts(database)
            found = database.execute(
                "SELECT source_timestamp_us, follows, layout, row_values FROM rows"  # noqa: S608
                f" WHERE {side} = ? ORDER BY source_timestamp_us",
                (held_out,),
            )
            wanted = (
                row
                for row in found
                if row[2] in layouts and len(row[3]) == layouts[row[2]].record.itemsize
            )
            parts = []
            while some := list(islice(wanted, _READ_AT_ONCE)):  # a row's bytes weigh thrice
                parts.append(self._unpacked(layouts, some))
            return joined(parts) if parts else nothing

        nothing = no_rows(len(self._layout.channels), self._shapes)
        rows = self._file.read(find, nothing)
        if in_stretches:
            stretch = rows.source_timestamp_us // self._stretch_us
            rows.follows[1:] &= np.diff(stretch) <= 1
        self._relabel(rows)
        return rows

    def _unpacked(
        self, layouts: Mapping[int, _Layout], found: list[tuple[int, int, int, bytes]]
    ) -> Rows:
        """Rows of today's channels, whatever the order in which they were kept."""
        rows, mine = len(found), self._layout
        values = np.empty((rows, len(mine.channels)))
        arrays = {at: np.empty((rows, *shape), np.float32) for at, shape in self._shapes.items()}
        of_row = np.array([layout for _, _, layout, _ in found], np.int64)
        for number, layout in layouts.items():
            chosen = of_row == number
            if not chosen.any():
                continue
            blobs = [blob for _, _, of, blob in found if of == number]
            kept = np.frombuffer(b"".join(blobs), layout.record)
            order = [layout.names.index(name) for name in mine.names]
            values[chosen] = kept["numbers"][:, order]
            for at, array in arrays.items():
                array[chosen] = kept[f"{order[at]}"]
        stamps = np.array([at_us for at_us, *_ in found], np.int64)
        return Rows(stamps, values, np.array([row[1] for row in found], np.bool_), arrays)

    def training_rows(self, *, in_stretches: bool = False) -> int:
        """How many rows `read(held_out=False)` would give."""
        side = "in_held_out_stretch" if in_stretches else "held_out"

        def count(database: sqlite3.Connection) -> int:
            layouts = list(self._readable_layouts(database))
            marks = ",".join("?" * len(layouts))
            found = database.execute(
                f"SELECT count(*) FROM rows WHERE {side} = 0 AND layout IN ({marks})",  # noqa: S608
                layouts,
            )
            return int(found.fetchone()[0])

        return self._file.read(count, 0)

    def _readable_layouts(self, database: sqlite3.Connection) -> dict[int, _Layout]:
        """The layouts that have all of today's channels, with their shapes."""
        found = database.execute("SELECT layout, channels FROM layouts")
        known = {number: _layout(text) for number, text in found}
        mine = set(self._layout.channels)
        return {
            number: layout
            for number, layout in known.items()
            if layout is not None and mine <= set(layout.channels)
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _add_later_columns(database: sqlite3.Connection) -> None:
    """Bring a file of an older version up to date: nothing is known of its rows' neighbours."""
    known = {name for _, name, *_ in database.execute("PRAGMA table_info(rows)")}
    missing = [name for name in _LATER_COLUMNS if name not in known]
    if missing:
        with transaction(database):
            for name in missing:
                database.execute(f"ALTER TABLE rows ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")


def _forget_oldest(database: sqlite3.Connection, number: int) -> None:
    database.execute(
        "DELETE FROM rows WHERE source_timestamp_us IN"
        " (SELECT source_timestamp_us FROM rows ORDER BY source_timestamp_us LIMIT ?)",
        (number,),
    )


def _salvage(
    database: sqlite3.Connection, damaged: Path, in_held_out_stretch: Callable[[int], bool]
) -> None:
    """Take over the rows of a damaged file that can still be read; a full disk ends it."""
    sizes: dict[int, int] = {}
    taken = 0
    try:
        with transaction(database):
            for number, text in readable_rows(damaged, "layouts", "layout", "layout, channels"):
                layout = _layout(text)
                if layout is not None:
                    sizes[number] = layout.record.itemsize
                    database.execute("INSERT OR IGNORE INTO layouts VALUES (?, ?)", (number, text))
        rows = ((*row, in_held_out_stretch(row[0])) for row in _salvageable(damaged, sizes))
        while some := list(islice(rows, _SALVAGED_AT_ONCE)):
            with transaction(database):
                database.executemany(
                    "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?, ?)",
                    some,
                )
            taken += len(some)
    except DiskError as error:
        logger.warning("not all rows of %s were salvaged: %s", damaged, error)
    logger.warning("%d rows were salvaged from %s", taken, damaged)


def _salvageable(
    damaged: Path, sizes: Mapping[int, int]
) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Whole rows; of their neighbours nothing is known, since some may be gone."""
    columns = "source_timestamp_us, held_out, layout, row_values"
    for at_us, held_out, layout, values in readable_rows(
        damaged, "rows", "source_timestamp_us", columns
    ):
        is_whole = isinstance(values, bytes) and len(values) == sizes.get(layout, math.nan)
        if is_whole and isinstance(at_us, int) and held_out in (0, 1):
            yield at_us, held_out, layout, values, 0
