"""Which files of a folder were taken, over restarts, in bounded space.

Remembers a number of files by name, size and time of last change.  When they are too many, the
oldest are forgotten, and from then on every file that is not newer than they were counts as taken:
a folder that is never emptied grows for ever, and what is remembered must not.

Invariant: a file that was taken is never offered again unless it changed.
"""

from pathlib import Path
from sqlite3 import Connection

from agent.storage import DurableFile
from wire.database import DiskError

_SLACK = 1.1
"""Forgetting sorts everything, so it is done for many at once."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
  name TEXT PRIMARY KEY,      -- relative to the folder
  mtime_ns INTEGER NOT NULL,
  size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS horizon (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  time_ns INTEGER NOT NULL,   -- files that were not changed after it count as taken
  forgotten INTEGER NOT NULL  -- how many such files there were
) STRICT;
"""

Mark = tuple[int, int]
"""Time of last change in nanoseconds, and size in bytes."""


class Seen:
    """Files that were taken.

    Args:
      path: of the durable file.
      bound: how many are remembered.
    """

    def __init__(self, path: Path, bound: int) -> None:
        self._bound = bound
        self._marks: dict[str, Mark] = {}
        self._new: dict[str, Mark] = {}
        self._file: DurableFile | None = None
        self.forgotten = 0
        """How many files count as taken because they are old."""
        self.horizon_ns = -1
        """Files that were not changed after it count as taken."""
        self.is_first = True
        """Nothing was remembered at the start."""
        self.problem = ""
        """Why nothing is remembered over restarts; empty when it is."""
        self._path = path
        self._open()

    def is_done(self, name: str, mark: Mark) -> bool:
        """Whether it was taken as it is now."""
        return mark[0] <= self.horizon_ns or self._marks.get(name) == mark

    def add(self, name: str, mark: Mark) -> None:
        """It was taken; kept from the next `flush` on."""
        self._marks[name] = self._new[name] = mark
        self._forget()

    def skip(self, newest_ns: int, count: int) -> None:
        """So many files, and all others that were not changed after this, count as taken."""
        self.horizon_ns = max(self.horizon_ns, newest_ns, 0)
        self.forgotten += count

    def flush(self) -> None:
        """Make it durable; on a bad disk it is tried again at the next call."""
        if self._file is None:
            self._open()
        if self._file is None:
            return
        rows = [(name, *mark) for name, mark in self._new.items()]
        horizon = (self.horizon_ns, self.forgotten)

        def write(database: Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows)
            database.execute("INSERT OR REPLACE INTO horizon VALUES (1, ?, ?)", horizon)
            database.execute("DELETE FROM seen WHERE mtime_ns <= ?", horizon[:1])

        try:
            self._file.write(write)
        except DiskError as error:
            self.problem = f"files that were taken are not remembered: {error}"
        else:
            self._new.clear()
            self.is_first = False
            self.problem = ""

    def close(self) -> None:
        """Make it durable and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = DurableFile(self._path, _prepare, durable=False)
            file.look(self._load)
        except (DiskError, OSError) as error:
            self.problem = f"files that were taken are not remembered: {error}"
        else:
            self._file, self.problem = file, ""

    def _load(self, database: Connection) -> None:
        horizon = database.execute("SELECT time_ns, forgotten FROM horizon").fetchone()
        if horizon is not None:
            self.horizon_ns = max(self.horizon_ns, horizon[0])
            self.forgotten += horizon[1]
        for name, mtime_ns, size in database.execute("SELECT name, mtime_ns, size FROM seen"):
            self._marks.setdefault(name, (mtime_ns, size))
        self.is_first = not self._marks and self.horizon_ns < 0
        self._forget()

    def _forget(self) -> None:
        if len(self._marks) <= self._bound * _SLACK:
            return
        by_age = sorted(self._marks, key=lambda each: self._marks[each][0])
        for old in by_age[: len(by_age) - self._bound]:
            self.horizon_ns = max(self.horizon_ns, self._marks.pop(old)[0])
            self.forgotten += 1


def _prepare(database: Connection) -> None:
    database.executescript(_SCHEMA)
