"""Limits on the training child, and how a process puts them on itself.

Linux only. The child limits itself before it looks at a request: memory by RLIMIT_DATA (what a
process writes; shared libraries' mapped files do not count), CPU time by RLIMIT_CPU, priority
by nice and SCHED_IDLE; and it asks the kernel to be killed when its parent dies, so that no trainer
outlives its agent.

On a core that another process wants all the time, in the agent's control group as systemd makes it,
a child at nice 0, 10, 19 and SCHED_IDLE had 48, 9, 1.4 and 0.2 % of it (Linux 6.18), and the agent
waited least beside SCHED_IDLE, which also never delays a task that wakes up (sched(7)). Reads and
writes of such a task are of the idle I/O class (include/linux/ioprio.h, task_nice_ioclass), so
ioprio_set, which the unit refuses, is not needed. Outside of such a group each session is a group
of its own, with equal shares whatever the priorities inside (sched(7), autogroup): the same child
had 46 %, and 1.4 % once its session's priority was lowered too.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOW, IDLE = 10, 19
"""Priorities for training: a small share of a busy core, or what nobody else wants."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_THREAD_NICE = 5
_AUTOGROUP = Path("/proc/self/autogroup")


@dataclass(frozen=True)
class ProcessLimits:
    """What a training child may use.

    Attributes:
      memory_bytes: writable memory, with the 50 to 70 MB that numpy and ONNX Runtime need.
      cpu_s: CPU time over the child's whole life, None for no limit; a runaway is killed.
      nice: added to the parent's priority value; 19 is SCHED_IDLE too, and yields to everything.
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
    if limits.nice >= IDLE:
        _yield_to_everything()
    _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)  # a core file would hold the site's rows
    if limits.cpu_s is not None:
        _lower(resource.RLIMIT_CPU, limits.cpu_s)


def lower_this_thread() -> None:
    """Let the calling thread give way a little, for good; for training inside of the agent.

    No more than that: whoever holds the interpreter's lock keeps the agent waiting while it waits
    for a processor itself. On a core that another process wants all the time, an event loop beside
    a training thread at nice 0, 5, 10, 19 and SCHED_IDLE woke up to 12, 20, 47, 260 and 1340 ms
    late (Linux 6.18, Python 3.11).
    """
    thread = threading.get_native_id()
    with suppress(OSError):
        least = os.getpriority(os.PRIO_PROCESS, thread) + _THREAD_NICE
        os.setpriority(os.PRIO_PROCESS, thread, min(least, IDLE))


def priority_of(task: int) -> str:
    """The priority of a process or thread in words; empty when it is gone."""
    try:
        is_idle = os.sched_getscheduler(task) == os.SCHED_IDLE
        nice = os.getpriority(os.PRIO_PROCESS, task)
    except OSError:
        return ""
    return f"nice {nice}, SCHED_IDLE" if is_idle else f"nice {nice}"


def _yield_to_everything() -> None:
    """SCHED_IDLE for this process, and nothing for its session; what is refused stays nice 19."""
    with suppress(OSError):  # such as by a filter of system calls
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):  # not there without CONFIG_SCHED_AUTOGROUP
        _AUTOGROUP.write_text(str(IDLE), encoding="ascii")


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))
