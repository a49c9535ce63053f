"""What a power cut may leave of one directory, computed from the log of every change of it.

Responsible for three models of what had reached the medium when the power went:

    everything   all that the kernel was told, in order: a killed process, a data-journalling file
                 system, the kindest case.
    synced       of each file what it held at its last fsync; of names created, renamed or removed
                 since the directory's last fsync either all or none. What POSIX promises and no
                 more: delayed allocation, where a rename overtakes the data (ext4 without
                 auto_da_alloc, XFS), or ext2, where fsync of a file does not keep its name.
    scattered    of each sector any one of the contents that it had since the last fsync, of the
                 size any one that it had, of names any subset, or any prefix as a journal would
                 keep it; the operation that was going on is torn at any byte; what a file grew by
                 without its data arriving is zeros or, as after a journal of metadata only
                 (ext3/ext4 data=writeback), garbage.

After Pillai et al., "All File Systems Are Not Created Equal" (ALICE), OSDI 2014, section 3, whose
abstract persistence model this is, with reordering by sector; the sizes are those that SQLite
names ("Atomic Commit In SQLite", section 2: hardware assumptions; sqlite.org/psow.html).

Refuses what it does not know: directories inside the directory, exchanged names, holes punched.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from shopfloor.faults.log import Kind, Operation

Tree = dict[str, bytes]
"""Contents by name."""

SHARED_MEMORY = "-shm"
"""SQLite's index of its log: written through a mapping, rebuilt after a crash, so never trusted."""


