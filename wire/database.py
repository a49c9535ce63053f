"""How every Journeyman process opens its SQLite file, writes to it, and meets a bad disk.

One owner for each file.  WAL; `durable` files use synchronous=FULL, so that what was promised after
a commit survives a power cut.

    DiskError      the disk is full, read-only or fails; the file may be fine, so trying again helps
    DamagedError   the file is no sound database; trying again does not help

`open_database` refuses a damaged file: what a coordinator has counted must not vanish.
`open_or_set_aside` keeps it under another name and begins a new one: a gateway that nobody visits
goes on.  A damaged file is never deleted or overwritten.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from wire.errors import SettingsError

logger = logging.getLogger(__name__)

_PRIMARY = 0xFF  # the low byte of a result code says which kind (sqlite.org/rescode.html)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_READONLY: "it can not be written: check mount options, rights and the disk",
    sqlite3.SQLITE_IOERR: "the disk fails: check the kernel's log, replace the card",
    sqlite3.SQLITE_CANTOPEN: "it can not be opened: check that the disk is there, and rights",
    sqlite3.SQLITE_PERM: "it may not be used: check rights",
    sqlite3.SQLITE_BUSY: "another program holds it locked: close that program",
}
_ASIDE = ".damaged-"
_READ_ATTEMPTS = 3
_READ_AGAIN_S = 0.2


class DiskError(Exception):
    """The disk did not do it: nothing was changed, and trying again later may help.

    Attributes:
      path: the file.
      reason: what SQLite or the system said, and what to do.
      code: SQLite's primary result code, such as `sqlite3.SQLITE_FULL`.
    """

    def __init__(self, path: str, reason: str, code: int) -> None:
        self.path, self.reason, self.code = path, reason, code
        super().__init__(f"{path}: {reason}")


class DamagedError(Exception):
    """The file is not a sound database.

    Attributes:
      path: the file.
      reason: what SQLite said.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


def open_database(path: Path | str, schema: str, *, durable: bool) -> sqlite3.Connection:
    """Open or create a database; transactions are explicit (`transaction`).

    Args:
      path: the file, or `:memory:`.
      schema: `CREATE TABLE IF NOT EXISTS ...` statements.
      durable: fsync at each commit.

    Raises:
      SettingsError: the file can not be opened or is not a sound database.
    """
    try:
        return _opened(path, schema, durable=durable, check=False)
    except DamagedError as error:
        reason = (
            f"can not open the database: {error.reason}; put back a backup, or give another path"
        )
        raise SettingsError(str(path), None, None, reason) from error
    except DiskError as error:
        reason = f"can not open the database: {error.reason}"
        raise SettingsError(str(path), None, None, reason) from error


