"""The outbox's tables: made, migrated from the first schema, or salvaged from a damaged file.

Invariant: `identity` is written last.  A file without it is not finished, and whatever was cut
short (a migration, a salvage) is done again at the next start.
"""

import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.storage import readable_rows
from wire.codec import KINDS, open_envelope, parse_body
from wire.database import DamagedError, set_aside_files, transaction
from wire.errors import SettingsError, WireError
from wire.messages import TERMINAL, UpdateHeader

logger = logging.getLogger(__name__)

_VERSION = 2
_TABLES = (
    """CREATE TABLE IF NOT EXISTS identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation TEXT NOT NULL,
  session INTEGER NOT NULL,
  receipt_counter INTEGER NOT NULL
) STRICT""",
    """CREATE TABLE IF NOT EXISTS incarnations (
  incarnation TEXT PRIMARY KEY,
  highest INTEGER NOT NULL,      -- sequence
  began_at REAL NOT NULL,        -- wall clock, display only
  reason TEXT NOT NULL
) STRICT""",
    """CREATE TABLE IF NOT EXISTS updates (
  place INTEGER PRIMARY KEY,     -- order of making, over all incarnations
  incarnation TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  lineage INTEGER NOT NULL,
  base_version INTEGER NOT NULL,
  digest BLOB NOT NULL,          -- SHA-256 of the content, also when that is gone
  status TEXT NOT NULL,          -- pending, committed, or the terminal outcome
  reason TEXT NOT NULL,
  version INTEGER,               -- the version it was folded into
  made_at REAL NOT NULL,         -- wall clock, display only
  settled_at REAL,
  bytes INTEGER NOT NULL,
  header_digest BLOB NOT NULL,   -- SHA-256 of the header
  header BLOB,
  content BLOB,
  UNIQUE (incarnation, sequence)
) STRICT""",
    "CREATE INDEX IF NOT EXISTS open_updates ON updates (place) WHERE header IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS updates_by_base ON updates (lineage, base_version)",
    # What the next update depends on: written with an update, or moved on by its outcome.
    """CREATE TABLE IF NOT EXISTS remembered (
  name TEXT PRIMARY KEY,         -- residual | calibration | calibration if folded
  incarnation TEXT NOT NULL,     -- of the update whose outcome decides, else empty
  sequence INTEGER NOT NULL,
  body BLOB NOT NULL
) STRICT""",
    # What is left of settled updates so old that their rows went.
    """CREATE TABLE IF NOT EXISTS forgotten (
  incarnation TEXT NOT NULL,
  status TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (incarnation, status)
) STRICT""",
)
_COLUMNS = (
    "incarnation, sequence, lineage, base_version, digest, status, reason, version, made_at,"
    " settled_at, bytes, header_digest, header, content"
)
_FIRST_COLUMNS = (
    "sequence, lineage, base_version, status, reason, version, made_at, settled_at, bytes, header,"
    " content"
)
_INSERT = f"INSERT OR IGNORE INTO updates ({_COLUMNS}) VALUES ({','.join('?' * 14)})"  # noqa: S608
_STATUSES = frozenset({"pending", "committed", *TERMINAL})

_INCARNATION = re.compile("[0-9a-f]{16}")

Row = tuple[Any, ...]


def prepare(database: sqlite3.Connection, path: Path | None) -> None:
    """Make what is missing; a finished file is only looked at.

    Args:
      database: a connection to the file.
      path: the file, beside which damaged ones may lie; None for one in memory.

    Raises:
      SettingsError: a newer version of the agent made the file.
      DamagedError: its identity is rotten.
      sqlite3.DatabaseError: from the disk.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > _VERSION:
        reason = f"this outbox has format {version} and this agent knows {_VERSION}: upgrade it"
        raise SettingsError(str(path), None, None, reason)
    if version < _VERSION:
        with transaction(database):
            _make(database)
    if database.execute("SELECT 1 FROM identity").fetchone() is None:
        _begin(database, set_aside_files(path)[-1:] if path else [])
    found = database.execute("SELECT incarnation, session, receipt_counter FROM identity")
    if not _is_identity(found.fetchone()):
        raise DamagedError(str(path), "its identity makes no sense")


def _begin(database: sqlite3.Connection, damaged: list[Path]) -> None:
    """Give a new file its identity, after everything that could be read of a damaged one."""
    reason, session, receipt_counter = "first start", 0, -1
    for file in damaged:
        reason = f"{file.name} was damaged"
        columns = "incarnation, session, receipt_counter"
        for row in filter(_is_identity, readable_rows(file, "identity", "one", columns)):
            _, session, receipt_counter = row
        _salvage(database, file)
    with transaction(database):
        if database.execute("SELECT 1 FROM identity").fetchone() is None:
            begin_incarnation(database, reason)
            database.execute(
                "UPDATE identity SET session = ?, receipt_counter = ?", (session, receipt_counter)
            )


def begin_incarnation(database: sqlite3.Connection, reason: str) -> str:
    """Begin a new random incarnation inside the caller's transaction; return it."""
    incarnation = os.urandom(8).hex()
    database.execute(
        "INSERT INTO incarnations VALUES (?, 0, ?, ?)", (incarnation, time.time(), reason)
    )
    database.execute(
        "INSERT INTO identity VALUES (1, ?, 0, -1)"
        " ON CONFLICT (one) DO UPDATE SET incarnation = excluded.incarnation",
        (incarnation,),
    )
    return incarnation


