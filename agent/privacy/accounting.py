"""What releases cost in epsilon, at a delta: differential privacy's bookkeeping.  Pure.

Two kinds of release, each about one neighbour more or less (a training example, or an update):

unsampled   a Gaussian of `noise` deviations over the clipping norm.  Releases compose exactly to
            mu-Gaussian differential privacy with mu^2 = sum 1 / noise^2 (Dong, Roth and Su,
            arXiv:1905.02383, corollary 3.3), and
            delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) (Balle and Wang,
            arXiv:1805.06530, theorem 8).  Nothing is lost but to rounding.
sampled     the same noise on a sum over examples, each drawn by itself with a known rate: Renyi
            divergences at fixed integer orders (Mironov, Talwar and Zhang, arXiv:1908.10530,
            section 3.3), which add up; epsilon by Canonne, Kamath and Steinke (arXiv:2004.00010,
            proposition 12), the smallest over the orders.  An upper bound, never below the truth.

Both together: the Renyi divergence of the unsampled ones is alpha mu^2 / 2, and the same conversion
follows.

Numbers are made so that neither a tiny delta nor a large mu loses them: differences of tails are
taken after their common factor exp(-b^2 / 2).  (A tiny mu would lose digits in that difference; the
noise of a policy is at most 1000, so mu is at least 0.001.)  What is returned is rounded upwards:
the upper end of a bisection, never the middle.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from wire.messages import Spent
from wire.spent import LARGEST, RENYI_ORDERS

_BISECTIONS: Final = 100
_ASYMPTOTIC: Final = 20.0
"""From here on a continued fraction of erfc(x) exp(x^2) is exact to float64, and before it
exp(x^2) is far from overflowing."""


def gaussian_cost(noise: float, releases: int = 1) -> Spent:
    """The cost of releases without sampling.

    Args:
      noise: standard deviation over the sensitivity, above 0.
      releases: how many such.
    """
    return Spent(gaussian=min(releases / noise**2, LARGEST))


@lru_cache(maxsize=16)
def sampled_cost(noise: float, rate: float, steps: int) -> Spent:
    """The cost of steps over Poisson samples.

    Args:
      noise: standard deviation over the sensitivity, above 0.
      rate: probability of each example to be in a step, in (0, 1); at 1 it is `gaussian_cost`.
      steps: how many.
    """
    if rate >= 1.0:
        return gaussian_cost(noise, steps)
    divergences = (steps * sampled_divergence(noise, rate, order) for order in RENYI_ORDERS)
    return Spent(sampled=tuple(min(each, LARGEST) for each in divergences))


def sampled_divergence(noise: float, rate: float, order: int) -> float:
    """Renyi divergence of one step, at an integer order above 1.

    log(A) / (order - 1) with A the sum over k of
    C(order, k) (1 - rate)^(order - k) rate^k exp((k^2 - k) / (2 noise^2)), added in logarithms.
    """
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + (k * k - k) / (2 * noise**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return max(total, 0.0) / (order - 1)


@lru_cache(maxsize=64)
def epsilon_of(spent: Spent, delta: float) -> float:
    """Epsilon of everything that was spent, at a delta in (0, 1); 0 when nothing was."""
    if not any(spent.sampled):
        return gaussian_epsilon(math.sqrt(spent.gaussian), delta)
    divergences = [
        order * spent.gaussian / 2 + sampled
        for order, sampled in zip(RENYI_ORDERS, spent.sampled, strict=False)
    ]
    return renyi_epsilon(RENYI_ORDERS[: len(divergences)], divergences, delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon, rounded upwards, at which mu-Gaussian privacy has this delta."""
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # Of zero-concentrated privacy with rho = mu^2 / 2 (Bun and Steinke, arXiv:1605.02065).
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if gaussian_delta(mu, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of mu-Gaussian differential privacy, mu above 0."""
    b = mu / 2 - epsilon / mu
    a = mu / 2 + epsilon / mu
    # e^eps Phi(-a) = exp(-b^2 / 2) erfcx(a / sqrt 2) / 2, because eps - a^2 / 2 = -b^2 / 2.
    tail = _scaled_erfc(a / math.sqrt(2)) / 2
    if b >= 0:
        return max(math.erfc(-b / math.sqrt(2)) / 2 - math.exp(-b * b / 2) * tail, 0.0)
    return math.exp(-b * b / 2) * max(_scaled_erfc(-b / math.sqrt(2)) / 2 - tail, 0.0)


def renyi_epsilon(orders: Sequence[int], divergences: Sequence[float], delta: float) -> float:
    """The smallest epsilon, over the orders, that Renyi divergences give at a delta."""
    found = [
        divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order, divergence in zip(orders, divergences, strict=True)
    ]
    return max(min(found), 0.0)


def _scaled_erfc(x: float) -> float:
    """erfc(x) exp(x^2) for x >= 0, to some 1e-13 of its value."""
    if x < _ASYMPTOTIC:
        return math.erfc(x) * math.exp(x * x)
    # Abramowitz and Stegun, 7.1.14; at x = 20 twelve levels are far more than float64 has.
    value = x
    for k in range(12, 0, -1):
        value = x + k / 2 / value
    return 1 / (value * math.sqrt(math.pi))
