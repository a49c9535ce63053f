"""How every Journeyman process opens its SQLite file and writes to it.

One owner for each file.  WAL; `durable` files use synchronous=FULL, so that what was promised after
a commit survives a power cut.
"""

import fcntl
import os
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


def lock_directory(directory: Path, program: str) -> int:
    """Make a state directory and take it for this process; the kernel frees it at exit.

    Returns:
      The descriptor that holds the lock.

    Raises:
      OSError: it can not be written, or another such program runs on it; `strerror` says which.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"another {program} runs on it") from None
    return descriptor


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
