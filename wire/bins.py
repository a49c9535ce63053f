"""Bins of scores and of errors: where a row is counted, and where a bin ends.

All sites use the same bins, or their counts would not add.  Scores of two classes: `BINS` equal
bins of the logit in [-10, 10], because rare failures score low.  Errors of reconstruction: `BINS`
equal bins of log2 of the error in [-20, 12], eight for each doubling, so a border is 9 % above the
one before.  The first and the last bin also hold what is beyond them.

Pure.  Invariant: a value is in bin i exactly when it is at or above border i and below border
i + 1, up to the rounding of float64.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.messages import BINS

LOGITS: Final = (-10.0, 10.0)
ERROR_OCTAVES: Final = (-20.0, 12.0)
"""Log2 of a mean squared error of inputs that are near one: from a millionth to four thousand."""
_LEAST: Final = 1e-9
"""Scores are taken as no nearer to 0 and 1, so that a row's loss is 20.7 at most."""


def log_shares(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of scores in [0, 1] and of what they lack to 1, float64 (N,), both finite."""
    # float64, because 1 - 1e-9 is 1 in float32.
    inside = np.clip(scores, _LEAST, 1 - _LEAST)
    return np.log(inside), np.log1p(-inside)


def score_bins(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each logit, int64 (N,)."""
    return _bins(logits, *LOGITS)


def error_bins(errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each error, int64 (N,); the last one where an error is no number."""
    least, most = ERROR_OCTAVES
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.nan_to_num(np.log2(errors), nan=most, posinf=most, neginf=least)
    return _bins(octaves, least, most)


def score_border(number: int) -> float:
    """The score from which on rows are in bin `number` or above: 0 for all rows, 1 for none."""
    if number <= 0 or number >= BINS:
        return float(number > 0)
    return float(1.0 / (1.0 + np.exp(-_border(number, *LOGITS))))


def error_border(number: float) -> float:
    """The error at which bin `number` begins; a fraction is a place inside the bin."""
    return float(np.exp2(_border(number, *ERROR_OCTAVES)))


def score_place(score: float) -> float:
    """Where a score lies among the bins, the inverse of `score_border`, in [0, `BINS`]."""
    for_failure, for_none = log_shares(np.array([score]))
    return _place(float(for_failure[0] - for_none[0]), *LOGITS)


def error_place(error: float) -> float:
    """Where an error lies among the bins, the inverse of `error_border`, in [0, `BINS`]."""
    return _place(float(np.log2(error)), *ERROR_OCTAVES) if error > 0.0 else 0.0


def _bins(values: NDArray[np.float64], least: float, most: float) -> NDArray[np.int64]:
    places = (values - least) * (BINS / (most - least))
    return np.clip(places, 0, BINS - 1).astype(np.int64)


def _border(number: float, least: float, most: float) -> float:
    return least + number * (most - least) / BINS


def _place(value: float, least: float, most: float) -> float:
    return min(max((value - least) * BINS / (most - least), 0.0), float(BINS))
