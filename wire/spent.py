"""What releases have cost, as marks that can be compared and added.  Pure.

`Spent` only grows, so of two marks about one agent each number's larger one is true: the agent may
have made releases since the coordinator heard of it, and a restored card has forgotten some.  The
orders of the Renyi divergences are fixed here, because marks of two programs must mean the same.
"""

from typing import Final

from wire.messages import Spent

RENYI_ORDERS: Final[tuple[int, ...]] = (
    *range(2, 17),
    *(18, 20, 22, 24, 27, 30, 33, 36, 40, 45, 50, 56, 63),
    *(128, 256, 512, 1024),
)
"""Integers, for which the divergence of the sampled Gaussian mechanism is a finite sum."""
LARGEST: Final = 1e12
"""The range of `Spent`'s numbers; what is more costs more than anybody's budget all the same."""


def added(spent: Spent, cost: Spent) -> Spent:
    """What is spent after one more release, or several."""
    return Spent(
        gaussian=min(spent.gaussian + cost.gaussian, LARGEST),
        sampled=tuple(min(a + b, LARGEST) for a, b in _pairs(spent, cost)),
        releases=spent.releases + cost.releases,
    )


def highest(one: Spent, other: Spent) -> Spent:
    """The larger one of each number of two marks."""
    return Spent(
        gaussian=max(one.gaussian, other.gaussian),
        sampled=tuple(max(pair) for pair in _pairs(one, other)),
        releases=max(one.releases, other.releases),
    )


def _pairs(one: Spent, other: Spent) -> list[tuple[float, float]]:
    """Divergences of two marks, order by order; none stands for zeros."""
    count = max(len(one.sampled), len(other.sampled))
    first, second = (each.sampled + (0.0,) * (count - len(each.sampled)) for each in (one, other))
    return list(zip(first, second, strict=True))
