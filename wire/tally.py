"""Evaluations that were added up: what several sites' counts say together.

Responsible for what an evaluation may hold and for the sum of evaluations.  Refuses one whose parts
contradict each other or the bundle, before anything is computed from it.

Invariant: the tally of a sum of evaluations is the tally of the pooled rows, exactly for counts and
up to the rounding of float64 for sums, so a figure of a tally is the figure of the pooled rows.

Four kinds of task fill three parts of an evaluation:

    binary           bins of the score, and the alarms at the bundle's threshold
    classes          the confusion matrix
    numbers          errors in the label's unit
    reconstruction   errors in which a row's squared error stands as its error, and its label is 0;
                     for a threshold by a share of rows, besides, rows per bin of the error
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from wire.bins import error_border
from wire.errors import MalformedError
from wire.manifest import REGRESSION, Manifest
from wire.messages import BINS, MAX_CLASSES, Errors, Evaluation

OVERFLOW: Final = 1e24
"""A loss this large, the largest of a report, says: the model gave numbers that are none."""
_ROUNDING: Final = 1.0 + 1e-6
"""Sums of float64 in another order differ by less."""

_CUT: Final = 1e-5
"""Sums under masks lack less: 2**-30 for each of up to 4,096 reports."""
_CLIPPED: Final = 2.0**70 * (1.0 - 1e-9)
"""From here on a sum under masks may have been clipped (`wire/figures_vector.py`)."""

Kind = Literal["binary", "classes", "numbers", "reconstruction"]


def _no_bins() -> NDArray[np.int64]:
    return np.zeros(BINS, np.int64)


def _no_matrix() -> NDArray[np.int64]:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True, eq=False)
class Tally:
    """Sum of evaluations of one model; without any, all counts are 0.

    Attributes:
      positives, negatives: rows per bin of the score, int64 (BINS,).
      alarms: rows at or above the threshold in use: true ones, false ones.
      confusion: rows by true class (axis 0) and by predicted class (axis 1), int64 (C, C).
      errors: sums over predictions of numbers.
      loss: sum of the rows' losses.
      by_error: rows per bin of their error, int64 (BINS,), where the bundle asks for them.
    """

    positives: NDArray[np.int64] = field(default_factory=_no_bins)
    negatives: NDArray[np.int64] = field(default_factory=_no_bins)
    alarms: tuple[int, int] = (0, 0)
    confusion: NDArray[np.int64] = field(default_factory=_no_matrix)
    errors: Errors | None = None
    loss: float = 0.0
    by_error: NDArray[np.int64] = field(default_factory=_no_bins)

    @property
    def kind(self) -> Kind | None:
        """The kind of task; None without a row.

        Rows of numbers whose label is 0 throughout, and never predicted too low, read as
        `reconstruction`: their figures are then told by the loss, which is as true.
        """
        if self.errors is not None:
            sums = self.errors
            is_label_free = sums.label == sums.label_squared == 0.0 and sums.error == sums.absolute
            return "reconstruction" if is_label_free else "numbers"
        if self.confusion.size:
            return "classes"
        return "binary" if self.rows else None

    @property
    def rows(self) -> int:
        """How many held-out rows were counted."""
        if self.errors is not None:
            return self.errors.rows
        return int(self.positives.sum() + self.negatives.sum() + self.confusion.sum())

    @property
    def failures(self) -> int:
        """How many of the rows are positive, of two classes; else 0."""
        return int(self.positives.sum())

    @property
    def is_finite(self) -> bool:
        """Whether the model gave a number for every row."""
        return self.loss < OVERFLOW

    def __add__(self, other: "Tally") -> "Tally":
        """Sum of two tallies of one task.

        Raises:
          MalformedError: they are of different tasks.
        """
        shapes = [(each.errors is not None, each.confusion.shape) for each in (self, other)]
        if self.kind and other.kind and shapes[0] != shapes[1]:
            reason = f"evaluations of different tasks do not add: {_part(self)} and {_part(other)}"
            raise MalformedError(reason)
        is_matrix_here = self.confusion.size > 0
        return Tally(
            self.positives + other.positives,
            self.negatives + other.negatives,
            (self.alarms[0] + other.alarms[0], self.alarms[1] + other.alarms[1]),
            self.confusion + other.confusion
            if self.confusion.shape == other.confusion.shape
            else (self if is_matrix_here else other).confusion,
            _sum_of_errors(self.errors, other.errors),
            self.loss + other.loss,
            self.by_error + other.by_error,
        )


def tally_of(evaluation: Evaluation) -> Tally:
    """One site's evaluation, which `check_evaluation` accepts, as a tally."""
    confusion = np.array(evaluation.confusion, np.int64)
    classes = math.isqrt(len(confusion))
    return Tally(
        np.array(evaluation.positives or _no_bins(), np.int64),
        np.array(evaluation.negatives or _no_bins(), np.int64),
        evaluation.alarms,
        confusion.reshape(classes, classes),
        evaluation.errors,
        evaluation.loss,
        np.array(evaluation.rows_by_error or _no_bins(), np.int64),
    )


def add(evaluations: Iterable[Evaluation]) -> Tally:
    """Sum evaluations of several sites, in constant memory.

    Raises:
      MalformedError: they are of different tasks.
    """
    total = Tally()
    for evaluation in evaluations:
        total = total + tally_of(evaluation)
    return total


def kind_of(manifest: Manifest) -> Kind:
    """The kind of task that a bundle learns."""
    if manifest.loss == "binary_cross_entropy":
        return "binary"
    if manifest.loss == "cross_entropy":
        return "classes"
    return "numbers" if manifest.loss in REGRESSION else "reconstruction"


