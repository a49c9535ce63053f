"""PR-AUC (average precision) and ROC-AUC; equal scores count as one threshold."""

import numpy as np
from numpy.typing import NDArray


def average_precision(label: NDArray[np.float32], score: NDArray[np.float32]) -> float:
    """Return the sum over thresholds of precision times gain in recall; shapes (N,)."""
    hits, taken = _cumulated(label, score)
    gain = np.diff(hits / hits[-1], prepend=0.0)
    return float(np.sum(gain * hits / taken))


def roc_auc(label: NDArray[np.float32], score: NDArray[np.float32]) -> float:
    """Return the area under (false positive rate, true positive rate); shapes (N,)."""
    hits, taken = _cumulated(label, score)
    misses = taken - hits
    return float(
        np.trapezoid(np.r_[0, hits] / hits[-1], np.r_[0, misses] / misses[-1])  # straight at ties
    )


def _cumulated(
    label: NDArray[np.float32], score: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positives and rows with at least each distinct score, highest score first."""
    order = np.argsort(-score, kind="stable")
    last_of_ties = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]
    hits = np.cumsum(label[order], dtype=np.float64)[last_of_ties]
    return hits, last_of_ties + 1.0
