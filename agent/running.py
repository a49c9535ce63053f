"""Whether an agent runs on a state directory, told without touching its lock.

Taking the lock to see whether it is free would make an agent fail that starts in that moment.
"""

import time
from pathlib import Path

from agent.status import FILE_NAME

_FRESH_S = 10.0
"""The status file is written twice a second; a slow card may take its time."""
_LOCKS = Path("/proc/locks")


def agent_runs(state: Path) -> bool:
    """Whether the lock is held, or the status was written a moment ago.

    `/proc/locks` has no locks of other namespaces, and a status is not written on a full disk;
    either of them is enough.
    """
    return _is_locked(state / "lock") or _is_fresh(state / FILE_NAME)


def _is_fresh(status: Path) -> bool:
    try:
        return abs(time.time() - status.stat().st_mtime) < _FRESH_S
    except OSError:
        return False


def _is_locked(lock: Path) -> bool:
    try:
        inode = lock.stat().st_ino
        held = _LOCKS.read_text()
    except OSError:
        return False
    # `1: FLOCK  ADVISORY  WRITE 709 00:2f:1234 0 EOF`: see proc(5)
    return any(
        words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode)
        for words in map(str.split, held.splitlines())
        if len(words) > 5
    )
