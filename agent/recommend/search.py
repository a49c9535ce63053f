"""The search for the best point of a box: evenly spread points, then closer looks at the best.

Halton's sequence (Numerische Mathematik 2, 1960) with a random shift modulo 1 (R. Cranley and T. N.
L. Patterson, SIAM J. Numer. Anal. 13, 1976) spreads points over the box.  Around the best few,
boxes are searched that get smaller and smaller.  No gradients: a surrogate of a few set-points
costs microseconds a point, has kinks where its Relus switch, and its region is no smooth function.

Pure and deterministic by its seed.  Invariant: what is returned lies in the box and was accepted.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Cost = Callable[[Values], Values]
"""From points (N, D) to costs (N,); infinite for a point that is not accepted."""

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)
MAX_DIMENSIONS = len(_PRIMES)
"""Further primes spread points badly without scrambling."""
_POINTS = 2048
_STARTS = 6
_ROUNDS = 10
_AROUND = 48
_SHRINK = 0.6


def halton(points: int, dimensions: int, seed: int) -> Values:
    """Points that fill the unit cube evenly, float64 (points, dimensions), up to `MAX_DIMENSIONS`.

    The sequence begins at its index 20, where the first primes' digits have mixed.
    """
    index = np.arange(20, 20 + points)
    columns = [_radical_inverse(index, prime) for prime in _PRIMES[:dimensions]]
    shift = np.random.default_rng(seed).random(dimensions)
    return np.asarray((np.column_stack(columns) + shift) % 1.0)


def search(cost: Cost, low: Values, high: Values, seed: int) -> Values | None:
    """Find the point of least cost.

    Args:
      cost: of points.
      low: of the box, float64 (D,).
      high: of the box, float64 (D,), nowhere below `low`.
      seed: of the points' shift.

    Returns:
      The point, float64 (D,); None when no point was accepted.
    """
    points = low + (high - low) * halton(_POINTS, len(low), seed)
    best, costs = _best(points, cost(points), _STARTS)
    around = 2.0 * halton(_AROUND, len(low), seed + 1) - 1.0
    half = (high - low) / 4
    for _ in range(_ROUNDS if len(best) else 0):
        near = np.clip(best[:, np.newaxis] + half * around, low, high).reshape(-1, len(low))
        points = np.concatenate([best, near])
        best, costs = _best(points, np.concatenate([costs, cost(near)]), _STARTS)
        half = half * _SHRINK
    return best[0] if len(best) else None


def _best(points: Values, costs: Values, number: int) -> tuple[Values, Values]:
    """The accepted points of least cost, the best first, and their costs."""
    order = np.argsort(costs, kind="stable")[:number]
    order = order[np.isfinite(costs[order])]
    return points[order], costs[order]


def _radical_inverse(index: NDArray[np.int64], base: int) -> Values:
    """Digits of the index behind the point, in reverse order."""
    rest, value, digit = index.copy(), np.zeros(len(index)), 1.0 / base
    while rest.any():
        value += digit * (rest % base)
        rest //= base
        digit /= base
    return value
