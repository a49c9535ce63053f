"""Figures of quality, each a function of a tally.

Responsible for what the gate compares, what is shown and how two values compare.  Refuses to give a
number that has no meaning on the rows at hand, such as a PR-AUC without a positive one: that is
None, never NaN.

Exact on the pooled rows: F1, accuracy, RMSE, MAE, R2, mean loss.  PR-AUC and ROC-AUC come from 256
bins of the score and are within .005 and .002 of the exact ones, the calibration error within .01
(tests/wire/test_evaluation.py).
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from wire.messages import BINS
from wire.tally import Kind, Tally

Metric = Literal["pr_auc", "roc_auc", "f1", "accuracy", "rmse", "mae", "r2", "calibration", "loss"]

METRICS_OF: Final[Mapping[Kind, tuple[Metric, ...]]] = {
    "binary": ("pr_auc", "roc_auc", "f1", "accuracy", "calibration", "loss"),
    "classes": ("f1", "accuracy", "loss"),
    "numbers": ("rmse", "mae", "r2", "loss"),
    "reconstruction": ("loss",),
}
"""What each kind of task can be judged by; by the first unless somebody says otherwise.

Failures are rare, so accuracy praises a model that never finds one: PR-AUC and the mean F1 of all
classes do not.
"""
WORDS: Final[Mapping[Metric, str]] = {
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
    "calibration": "calibration error",
    "loss": "mean loss",
}
LOWER_IS_BETTER: Final = frozenset({"rmse", "mae", "calibration", "loss"})
RELATIVE: Final = frozenset({"rmse", "mae", "loss"})
"""Figures with a unit: a difference means something only against their size."""
_LEAST_SPREAD = 1e-200
"""Sums of squares that are smaller make no number of what is divided by them."""
_GROUPS = 15
"""Of the calibration error, as Guo et al. (arXiv:1706.04599) have."""


def figure(metric: Metric, tally: Tally) -> float | None:
    """One figure of a tally; None where its rows or its kind of task do not give it."""
    if tally.kind is None or metric not in METRICS_OF[tally.kind]:
        return None
    return _FIGURES[metric](tally)


def main_metric(tally: Tally) -> Metric | None:
    """What a tally of this kind is judged by when nobody says otherwise; None without a row."""
    return METRICS_OF[tally.kind][0] if tally.kind is not None else None


def is_better(metric: Metric, one: float, other: float) -> bool:
    """Whether `one` is the better value of this metric."""
    return one < other if metric in LOWER_IS_BETTER else one > other


def worsening(metric: Metric, new: float, old: float) -> float:
    """By how much `new` is worse than `old`; below 0 where it is better.

    In the figure itself for shares (PR-AUC, accuracy, ...), relative to `old` for figures with a
    unit (RMSE, MAE, loss): .05 is 5 % more error.
    """
    worse = new - old if metric in LOWER_IS_BETTER else old - new
    if metric not in RELATIVE or worse == 0.0:
        return worse
    return worse / old if old > 0.0 else math.inf


def number(metric: str, value: float | None) -> str:
    """A figure for people: `0.913`, or for a figure with a unit four digits: `14.21`."""
    if value is None:
        return "-"
    return f"{value:.4g}" if metric in RELATIVE else f"{value:.3f}"


def pr_auc(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> float | None:
    """Average precision over the bins, from the highest score down; None without a positive.

    The rows of one bin count as evenly mixed: its positives get the precision at their middle one.
    Taking a bin as one big tie instead would be .0045 too low on average.
    """
    here, beside = positives[::-1], negatives[::-1]
    total = int(here.sum())
    if total == 0:
        return None
    true = np.cumsum(here) - here + (here + 1) / 2
    false = np.cumsum(beside) - beside / 2
    return float(np.sum(here * true / (true + false)) / total)


def roc_auc(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> float | None:
    """Probability that a positive row is in a higher bin than a negative one, ties half."""
    pairs = int(positives.sum()) * int(negatives.sum())
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float(np.sum(positives * (below + negatives / 2)) / pairs)


def _f1(tally: Tally) -> float | None:
    """2 TP / (2 TP + FP + FN); over several classes the mean over those that are there at all."""
    if tally.confusion.size:
        true = np.diagonal(tally.confusion)
        either = tally.confusion.sum(axis=0) + tally.confusion.sum(axis=1)
        return float(np.mean(2.0 * true[either > 0] / either[either > 0]))
    hits, false = tally.alarms
    either_one = hits + false + tally.failures
    return 2.0 * hits / either_one if either_one else None


def _accuracy(tally: Tally) -> float:
    if tally.confusion.size:
        return int(np.trace(tally.confusion)) / tally.rows
    hits, false = tally.alarms
    return (hits + int(tally.negatives.sum()) - false) / tally.rows


def _rmse(tally: Tally) -> float | None:
    sums = tally.errors
    return None if sums is None else math.sqrt(max(sums.squared, 0.0) / sums.rows)


def _mae(tally: Tally) -> float | None:
    sums = tally.errors
    return None if sums is None else sums.absolute / sums.rows


def _r2(tally: Tally) -> float | None:
    """Share of the labels' variance that is explained; None where the labels do not differ."""
    sums = tally.errors
    if sums is None:
        return None
    spread = sums.label_squared - sums.label**2 / sums.rows
    # What is left of two equal numbers after rounding is no variance, nor is what would overflow.
    least = max(1e-12 * sums.label_squared, _LEAST_SPREAD)
    return None if spread <= least else 1.0 - sums.squared / spread


def _calibration(tally: Tally) -> float | None:
    """Expected calibration error: |share of failures - score|, averaged over groups of rows.

    Groups hold about equally many rows (Nixon et al., arXiv:1904.01685): scores of rare failures
    are nearly all low, and equal widths would judge them in one group.  A row's score is taken as
    the middle of its bin, which is .01 off at most.
    """
    counts = tally.positives + tally.negatives
    middles = (np.arange(BINS) + 0.5) * (20.0 / BINS) - 10.0
    scores = 1.0 / (1.0 + np.exp(-middles))
    before = np.cumsum(counts) - counts / 2
    groups = np.minimum(before * _GROUPS / counts.sum(), _GROUPS - 1).astype(np.int64)
    gaps = np.bincount(groups, tally.positives - counts * scores, _GROUPS)
    return float(np.abs(gaps).sum() / counts.sum())


def _mean_loss(tally: Tally) -> float:
    return tally.loss / tally.rows


_FIGURES: Mapping[Metric, Callable[[Tally], float | None]] = {
    "pr_auc": lambda tally: pr_auc(tally.positives, tally.negatives),
    "roc_auc": lambda tally: roc_auc(tally.positives, tally.negatives),
    "f1": _f1,
    "accuracy": _accuracy,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
    "calibration": _calibration,
    "loss": _mean_loss,
}
