"""Figures of this process, under the names that all Prometheus clients use.

Names: prometheus.io/docs/instrumenting/writing_clientlibs, "Process metrics"; files: proc(5).  What
the system does not tell has no sample.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from wire.exposition import Kind, family

_PROC = Path("/proc/self")


def process_lines(started_at: float) -> Iterator[str]:
    """The families of this process; training children are not counted.

    Args:
      started_at: when it started, Unix time.
    """
    figures: tuple[tuple[str, Kind, str, float | None], ...] = (
        ("start_time_seconds", "gauge", "Start of the process, Unix time.", started_at),
        ("cpu_seconds_total", "counter", "Processor time it has used.", time.process_time()),
        ("resident_memory_bytes", "gauge", "Memory it has in RAM.", _resident_bytes()),
        ("open_fds", "gauge", "Open file descriptors.", _descriptors()),
    )
    for name, kind, text, value in figures:
        yield from family(f"process_{name}", kind, text, [] if value is None else [({}, value)])


def _resident_bytes() -> int | None:
    try:
        return int((_PROC / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )
    except (OSError, ValueError, IndexError):
        return None


def _descriptors() -> int | None:
    try:
        return sum(1 for _ in (_PROC / "fd").iterdir())
    except OSError:
        return None
