"""Drift: the model that is served is the same, and a site's rows are not what they were.

The first evaluation of a served version at a site is compared with its newest one, of the same
weights.  Three things are looked at: whether the model does worse than chance explains
(`coordinator/falls.py`), whether the labels are distributed otherwise, and whether what the model
says is (`coordinator/shifts.py`).  Pure; the caller keeps the first evaluation (`is_baseline_for`),
and forgets it when another version is served.

Refuses to see drift in few rows (`LEAST_ROWS`, for the quality of two classes as many failures), in
what sampling error explains (`sigmas`), and in what is real but small (`least_fall`,
`least_shift`).  Sampling errors are those of rows that are independent: of windows that overlap
they are larger, and alarms come earlier than is promised here.

A site's held-out rows grow until its history is full, so the newest evaluation holds the rows of
the first one, and a change would be seen ever later.  Where every count has grown, what came since
is told by subtracting, and the two samples share no row.  Else they share some, the difference
varies less than is assumed here, and an alarm comes later than it could, never earlier.
"""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from coordinator.falls import Change, fall
from coordinator.gate import LEAST_ROWS
from coordinator.shifts import label_shift, output_shift
from wire.messages import Errors, Evaluation
from wire.settings import Settings
from wire.tally import Tally, tally_of

_LEAST_TO_BEGIN: Final = 4 * LEAST_ROWS
"""Rows of a first evaluation that can tell of scores alone: fewer make a weak one for ever."""


class DriftSettings(Settings, frozen=True, kw_only=True):
    """The `[drift]` table.

    Attributes:
      sigmas: standard errors beyond which a change is not chance.  A report comes with every head,
        so one served version is looked at many times: of sites without drift, looked at 30 times
        while their rows grew elevenfold, 0 to 3 % raised an alarm at 3.5, all three comparisons
        together.
      least_fall: smaller losses of quality are not told: of ROC-AUC and accuracy the difference, of
        errors the part of what they were.
      least_shift: smaller changes of the labels, and of what the model says, are not told, in
        Cohen's measures of effects (Statistical Power Analysis, 1988): h for shares, d for means,
        2 w for classes and for cells of scores; .2 is what he calls small.  From 3 % failures .1
        is a change to 4.9 %.
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
    if newest.kind is None or first.kind != newest.kind:
        return None
    if min(first.rows, newest.rows) < LEAST_ROWS:
        return None
    if first.is_finite and not newest.is_finite:
        return "the served model gives no finite numbers any more"
    samples = [(newest, f"{newest.rows} rows now")]
    fresh = rows_since(first, newest)
    if fresh is not None and fresh.rows >= LEAST_ROWS:
        samples.insert(0, (fresh, f"the {fresh.rows} rows since"))
    found: dict[str, list[str]] = {}
    for change, which in _changes(first, samples, settings):
        said = f"{change.said} ({change.sigmas:.1f} standard errors)"
        found.setdefault(which, []).append(said)
    alarms = (
        f"{'; '.join(changes)}: {first.rows} rows at first against {which}"
        for which, changes in found.items()
    )
    return "; ".join(alarms) or None


def _changes(
    first: Tally, samples: list[tuple[Tally, str]], settings: DriftSettings
) -> Iterator[tuple[Change, str]]:
    """What is beyond chance and not small, each told by the first sample that can tell of it."""
    for compare, least in (
        (_worsening, settings.least_fall),
        (label_shift, settings.least_shift),
        (output_shift, settings.least_shift),
    ):
        for sample, which in samples:
            change = compare(first, sample)
            if change is not None:
                if change.sigmas > settings.sigmas and change.size > least:
                    yield change, which
                break


def _worsening(first: Tally, newest: Tally) -> Change | None:
    return fall(first, newest) if _tells_quality(first) and _tells_quality(newest) else None


def rows_since(first: Tally, newest: Tally) -> Tally | None:
    """What was counted after `first`; None unless `newest` may hold all of its rows and more.

    Without alarms: the threshold of the same weights may have moved in between.
    """
    if first.kind != newest.kind or first.confusion.shape != newest.confusion.shape:
        return None
    errors = None
    if first.errors is not None and newest.errors is not None:
        errors = _difference(newest.errors, first.errors)
        if errors is None:
            return None
    since = Tally(
        newest.positives - first.positives,
        newest.negatives - first.negatives,
        confusion=newest.confusion - first.confusion,
        errors=errors,
        loss=max(newest.loss - first.loss, 0.0),
        by_error=newest.by_error - first.by_error,
    )
    counts = (since.positives, since.negatives, since.confusion, since.by_error)
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


def is_baseline_for(first: Evaluation, newest: Evaluation) -> bool:
    """Whether a first evaluation stays what newest ones are compared with.

    One of few rows gives its place to the newest.  So does one of two classes that can tell of
    scores alone, once: to the newest that has failures enough for the quality too.  Looking for
    drift before that, the caller misses nothing, and a site that never sees so many failures
    keeps its first evaluation.
    """
    return _reach(tally_of(first)) >= max(1, _reach(tally_of(newest)))


def _reach(tally: Tally) -> int:
    """How much a first evaluation can tell: 2 everything, 1 scores and not the quality, or 0."""
    if _tells_quality(tally):
        return 2
    return int(tally.kind == "binary" and tally.rows >= _LEAST_TO_BEGIN)


def _tells_quality(tally: Tally) -> bool:
    if tally.kind == "binary":
        return min(tally.failures, tally.rows - tally.failures) >= LEAST_ROWS
    return tally.rows >= LEAST_ROWS
