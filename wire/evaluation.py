"""Quality of a model from counts that add across sites: what one site counts on its own rows.

A site reports, for equal bins of the score, how many positive and negative held-out rows fell into
each; for more classes a confusion matrix; for numbers and reconstruction sums of errors, and for a
threshold by a share of rows also how many fell into each bin of the error.  The sum
over sites (`wire/tally.py`) gives the figures (`wire/figures.py`) of the pooled rows; no row and no
score leaves the site.

What a diverged model gives is counted too: an output that is no number counts as wrong as can be,
and the loss of such an evaluation is `OVERFLOW`.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.bins import error_bins, log_shares, score_bins
from wire.figures import pr_auc, roc_auc
from wire.messages import BINS, Errors, Evaluation
from wire.tally import OVERFLOW, add

__all__ = [
    "BINS",
    "OVERFLOW",
    "add",
    "evaluate",
    "evaluate_classes",
    "evaluate_numbers",
    "evaluate_reconstruction",
    "pr_auc",
    "roc_auc",
]


def evaluate(
    digest: bytes,
    labels: NDArray[np.bool_],
    scores: NDArray[np.floating],
    threshold: float = 0.5,
) -> Evaluation:
    """Count held-out rows of two classes per score bin; the loss is the log loss.

    Args:
      digest: SHA-256 of the weights that gave the scores.
      labels: bool, shape (N,).
      scores: in [0, 1], or NaN where the model gave no number; shape (N,).
      threshold: score from which a row is an alarm.
    """
    given = np.asarray(scores, np.float64)
    is_number = np.isfinite(given)
    given = np.where(is_number, given, ~labels)
    for_failure, for_none = log_shares(given)
    bins = score_bins(for_failure - for_none)
    counts = [np.bincount(bins[labels == side], minlength=BINS) for side in (True, False)]
    positives, negatives = (tuple(int(count) for count in side) for side in counts)
    is_alarm = given >= threshold
    losses = -np.where(labels, for_failure, for_none)
    return Evaluation(
        digest=digest,
        positives=positives,
        negatives=negatives,
        alarms=(int((is_alarm & labels).sum()), int((is_alarm & ~labels).sum())),
        loss=_loss(losses, is_complete=bool(is_number.all())),
    )


def evaluate_classes(
    digest: bytes,
    labels: NDArray[np.int64],
    outputs: NDArray[np.floating],
    losses: NDArray[np.float64],
) -> Evaluation:
    """Count held-out rows of several classes by true and by predicted class.

    Args:
      digest: SHA-256 of the weights that gave the outputs.
      labels: numbers of the true classes, int64 (N,), in [0, C).
      outputs: a logit for each class, float (N, C); the largest predicts, the first of equals.
      losses: of each row, float64 (N,).
    """
    classes = outputs.shape[1]
    is_number = np.isfinite(outputs).all(axis=1)
    predicted = np.where(is_number, np.argmax(outputs, axis=1), (labels + 1) % classes)
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    return Evaluation(
        digest=digest,
        confusion=tuple(int(count) for count in counts),
        loss=_loss(losses, is_complete=bool(is_number.all())),
    )


def evaluate_numbers(
    digest: bytes,
    labels: NDArray[np.float64],
    predictions: NDArray[np.float64],
    losses: NDArray[np.float64],
) -> Evaluation:
    """Sum up how far predictions are off.

    Args:
      digest: SHA-256 of the weights that gave the predictions.
      labels: in their own unit, float64 (N,).
      predictions: in the same unit, float64 (N,).
      losses: of each row, float64 (N,).
    """
    return _numbers(digest, labels, predictions - labels, losses)


def evaluate_reconstruction(
    digest: bytes, losses: NDArray[np.float64], *, counts_errors: bool = False
) -> Evaluation:
    """Sum up how badly inputs were rebuilt.

    A row's squared error takes the place of an error, and its label is 0: so the sums also say how
    much rows differ, which tells chance from drift.

    Args:
      digest: SHA-256 of the weights that rebuilt them.
      losses: mean squared error of each row, float64 (N,).
      counts_errors: whether rows are also counted by error (`Manifest.counts_errors`).
    """
    summed = _numbers(digest, np.zeros(len(losses)), losses, losses)
    if not counts_errors:
        return summed
    counts = np.bincount(error_bins(losses), minlength=BINS)
    return msgspec.structs.replace(summed, rows_by_error=tuple(int(count) for count in counts))


def _numbers(
    digest: bytes,
    labels: NDArray[np.float64],
    errors: NDArray[np.float64],
    losses: NDArray[np.float64],
) -> Evaluation:
    # Squares of numbers within this add up to what a report can hold.
    most = 0.999 * math.sqrt(OVERFLOW / max(len(errors), 1))
    off = np.clip(np.nan_to_num(errors, nan=most), -most, most)
    true = np.clip(labels, -most, most)
    return Evaluation(
        digest=digest,
        errors=Errors(
            rows=len(errors),
            error=float(off.sum()),
            absolute=float(np.abs(off).sum()),
            squared=float(np.square(off).sum()),
            label=float(true.sum()),
            label_squared=float(np.square(true).sum()),
        ),
        loss=_loss(losses, is_complete=bool((off == errors).all())),
    )


def _loss(losses: NDArray[np.float64], *, is_complete: bool) -> float:
    """Sum of the rows' losses; `OVERFLOW` where it is none, or some output was no number."""
    total = float(losses.sum()) if is_complete else math.nan
    return min(total, OVERFLOW) if math.isfinite(total) else OVERFLOW
