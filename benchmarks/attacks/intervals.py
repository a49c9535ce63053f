"""What scores of a membership attack prove: area under the curve, and a lower bound of epsilon.

A mechanism that is (epsilon, delta)-private leaves every test of membership
`true positives <= e^epsilon x false positives + delta` (Kairouz, Oh and Viswanath,
arXiv:1311.0776).  Measured rates therefore bound epsilon from below, with the confidence of
their Clopper-Pearson intervals (Biometrika 26, 1934); so Jagielski, Ullman and Oprea audit
(arXiv:2006.07709).

Invariant: the threshold is chosen on one half of the scores and judged on the other, or the best of
many thresholds would prove more than there is.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from benchmarks.attacks.victims import Vector

CONFIDENCE = 0.95
_THRESHOLDS = 60


def auc(members: Vector, others: Vector) -> float:
    """Probability that a member's score is higher than another's; ties count half."""
    ranked = np.sort(others)
    below = np.searchsorted(ranked, members, "left") + np.searchsorted(ranked, members, "right")
    return float(below.mean() / (2 * len(others)))


def epsilon_shown(members: Vector, others: Vector, delta: float) -> float:
    """Epsilon that the scores prove to be exceeded or equalled, with 95 % confidence; at least 0.

    Args:
      members: scores of trials with the canary, in the order of the trials, (N,).
      others: of trials without it, (N,).
      delta: that of the claim.
    """
    half = len(members) // 2
    tests = list(_tests(members[:half], others[:half]))
    bounds = [_bound(members[:half], others[:half], test, delta) for test in tests]
    best = tests[int(np.argmax(bounds))]
    return max(0.0, _bound(members[half:], others[half:], best, delta))


def rate_bounds(hits: int, trials: int) -> tuple[float, float]:
    """Clopper-Pearson bounds of a rate; either fails with half of what confidence leaves."""
    tail = (1.0 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else _root(lambda p: 1.0 - _cumulative(hits - 1, trials, p), tail)
    high = 1.0 if hits == trials else _root(lambda p: 1.0 - _cumulative(hits, trials, p), 1 - tail)
    return low, high


def _tests(members: Vector, others: Vector) -> Iterator[tuple[float, bool]]:
    """Thresholds, and whether members are said to be above it or others below it."""
    shares = np.linspace(0.5 / _THRESHOLDS, 1 - 0.5 / _THRESHOLDS, _THRESHOLDS)
    for threshold in np.quantile(np.concatenate([members, others]), shares):
        yield float(threshold), True
        yield float(threshold), False


def _bound(members: Vector, others: Vector, test: tuple[float, bool], delta: float) -> float:
    """Log of (least rate of true positives - delta) over the largest rate of false ones."""
    threshold, is_above = test
    if is_above:
        right, wrong = members > threshold, others > threshold
    else:  # the test that says "not a member": delta and epsilon hold both ways
        right, wrong = others <= threshold, members <= threshold
    least, _ = rate_bounds(int(right.sum()), len(right))
    _, most = rate_bounds(int(wrong.sum()), len(wrong))
    return math.log((least - delta) / most) if least > delta else -math.inf


def _cumulative(hits: int, trials: int, p: float) -> float:
    """Probability of at most so many hits, 0 < p < 1."""
    ways = _log_ways(trials)[: hits + 1]
    k = np.arange(hits + 1)
    return float(np.exp(ways + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


@cache
def _log_ways(trials: int) -> Vector:
    """Log of the binomial coefficients of 0 to `trials`."""
    logs = np.cumsum([0.0, *np.log(np.arange(1, trials + 1))])
    return np.asarray(logs[-1] - logs - logs[::-1])


def _root(rising: Callable[[float], float], value: float) -> float:
    """Where a rising function of a probability reaches a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if rising(middle) < value:
            low = middle
        else:
            high = middle
    return (low + high) / 2
