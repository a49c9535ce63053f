"""Limits on the training child, and how a process puts them on itself.

Linux only. The child limits itself before it looks at a request: memory by RLIMIT_DATA (what a
process writes; shared libraries' mapped files do not count), CPU time by RLIMIT_CPU, priority
by nice; and it asks the kernel to be killed when its parent dies, so that no trainer outlives
its agent.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class ProcessLimits:
    """What a training child may use.

    Attributes:
      memory_bytes: writable memory, with the 50 to 70 MB that numpy and ONNX Runtime need.
      cpu_s: CPU time over the child's whole life, None for no limit; a runaway is killed.
      nice: added to the parent's priority value; 19 yields to everything.
      threads: threads of one operator.
      idle_s: a child without requests for this long ends and gives its memory back.
    """

    memory_bytes: int = 512 << 20
    cpu_s: int | None = None
    nice: int = 10
    threads: int = 1
    idle_s: float = 60.0


def limit_this_process(limits: ProcessLimits, parent: int) -> None:
    """Put limits on the calling process, for good.

    Args:
      limits: what it may use.
      parent: process id of the agent; when it is gone already, this process exits.
    """
    _die_with_parent()
    if os.getppid() != parent:  # it died before the kernel was asked
        raise SystemExit(1)
    os.nice(limits.nice)
    _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)  # a core file would hold the site's rows
    if limits.cpu_s is not None:
        _lower(resource.RLIMIT_CPU, limits.cpu_s)


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))
