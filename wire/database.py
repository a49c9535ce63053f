"""How every Journeyman process opens its SQLite file and writes to it.

One owner for each file.  WAL; `durable` files use synchronous=FULL, so that what was promised after
a commit survives a power cut.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wire.errors import SettingsError


def open_database(path: Path | str, schema: str, *, durable: bool) -> sqlite3.Connection:
    """Open or create a database; transactions are explicit (`transaction`).

    Args:
      path: the file, or `:memory:`.
      schema: `CREATE TABLE IF NOT EXISTS ...` statements.
      durable: fsync at each commit.

    Raises:
      SettingsError: the file can not be opened or is not a database.
    """
    database: sqlite3.Connection | None = None
    try:
        database = sqlite3.connect(path, isolation_level=None, timeout=10)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        database.executescript(schema)
    except sqlite3.DatabaseError as error:
        if database is not None:
            database.close()
        raise SettingsError(str(path), None, None, f"can not open the database: {error}") from error
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Everything in the block becomes durable together, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite itself rolls back when the disk is full
            database.execute("ROLLBACK")
        raise
