"""Labels that came later than their rows, kept on disk and joined by source time.

An operator says at noon that the parts of ten o'clock were bad; a pump fails, and the hours before
were the ones to learn from; a laboratory's file comes at the end of the week.  Each is a record:
from one source timestamp until another, this channel's label was this.  Rows are labelled when they
are read, so a label that comes late joins rows that were kept long before, and one that was taken
back leaves no trace.

A later record overrules an earlier one where both speak of the same moment, and any record
overrules what a source said.  Events make records of their own as rows come by.  Where a label has
an `otherwise`, rows that no event followed within the horizon get it, once that much time has been
seen.

One SQLite file (WAL, synchronous=FULL: a label is a person's work).  The command line and the form
write to it beside the running agent.
"""

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.labels.settings import LabelChannel, LabelsTable
from agent.signals.label_file import LabelFileError, LabelRecord, read_label_file
from agent.signals.rows import Rows
from agent.storage import DurableFile
from wire.database import DiskError, transaction

logger = logging.getLogger(__name__)

_TABLES = (
    """CREATE TABLE IF NOT EXISTS labels (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT NOT NULL,
  from_us INTEGER NOT NULL,
  until_us INTEGER NOT NULL,
  value REAL,              -- NULL: without a label, whatever was said before
  origin TEXT NOT NULL,    -- 'operator', 'event', 'file NAME'
  note TEXT NOT NULL,
  made_at REAL NOT NULL    -- wall time, for people
) STRICT""",
    "CREATE INDEX IF NOT EXISTS labels_by_time ON labels (channel, until_us)",
    """CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY,
  stamp TEXT NOT NULL      -- size and modification time that were read
) STRICT""",
)
_LOOK_S = 5.0
_LONGEST_NOTE = 500
OPERATOR, EVENT, FILE = "operator", "event", "file"


@dataclass(frozen=True, slots=True)
class KeptLabel:
    """One record of the file.

    Attributes:
      number: to take it back by.
      record: channel, time span and value; NaN for `without a label`.
      origin: who said so.
      note: what was said with it.
      made_at: seconds since 1970, wall time.
    """

    number: int
    record: LabelRecord
    origin: str
    note: str
    made_at: float


