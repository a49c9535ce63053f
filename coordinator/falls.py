"""How much worse one model did than another, and whether chance explains it.

Sampling errors come from the counts and sums alone:

- two classes: ROC-AUC, by DeLong, DeLong and Clarke-Pearson ("Comparing the areas under two or more
  correlated receiver operating characteristic curves", Biometrics 44, 1988).  Not PR-AUC: it moves
  with the share of failures alone.
- more classes: accuracy, as two proportions with a pooled share.
- numbers, reconstruction: mean absolute error, which for reconstruction is the mean loss.  The sums
  give its variance exactly; that of RMSE would need fourth powers.

Two judgements of the same rows vary together, so their difference varies less than is assumed here:
what is called beyond chance then is so all the more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wire.figures import figure
from wire.tally import Kind, Tally


@dataclass(frozen=True)
class Change:
    """How far something moved, in its own measure and in standard errors, and how to say it."""

    size: float
    sigmas: float
    said: str


def fall(first: Tally, newest: Tally) -> Change | None:
    """By how much the newest did worse; None where they are not of one kind, or without a row."""
    if newest.kind is None or first.kind != newest.kind:
        return None
    return _FALLS[newest.kind](first, newest)


def evidence(first: Tally, newest: Tally) -> float:
    """Standard errors by which the newest did worse; of several classes the clearer of two signs.

    Accuracy alone would not see a model that never names a rare class any more.
    """
    found = fall(first, newest)
    if found is None:
        return 0.0
    if newest.kind == "classes" and newest.confusion.shape == first.confusion.shape:
        return max(found.sigmas, _recall_sigmas(first, newest))
    return found.sigmas


def _recall_sigmas(first: Tally, newest: Tally) -> float:
    """Standard errors between the mean recalls of the classes, each a share of its own rows."""
    means, spread = [], 0.0
    for each in (first, newest):
        rows = each.confusion.sum(axis=1)
        seen = rows > 0
        recalls = np.diagonal(each.confusion)[seen] / rows[seen]
        means.append(float(recalls.mean()))
        spread += float((recalls * (1 - recalls) / rows[seen]).sum()) / len(recalls) ** 2
    return ratio(means[0] - means[1], math.sqrt(spread))


def _ranking_fall(first: Tally, newest: Tally) -> Change:
    before, now = figure("roc_auc", first) or 0.0, figure("roc_auc", newest) or 0.0
    error = math.sqrt(ranking_variance(first) + ranking_variance(newest))
    said = f"ROC-AUC fell from {before:.3f} to {now:.3f}"
    return Change(before - now, ratio(before - now, error), said)


def ranking_variance(tally: Tally) -> float:
    """Variance of a tally's ROC-AUC from sample to sample (DeLong et al. 1988, equation 5).

    Each positive row has a share of the negative ones below it, each negative row a share of the
    positive ones above it, ties half; the areas of other samples differ as these shares do.
    """
    variance = 0.0
    for ranked, others in (
        (tally.positives, tally.negatives),
        (tally.negatives[::-1], tally.positives[::-1]),
    ):
        rows, total = int(ranked.sum()), int(others.sum())
        shares = (np.cumsum(others) - others / 2) / total
        mean = float(ranked @ shares) / rows
        variance += float(ranked @ np.square(shares - mean)) / (rows - 1) / rows
    return variance


def _accuracy_fall(first: Tally, newest: Tally) -> Change:
    right = [int(np.trace(each.confusion)) for each in (first, newest)]
    before, now = right[0] / first.rows, right[1] / newest.rows
    sigmas = -proportions(right[0], first.rows, right[1], newest.rows)
    return Change(before - now, sigmas, f"accuracy fell from {before:.3f} to {now:.3f}")


def _error_fall(first: Tally, newest: Tally) -> Change:
    means, variances = [], []
    for each in (first, newest):
        rows, total, squares = 1, 0.0, 0.0
        if each.errors is not None:
            rows, total, squares = each.errors.rows, each.errors.absolute, each.errors.squared
        means.append(total / rows)
        variances.append(variance(rows, total, squares) / rows)
    before, now = means
    grown = (now - before) / before if before > 0 else math.inf
    name = "mean loss" if first.kind == "reconstruction" else "mean absolute error"
    said = f"{name} rose from {before:.4g} to {now:.4g}"
    return Change(grown, ratio(now - before, math.sqrt(sum(variances))), said)


def proportions(hits: int, rows: int, other_hits: int, other_rows: int) -> float:
    """Standard errors between two shares, from their pooled share; above 0 where it grew."""
    share = (hits + other_hits) / (rows + other_rows)
    error = math.sqrt(share * (1 - share) * (1 / rows + 1 / other_rows))
    return ratio(other_hits / other_rows - hits / rows, error)


def variance(rows: int, total: float, squares: float) -> float:
    """Of numbers, from how many there are, their sum and the sum of their squares."""
    return max(squares / rows - (total / rows) ** 2, 0.0)


def ratio(difference: float, error: float) -> float:
    """Difference in units of its error; of two constants any difference is beyond chance."""
    if error > 0.0:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


_FALLS: dict[Kind, Callable[[Tally, Tally], Change]] = {
    "binary": _ranking_fall,
    "classes": _accuracy_fall,
    "numbers": _error_fall,
    "reconstruction": _error_fall,
}
