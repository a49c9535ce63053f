"""Settings of `[training.budget]`, and what is wrong with them beyond their types."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from wire.settings import Settings

_TIME = r"([01]\d|2[0-3]):[0-5]\d"

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Hours = Annotated[str, msgspec.Meta(pattern=f"^{_TIME}-({_TIME}|24:00)$")]


class BudgetTable(Settings, frozen=True, kw_only=True):
    """`[training.budget]`: when the gateway is too hot, too busy or too full to train.

    Attributes:
      enabled: false: training goes on whatever the gateway's state is.
      max_temperature_c: of the hottest thermal zone; above, training pauses.
      cool_down_c: it goes on when so many degrees below that.
      max_cpu_pressure_percent: share of the time in which others than training wait for a
        processor; it goes on below half of it.  The same holds for the next two.
      max_memory_pressure_percent: the same for memory.
      max_io_pressure_percent: the same for disks; 100 is no limit.
      max_load_per_core: others' load by core, where the kernel tells no pressure.
      min_free_memory_bytes: of the machine or the service, whichever has less; it goes on with
        twice as much.
      min_pause_s: least length of a pause, so that it does not come and go.
      hours: local times to train at, such as "22:00-06:00"; none for always.
    """

    enabled: bool = True
    max_temperature_c: Annotated[float, msgspec.Meta(ge=20, le=120)] = 80.0
    cool_down_c: Annotated[float, msgspec.Meta(ge=1, le=50)] = 8.0
    max_cpu_pressure_percent: Percent = 50.0
    max_memory_pressure_percent: Percent = 10.0
    max_io_pressure_percent: Percent = 100.0
    max_load_per_core: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.5
    min_free_memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 32 << 20
    min_pause_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    hours: Annotated[tuple[Hours, ...], msgspec.Meta(max_length=20)] = ()


@dataclass(frozen=True)
class Window:
    """A stretch of every day, in minutes since midnight; `end` is not part of it."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is in it; one that ends before it begins spans midnight."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def windows(table: BudgetTable) -> list[Window]:
    """The stretches of a day in which training may run; none for all of it."""
    return [Window(*map(_minute, hours.split("-"))) for hours in table.hours]


def problems(table: BudgetTable) -> Iterator[tuple[str, str]]:
    """Yield the key, relative to the table, and what is wrong with its value."""
    for hours, window in zip(table.hours, windows(table), strict=True):
        if window.begin == window.end:
            yield "hours", f"{hours} begins when it ends; leave it out to train at any time"


def _minute(text: str) -> int:
    hour, minute = text.split(":")
    return 60 * int(hour) + int(minute)
