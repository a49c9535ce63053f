"""Which files of a watched folder are whole and new.

By looking again and again (polling): notifications of the kernel say nothing about what another
machine writes into a shared folder, which is where cameras write.
"""

import fnmatch
import glob
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from agent.sensors.images.seen import Mark
from agent.sensors.images.settings import SUFFIXES

MAX_NEW_FILES = 10_000
"""New files that one look gives, the oldest first; the next look gives more."""
RESTLESS_LOOKS = 20
"""A file that changed between so many looks in a row is reported."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file.

    Attributes:
      name: relative to the folder.
      mark: time of last change in nanoseconds, and size in bytes.
    """

    name: str
    mark: Mark

    @property
    def time_us(self) -> int:
        """Of its last change: microseconds since 1970 UTC."""
        return self.mark[0] // 1000


@dataclass(frozen=True)
class Look:
    """What one look into a folder gave.

    Attributes:
      new: files that were not taken, the oldest first, at most `MAX_NEW_FILES`.
      count: how many files there are.
      old: how many of them are not newer than the horizon.
      newest_ns: time of the newest one's last change; -1 when there is none.
    """

    new: list[Found]
    count: int
    old: int
    newest_ns: int


def look_into(
    folder: Path, pattern: str, is_done: Callable[[str, Mark], bool], horizon_ns: int
) -> Look:
    """Look once.

    Raises:
      OSError: the folder can not be read.
    """
    count = old = 0
    newest_ns = -1

    def new() -> Iterator[Found]:
        nonlocal count, old, newest_ns
        for name in _names(folder, pattern):
            if PurePath(name).suffix.lower() not in SUFFIXES:
                continue
            try:
                status = (folder / name).stat()
            except OSError:
                continue  # gone, or renamed, since it was listed
            if not stat.S_ISREG(status.st_mode):
                continue
            mark = (status.st_mtime_ns, status.st_size)
            count += 1
            old += mark[0] <= horizon_ns
            newest_ns = max(newest_ns, mark[0])
            if not is_done(name, mark):
                yield Found(name, mark)

    oldest = heapq.nsmallest(MAX_NEW_FILES, new(), key=lambda found: (found.mark[0], found.name))
    return Look(oldest, count, old, newest_ns)


def _names(folder: Path, pattern: str) -> Iterator[str]:
    """Names that match; hidden files do not: programs write into such before they rename."""
    if "/" in pattern or "**" in pattern:
        os.scandir(folder).close()  # raises where a glob finds nothing
        yield from glob.iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207  lazy
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and fnmatch.fnmatchcase(entry.name, pattern):
                yield entry.name


@dataclass
class _Waiting:
    mark: Mark
    since_s: float
    changes: int = 0


class Settling:
    """Tells files that somebody still writes from those that are whole.

    Args:
      settle_s: how long size and time must not have changed; 0 for at once.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._waiting: dict[str, _Waiting] = {}

    def whole(self, found: list[Found], now_s: float) -> list[Found]:
        """Those of the files that were found now that are whole."""
        waiting: dict[str, _Waiting] = {}
        ready: list[Found] = []
        for each in found:
            known = self._waiting.get(each.name)
            if known is None:
                known = _Waiting(each.mark, now_s)
            elif known.mark != each.mark:
                known = _Waiting(each.mark, now_s, known.changes + 1)
            if now_s - known.since_s >= self._settle_s:
                ready.append(each)
            else:
                waiting[each.name] = known
        self._waiting = waiting
        return ready

    @property
    def restless(self) -> list[str]:
        """Files that change all the time, so that they never count as whole."""
        return [name for name, each in self._waiting.items() if each.changes >= RESTLESS_LOOKS]
