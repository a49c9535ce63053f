"""The state directory: room, rights, and whether its files are sound.

SQLite files are opened for reading only, beside an agent that writes them; the lock is not touched.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.finding import Finding, ok, problem, skipped, warning
from agent.reserve import RESERVE_BYTES
from agent.samples.files import Segment, peeked, read_segment
from wire.database import set_aside_files

_LITTLE_BYTES = 8 * RESERVE_BYTES
"""Less than this free, and the reserve of the outbox is what still lets it work."""
_MOST_FILES = 100
_MOST_SEGMENT_BYTES = 32 << 20
"""Of samples that are read whole: the newest, where a power cut leaves its marks."""


@dataclass(frozen=True)
class SpaceFacts:
    """What is known about the disk.

    Attributes:
      folder: the state directory, for people.
      exists: whether it is there; the first start makes it.
      is_writable: by its owner.
      is_read_only: the file system is mounted so.
      free_bytes: for users.
      used_bytes: by the files of the state directory.
      bound_bytes: that these may grow to.
    """

    folder: str
    exists: bool
    is_writable: bool
    is_read_only: bool
    free_bytes: int
    used_bytes: int
    bound_bytes: int


def judge_space(facts: SpaceFacts) -> Iterator[Finding]:
    """Whether what the agent keeps finds room."""
    if facts.is_read_only:
        yield problem(
            "state directory",
            f"{facts.folder} is on a file system that is mounted read-only",
            "look for errors of the card (dmesg), then remount it: mount -o remount,rw",
        )
    elif not facts.exists:
        yield skipped(
            "state directory", f"{facts.folder} is not there yet: the first start makes it"
        )
    elif not facts.is_writable:
        yield problem(
            "state directory",
            f"{facts.folder} can not be written by its owner",
            f"chmod u+rwx {facts.folder}",
        )
    else:
        yield ok("state directory", f"{facts.folder} can be written")
    free, growth = facts.free_bytes, max(0, facts.bound_bytes - facts.used_bytes)
    shown = f"{mib(free)} free, {mib(facts.used_bytes)} in use here"
    if free < _LITTLE_BYTES:
        yield problem("disk space", shown, "make room: the agent keeps nothing new on a full disk")
    elif free < growth:
        yield warning(
            "disk space",
            f"{shown}, and it may grow by {mib(growth)}",
            "lower store.max_bytes, history.capacity_bytes or outbox.quota_bytes, or make room",
        )
    else:
        yield ok("disk space", f"{shown}, at most {mib(growth)} more to come")


def read_space(state: Path, shown: str, bound_bytes: int) -> SpaceFacts:
    """Ask for the facts.

    Args:
      state: the state directory.
      shown: what people call it.
      bound_bytes: of all that the configuration lets it keep.
    """
    there = state
    while not there.exists() and there != there.parent:
        there = there.parent
    found = os.statvfs(there)
    return SpaceFacts(
        shown,
        state.is_dir(),
        os.access(there, os.W_OK | os.X_OK, effective_ids=True),
        bool(found.f_flag & os.ST_RDONLY),
        found.f_bavail * found.f_frsize,
        _size_of(state),
        bound_bytes,
    )


def _size_of(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += (Path(place) / name).lstat().st_size
    return size


def databases(state: Path) -> Iterator[Finding]:
    """Whether each SQLite file is sound, and which damaged ones were kept."""
    for path in sorted(state.glob("**/*.db"))[:_MOST_FILES]:
        name = str(path.relative_to(state))
        for aside in set_aside_files(path):
            yield warning(
                f"file {name}",
                f"{aside.name} was damaged and set aside, a new one began",
                "check the card (dmesg, smartctl); delete the file when nobody examines it",
            )
        yield _database(path, name)


def _database(path: Path, name: str) -> Finding:
    check = f"file {name}"
    try:
        size = path.stat().st_size
        with closing(open_for_reading(path)) as database:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        reason = f"can not be read: {error}"
        return problem(check, reason, "check rights and the disk; run as root or as the agent")
    except (sqlite3.DatabaseError, OSError) as error:
        answer = str(error)
    if answer != "ok":
        said = f"damaged: {' '.join(str(answer).split())}"
        return problem(
            check, said, "restart the agent: it sets the file aside and begins anew; check the card"
        )
    return ok(check, f"sound, {mib(size)}")


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a database that another process may be writing, leaving no trace.

    Without a log nobody writes it, and `immutable` keeps SQLite from making files beside it
    (sqlite.org/wal.html, read-only databases).

    Raises:
      sqlite3.DatabaseError: it can not be opened.
    """
    log = Path(f"{path}-wal")
    is_quiet = not log.exists() or log.stat().st_size == 0
    mode = "mode=ro&immutable=1" if is_quiet else "mode=ro"
    with _as_caller():
        database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=5)
        database.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    return database


@contextmanager
def _as_caller() -> Iterator[None]:
    """Be root again for a moment, if root acts as the owner of the state directory.

    SQLite resolves the path to the real one, and systemd's dynamic user may not pass its parent.
    """
    owner = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(owner)


def samples(folder: Path) -> Iterator[Finding]:
    """The ring of samples: how large, and whether its newest files can be read."""
    check = "sample store"
    if not folder.is_dir():
        yield skipped(check, "nothing is kept yet")
        return
    try:
        segments = [peeked(path) for path in sorted(folder.glob("[0-9]*.*")) if _is_segment(path)]
    except OSError as error:
        yield problem(check, f"{folder}: {error.strerror}", "check rights and the disk")
        return
    size = sum(segment.end for segment in segments)
    lost = [each.path.name for each in segments if each.is_damaged or each.header is None]
    lost += [each.path.name for each in _newest(segments) if _has_holes(each)]
    shown = f"{len(segments)} files, {mib(size)}"
    if lost:
        yield warning(
            check,
            f"{shown}; damaged: {', '.join(sorted(set(lost))[:5])}",
            "what can be read of them stays in use, gaps mark the rest; check the card (dmesg)",
        )
    else:
        yield ok(check, f"{shown}, sound as far as looked at")


def _is_segment(path: Path) -> bool:
    return path.suffix in (".samples", ".damaged") and path.stem.isdecimal()


def _newest(segments: list[Segment]) -> Iterator[Segment]:
    left = _MOST_SEGMENT_BYTES
    for segment in reversed(segments):
        left -= segment.end
        if left < 0:
            return
        yield segment


def _has_holes(segment: Segment) -> bool:
    """Whether sound records follow unsound ones; a torn end is what being written looks like."""
    try:
        return bool(read_segment(segment).holes)
    except OSError:
        return False  # the ring deleted it in the meantime, or `peeked` has told why not


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"
