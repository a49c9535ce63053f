"""When the rows of a replay are due: in original time, faster, or at once.  Pure."""

import numpy as np
from numpy.typing import NDArray


class Pace:
    """Moments at which rows are due, by the clock that the caller reads.

    A row whose source timestamp lies before that of an earlier row (historians write late) is due
    with it.

    Args:
      speed: source seconds in a second; 0 for at once.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._origin: tuple[int, float] | None = None
        self._reached_us = -1

    def due_s(self, row_us: NDArray[np.int64], now_s: float) -> NDArray[np.float64]:
        """Moments of rows with these source timestamps (-1 for none), never decreasing."""
        if not self._speed or not len(row_us):
            return np.full(len(row_us), now_s)
        reached = np.maximum(np.maximum.accumulate(row_us), self._reached_us)
        self._reached_us = int(reached[-1])
        if self._origin is None:
            placed = row_us[row_us >= 0]
            if not len(placed):
                return np.full(len(row_us), now_s)
            self._origin = (int(placed[0]), now_s)
        first_us, origin_s = self._origin
        elapsed_us: NDArray[np.int64] = np.maximum(reached - first_us, 0)
        return elapsed_us / (1e6 * self._speed) + origin_s
