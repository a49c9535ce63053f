"""From the clock that never steps to UTC, for source timestamps.

Devices' times are fitted against the monotonic clock, which nobody sets.  UTC is that plus a
difference, looked at again and again: NTP, or a person, may change it.  A clock that is set forward
is followed at once; one that is set back is caught up with at half speed, so that source timestamps
never run backwards (windows that are closed would get samples).  Pure.
"""


class UtcDifference:
    """Microseconds to add to the monotonic clock.

    Args:
      wall_us: UTC now.
      steady_us: the monotonic clock now.
    """

    def __init__(self, wall_us: int, steady_us: int) -> None:
        self._difference_us = wall_us - steady_us
        self._looked_us = steady_us

    def look(self, wall_us: int, steady_us: int) -> None:
        """Compare the clocks again."""
        measured_us = wall_us - steady_us
        slowest_us = self._difference_us - (steady_us - self._looked_us) // 2
        self._difference_us = max(measured_us, slowest_us)
        self._looked_us = steady_us

    def utc_us(self, steady_us: float) -> int:
        """UTC of a time of the monotonic clock, in microseconds since 1970."""
        return round(steady_us) + self._difference_us
