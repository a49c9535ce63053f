"""How far labels, and what a model says of rows, are distributed otherwise than they were.

Labels: share of failures (two proportions), counts of classes (chi-square of homogeneity, with the
Wilson-Hilferty cube root), mean of numbers (Welch).

What the model says needs no failure to be seen, and tells of a sensor that is off at once: counts
of scores, of named classes and of errors of reconstruction (chi-square), mean error of numbers
(Welch).  Not the mean of predicted numbers, whose variance the sums do not give: it is the mean
label plus the mean error, and of both the sums do.

Pure.  Sizes are Cohen's measures of effects (Statistical Power Analysis, 1988): h for shares, d for
means, 2 w for counts.  Invariant: no verdict follows from a cell in which fewer than
`_LEAST_EXPECTED` rows are expected of either sample.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.falls import Change, proportions, ratio, variance
from wire.bins import error_border, score_border
from wire.tally import Kind, Tally

_LEAST_EXPECTED: Final = 5.0
"""Rows expected in a cell of a chi-square test (Cochran 1954); rarer classes are one cell."""
_CELLS: Final = 8
"""About so many cells of about equally many rows; more find small shifts of the middle later."""


def label_shift(first: Tally, newest: Tally) -> Change | None:
    """How far the labels moved; None where there are none, or too few to tell."""
    return _shift(_OF_LABELS, first, newest)


def output_shift(first: Tally, newest: Tally) -> Change | None:
    """How far what the model says moved; None where the counts do not tell."""
    return _shift(_OF_OUTPUTS, first, newest)


def chi_square_sigmas(statistic: float, degrees: int) -> float:
    """A chi-square statistic as standard normal deviate (Wilson and Hilferty, PNAS 17, 1931)."""
    spread = 2 / (9 * degrees)
    return float(((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


# Of labels


def _share_shift(first: Tally, newest: Tally) -> Change | None:
    failures, rows = first.failures + newest.failures, first.rows + newest.rows
    least = min(failures, rows - failures) * min(first.rows, newest.rows) / rows
    if least < _LEAST_EXPECTED:
        return None
    before, now = first.failures / first.rows, newest.failures / newest.rows
    effect = 2 * (math.asin(math.sqrt(now)) - math.asin(math.sqrt(before)))
    sigmas = proportions(first.failures, first.rows, newest.failures, newest.rows)
    said = f"the share of failures went from {before:.2%} to {now:.2%}"
    return Change(abs(effect), abs(sigmas), said)


def _class_shift(first: Tally, newest: Tally) -> Change | None:
    counts = _two(first.confusion.sum(axis=1), newest.confusion.sum(axis=1))
    return _named_shift(counts, "the shares of the classes moved")


def _mean_shift(first: Tally, newest: Tally) -> Change | None:
    if first.errors is None or newest.errors is None:
        return None
    sums = [(each.rows, each.label, each.label_squared) for each in (first.errors, newest.errors)]
    return _welch("the mean label", *sums)


def _no_shift(_first: Tally, _newest: Tally) -> Change | None:
    """Nothing: rows without a label."""
    return None


# Of what the model says


def _score_shift(first: Tally, newest: Tally) -> Change | None:
    counts = _two(first.positives + first.negatives, newest.positives + newest.negatives)
    return _binned_shift(counts, "scores", score_border)


def _named_class_shift(first: Tally, newest: Tally) -> Change | None:
    counts = _two(first.confusion.sum(axis=0), newest.confusion.sum(axis=0))
    return _named_shift(counts, "the shares of the named classes moved")


def _mean_error_shift(first: Tally, newest: Tally) -> Change | None:
    if first.errors is None or newest.errors is None:
        return None
    sums = [(each.rows, each.error, each.squared) for each in (first.errors, newest.errors)]
    return _welch("the mean error", *sums)


def _error_shift(first: Tally, newest: Tally) -> Change | None:
    if any(each.by_error.sum() != each.rows for each in (first, newest)):
        return None  # rows are counted by error only where the bundle asks for it
    return _binned_shift(_two(first.by_error, newest.by_error), "errors", error_border)


# Two samples


def _two(first: NDArray[np.int64], newest: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([first, newest], np.float64)


def _welch(name: str, first: tuple[int, float, float], newest: tuple[int, float, float]) -> Change:
    """Two means; of each sample how many numbers, their sum and the sum of their squares."""
    (rows, total, _), (rows_now, total_now, _) = first, newest
    before, now = total / rows, total_now / rows_now
    spreads = [variance(*each) for each in (first, newest)]
    error = math.sqrt(spreads[0] / rows + spreads[1] / rows_now)
    effect = ratio(now - before, math.sqrt(sum(spreads) / 2))
    said = f"{name} went from {before:.4g} to {now:.4g}"
    return Change(abs(effect), abs(ratio(now - before, error)), said)


def _named_shift(counts: NDArray[np.float64], said: str) -> Change | None:
    """Counts of each class, float64 (2, C)."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    said += f", that of class {most} from {shares[0, most]:.2%} to {shares[1, most]:.2%}"
    return _homogeneity(_with_rare_ones_together(counts), said)