def check_evaluation(evaluation: Evaluation, manifest: Manifest | None = None) -> None:
    """Check that an evaluation's parts agree with each other, and with the bundle where given.

    Raises:
      MalformedError: names the first contradiction.
    """
    problem = next(_problems(evaluation), None)
    if problem is None and manifest is not None:
        problem = next(_misfits(evaluation, manifest), None)
    if problem is not None:
        raise MalformedError(f"malformed evaluation: {problem}")


def _problems(evaluation: Evaluation) -> Iterator[str]:
    bins = (len(evaluation.positives), len(evaluation.negatives))
    if bins not in ((0, 0), (BINS, BINS)):
        yield f"{bins[0]} and {bins[1]} bins, not {BINS} of each"
    classes = math.isqrt(len(evaluation.confusion))
    if classes**2 != len(evaluation.confusion) or classes == 1:
        yield f"{len(evaluation.confusion)} counts are no confusion matrix"
    parts = [bins != (0, 0), classes > 0, evaluation.errors is not None]
    if sum(parts) != 1:
        yield f"{sum(parts)} of bins, confusion and errors are filled, not one of them"
    if not (math.isfinite(evaluation.loss) and evaluation.loss >= 0.0):
        yield f"loss {evaluation.loss} is no sum of losses"
    positives, negatives = sum(evaluation.positives), sum(evaluation.negatives)
    if evaluation.alarms[0] > positives or evaluation.alarms[1] > negatives:
        yield f"alarms {evaluation.alarms} on {positives} positive and {negatives} negative rows"
    if evaluation.errors is not None:
        yield from _error_problems(evaluation.errors)
        if evaluation.rows_by_error:
            yield from _binned_problems(evaluation.errors, evaluation.rows_by_error)
    elif evaluation.rows_by_error:
        yield "it counts rows by error and has no errors"
    elif not positives + negatives + sum(evaluation.confusion):
        yield "it counts no row"


def _error_problems(errors: Errors) -> Iterator[str]:
    """What no rows could add up to; sums of one set of numbers bound each other."""
    if errors.rows < 1:
        yield "it counts no row"
    sums = (errors.error, errors.absolute, errors.squared, errors.label, errors.label_squared)
    if not all(math.isfinite(each) for each in sums):
        yield "errors are not finite"
    if not abs(errors.error) <= errors.absolute * _ROUNDING + _CUT:
        yield f"errors sum up to {errors.error:g}, their absolute values to {errors.absolute:g}"
    for name, total, squares in (
        ("error", errors.absolute, errors.squared),
        ("label", errors.label, errors.label_squared),
    ):
        # Cauchy-Schwarz: (sum of x)^2 <= rows * sum of x^2.
        most = math.inf if squares >= _CLIPPED else errors.rows * (squares * _ROUNDING + _CUT)
        if squares < 0.0 or total**2 > most:
            yield f"{name}s sum up to {total:g}, their squares to {squares:g} only"


def _binned_problems(errors: Errors, rows_by_error: tuple[int, ...]) -> Iterator[str]:
    """How counts by error contradict the sum of the same errors."""
    if len(rows_by_error) != BINS:
        yield f"{len(rows_by_error)} bins of errors, not {BINS}"
        return
    if sum(rows_by_error) != errors.rows:
        yield f"{sum(rows_by_error)} rows by error of {errors.rows} rows"
    borders = [error_border(number) for number in range(BINS + 1)]
    counted = range(1, BINS)  # the first bin begins at 0, whatever its border
    least = sum(rows_by_error[number] * borders[number] for number in counted)
    most = sum(rows_by_error[number] * borders[number + 1] for number in range(BINS))
    is_bounded = not rows_by_error[-1]
    slack = _CUT * (1.0 + errors.error)
    if errors.error < least - slack or (is_bounded and errors.error > most + slack):
        yield f"errors sum up to {errors.error:g}, their bins to {least:g} to {most:g}"


def _misfits(evaluation: Evaluation, manifest: Manifest) -> Iterator[str]:
    """How an evaluation in itself right is not one of this bundle."""
    kind, said = kind_of(manifest), _part(tally_of(evaluation))
    wanted = {"binary": "bins", "classes": "confusion"}.get(kind, "errors")
    if said != wanted:
        yield f"it fills {said}; bundle {manifest.name} is judged by {wanted}"
    if kind == "classes":
        classes = len(manifest.label.classes) if manifest.label is not None else 0
        if len(evaluation.confusion) != classes**2:
            yield f"{len(evaluation.confusion)} counts, {classes} classes give {classes**2}"
    if bool(evaluation.rows_by_error) != manifest.counts_errors:
        found = "counts" if evaluation.rows_by_error else "does not count"
        yield f"it {found} rows by error, bundle {manifest.name} asks otherwise"
    errors = evaluation.errors
    if kind == "reconstruction" and errors is not None and errors.label_squared:
        yield "labels of a reconstruction, which has none"


def check_judged(manifest: Manifest) -> str:
    """Why sites can not judge a bundle's models by a report; empty when they can."""
    classes = len(manifest.label.classes) if manifest.label is not None else 0
    if kind_of(manifest) == "classes" and classes > MAX_CLASSES:
        return f"its {classes} classes are more than the {MAX_CLASSES} of a report"
    return ""


def _part(tally: Tally) -> str:
    if tally.errors is not None:
        return "errors"
    return "confusion" if tally.confusion.size else "bins"


def _sum_of_errors(one: Errors | None, other: Errors | None) -> Errors | None:
    if one is None or other is None:
        return one or other
    return Errors(
        rows=one.rows + other.rows,
        error=one.error + other.error,
        absolute=one.absolute + other.absolute,
        squared=one.squared + other.squared,
        label=one.label + other.label,
        label_squared=one.label_squared + other.label_squared,
    )
