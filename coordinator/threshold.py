"""From which score on a row raises an alarm: what all sites' counts of held-out rows say.

Two classes, by cost: of the borders of the score's bins the one at which missed failures and false
alarms among the counted rows cost least together; of equals the highest, which has the fewest
alarms.  Reconstruction, by share: the error that so many of all rows reach, read from the bins of
the error and interpolated within one (rows lie evenly in the error's logarithm there).

Pure.  Says nothing where too few rows were counted for it: of two classes fewer than 10 failures,
of reconstruction rows of which fewer than 10 would raise an alarm.  The bundle's own threshold
stands then.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.bins import error_border, error_place, score_border, score_place
from wire.manifest import Alarm
from wire.messages import BINS
from wire.tally import Tally

LEAST_COUNTED: Final = 10
"""Rows on which a threshold hangs; what is counted is known to a third then (1 / sqrt(10))."""

_EQUAL: Final = 1.0 + 1e-9
"""Costs that differ by less are equal: tenths are not exact in float64."""


def threshold_of(tally: Tally, alarm: Alarm) -> float | None:
    """The threshold by a bundle's `alarm`, or None where the counts do not say one.

    Args:
      tally: of one model, over the sites' held-out rows.
      alarm: costs or share, as `check_manifest` accepts it.

    Returns:
      Of two classes a probability, 0 where every row should raise an alarm and 1 where none
      should; of reconstruction an error.
    """
    if alarm.share is not None:
        is_enough = alarm.share * tally.by_error.sum() >= LEAST_COUNTED
        return error_of_share(tally.by_error, alarm.share) if is_enough else None
    if alarm.missed_cost is None or tally.failures < LEAST_COUNTED:
        return None
    return score_border(_cheapest(tally, alarm.missed_cost, alarm.false_cost))


def error_of_share(counts: NDArray[np.int64], share: float) -> float | None:
    """The error that this share of counted rows reaches.

    Args:
      counts: rows per bin of the error, int64 (BINS,), at least one.
      share: of the rows, 0 to 1.

    Returns:
      An error; None where it lies beyond the last border, which no bin resolves.
    """
    above = np.append(np.cumsum(counts[::-1])[::-1], 0)  # rows in bin i or above
    wanted = share * above[0]
    number = int(np.flatnonzero(above > wanted)[-1])
    if number == BINS - 1:
        return None
    if number == 0:
        return error_border(1)  # the first bin has no lower end to go down to
    part = (wanted - above[number + 1]) / counts[number]
    return error_border(number + 1 - float(part))


def renewed(before: float | None, now: float | None, alarm: Alarm) -> float | None:
    """The threshold to go on with for the same weights: a new one only if it moved by a bin.

    Args:
      before: that holds; None: the bundle's own does.
      now: what the newest counts say, None where they say nothing.
      alarm: of the bundle.
    """
    if before is None or now is None:
        return before if now is None else now
    place = score_place if alarm.share is None else error_place
    return now if abs(place(now) - place(before)) > 1.0 else before


def words_of(threshold: float, tally: Tally, alarm: Alarm) -> str:
    """What a threshold that was just found means for the rows that it was found by."""
    if alarm.share is not None:
        return f"alarms from {threshold:.4g}: {alarm.share:.2%} of {tally.rows} held-out rows"
    missed, false = _mistakes(tally)
    cost = alarm.missed_cost or 0.0
    number = _cheapest(tally, cost, alarm.false_cost)
    return (
        f"alarms from {threshold:.4g}: {false[number]} false ones and {missed[number]} of "
        f"{tally.failures} failures missed on {tally.rows} held-out rows, where a missed failure "
        f"costs {cost:g} and a false alarm {alarm.false_cost:g}"
    )


def _cheapest(tally: Tally, missed_cost: float, false_cost: float) -> int:
    """The border, 0 to `BINS`, with the least cost; of equals the highest."""
    missed, false = _mistakes(tally)
    costs = missed_cost * missed + false_cost * false
    return int(np.flatnonzero(costs <= costs.min() * _EQUAL)[-1])


def _mistakes(tally: Tally) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Missed failures and false alarms at each border, int64 (BINS + 1,)."""
    missed = np.append(0, np.cumsum(tally.positives))
    false = np.append(np.cumsum(tally.negatives[::-1])[::-1], 0)
    return missed, false