def _binned_shift(
    counts: NDArray[np.float64], name: str, border: Callable[[int], float]
) -> Change | None:
    """Counts of each bin, float64 (2, BINS); said is the border past which most rows moved."""
    starts = _cell_starts(counts)
    cells = np.add.reduceat(counts, starts, axis=1)
    beyond = cells[:, ::-1].cumsum(axis=1)[:, ::-1] / cells.sum(axis=1, keepdims=True)
    most = int(np.argmax(np.abs(beyond[1] - beyond[0])))
    before, now = beyond[:, most]
    said = f"the {name} moved, the share at or above {border(starts[most]):.3g} "
    return _homogeneity(cells, f"{said}from {before:.2%} to {now:.2%}")


def _cell_starts(counts: NDArray[np.float64]) -> list[int]:
    """The first bin of each cell: neighbors together until they hold enough rows.

    Quantiles of both samples together, so that what neither sample alone had many of is a cell of
    its own, such as the high scores of a site whose machines hardly ever failed; and by chance
    alone both samples fall into the cells alike.
    """
    pooled = counts.sum(axis=0)
    least = _LEAST_EXPECTED * counts.sum() / counts.sum(axis=1).min()
    enough = max(least, counts.sum() / _CELLS)
    starts, held = [0], 0.0
    for number, rows in enumerate(pooled.tolist()):
        # What lies below a bin that fills a cell by itself is not lost in it.
        if held >= enough or (held >= least and rows >= enough):
            starts.append(number)
            held = 0.0
        held += rows
    return starts[:-1] if held < least and len(starts) > 1 else starts


def _with_rare_ones_together(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of a 2 x C table, those expected too rarely for a chi-square added into one."""
    smaller = counts.sum(axis=1).min() / counts.sum()
    is_rare = counts.sum(axis=0) * smaller < _LEAST_EXPECTED
    others = counts[:, is_rare].sum(axis=1, keepdims=True)
    kept = counts[:, ~is_rare]
    return np.hstack([kept, others]) if others.sum() * smaller >= _LEAST_EXPECTED else kept


def _homogeneity(cells: NDArray[np.float64], said: str) -> Change | None:
    """Whether two samples fall into the cells alike, float64 (2, C); None of a single cell."""
    if cells.shape[1] < 2:
        return None
    rows = cells.sum(axis=1)
    expected = rows[:, None] * cells.sum(axis=0) / cells.sum()
    statistic = float(np.sum((cells - expected) ** 2 / expected))
    # Cohen's w, as if both samples were equally large, and twice: of two classes that is about h.
    balance = 2 * math.sqrt(rows[0] * rows[1]) / float(rows.sum())
    effect = 2 * math.sqrt(statistic / float(cells.sum())) / balance
    return Change(effect, chi_square_sigmas(statistic, cells.shape[1] - 1), said)


_Compare = Callable[[Tally, Tally], Change | None]
_OF_LABELS: Final[dict[Kind, _Compare]] = {
    "binary": _share_shift,
    "classes": _class_shift,
    "numbers": _mean_shift,
    "reconstruction": _no_shift,
}
_OF_OUTPUTS: Final[dict[Kind, _Compare]] = {
    "binary": _score_shift,
    "classes": _named_class_shift,
    "numbers": _mean_error_shift,
    "reconstruction": _error_shift,
}


def _shift(comparisons: dict[Kind, _Compare], first: Tally, newest: Tally) -> Change | None:
    if newest.kind is None or first.kind != newest.kind:
        return None
    return comparisons[newest.kind](first, newest)
