"""The fault shim's log: every change of some files, in the order in which the kernel did them.

Reads what `shim.c` wrote (`struct record`).  A last record that was cut, because its process was
killed while it wrote it, is left out: its operation was the last one, and nothing followed from it.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_RECORD = struct.Struct("=6I4Q")
_MAGIC = 0x314C4D4A
_LARGEST_LOG = 1 << 30


class LogError(ValueError):
    """The file is no log of the shim; says where it stops being one."""


class Kind(IntEnum):
    """What was done; `Operation` says which of its fields each kind has."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    SYNC_DIRECTORY = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    LINK = 10
    OTHER = 11
    """Something that a replay does not know."""


@dataclass(frozen=True)
class Operation:
    """One change that the kernel made.

    Attributes:
      kind: what was done.
      pid: by which process.
      name: path relative to the directory: of what was created, written, removed, or renamed from.
      other: the new name of a rename or link.
      file: inode number of what was created, written, cut, grown or synced. One whose last name
        was removed may come back by CREATE as another file.
      offset: of a write, in bytes.
      length: of a write, or the new length of a file that was cut or grown with zeros.
      data: of a write.
    """

    kind: Kind
    pid: int
    name: str
    other: str
    file: int
    offset: int
    length: int
    data: bytes

    def __str__(self) -> str:
        """Say it in a line, for failed tests."""
        names = f"{self.name} -> {self.other}" if self.other else self.name or "."
        size = f" [{self.offset}:{self.offset + self.length}]" if self.kind == Kind.WRITE else ""
        return f"{self.kind.name} {names}{size}"


def read_log(path: Path) -> list[Operation]:
    """Read a whole log.

    Raises:
      LogError: it is none, or larger than 1 GiB.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST_LOG + 1)
    if len(data) > _LARGEST_LOG:
        raise LogError(f"{path}: larger than {_LARGEST_LOG} bytes; log a shorter run")
    operations: list[Operation] = []
    at = 0
    while at + _RECORD.size <= len(data):
        magic, kind, pid, name_bytes, other_bytes, _, file_number, offset, length, data_bytes = (
            _RECORD.unpack_from(data, at)
        )
        if magic != _MAGIC or kind not in iter(Kind):
            raise LogError(f"{path}: no record at byte {at}")
        at += _RECORD.size
        end = at + name_bytes + other_bytes + data_bytes
        if end > len(data):
            break
        name, other = data[at : at + name_bytes], data[at + name_bytes : end - data_bytes]
        operations.append(
            Operation(
                Kind(kind),
                pid,
                name.decode(errors="surrogateescape"),
                other.decode(errors="surrogateescape"),
                file_number,
                offset,
                length,
                data[end - data_bytes : end],
            )
        )
        at = end
    return operations
