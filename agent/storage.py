"""A durable file of the agent that outlives its disk: full, read-only, failing, rotten.

Responsible for one SQLite file and the agent's peace: an operation on a bad disk raises `DiskError`
or gives what the caller said instead, and works again, without a restart, when the disk does.  A
damaged file is set aside (`wire/database.py`) and the operation done on the new one.

Invariant: trouble is logged once when it begins and once when it ends; `problem` says it meanwhile.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from agent.reserve import RESERVE_BYTES, Reserve
from wire.database import (
    DamagedError,
    DiskError,
    open_or_set_aside,
    set_aside,
    set_aside_files,
    sqlite_errors,
    transaction,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
Prepare = Callable[[sqlite3.Connection], None]

_CHECKPOINT_PAGES = RESERVE_BYTES // 4096 // 2
"""The log goes into the file before it is longer than half the reserve: on a full disk the file
may have to grow by that much before the log's bytes are free again."""
_REOPEN_S = 5.0
"""A file that failed is opened again at most this often; on a card that is work."""


class DurableFile:
    """Owner of one SQLite file.

    Args:
      path: the file, or `:memory:`.
      prepare: makes what the file lacks, and only then writes; called whenever it was opened.  It
        may raise `DamagedError`.
      durable: fsync at each commit.
      reserve: a file to give up when the disk is full, so that small writes still succeed.

    Raises:
      DiskError: there is no file to read and none can be made.
    """

    def __init__(
        self,
        path: Path | str,
        prepare: Prepare,
        *,
        durable: bool,
        reserve: Path | None = None,
    ) -> None:
        self.path = path
        self.problem = ""
        """What is wrong with the disk now; empty when nothing is."""
        self._prepare, self._durable, self._reserve = prepare, durable, Reserve(reserve)
        self._failed_with: int | None = None
        self._again_s = 0.0
        self._db: sqlite3.Connection | None = None
        self._on_a_sound_file(self._connection)

    @property
    def set_aside(self) -> list[Path]:
        """Damaged files that were kept beside this one."""
        return [] if self.path == ":memory:" else set_aside_files(Path(self.path))

    def write(self, work: Callable[[sqlite3.Connection], T], *, small: bool = False) -> T:
        """Do it in one transaction.

        Args:
          work: may be called again when the disk was full or the file was damaged.
          small: it may use the reserve: what makes the file smaller, or keeps a promise.

        Raises:
          DiskError: nothing was changed.
        """

        def transact() -> T:
            return self._on_a_sound_file(lambda: self._transact(work))

        try:
            try:
                done = transact()
            except DiskError as error:
                if error.code != sqlite3.SQLITE_FULL or not (small and self._reserve.release()):
                    raise
                done = transact()
        except DiskError as error:
            self._fails(error)
            if error.code == sqlite3.SQLITE_FULL:
                self._empty_log()
            raise
        self._works()
        return done

    def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what was read.

        Raises:
          DiskError: it can not be read.
        """
        try:
            return self._on_a_sound_file(lambda: self._query(work))
        except DiskError as error:
            self._fails(error)
            raise

    def read(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Return what was read, or `otherwise` while the disk can not be read."""
        try:
            return self.look(work)
        except DiskError:
            return otherwise

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            with suppress(sqlite3.DatabaseError):
                self._db.close()
            self._db = None

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._connection()
        with transaction(database):
            return work(database)

    def _query(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._connection()
        with sqlite_errors(str(self.path)):
            return work(database)

    def _on_a_sound_file(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except DamagedError as error:
            self.close()
            if self.path == ":memory:":
                raise DiskError(":memory:", error.reason, sqlite3.SQLITE_IOERR) from error
            set_aside(Path(self.path), error.reason)
        try:
            return operation()
        except DamagedError as error:
            reason = f"damaged again: {error.reason}"
            raise DiskError(str(self.path), reason, sqlite3.SQLITE_IOERR) from error

    def _empty_log(self) -> None:
        """Give back what a full disk keeps twice, so that the next attempt finds room."""
        if self._db is not None:
            with suppress(sqlite3.DatabaseError):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _connection(self) -> sqlite3.Connection:
        """The connection, a new one if the last one met what a new one may not meet."""
        if self._db is None or (self._failed_with and time.monotonic() >= self._again_s):
            self._again_s = time.monotonic() + _REOPEN_S
            check = self._failed_with in (None, sqlite3.SQLITE_IOERR)
            if self._failed_with == sqlite3.SQLITE_READONLY:
                # SQLite shares the memory of a log within a process, in the mode of whoever opened
                # it first: beside a connection that only reads, no new one could write.
                self.close()
            try:
                database = self._open(check=check)
            except DiskError:
                if self._db is None:
                    raise
                return self._db  # may still read, for it has what a new one would have to write
            self.close()
            self._db = database
        return self._db

    def _open(self, *, check: bool) -> sqlite3.Connection:
        self._reserve.release_if_full()
        database, _ = open_or_set_aside(self.path, "", durable=self._durable, check=check)
        try:
            with sqlite_errors(str(self.path)):
                database.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
                self._prepare(database)
        except BaseException:
            database.close()
            raise
        self._reserve.keep()
        return database

    def _fails(self, error: DiskError) -> None:
        # A full disk needs no new connection.  One that was opened for reading, or whose disk
        # failed or was mounted again, does.
        if error.code != sqlite3.SQLITE_FULL and self.path != ":memory:":
            if self._failed_with is None:
                self._again_s = time.monotonic() + _REOPEN_S
            self._failed_with = error.code
        if not self.problem:
            logger.error("%s", error)
        self.problem = str(error)

    def _works(self) -> None:
        if self.problem:
            logger.warning("%s: the disk works again", self.path)
        self.problem = ""
        self._failed_with = None
        self._reserve.keep()


def readable_rows(path: Path, table: str, key: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a damaged file that can still be read, in order of their integer key.

    Walks from the lowest key up and, where a page is bad, from the highest down to it.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(uri, uri=True)) as database:
        query = f"SELECT {key} FROM {table} ORDER BY {key}"  # noqa: S608
        keys, stopped = _walk(database, query)
        if stopped:
            from_the_end, _ = _walk(database, f"{query} DESC")
            keys = sorted({*keys, *from_the_end})
        for at in keys:
            with suppress(sqlite3.DatabaseError):
                query = f"SELECT {columns} FROM {table} WHERE {key} = ?"  # noqa: S608
                row = database.execute(query, (at,)).fetchone()
                if row is not None:
                    yield row


def _walk(database: sqlite3.Connection, query: str) -> tuple[list[int], bool]:
    """Keys up to the first bad page, and whether there was one."""
    keys: list[int] = []
    try:
        keys.extend(key for (key,) in database.execute(query) if isinstance(key, int))
    except sqlite3.DatabaseError:
        return keys, True
    return keys, False