def _make(database: sqlite3.Connection) -> None:
    """Make the tables that are missing; move the first schema's rows into them."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return  # another process did, while this one waited for the lock
    found = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'updates'").fetchone()
    old = found if version == 0 else None
    if old:
        database.execute("ALTER TABLE updates RENAME TO first_updates")
        database.execute("DROP INDEX IF EXISTS open_updates")
    for statement in _TABLES:
        database.execute(statement)
    if old:
        identity = database.execute("SELECT incarnation FROM identity").fetchone()
        if identity is not None:
            _remember_incarnation(database, (identity[0], 0))
            rows = _rows_of_first_schema(database, identity[0])
            number = sum(_take(database, row) for row in rows)
            logger.info("the outbox of an older version was taken over: %d updates", number)
        database.execute("DROP TABLE first_updates")
    database.execute(f"PRAGMA user_version = {_VERSION}")


def _rows_of_first_schema(database: sqlite3.Connection, incarnation: str) -> Iterator[Row]:
    found = database.execute(f"SELECT {_FIRST_COLUMNS} FROM first_updates ORDER BY sequence")  # noqa: S608
    for row in found:
        yield _of_first_schema(incarnation, row)


def _of_first_schema(incarnation: str, row: Row) -> Row:
    """A row of the first schema as one of today's."""
    sequence, lineage, base_version, *account, header, content = row
    digest = hashlib.sha256(content).digest() if content is not None else _announced(header)
    header_digest = hashlib.sha256(header or b"").digest()
    told = (incarnation, sequence, lineage, base_version, digest, *account)
    return (*told, header_digest, header, content)


def _announced(header: bytes | None) -> bytes:
    """The content's digest that a tombstone of ours names; empty when it does not say."""
    if header is None:
        return b""
    try:
        opened = open_envelope(header, KINDS[UpdateHeader])
        return parse_body(opened, UpdateHeader).content.digest
    except WireError:
        return b""


def _take(database: sqlite3.Connection, row: Row) -> bool:
    """Insert a row under its own id, and let its incarnation know; return whether it was new."""
    changed = database.execute(_INSERT, row).rowcount
    _remember_incarnation(database, row[:2])
    return changed == 1


def _remember_incarnation(database: sqlite3.Connection, row: Row) -> None:
    """Know an incarnation and a sequence that it had."""
    database.execute(
        "INSERT INTO incarnations VALUES (?, ?, ?, 'found in an older file')"
        " ON CONFLICT (incarnation) DO UPDATE SET highest = max(highest, excluded.highest)",
        (*row, time.time()),
    )


def _salvage(database: sqlite3.Connection, damaged: Path) -> None:
    """Copy what can still be read, a row a transaction: a whole outbox might not fit twice.

    Rotten bytes are copied too; they are found when the update is offered (`Outbox.offer`), which
    ends it as a tombstone, so that its id is accounted for.
    """
    taken = 0
    for row in filter(_makes_sense, _salvageable(damaged)):
        with transaction(database):
            taken += _take(database, row)
    for row in readable_rows(damaged, "incarnations", "rowid", "incarnation, highest"):
        if _is_id(*row):
            with transaction(database):
                _remember_incarnation(database, row)
    logger.warning("%d updates were salvaged from %s", taken, damaged)


def _salvageable(damaged: Path) -> Iterator[Row]:
    """What can be read of a damaged file's updates, whichever schema it has."""
    names = [
        name for (name,) in readable_rows(damaged, "pragma_table_info('updates')", "cid", "name")
    ]
    if "place" in names:
        yield from readable_rows(damaged, "updates", "place", _COLUMNS)
        return
    for (incarnation,) in readable_rows(damaged, "identity", "one", "incarnation"):
        for row in readable_rows(damaged, "updates", "sequence", _FIRST_COLUMNS):
            yield _of_first_schema(incarnation, row)


def _makes_sense(row: Row) -> bool:
    """Whether what was read of an update can be one."""
    incarnation, sequence, *_, status = row[:6]
    header, content = row[-2:]
    return (
        _is_id(incarnation, sequence)
        and status in _STATUSES
        and isinstance(header, bytes) == (status not in TERMINAL)
        and (content is None or isinstance(content, bytes))
    )


def _is_identity(row: Row) -> bool:
    incarnation, session, receipt_counter = row
    return (
        _is_id(incarnation, session)
        and session < 1 << 31
        and isinstance(receipt_counter, int)
        and -1 <= receipt_counter < 1 << 62
    )


def _is_id(incarnation: object, number: object) -> bool:
    """Whether these are an incarnation and a number of the protocol (`wire/messages.py`)."""
    is_name = isinstance(incarnation, str) and _INCARNATION.fullmatch(incarnation) is not None
    return is_name and isinstance(number, int) and 0 <= number < 1 << 53
