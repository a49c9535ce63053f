"""Reads the machine's heat, pressure, load and memory, from /proc and /sys.

Kernel: Documentation/accounting/psi.rst, Documentation/admin-guide/cgroup-v2.rst (Memory),
Documentation/filesystems/proc.rst (meminfo, loadavg), Documentation/scheduler/sched-stats.rst
(`/proc/PID/schedstat`); Raspberry Pi: drivers/hwmon/raspberrypi-hwmon.c, and `vcgencmd
get_throttled` of its documentation for the bits.  No reading is an error: what is missing,
unreadable or malformed counts as not told.  Seen in the field, and behaved for:

- Kernels of Raspberry Pi OS tell no pressure without `psi=1` on their command line
  (home-assistant/operating-system issue 4616): reading gives EOPNOTSUPP (netdata issue 7531).
- Control groups of version 1, or version 2 mounted beside them: no figures of an own group, or
  those under /sys/fs/cgroup/unified.
- In a container of its own namespace the path of the own group may be outside of what is mounted.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent.budget.readings import RESOURCES, Readings, Worker
from agent.conditions import hottest_c, number_of, text_of

_MAX_BYTES = 64 << 10
_MAX_DEPTH = 32
_MAX_MONITORS = 64
_PI_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
_PI_BITS = {
    0: "low supply voltage",
    1: "capped processor frequency",
    2: "throttled processor",
}
"""Not bit 3, the soft temperature limit: a Raspberry Pi 3B+ is meant to work there, at 60 °C."""
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""Of a control group's memory, what the kernel can take back.  A group that is written to fills up
with files in time; when taking them back costs others time, the pressure says so."""


@dataclass(frozen=True)
class Roots:
    """Where the kernel's file systems are mounted."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


def read_machine(worker: int | None = None, roots: Roots | None = None) -> Readings:
    """Read all; some sensors take milliseconds to answer.

    Args:
      worker: task id of what trains, None while there is none.
      roots: where to read.
    """
    roots = roots or Roots()
    group = _own_group(roots)
    clock = time.localtime()
    return Readings(
        at_s=time.monotonic(),
        minute=60 * clock.tm_hour + clock.tm_min,
        temperature_c=hottest_c(roots.sys),
        alarms=tuple(_alarms(roots.sys)),
        stalled_s=dict(_stalled(roots, group)),
        load=_load(roots.proc),
        cores=os.cpu_count() or 1,  # of the machine, as the load is
        free_bytes=min(_free(roots.proc, group), default=None),
        worker=None if worker is None else _worker(roots.proc, worker),
    )


def _alarms(sys: Path) -> Iterator[str]:
    """What a Raspberry Pi's firmware says is wrong now; bits from 16 on tell what was wrong."""
    digits = text_of(sys / _PI_FIRMWARE).removeprefix("0x")
    if digits and len(digits) <= 8 and set(digits) <= set("0123456789abcdef"):
        bits = int(digits, 16)
        yield from (words for bit, words in _PI_BITS.items() if bits >> bit & 1)
        return
    for monitor in islice((sys / "class" / "hwmon").glob("hwmon*"), _MAX_MONITORS):
        if text_of(monitor / "name") == "rpi_volt" and number_of(monitor / "in0_lcrit_alarm") == 1:
            yield _PI_BITS[0]


def _stalled(roots: Roots, group: Path | None) -> Iterator[tuple[tuple[str, str], float]]:
    for resource in RESOURCES:
        places = {"machine": roots.proc / "pressure" / resource}
        if group is not None:
            places["service"] = group / f"{resource}.pressure"
        for scope, path in places.items():
            stalled_us = _total_us(_lines(path))
            if stalled_us is not None:
                yield (scope, resource), stalled_us / 1e6


def _total_us(lines: list[list[str]]) -> int | None:
    """Microseconds of `some avg10=.. avg60=.. avg300=.. total=N`."""
    for words in lines:
        if words[0] == "some":
            return _count(words[-1].removeprefix("total="))
    return None


def _load(proc: Path) -> float | None:
    lines = _lines(proc / "loadavg")
    text = lines[0][0] if lines else ""
    whole, _, part = text.partition(".")
    if _count(whole) is None or _count(part) is None:
        return None
    return float(text)


def _worker(proc: Path, task: int) -> Worker | None:
    """Nanoseconds on a processor and waiting for one."""
    lines = _lines(proc / str(task) / "schedstat")
    words = lines[0] if lines else []
    counts = [_count(word) for word in words[:2]]
    if len(counts) < 2 or counts[0] is None or counts[1] is None:
        return None
    return Worker(task, counts[0] / 1e9, counts[1] / 1e9)


def _free(proc: Path, group: Path | None) -> Iterator[int]:
    """What the machine has, and what each limited control group has that this process is in."""
    for words in _lines(proc / "meminfo"):
        if words[0] == "MemAvailable:" and (kibibytes := _count(words[1])) is not None:
            yield kibibytes << 10
    for _ in range(_MAX_DEPTH):
        if group is None or not (group / "cgroup.procs").exists():
            return
        yield from _free_in_group(group)
        group = group.parent


def _free_in_group(group: Path) -> Iterator[int]:
    limits = [number_of(group / f"memory.{name}") for name in ("max", "high")]
    used = number_of(group / "memory.current")
    known = [limit for limit in limits if limit is not None]
    if not known or used is None:
        return
    stat = {words[0]: _count(words[1]) for words in _lines(group / "memory.stat") if words[1:]}
    reclaimable = sum(stat.get(name) or 0 for name in _RECLAIMABLE)
    yield max(0, min(known) - max(0, used - reclaimable))


def _own_group(roots: Roots) -> Path | None:
    """Folder of this process's control group of version 2; None when there is none to see."""
    for words in _lines(roots.proc / "self" / "cgroup"):
        path = words[0].removeprefix("0::/")
        if path == words[0] or ".." in Path(path).parts:
            continue
        for mount in (roots.sys / "fs/cgroup", roots.sys / "fs/cgroup/unified"):
            if (mount / path / "cgroup.procs").exists():
                return mount / path
    return None


def _lines(path: Path) -> list[list[str]]:
    """Words of each line that has any; none when the file is not there or gives an error."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", errors="replace")
    except OSError:
        return []
    return [words for line in text.splitlines() if (words := line.split())]


def _count(text: str) -> int | None:
    """A number of digits alone, None for anything else."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 20 else None
