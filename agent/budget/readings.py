"""What the kernel tells about the machine at one moment, and what two moments say.  Pure.

Counters come in and shares of time go out, so that nothing depends on how often somebody looks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

RESOURCES = ("cpu", "memory", "io")
_PRESSURE_S = 10.0
"""Time constant of a pressure, as of the kernel's `avg10`."""
_LOAD_S = 60.0
"""Of the load average (kernel: include/linux/sched/loadavg.h)."""


@dataclass(frozen=True)
class Worker:
    """A task that trains.

    Attributes:
      task: its id.
      ran_s, waited_s: since it was born, on a processor and for one (`/proc/TASK/schedstat`).
    """

    task: int
    ran_s: float
    waited_s: float


@dataclass(frozen=True)
class Readings:
    """What the kernel tells; None, and no entry, for what it does not.

    Attributes:
      at_s: monotonic time.
      minute: of the day, local time.
      temperature_c: of the hottest thermal zone.
      alarms: what is wrong with the power supply or the processor, in words.
      stalled_s: since boot, how long at least one task waited for a resource, by (scope, resource);
        scopes are the machine and the own control group.
      load: the one of a minute.
      cores: of the machine.
      free_bytes: memory that can be had without swapping.
      worker: what trains now.
    """

    at_s: float
    minute: int = 0
    temperature_c: float | None = None
    alarms: tuple[str, ...] = ()
    stalled_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    load: float | None = None
    cores: int = 1
    free_bytes: int | None = None
    worker: Worker | None = None


@dataclass(frozen=True)
class Levels:
    """How busy the machine is with other work than training.

    Attributes:
      pressure: share of time in [0, 1], mean of about 10 s, by resource; of the machine or of the
        own control group, whichever is larger.
      own_load: what training adds to the load average.
    """

    pressure: Mapping[str, float] = field(default_factory=dict)
    own_load: float = 0.0

    def moved(self, before: Readings, now: Readings) -> "Levels":
        """The levels at the later of two moments.

        A training on a busy machine waits for most of its time, and the kernel counts that as
        pressure; what others wait is at least the rest of it.
        """
        past_s = now.at_s - before.at_s
        if past_s <= 0:
            return self
        ran, waited = _worker_shares(before.worker, now.worker, past_s)
        pressure = {}
        for resource in RESOURCES:
            share = _stalled_share(before, now, resource, past_s)
            if share is None:
                continue
            others = max(0.0, share - waited) if resource == "cpu" else share
            pressure[resource] = _nearer(
                self.pressure.get(resource, others), others, past_s, _PRESSURE_S
            )
        return Levels(pressure, _nearer(self.own_load, ran + waited, past_s, _LOAD_S))


def _nearer(level: float, target: float, past_s: float, constant_s: float) -> float:
    return target + (level - target) * math.exp(-past_s / constant_s)


def _stalled_share(before: Readings, now: Readings, resource: str, past_s: float) -> float | None:
    """Share of the time in which a task waited for a resource; None when nothing tells."""
    shares = [
        _share(stalled_s - before.stalled_s[scope, kind], past_s)
        for (scope, kind), stalled_s in now.stalled_s.items()
        if kind == resource and (scope, kind) in before.stalled_s
    ]
    return max(shares, default=None)


def _worker_shares(before: Worker | None, now: Worker | None, past_s: float) -> tuple[float, float]:
    """Shares of the time in which what trains ran, and waited for a processor."""
    if now is None:
        return 0.0, 0.0
    ran_s, waited_s = now.ran_s, now.waited_s
    if before is not None and before.task == now.task:
        ran_s, waited_s = ran_s - before.ran_s, waited_s - before.waited_s
    return _share(ran_s, past_s), _share(waited_s, past_s)


def _share(part_s: float, past_s: float) -> float:
    """A share of time; counters that begin anew give no negative one."""
    return min(max(part_s / past_s, 0.0), 1.0)
