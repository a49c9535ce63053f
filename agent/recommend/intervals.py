"""Intervals with a stated coverage, from rows that the model never learned from.

Split conformal prediction (V. Vovk et al., Algorithmic Learning in a Random World, 2005; J. Lei et
al., "Distribution-free predictive inference for regression", JASA 113, 2018, section 2.2), with
residuals in units of how far the versions at hand disagree (section 5.2 there).  For a change the
same is done with disjoint pairs of rows: what lies between two rows is predicted, and compared with
what was measured.

Pure.  Invariant: an interval covers the next row's true value with the stated probability, if that
row is like the calibration rows (exchangeable with them).  A proposal is not: it is a row that
nobody has chosen yet.  That is why proposals stay inside a region, and what `docs/recommend.md`
says about it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class TooFewRowsError(ValueError):
    """There are too few rows for an interval of this coverage."""


@dataclass(frozen=True)
class Bands:
    """Half widths of intervals, in units of a row's own scale.

    Attributes:
      value: for the value of a row.
      change: for the change from one row to another; times the root of the sum of their squared
        scales.
      rows: rows that they are from.
      coverage: that they were made for.
    """

    value: float
    change: float
    rows: int
    coverage: float


def calibrate(
    residuals: Values, scales: Values, coverage: float, seed: int, *, to_target: bool = False
) -> Bands:
    """Find the half widths.

    Args:
      residuals: measured - predicted, float64 (N,), of rows that were not learned from.
      scales: how uncertain each prediction is, float64 (N,), positive.
      coverage: between 0 and 1.
      seed: of the pairs.
      to_target: what changes is the distance to a number; then two errors add up at worst.

    Raises:
      TooFewRowsError: N is too small for this coverage.
    """
    order = np.random.default_rng(seed).permutation(len(residuals))
    half = len(order) // 2
    one, other = order[:half], order[half : 2 * half]
    changes = np.abs(residuals[one] - residuals[other])
    if to_target:
        changes = np.abs(residuals[one]) + np.abs(residuals[other])
    together = np.hypot(scales[one], scales[other])
    return Bands(
        value=_quantile(np.abs(residuals) / scales, coverage),
        change=_quantile(changes / together, coverage),
        rows=len(residuals),
        coverage=coverage,
    )


def least_rows(coverage: float) -> int:
    """Rows that `calibrate` needs at least for a coverage."""
    return 2 * math.ceil(coverage / (1.0 - coverage) - 1e-9)


def _quantile(scores: Values, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        reason = f"{len(scores)} scores are too few for a coverage of {coverage:g}"
        raise TooFewRowsError(reason)
    return float(np.sort(scores)[rank - 1])
