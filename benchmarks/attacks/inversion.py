"""Rows out of gradients: analytic inversion of a first dense layer, and how a result is judged.

The gradient of a dense layer's weights is, for one row, the outer product of what reaches each
neuron and the row itself, and that of its biases is the first factor alone.  Each neuron's weights
over its bias are therefore the row (Phong et al., IEEE TIFS 13, 2018, section III; Geiping et al.,
arXiv:2003.14053, proposition 3.1); for several rows they are weighted means of those that
the neuron let through.  The class of a single row is the one output bias whose gradient is negative
(Zhao, Mopuri and Bilen, iDLG, arXiv:2001.02610).

Every attack is a pure function of what its attacker holds.  Deltas are `trained - base`.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.victims import Digits, Matrix, Vector

SUCCEEDS = 0.9
"""Mean best correlation from which a person would call the rows reconstructed."""


def neurons(delta: Vector, inputs: int, hidden: int) -> Matrix:
    """One candidate row for each neuron of the first layer that moved: float64 (R, inputs).

    Args:
      delta: an update, or a sum of updates, float64 (P,), its first tensors the first layer's
        weights (hidden, inputs) and biases (hidden,).
      inputs: numbers in a row.
      hidden: neurons of the first layer.
    """
    weights = delta[: hidden * inputs].reshape(hidden, inputs)
    biases = delta[hidden * inputs : hidden * inputs + hidden]
    moved = np.abs(biases) > 0
    return np.asarray(weights[moved] / biases[moved, None])


def between_neurons(delta: Vector, inputs: int, hidden: int) -> Matrix:
    """The same for each difference of two adjacent neurons: what only one of them let through.

    For a base whose neurons all weigh alike and differ in their thresholds (`crafted.bins`), after
    Fowl et al., "Robbing the Fed", arXiv:2110.13057.
    """
    weights = delta[: hidden * inputs].reshape(hidden, inputs)
    biases = delta[hidden * inputs : hidden * inputs + hidden]
    apart = np.concatenate([np.diff(weights, axis=0).ravel(), np.diff(biases)])
    return neurons(apart, inputs, hidden - 1)


def label(delta: Vector, classes: int) -> int:
    """The class of the one row behind a step: the only output bias that grew."""
    return int(np.argmax(delta[-classes:]))


def best_correlations(candidates: Matrix, rows: NDArray[np.floating]) -> Vector:
    """For each true row the largest correlation with any candidate; 0 without candidates.

    Args:
      candidates: float64 (R, F).
      rows: (N, F).
    """
    if not len(candidates):
        return np.zeros(len(rows))
    return np.asarray((_standard(rows.astype(np.float64)) @ _standard(candidates).T).max(axis=1))


def guessed(rows: Digits, candidates: int, others: Digits, rng: np.random.Generator) -> float:
    """What as many digits of other people give: the mean best correlation without any attack."""
    guesses = others.drawn(max(1, candidates), rng).x.astype(np.float64)
    return float(best_correlations(guesses, rows.x).mean())


def _standard(rows: Matrix) -> Matrix:
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths > 0, lengths, 1.0))
