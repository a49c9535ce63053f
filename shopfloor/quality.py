"""How well scores rank failures: average precision (PR-AUC) and ROC-AUC.

Responsible for the two numbers of the report, so that the demo needs no machine-learning library.
Refuses what would give NaN or a number without meaning: one class missing, scores that are not
finite, labels other than 0 and 1.  Invariant: only the order of the scores matters, and rows with
equal scores are judged together, so shuffling the rows changes nothing.

Both agree with scikit-learn's `average_precision_score` and `roc_auc_score` (tested against it).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_precision(y: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision-recall steps, sum of (R_k - R_(k-1)) * P_k, without interpolation.

    Interpolating linearly between the points flatters a model (Davis and Goadrich 2006, "The
    relationship between precision-recall and ROC curves"), so each step keeps its own precision.

    Args:
      y: shape (N,); 1 or True where the row is a failure, else 0.
      score: shape (N,), finite; higher means more likely a failure.

    Raises:
      ValueError: a class is missing, the shapes differ, or a value is out of range.
    """
    failure, ranking = _checked(y, score)
    order = np.argsort(-ranking, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(ranking[order])), failure.size - 1)
    hits = np.cumsum(failure[order])[ends]
    precision = hits / (ends + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def roc_auc(y: ArrayLike, score: ArrayLike) -> float:
    """The chance that a failure scores above a good row, a tie counting one half.

    Computed from midranks as the Mann-Whitney statistic (Hanley and McNeil 1982).

    Args:
      y: shape (N,); 1 or True where the row is a failure, else 0.
      score: shape (N,), finite; higher means more likely a failure.

    Raises:
      ValueError: a class is missing, the shapes differ, or a value is out of range.
    """
    failure, ranking = _checked(y, score)
    _, group, size = np.unique(ranking, return_inverse=True, return_counts=True)
    midrank = (np.cumsum(size) - (size - 1) / 2)[group]
    positives = int(failure.sum())
    negatives = failure.size - positives
    above = float(midrank[failure].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def _checked(y: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels = np.asarray(y)
    ranking = np.asarray(score, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != ranking.shape:
        raise ValueError(
            f"labels and scores need one equal axis, got {labels.shape} and {ranking.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not np.isfinite(ranking).all():
        raise ValueError("scores must be finite")
    failure = labels.astype(np.bool_)
    if failure.all() or not failure.any():
        present = "no row at all" if failure.size == 0 else "only one class"
        raise ValueError(f"quality needs failures and good rows, got {present}")
    return failure, ranking