class Labels:
    """Owner of the file.

    Args:
      path: the file.
      table: the settings.
      channels: all channels of the agent, in the order of a row's values.
      folder: where relative names of label files begin.

    Raises:
      DiskError: there is no file to read and none can be made.
    """

    def __init__(
        self, path: Path, table: LabelsTable, channels: Sequence[str], folder: Path
    ) -> None:
        self._table, self._folder = table, folder
        self._columns = {label.name: channels.index(label.name) for label in table.channel}
        self._events = {
            label.name: channels.index(label.event) for label in table.channel if label.event
        }
        self._was_event = dict.fromkeys(self._events, False)
        self._refused: dict[str, str] = {}
        self._file = DurableFile(path, _prepare, durable=True)

    @property
    def problem(self) -> str:
        """What is wrong with the disk or a file of labels; empty when nothing is."""
        return "; ".join([part for part in (self._file.problem, *self._refused.values()) if part])

    # Records

    def add(self, record: LabelRecord, origin: str, note: str = "") -> int:
        """Keep a record; return its number.

        Raises:
          DiskError: it was not kept.
        """
        return self._file.write(lambda database: _insert(database, record, origin, note))

    def remove(self, number: int) -> bool:
        """Take a record back; return whether there was one.

        Raises:
          DiskError: it is still there.
        """

        def delete(database: sqlite3.Connection) -> bool:
            found = database.execute("DELETE FROM labels WHERE number = ?", (number,))
            return found.rowcount > 0

        return self._file.write(delete)

    def newest(self, limit: int) -> list[KeptLabel]:
        """The newest records, newest first."""

        def find(database: sqlite3.Connection) -> list[KeptLabel]:
            found = database.execute(
                "SELECT number, channel, from_us, until_us, value, origin, note, made_at"
                " FROM labels ORDER BY number DESC LIMIT ?",
                (limit,),
            )
            return [
                KeptLabel(
                    number,
                    LabelRecord(channel, from_us, until_us, math.nan if value is None else value),
                    origin,
                    note,
                    made_at,
                )
                for number, channel, from_us, until_us, value, origin, note, made_at in found
            ]

        return self._file.read(find, [])

    # Rows

    def relabel(self, rows: Rows) -> None:
        """Write every label that is known into the values of rows of all channels, in place."""
        if not len(rows):
            return
        for label in self._table.channel:
            self._relabel(label, rows)

    def _relabel(self, label: LabelChannel, rows: Rows) -> None:
        stamps = rows.source_timestamp_us
        values = rows.values[:, self._columns[label.name]]
        if label.otherwise is not None:
            horizon_us = round(label.horizon_s * 1e6)
            is_decided = stamps <= stamps[-1] - horizon_us
            values[is_decided & np.isnan(values)] = label.otherwise
        for from_us, until_us, value in self._spans(label.name, int(stamps[0]), int(stamps[-1])):
            first = np.searchsorted(stamps, from_us, side="left")
            end = np.searchsorted(stamps, until_us, side="right")
            values[first:end] = math.nan if value is None else value

    def _spans(
        self, channel: str, first_us: int, last_us: int
    ) -> list[tuple[int, int, float | None]]:
        """Spans that touch these times, in the order in which they were said."""

        def find(database: sqlite3.Connection) -> list[tuple[int, int, float | None]]:
            return database.execute(
                "SELECT from_us, until_us, value FROM labels"
                " WHERE channel = ? AND until_us >= ? AND from_us <= ? ORDER BY number",
                (channel, first_us, last_us),
            ).fetchall()

        return self._file.read(find, [])

    def note_events(self, rows: Rows) -> None:
        """Make a record of every event in new rows: what came within the horizon before it.

        An event is a row whose event channel reaches `event_from` when the row before did not.  A
        full disk loses the record and says so; the rows themselves still show the event.
        """
        for label in self._table.channel:
            if label.event and len(rows):
                self._note_events(label, rows)

    def _note_events(self, label: LabelChannel, rows: Rows) -> None:
        is_event = rows.values[:, self._events[label.name]] >= label.event_from
        before = np.append(self._was_event[label.name], is_event[:-1])
        self._was_event[label.name] = bool(is_event[-1])
        horizon_us = round(label.horizon_s * 1e6)
        for at_us in _begins(rows, is_event & ~before):
            record = LabelRecord(label.name, at_us - horizon_us, at_us, label.value)
            try:
                self.add(record, EVENT, label.event)
            except DiskError as error:
                logger.warning("an event of %s is not kept as label: %s", label.event, error)

    # Files

    async def watch_files(self) -> None:
        """Look at the files of labels until cancelled."""
        while True:
            for label in self._table.channel:
                if label.file:
                    self.read_file(label)
            await asyncio.sleep(_LOOK_S)

    def read_file(self, label: LabelChannel) -> None:
        """Take the records of a label's file if it has changed, instead of those that it had."""
        path = self._folder / label.file
        stamp = _stamp(path)
        known = self._file.read(lambda database: _stamp_of(database, path), None)
        if stamp == known:
            return
        try:
            records = [] if stamp is None else read_label_file(path, {label.name: label.states})
        except LabelFileError as error:
            self._refuse(path, str(error))
            return
        mine = [record for record in records if record.channel == label.name]
        try:
            self._file.write(lambda database: _replace(database, path, stamp, mine))
        except DiskError as error:
            self._refuse(path, str(error))
            return
        self._refused.pop(str(path), None)
        logger.info("%d labels of %s from %s", len(mine), label.name, path)

    def _refuse(self, path: Path, reason: str) -> None:
        if self._refused.get(str(path)) != reason:
            logger.warning("labels not taken: %s", reason)
        self._refused[str(path)] = reason

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _prepare(database: sqlite3.Connection) -> None:
    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'files'").fetchone():
        with transaction(database):
            for statement in _TABLES:
                database.execute(statement)


def _insert(database: sqlite3.Connection, record: LabelRecord, origin: str, note: str) -> int:
    value = None if math.isnan(record.value) else record.value
    found = database.execute(
        "INSERT INTO labels (channel, from_us, until_us, value, origin, note, made_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.channel,
            record.from_us,
            record.until_us,
            value,
            origin,
            note[:_LONGEST_NOTE],
            time.time(),
        ),
    )
    return int(found.lastrowid or 0)


def _replace(
    database: sqlite3.Connection, path: Path, stamp: str | None, records: list[LabelRecord]
) -> None:
    origin = f"{FILE} {path}"
    database.execute("DELETE FROM labels WHERE origin = ?", (origin,))
    for record in records:
        _insert(database, record, origin, "")
    database.execute("DELETE FROM files WHERE path = ?", (str(path),))
    if stamp is not None:
        database.execute("INSERT INTO files VALUES (?, ?)", (str(path), stamp))


def _stamp(path: Path) -> str | None:
    """What tells a changed file; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _stamp_of(database: sqlite3.Connection, path: Path) -> str | None:
    found = database.execute("SELECT stamp FROM files WHERE path = ?", (str(path),)).fetchone()
    return None if found is None else str(found[0])


def _begins(rows: Rows, is_begin: NDArray[np.bool_]) -> list[int]:
    found: list[int] = rows.source_timestamp_us[is_begin].tolist()
    return found