def open_or_set_aside(
    path: Path | str, schema: str, *, durable: bool, check: bool = True
) -> tuple[sqlite3.Connection, Path | None]:
    """Open or create a database that its owner can do without.

    A damaged file is set aside and a new one made.  Where the file can not be written but read, the
    connection only reads: every write raises `DiskError`, and opening again later may give more.

    Args:
      path: the file, or `:memory:`.
      schema: `CREATE TABLE IF NOT EXISTS ...` statements.
      durable: fsync at each commit.
      check: read every page first, which takes about a second for 100 MB from a card.

    Returns:
      The connection, and where the damaged file is now, or None.

    Raises:
      DiskError: there is no file to read and none can be made, or a damaged one can not be renamed.
    """
    aside: Path | None = None
    try:
        return _opened(path, schema, durable=durable, check=check), None
    except DamagedError as error:
        aside = set_aside(Path(path), error.reason)
    except DiskError as error:
        return _opened_for_reading(Path(path), error), None
    return _opened(path, schema, durable=durable, check=False), aside


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file, with what belongs to it, to the next free `.damaged-N`.

    Raises:
      DiskError: it can not be renamed.
    """
    number = max((_number(file) for file in set_aside_files(path)), default=0) + 1
    target = path.with_name(f"{path.name}{_ASIDE}{number}")
    try:
        # The main file first: SQLite deletes a log that has no database, but a database without
        # its log may pass for a sound one that is older, and would count the same numbers again.
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{target}{suffix}")
        _sync_directory(path.parent)
    except OSError as error:
        said = f"damaged ({reason}) and can not be renamed: {error}"
        raise DiskError(str(path), said, sqlite3.SQLITE_IOERR) from error
    logger.error("%s is damaged (%s): kept as %s, a new one takes its place", path, reason, target)
    return target


def set_aside_files(path: Path) -> list[Path]:
    """Damaged files that were set aside for this path, oldest first."""
    found = [file for file in path.parent.glob(f"{path.name}{_ASIDE}*") if _number(file)]
    return sorted(found, key=_number)


def _number(file: Path) -> int:
    """N of `.damaged-N`; 0 for what belongs to one, such as its log."""
    number = file.name.rpartition(_ASIDE)[2]
    return int(number) if number.isdecimal() else 0


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path | str, schema: str, *, durable: bool, check: bool) -> sqlite3.Connection:
    database: sqlite3.Connection | None = None
    try:
        with sqlite_errors(str(path)):
            database = sqlite3.connect(path, isolation_level=None, timeout=10)
            if check:
                _check(database)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            database.executescript(schema)
    except BaseException:
        if database is not None:
            database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    """Raise a `sqlite3.DatabaseError` unless every page can be read and makes sense.

    A sector that stays unreadable counts as damage, because the card will not get better; one read
    that failed does not, because a damaged file's unreadable updates are gone.
    """
    for attempt in range(_READ_ATTEMPTS):
        try:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_IOERR_READ:
                raise
            answer = str(error)
            time.sleep(_READ_AGAIN_S * (attempt + 1))
        else:
            break
    if answer != "ok":
        raise DamagedError("", str(answer).replace("\n", " "))


def _opened_for_reading(path: Path, error: DiskError) -> sqlite3.Connection:
    """Open a file that can not be written; raise the given error where it can not be read either.

    A database in WAL mode can be read on a read-only disk if its -shm file is there, or else, when
    it was closed in peace and so has no -wal, as immutable (sqlite.org/wal.html#readonly).
    """
    log = Path(f"{path}-wal")
    modes = ["mode=ro"]
    if not log.exists() or log.stat().st_size == 0:
        modes.append("mode=ro&immutable=1")
    for mode in modes:
        with suppress(sqlite3.DatabaseError):
            database = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None
            )
            try:
                (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.DatabaseError:
                database.close()
                continue
            if tables:
                return database
            database.close()
    raise error


def lock_directory(directory: Path, program: str) -> int:
    """Make a state directory and take it for this process; the kernel frees it at exit.

    A directory that can not be written is taken by the lock file that an earlier run left there.

    Returns:
      The descriptor that holds the lock.

    Raises:
      OSError: it can not be used, or another such program runs on it; `strerror` says which.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / "lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        if not lock.exists():
            raise
        descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"another {program} runs on it") from None
    return descriptor


@contextmanager
def sqlite_errors(path: str) -> Iterator[None]:
    """Raise `DiskError` and `DamagedError` for what SQLite says of the disk and of the file."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(path, error.reason) from None
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
        if code in _DAMAGED:
            raise DamagedError(path, str(error)) from error
        if code in _ADVICE:
            raise DiskError(path, f"{error}; {_ADVICE[code]}", code) from error
        raise


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Everything in the block becomes durable together, or nothing of it.

    Raises:
      DiskError: nothing of it did, because of the disk.
      DamagedError: nothing of it did, because the file is damaged.
    """
    with sqlite_errors(_path_of(database)):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # SQLite itself rolls back when the disk is full
                with suppress(sqlite3.DatabaseError):  # the first error is the one to tell
                    database.execute("ROLLBACK")
            raise


def _path_of(database: sqlite3.Connection) -> str:
    with closing(database.execute("PRAGMA database_list")) as found:
        return str(found.fetchone()[2])
