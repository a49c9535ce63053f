"""The account's tables: made, read, added to, and salvaged from a damaged file."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from agent.egress.categories import CATEGORIES
from agent.egress.lines import Account, Line
from agent.storage import readable_rows
from wire.database import DiskError

_COLUMNS = "destination, category, messages, bytes, first, last"
_TABLES = (
    """CREATE TABLE IF NOT EXISTS account (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  since REAL NOT NULL,           -- wall clock, as all times here
  cuts INTEGER NOT NULL,         -- processes that did not end in peace
  is_open INTEGER NOT NULL
) STRICT""",
    """CREATE TABLE IF NOT EXISTS sent (
  id INTEGER PRIMARY KEY,
  destination TEXT NOT NULL,
  category TEXT NOT NULL,
  messages INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  first REAL NOT NULL,
  last REAL NOT NULL,
  UNIQUE (destination, category)
) STRICT""",
)
_ADD = f"""INSERT INTO sent ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (destination, category) DO UPDATE SET messages = messages + excluded.messages,
  bytes = bytes + excluded.bytes, last = excluded.last"""  # noqa: S608  a constant


def is_made(database: sqlite3.Connection) -> bool:
    """Whether the tables are there."""
    found = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'account'")
    return found.fetchone() is not None


def make(database: sqlite3.Connection, known: Account, *, is_open: bool) -> None:
    """Make the tables inside the caller's transaction, and begin with what is known."""
    for table in _TABLES:
        database.execute(table)
    begun = (known.since, known.cuts, is_open)
    database.execute("INSERT INTO account VALUES (1, ?, ?, ?)", begun)
    add_lines(database, known.lines)


def begin(database: sqlite3.Connection) -> Account:
    """Note that a process begins, and count one before it that did not end in peace."""
    database.execute("UPDATE account SET cuts = cuts + is_open, is_open = 1")
    return _read(database)


def finish(database: sqlite3.Connection) -> None:
    """Note that the process ends and nothing is missing."""
    database.execute("UPDATE account SET is_open = 0")


def add_lines(database: sqlite3.Connection, lines: Iterable[Line]) -> None:
    """Add these to what is there."""
    database.executemany(_ADD, [msgspec.structs.astuple(line) for line in lines])


def salvaged(file: Path) -> Iterator[Line]:
    """Yield the lines of a damaged file that make sense."""
    for row in readable_rows(file, "sent", "id", _COLUMNS):
        try:
            line = Line(*msgspec.convert(row, type=tuple[str, str, int, int, float, float]))
        except msgspec.ValidationError:
            continue
        if line.category in CATEGORIES and min(line.messages, line.bytes) >= 0:
            yield line


def read_account(path: Path) -> Account | None:
    """Read the account beside a running agent, or without one; None when there is none yet.

    Raises:
      DiskError: it can not be read.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return _read(database) if is_made(database) else None
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        raise DiskError(str(path), str(error), code) from error


def _read(database: sqlite3.Connection) -> Account:
    since, cuts = database.execute("SELECT since, cuts FROM account").fetchone()
    found = database.execute(f"SELECT {_COLUMNS} FROM sent ORDER BY id")  # noqa: S608  a constant
    return Account(since=since, cuts=cuts, lines=tuple(Line(*row) for row in found))