@dataclass
class File:
    """One file: as the kernel has it, as it was at its last fsync, and what happened since."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    since: list[Operation] = field(default_factory=list)

    def change(self, operation: Operation) -> None:
        """Write, cut or grow."""
        _apply(self.now, operation)
        self.since.append(operation)

    def sync(self) -> None:
        """All of it reached the medium."""
        self.durable = bytes(self.now)
        self.since.clear()

    def scattered(self, rng: random.Random, sector_bytes: int, going_on: Operation | None) -> bytes:
        """A content that the medium may have: see the module."""
        history = [*self.since, going_on] if going_on else self.since
        if not history:
            return self.durable
        largest = max(len(self.durable), *(_end(operation) for operation in history))
        grown = largest - len(self.durable)
        content = bytearray(self.durable)
        content += rng.randbytes(grown) if rng.random() < 0.5 else bytes(grown)
        reached: dict[int, int] = {}
        size = len(self.durable)
        of_size = _moment(rng, len(history))
        for at, operation in enumerate(history):
            start, data = _bytes_of(operation, largest)
            for sector in range(start // sector_bytes, -(-(start + len(data)) // sector_bytes)):
                if sector not in reached:
                    reached[sector] = _moment(rng, len(history))
                if at < reached[sector]:
                    low = max(start, sector * sector_bytes)
                    high = min(start + len(data), (sector + 1) * sector_bytes)
                    content[low:high] = data[low - start : high - start]
            if at < of_size:
                size = _size_after(size, operation)
        return bytes(content[:size])


def _moment(rng: random.Random, operations: int) -> int:
    """How many of the operations a sector saw; often none or all, as bugs like the edges."""
    return rng.choice((0, operations, rng.randint(0, operations)))


def _end(operation: Operation) -> int:
    return operation.offset + operation.length


def _bytes_of(operation: Operation, largest: int) -> tuple[int, bytes]:
    """Where an operation puts which bytes; what lies behind a cut is zeros from then on."""
    if operation.kind == Kind.WRITE:
        return operation.offset, operation.data
    return operation.length, bytes(largest - operation.length)


def _size_after(size: int, operation: Operation) -> int:
    return max(size, _end(operation)) if operation.kind == Kind.WRITE else operation.length


def _apply(content: bytearray, operation: Operation) -> None:
    end = _size_after(len(content), operation)
    if end > len(content):
        content += bytes(end - len(content))
    if operation.kind == Kind.WRITE:
        content[operation.offset : _end(operation)] = operation.data
    else:
        del content[operation.length :]


@dataclass(frozen=True)
class Naming:
    """A change of the directory: names that go and come together."""

    gone: str | None
    name: str | None
    file: int


class Disk:
    """The directory after some of the operations.

    Args:
      ignored: names that are no part of it, such as the record of what was promised.
      base: what was on the medium before: inode number and content by name.
    """

    def __init__(self, ignored: frozenset[str], base: dict[str, tuple[int, bytes]]) -> None:
        self._ignored = ignored
        self._files = [File(bytearray(content), content) for _, content in base.values()]
        self._of_inode = {inode: at for at, (inode, _) in enumerate(base.values())}
        self._names = {name: at for at, name in enumerate(base)}
        self._durable_names = dict(self._names)
        self._namings: list[Naming] = []

    def does_change(self, operation: Operation) -> bool:
        """Whether an operation can change what a power cut leaves."""
        return operation.name not in self._ignored and not operation.name.endswith(SHARED_MEMORY)

    def apply(self, operation: Operation) -> None:
        """Do the next operation of the log.

        Raises:
          ValueError: this model does not know it.
        """
        if operation.name in self._ignored:
            return
        if operation.kind == Kind.CREATE:
            self._of_inode[operation.file] = len(self._files)
            self._files.append(File())
            self._name(Naming(None, operation.name, len(self._files) - 1))
        elif operation.kind in {Kind.WRITE, Kind.TRUNCATE}:
            self._file(operation).change(operation)
        elif operation.kind == Kind.SYNC:
            self._file(operation).sync()
        elif operation.kind == Kind.SYNC_DIRECTORY and not operation.name:
            self._durable_names = dict(self._names)
            self._namings.clear()
        elif operation.kind == Kind.RENAME:
            file = self._names[operation.name]
            self._name(Naming(operation.name, operation.other, file))
        elif operation.kind == Kind.UNLINK:
            self._name(Naming(operation.name, None, self._names[operation.name]))
        else:
            reason = f"no model of a power cut knows {operation}"
            raise ValueError(reason)

    def everything(self) -> Tree:
        """Model `everything`."""
        return self._tree(self._names, lambda file: bytes(file.now))

    def synced(self, *, names: bool) -> Tree:
        """Model `synced`; `names`: whether names that were not synced are there."""
        return self._tree(self._names if names else self._durable_names, lambda file: file.durable)

    def scattered(self, rng: random.Random, sector_bytes: int, going_on: Operation | None) -> Tree:
        """Model `scattered`; `going_on`: the operation after the last one done, if there is one."""
        torn = _torn(rng, going_on)
        target = self._file(torn) if torn else None
        names = dict(self._durable_names)
        namings = self._namings
        if rng.random() < 0.5:
            namings = namings[: rng.randint(0, len(namings))]
        else:
            namings = [naming for naming in namings if rng.random() < 0.5]
        for naming in namings:
            _rename(names, naming)
        return self._tree(
            names,
            lambda file: file.scattered(rng, sector_bytes, torn if file is target else None),
        )

    def _file(self, operation: Operation) -> File:
        return self._files[self._of_inode[operation.file]]

    def _name(self, naming: Naming) -> None:
        _rename(self._names, naming)
        self._namings.append(naming)

    def _tree(self, names: dict[str, int], content: Callable[[File], bytes]) -> Tree:
        tree = {}
        for name in sorted(names):
            file = self._files[names[name]]
            if name.endswith(SHARED_MEMORY):
                tree[name] = random.Random(len(file.now)).randbytes(len(file.now))
            else:
                tree[name] = content(file)
        return tree


def _rename(names: dict[str, int], naming: Naming) -> None:
    if naming.gone is not None and names.get(naming.gone) == naming.file:
        del names[naming.gone]
    if naming.name is not None:
        names[naming.name] = naming.file


def _torn(rng: random.Random, operation: Operation | None) -> Operation | None:
    """A write of which only the first bytes went to the medium, or nothing at all."""
    if operation is None or operation.kind != Kind.WRITE or rng.random() < 0.5:
        return None
    length = rng.randint(0, len(operation.data))
    return Operation(
        operation.kind,
        operation.pid,
        operation.name,
        operation.other,
        operation.file,
        operation.offset,
        length,
        operation.data[:length],
    )
