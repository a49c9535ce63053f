"""Drift: the model that is served is the same, and a site's rows are not what they were.

The first evaluation of a served version at a site is compared with its newest one, of the same
weights.  Two things are looked at: whether the model does worse than chance explains, and whether
the labels are distributed otherwise.  Pure; the caller keeps the first evaluation, and forgets it
when another version is served.

Refuses to see drift in few rows (`LEAST_ROWS`), in what sampling error explains (`sigmas`), and in
what is real but small (`least_fall`, `least_shift`).

What is compared, and its sampling error:

- quality: `coordinator/falls.py`.
- labels: share of failures (two proportions), counts of classes (chi-square of homogeneity, with
  the Wilson-Hilferty cube root), mean of numbers (Welch).

A site's held-out rows grow until its history is full, so the newest evaluation holds the rows of
the first one, and a change would be seen ever later.  Where every count has grown, what came since
is told by subtracting, and the two samples share no row.  Else they share some, the difference
varies less than is assumed here, and an alarm comes later than it could, never earlier.
"""

import math
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.falls import Change, fall, proportions, ratio, variance
from coordinator.gate import LEAST_ROWS
from wire.messages import Errors, Evaluation
from wire.settings import Settings
from wire.tally import Kind, Tally, tally_of

_LEAST_EXPECTED: Final = 5.0
"""Rows expected in a cell of a chi-square test (Cochran 1954); rarer classes are one cell."""


class DriftSettings(Settings, frozen=True, kw_only=True):
    """The `[drift]` table.

    Attributes:
      sigmas: standard errors beyond which a change is not chance.  A report comes with every head,
        so one served version is looked at many times: of sites without drift, looked at 30 times
        while their rows grew elevenfold, .5 to 5 % raised an alarm at 3, 0 to 2 % at 3.5.
      least_fall: smaller losses of quality are not told: of ROC-AUC and accuracy the difference, of
        errors the part of what they were.
      least_shift: smaller changes of the labels are not told, in Cohen's measures of effects
        (Statistical Power Analysis, 1988): h for shares, d for means, 2 w for classes; .2 is what
        he calls small.  From 3 % failures .1 is a change to 4.9 %.
    """

    sigmas: Annotated[float, msgspec.Meta(gt=0, le=100)] = 3.5
    least_fall: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.02
    least_shift: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.1


def find_drift(
    before: Evaluation | Tally, now: Evaluation | Tally, settings: DriftSettings
) -> str | None:
    """Compare two evaluations of one served version; return the words of an alarm, or None.

    Args:
      before: first evaluation of the served weights, by one site or over several.
      now: newest one, of the same weights by the same sites.
      settings: what is chance, and what is small.
    """
    first, newest = (
        tally_of(each) if isinstance(each, Evaluation) else each for each in (before, now)
    )
    fresh = rows_since(first, newest)
    if fresh is not None and _is_enough(fresh):
        newest, which = fresh, f"the {fresh.rows} rows since"
    else:
        which = f"{newest.rows} rows now"
    kind = newest.kind
    if kind is None or first.kind != kind or not (_is_enough(first) and _is_enough(newest)):
        return None
    if first.is_finite and not newest.is_finite:
        return "the served model gives no finite numbers any more"
    found = []
    worse = fall(first, newest)
    if worse is not None and worse.sigmas > settings.sigmas and worse.size > settings.least_fall:
        found.append(worse)
    shift = _SHIFTS[kind](first, newest)
    if (
        shift is not None
        and abs(shift.sigmas) > settings.sigmas
        and abs(shift.size) > settings.least_shift
    ):
        found.append(shift)
    if not found:
        return None
    changes = "; ".join(f"{each.said} ({abs(each.sigmas):.1f} standard errors)" for each in found)
    return f"{changes}: {first.rows} rows at first against {which}"


def rows_since(first: Tally, newest: Tally) -> Tally | None:
    """What was counted after `first`; None unless `newest` may hold all of its rows and more."""
    if first.kind != newest.kind or first.confusion.shape != newest.confusion.shape:
        return None
    errors = None
    if first.errors is not None and newest.errors is not None:
        errors = _difference(newest.errors, first.errors)
        if errors is None:
            return None
    alarms = (newest.alarms[0] - first.alarms[0], newest.alarms[1] - first.alarms[1])
    since = Tally(
        newest.positives - first.positives,
        newest.negatives - first.negatives,
        alarms,
        newest.confusion - first.confusion,
        errors,
        max(newest.loss - first.loss, 0.0),
    )
    counts = (since.positives, since.negatives, since.confusion, np.array(alarms))
    is_grown = all((count >= 0).all() for count in counts) and since.rows > 0
    return since if is_grown else None


