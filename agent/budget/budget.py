"""Whether the gateway can spare a training now, and why not, in words.  Pure.

    readings ─► levels ─► limits, with hysteresis ─► reason ─► learner, personal models, status

Training pauses above a limit and goes on below a lower one, not before a pause has lasted for
`min_pause_s`: a gateway that cools within a second after each pause must not train in bursts.
Refuses to limit by what the kernel does not tell, and anything else than training: scores, samples
and delivery are never held back.

Invariant: `reason` is empty if and only if training may go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from agent.budget.readings import Levels, Readings
from agent.budget.settings import BudgetTable, windows

_LOAD_AGAIN = 0.8
_PRESSURE_AGAIN = 0.5
_FREE_AGAIN = 2
_MEBIBYTE = 1 << 20


class BudgetReport(msgspec.Struct, kw_only=True):
    """What the budget saw last, and how long it withheld training since the process began.

    Attributes:
      reason: why training is withheld now; empty when it is not.
      temperature_c: of the hottest thermal zone.
      pressure_percent: by resource, of others than training.
      load_per_core: the same.
      free_memory_bytes: of the machine or the service, whichever has less.
      withheld_s: seconds by kind of reason.
    """

    reason: str = ""
    temperature_c: float | None = None
    pressure_percent: dict[str, float] = {}
    load_per_core: float | None = None
    free_memory_bytes: int | None = None
    withheld_s: dict[str, float] = {}


@dataclass(frozen=True)
class _Objection:
    """One thing that speaks against training: its kind, what is the matter, and until when."""

    kind: str
    matter: str
    until: str

    def __str__(self) -> str:
        return f"{self.matter}, training begins again {self.until}"


@dataclass
class Budget:
    """What can be spared; looked at every few seconds.

    Attributes:
      table: the limits.
      reason: why not to train now, in words; empty when training may go on.
      kind: of that reason, one word or two: `temperature`, `free memory`, ...
    """

    table: BudgetTable = field(default_factory=BudgetTable)
    reason: str = ""
    kind: str = ""
    _before: Readings | None = None
    _levels: Levels = field(default_factory=Levels)
    _objecting: frozenset[str] = frozenset()  # kinds, since this pause began
    _last: _Objection | None = None
    _until_s: float = 0.0
    _withheld_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._windows = windows(self.table)

    def limit(self, table: BudgetTable) -> None:
        """Take other limits, from the next look on."""
        self.table, self._windows = table, windows(table)

    def look(self, now: Readings) -> None:
        """Decide anew.

        Args:
          now: not earlier than those of the last look.
        """
        before, self._before = self._before, now
        if before is not None:
            self._levels = self._levels.moved(before, now)
            if self.kind:
                past_s = max(0.0, now.at_s - before.at_s)
                self._withheld_s[self.kind] = self._withheld_s.get(self.kind, 0.0) + past_s
        objections = list(self._objections(now)) if self.table.enabled else []
        self._decide(objections, now.at_s)
        kinds = frozenset(each.kind for each in objections)
        self._objecting = self._objecting | kinds if self.reason else frozenset()

    def report(self) -> BudgetReport:
        """What is seen and was done, for the status."""
        now = self._before
        if now is None:
            return BudgetReport()
        shares = self._levels.pressure.items()
        return BudgetReport(
            reason=self.reason,
            temperature_c=now.temperature_c,
            pressure_percent={resource: round(100 * share, 1) for resource, share in shares},
            load_per_core=None if now.load is None else round(self._load_per_core(now.load), 2),
            free_memory_bytes=now.free_bytes,
            withheld_s={kind: round(each, 1) for kind, each in self._withheld_s.items()},
        )

    def _decide(self, objections: list[_Objection], now_s: float) -> None:
        if objections:
            if not self.reason:
                self._until_s = now_s + self.table.min_pause_s
            self._last = objections[0]
            self.kind, self.reason = self._last.kind, str(self._last)
        elif self._last is not None and self.reason and now_s < self._until_s:
            rest = replace(self._last, until=f"in {self._until_s - now_s:.0f} s")
            self.reason = str(rest)
        else:
            self.kind = self.reason = ""

    def _objections(self, now: Readings) -> Iterator[_Objection]:
        """What speaks against training now, the most serious first."""
        for alarm in now.alarms:
            yield _Objection(alarm, alarm, "when that is over")
        yield from self._too_hot(now)
        yield from self._too_full(now)
        yield from self._too_busy(now)
        if self._windows and not any(window.holds(now.minute) for window in self._windows):
            yield _Objection("hours", "not now", f"at {' or '.join(self.table.hours)}")

    def _too_hot(self, now: Readings) -> Iterator[_Objection]:
        most_c = self.table.max_temperature_c
        again_c = most_c - self.table.cool_down_c
        if now.temperature_c is not None and self._is_over(
            "temperature", now.temperature_c, most_c, again_c
        ):
            said = f"{now.temperature_c:.0f} °C"
            yield _Objection("temperature", said, f"below {again_c:.0f} °C")

    def _too_full(self, now: Readings) -> Iterator[_Objection]:
        least = self.table.min_free_memory_bytes
        again = _FREE_AGAIN * least
        if now.free_bytes is not None and self._is_over(
            "free memory", -now.free_bytes, -least, -again
        ):
            said = f"{now.free_bytes // _MEBIBYTE} MiB of memory are free"
            yield _Objection("free memory", said, f"above {again // _MEBIBYTE} MiB")

    def _too_busy(self, now: Readings) -> Iterator[_Objection]:
        table, pressure = self.table, self._levels.pressure
        limits = {
            "memory": table.max_memory_pressure_percent,
            "cpu": table.max_cpu_pressure_percent,
            "io": table.max_io_pressure_percent,
        }
        for resource, most in limits.items():
            percent, again = 100 * pressure.get(resource, 0.0), _PRESSURE_AGAIN * most
            if self._is_over(f"{resource} pressure", percent, most, again):
                said = f"{resource} pressure {percent:.0f} %"
                yield _Objection(f"{resource} pressure", said, f"below {again:.0f} %")
        if now.load is not None and "cpu" not in pressure:
            load, most = self._load_per_core(now.load), table.max_load_per_core
            if self._is_over("load", load, most, _LOAD_AGAIN * most):
                said = f"load {load:.1f} a core"
                yield _Objection("load", said, f"below {_LOAD_AGAIN * most:.1f}")

    def _load_per_core(self, load: float) -> float:
        cores = self._before.cores if self._before is not None else 1
        return max(0.0, load - self._levels.own_load) / cores

    def _is_over(self, kind: str, value: float, most: float, again: float) -> bool:
        """Whether a value is over its limit: the lower one, once it was over in this pause."""
        return value >= again if kind in self._objecting else value > most
