"""The clock of samples that bring no time of their own: the gateway's, but never backwards.

A Modbus answer or a line of text carries no time, so its source timestamp is the gateway's clock
when it came.  NTP, or a person, may set that clock back, and windows are cut by source time: two
hours of samples with the stamps of two other hours would fall into windows that are long closed.

Invariant: each stamp is later than the one before.  A clock that was set forward is followed at
once; one that was set back is caught up with: stamps run at half speed until the two agree.
"""

import time
from collections.abc import Callable


class SteadyClock:
    """Microseconds since 1970 UTC, strictly rising while the process lives."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns, self._steady_ns = wall_ns, steady_ns
        self._last_us = 0
        self._last_steady_us = steady_ns() // 1000

    def now_us(self) -> int:
        """The time of a sample that came now."""
        steady_us = self._steady_ns() // 1000
        least = self._last_us + max(1, (steady_us - self._last_steady_us) // 2)
        self._last_us = max(self._wall_ns() // 1000, least)
        self._last_steady_us = steady_us
        return self._last_us