def _difference(newest: Errors, first: Errors) -> Errors | None:
    """Sums over the rows that came since; None where sums that only grow did not."""
    since = Errors(
        rows=newest.rows - first.rows,
        error=newest.error - first.error,
        absolute=newest.absolute - first.absolute,
        squared=newest.squared - first.squared,
        label=newest.label - first.label,
        label_squared=newest.label_squared - first.label_squared,
    )
    least = min(since.rows - 1, since.absolute, since.squared, since.label_squared)
    # No rows have these sums (Cauchy-Schwarz), so some of the first ones are gone.
    is_apart = since.absolute**2 > since.rows * since.squared * (1 + 1e-6)
    is_apart |= since.label**2 > since.rows * since.label_squared * (1 + 1e-6)
    return None if least < 0 or is_apart else since


def is_baseline(evaluation: Evaluation) -> bool:
    """Whether a first evaluation holds enough rows to compare later ones with.

    Until one does, the newest takes the place of the first.
    """
    return _is_enough(tally_of(evaluation))


def _is_enough(tally: Tally) -> bool:
    if tally.kind == "binary":
        return min(tally.failures, tally.rows - tally.failures) >= LEAST_ROWS
    return tally.rows >= LEAST_ROWS


# Shifts of the labels


def _share_shift(first: Tally, newest: Tally) -> Change:
    before, now = first.failures / first.rows, newest.failures / newest.rows
    effect = 2 * (math.asin(math.sqrt(now)) - math.asin(math.sqrt(before)))
    sigmas = proportions(first.failures, first.rows, newest.failures, newest.rows)
    said = f"the share of failures went from {before:.2%} to {now:.2%}"
    return Change(effect, sigmas, said)


def _class_shift(first: Tally, newest: Tally) -> Change | None:
    counts = np.array([first.confusion.sum(axis=1), newest.confusion.sum(axis=1)], np.float64)
    cells = _with_rare_ones_together(counts)
    if cells.shape[1] < 2:
        return None
    expected = cells.sum(axis=1, keepdims=True) * cells.sum(axis=0) / cells.sum()
    statistic = float(np.sum((cells - expected) ** 2 / expected))
    # Cohen's w, as if both samples were equally large, and twice: of two classes that is about h.
    balance = 2 * math.sqrt(first.rows * newest.rows) / (first.rows + newest.rows)
    effect = 2 * math.sqrt(statistic / cells.sum()) / balance
    shares = counts / counts.sum(axis=1, keepdims=True)
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    said = f"the shares of the classes moved, that of class {most} from {shares[0, most]:.2%} "
    said += f"to {shares[1, most]:.2%}"
    return Change(effect, chi_square_sigmas(statistic, cells.shape[1] - 1), said)


def _with_rare_ones_together(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of a 2 x C table, those expected too rarely for a chi-square added into one."""
    smaller = counts.sum(axis=1).min() / counts.sum()
    is_rare = counts.sum(axis=0) * smaller < _LEAST_EXPECTED
    others = counts[:, is_rare].sum(axis=1, keepdims=True)
    kept = counts[:, ~is_rare]
    return np.hstack([kept, others]) if others.sum() * smaller >= _LEAST_EXPECTED else kept


def chi_square_sigmas(statistic: float, degrees: int) -> float:
    """A chi-square statistic as standard normal deviate (Wilson and Hilferty, PNAS 17, 1931)."""
    spread = 2 / (9 * degrees)
    return float(((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def _mean_shift(first: Tally, newest: Tally) -> Change | None:
    one, other = first.errors, newest.errors
    if one is None or other is None:
        return None
    before, now = one.label / one.rows, other.label / other.rows
    spreads = [variance(each.rows, each.label, each.label_squared) for each in (one, other)]
    error = math.sqrt(spreads[0] / one.rows + spreads[1] / other.rows)
    effect = ratio(now - before, math.sqrt(sum(spreads) / 2))
    said = f"the mean label went from {before:.4g} to {now:.4g}"
    return Change(effect, ratio(now - before, error), said)


def _no_shift(_first: Tally, _newest: Tally) -> Change | None:
    """Nothing: rows without a label."""
    return None


_SHIFTS: dict[Kind, Callable[[Tally, Tally], Change | None]] = {
    "binary": _share_shift,
    "classes": _class_shift,
    "numbers": _mean_shift,
    "reconstruction": _no_shift,
}
