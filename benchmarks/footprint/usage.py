"""What a process and everything below it use, read from proc(5).

Memory is what the tree would have if nothing else on the machine mapped the same files: the
kernel's proportional set size (PSS) divides a library's pages among all processes that mapped them,
and the benchmark's own (coordinator, machine) run the same Python.  So anonymous pages count as PSS
counts them, and a file's page once, if any process of the tree has it.  For one process alone on
its gateway both are the same.  Linux only.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PRESENT, _OF_A_FILE = np.uint64(1 << 63), np.uint64(1 << 61)
"""Bits of an entry of /proc/PID/pagemap (kernel, admin-guide/mm/pagemap)."""
_ENTRY = 8


@dataclass(frozen=True)
class Memory:
    """Of a tree of processes at one moment.

    Attributes:
      mib: as if it were alone on the machine, in MiB.
      pss_mib: the kernel's PSS, with the machine as it is.
      processes: how many.
    """

    mib: float
    pss_mib: float
    processes: int


@dataclass
class Totals:
    """What a tree has used; of processes that ended, what was seen last."""

    _cpu_s: dict[int, float] = field(default_factory=dict)
    _written: dict[int, int] = field(default_factory=dict)

    def look(self, root: int) -> None:
        """Read the processes that are there now."""
        for pid in tree(root):
            with suppress(OSError):
                self._cpu_s[pid] = _cpu_s(pid)
                self._written[pid] = _written_bytes(pid)

    @property
    def cpu_s(self) -> float:
        """User and system time so far."""
        return sum(self._cpu_s.values())

    @property
    def written_bytes(self) -> int:
        """Caused to be written to a disk so far."""
        return sum(self._written.values())


def tree(root: int) -> list[int]:
    """A process and everything below it; empty when it is gone."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {root} & parents.keys()
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return sorted(found)


def memory(root: int) -> Memory:
    """Memory of a process and everything below it, now."""
    anonymous = pss = 0
    pages: dict[str, list[np.ndarray[tuple[int], np.dtype[np.int64]]]] = {}
    pids = tree(root)
    for pid in pids:
        with suppress(OSError):  # it ended
            sizes = _rollup(pid)
            pss += sizes["Pss"]
            anonymous += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
            for name, numbers in _file_pages(pid):
                pages.setdefault(name, []).append(numbers)
    of_files = sum(len(np.unique(np.concatenate(parts))) for parts in pages.values())
    return Memory((anonymous + of_files * _PAGE) / MIB, pss / MIB, len(pids))


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name, of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(size) * 1024 for name, size, *_ in fields}


def _file_pages(pid: int) -> Iterator[tuple[str, "np.ndarray[tuple[int], np.dtype[np.int64]]"]]:
    """Device and inode of each mapped file, and the numbers of its pages that are mapped now."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as table:
        for line in maps:
            span, _, offset, device, inode, *_ = line.split()
            if inode == "0":
                continue
            begin, end = (int(at, 16) // _PAGE for at in span.split("-"))
            table.seek(begin * _ENTRY)
            entries = np.frombuffer(table.read((end - begin) * _ENTRY), np.uint64)
            mapped = np.flatnonzero((entries & _PRESENT != 0) & (entries & _OF_A_FILE != 0))
            yield f"{device} {inode}", mapped + int(offset, 16) // _PAGE


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _written_bytes(pid: int) -> int:
    """Bytes for a disk, less those of files that were replaced before the disk had them."""
    lines = (line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    counted = {name: int(value) for name, value in lines}
    return counted["write_bytes"] - counted["cancelled_write_bytes"]
