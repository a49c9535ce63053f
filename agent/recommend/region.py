"""Where a model may be believed: near what it learned from.

A surrogate answers everywhere, and the best of its answers tends to lie where it is wrong: outside
of its rows.  So there are two regions to choose from.  The federation's is the box of so many
standard deviations of all sites' inputs, which is all that a site knows about others' rows.  The
site's own is a neighborhood of its own rows: no farther from one than its rows are from each other.

Pure.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Region = Callable[[Values], NDArray[np.bool_]]
"""From standardized inputs (N, F) to whether each row of them is inside, (N,)."""

_PAIRS_AT_ONCE = 1 << 20
_MOST_ROWS = 4000


def reach_region(reach: float) -> Region:
    """Inside: each input within so many standard deviations of its mean."""

    def inside(inputs: Values) -> NDArray[np.bool_]:
        return np.asarray((np.abs(inputs) <= reach).all(axis=1))

    return inside


def near_region(rows: Values, near: float) -> Region:
    """Inside: as close to a row as the share `near` of the rows is to its closest other row.

    Distances are Euclidean in standardized inputs.  Of many rows, 4,000 evenly spread ones count.

    Args:
      rows: inputs of this site, float64 (R, F), two or more.
      near: share between 0 and 1.

    Raises:
      ValueError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows have no neighborhood, two are needed")
    known = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(np.int64)]
    limit = float(np.quantile(_closest(known, known, skip_self=True), near))

    def inside(inputs: Values) -> NDArray[np.bool_]:
        return np.asarray(_closest(inputs, known) <= limit)

    return inside


def _closest(points: Values, rows: Values, *, skip_self: bool = False) -> Values:
    """Distance of each point to its closest row, (N,)."""
    found = np.empty(len(points))
    squares = (rows**2).sum(axis=1)
    at_once = max(1, _PAIRS_AT_ONCE // len(rows))
    for start in range(0, len(points), at_once):
        some = points[start : start + at_once]
        distances = (some**2).sum(axis=1)[:, np.newaxis] + squares - 2.0 * some @ rows.T
        if skip_self:
            own = np.arange(len(some))
            distances[own, start + own] = np.inf
        found[start : start + at_once] = distances.min(axis=1)
    return np.sqrt(np.maximum(found, 0.0))
