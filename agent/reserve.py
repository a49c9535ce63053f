"""A file whose only use is its bytes: given up on a full disk, so that small writes still succeed.

A receipt must be applicable when nothing else fits: it is what empties the outbox.
"""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 1 << 20
_ROOM_BYTES = 4 * RESERVE_BYTES
"""Made again only with this much free, or it would take back at once what it gave."""


class Reserve:
    """Owner of the file.

    Args:
      path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.is_kept = path is not None and path.exists()

    def keep(self) -> None:
        """Allocate the bytes if they are not, and there is ample room."""
        if self._path is None or self.is_kept or self._free_bytes() < _ROOM_BYTES:
            return
        with suppress(OSError):  # tried again after the next write
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
                self.is_kept = True
            finally:
                os.close(descriptor)

    def release(self) -> bool:
        """Delete the file; return whether that gave room."""
        if self._path is None or not self.is_kept:
            return False
        self.is_kept = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def release_if_full(self) -> None:
        """Delete the file if not even a page or two would fit beside it."""
        if self.is_kept and self._free_bytes() < RESERVE_BYTES // 8:
            self.release()

    def _free_bytes(self) -> int:
        if self._path is None:
            return 0
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
