"""Robust aggregation: what a minority of hostile or broken sites can do to a version is bounded.

Two steps, each optional, that work with one vector of memory and a few sums:

`clip`     each update, when it arrives, is pulled towards a centre until it is at most a
           radius away.  `norm`: the centre is zero.  `centred`: the centre is the last version's
           mean delta (centred clipping: Karimireddy, He and Jaggi, "Learning from History for
           Byzantine Robust Optimization", arXiv:2012.10333, algorithm 2).  The radius follows the
           median of the distances (adaptive clipping: Andrew et al., arXiv:1905.03871, eq. 4),
           unless it is given.  As integers must add, clipping lowers the update's coefficient; the
           centre's share is added when the version is made.
`combine`  updates go into `buckets` (Karimireddy, He and Jaggi, "Byzantine-Robust Learning on
           Heterogeneous Datasets via Bucketing", arXiv:2006.09365), all of one site into the same,
           and the buckets' means are combined: `mean`; `geometric_median` (RFA: Pillutla, Kakade
           and Harchaoui, arXiv:1912.13445, algorithm 2); `trimmed_mean` and `median`, by
           coordinate (Yin et al., "Byzantine-Robust Distributed Learning", arXiv:1803.01498).

A bucket with fewer sites than the charter's k_min is joined with others before its mean is looked
at: comparing single sites' updates is what secure aggregation forbids.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer, Member
from wire.settings import Settings

Vector = NDArray[np.float64]

UNIT = 128
"""Steps of a coefficient while clipping is on, so that it can be lowered by less than one row."""
_RATE = 0.3
"""How fast the radius follows: by 16 % when no update of a version is within it."""
_WEISZFELD_STEPS = 50
_BLOCK = 1 << 16


class RobustSettings(Settings, frozen=True, kw_only=True):
    """The `[robust]` table.

    Attributes:
      clip: see the module.
      radius: largest distance from the centre; 0: it follows the median.
      combine: see the module.
      buckets: sums that are compared; 1 for `mean`.
      trim: share of the buckets that `trimmed_mean` leaves out at each end.
    """

    clip: Literal["none", "norm", "centred"] = "none"
    radius: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    combine: Literal["mean", "geometric_median", "trimmed_mean", "median"] = "mean"
    buckets: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    trim: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.2


def problem_with(settings: RobustSettings, goal: int, k_min: int) -> str:
    """What contradicts itself in the table, in words; empty when nothing does."""
    if settings.combine == "mean" and settings.buckets > 1:
        return "buckets have no meaning for the mean; name another rule to combine them"
    if settings.combine != "mean" and settings.buckets < 3:
        return f"{settings.combine} of fewer than 3 buckets is no more robust than their mean"
    if settings.buckets * k_min > goal:
        return (
            f"{settings.buckets} buckets of {k_min} sites each need more updates than the {goal} "
            "of a version"
        )
    return ""


def distance(
    delta: NDArray[np.signedinteger], scale: float, centre: NDArray[np.float64] | None = None
) -> float:
    """Euclidean distance of an update from a centre.

    Args:
      delta: integers, shape (P,).
      scale: value of one step.
      centre: float64, shape (P,); None for zero.
    """
    total = 0.0
    for start in range(0, len(delta), _BLOCK):
        part = delta[start : start + _BLOCK].astype(np.float64)
        if centre is not None:
            part *= scale
            part -= centre[start : start + _BLOCK]
        # Not a dot product: that wakes BLAS's threads, which spin for longer than this takes.
        np.square(part, out=part)
        total += float(part.sum())
    return math.sqrt(total) * (1.0 if centre is not None else scale)


def clipped(weight: int, away: float, radius: float) -> int:
    """Coefficient, in UNITs of the weight, of an update that is this far away from the centre."""
    if away <= radius:
        return weight * UNIT
    return int(weight * UNIT * radius / away)


def next_radius(settings: RobustSettings, radius: float, members: Sequence[Member]) -> float:
    """The radius for the next version.

    Args:
      settings: whose `radius` is kept when it is not 0.
      radius: the one that these members were clipped by; 0: none yet.
      members: of the version that was just made.
    """
    if settings.clip == "none" or settings.radius or not members:
        return settings.radius
    away = sorted(member.distance for member in members)
    if radius == 0.0:
        return away[(len(away) - 1) // 2]
    within = sum(item <= radius for item in away) / len(away)
    return radius * math.exp(-_RATE * (within - 0.5))


def bucket_of(buffer: Buffer, site: str) -> int:
    """The bucket for one more update: its site's, else the one with the fewest sites.

    Raises:
      ValueError: the buffer has no bucket.
    """
    buckets = len(buffer.summed)
    if buckets == 1:
        return 0
    sites: list[set[str]] = [set() for _ in range(buckets)]
    for member in buffer.members:
        if member.site == site:
            return member.bucket
        sites[member.bucket].add(member.site)
    return min(range(buckets), key=lambda bucket: (len(sites[bucket]), bucket))


def joined(buffer: Buffer, k_min: int) -> Buffer:
    """The buffer with every bucket that has members at k_min sites or more, as far as there are.

    The ones with the fewest sites are joined first.
    """
    sites: dict[int, set[str]] = {}
    for member in buffer.members:
        sites.setdefault(member.bucket, set()).add(member.site)
    target = {bucket: bucket for bucket in sites}
    while len(sites) > 1:
        smallest, second = sorted(sites, key=lambda bucket: (len(sites[bucket]), bucket))[:2]
        if len(sites[smallest]) >= k_min:
            break
        sites[second] |= sites.pop(smallest)
        target = {old: second if new == smallest else new for old, new in target.items()}
    if all(old == new for old, new in target.items()):
        return buffer
    summed = np.zeros_like(buffer.total)
    for old, new in target.items():
        summed[new] += buffer.total[old]
    members = tuple(
        msgspec.structs.replace(member, bucket=target[member.bucket]) for member in buffer.members
    )
    return Buffer(summed, members, buffer.weight)


def combined(settings: RobustSettings, means: Vector, weights: Vector) -> Vector:
    """One mean delta of the buckets' means.

    Args:
      settings: names the rule.
      means: float64, shape (B, P).
      weights: float64, shape (B,), positive.
    """
    if len(means) == 1:
        return means[0]
    match settings.combine:
        case "geometric_median":
            return geometric_median(means, weights)
        case "trimmed_mean":
            return trimmed_mean(means, settings.trim)
        case "median":
            return np.asarray(np.median(means, axis=0))
        case _:
            mean: Vector = weights @ means / weights.sum()
            return mean


def geometric_median(points: Vector, weights: Vector) -> Vector:
    """The point with the least weighted sum of distances to all points (smoothed Weiszfeld).

    Args:
      points: float64, shape (B, P).
      weights: float64, shape (B,).

    Returns:
      float64, shape (P,), within 1e-6 of the points' spread.
    """
    middle: Vector = weights @ points / weights.sum()
    spread = float(np.sqrt(np.square(points - middle).sum(axis=1)).max())
    for _ in range(_WEISZFELD_STEPS):
        away = np.sqrt(np.square(points - middle).sum(axis=1))
        share = weights / np.maximum(away, 1e-6 * spread + 1e-300)
        moved: Vector = share @ points / share.sum()
        is_still = float(np.sqrt(np.square(moved - middle).sum())) <= 1e-7 * spread
        middle = moved
        if is_still:
            break
    return middle


def trimmed_mean(points: Vector, trim: float) -> Vector:
    """By coordinate, the mean without the smallest and largest `trim` of the points.

    At least one is left out at each end, and at least one is left.

    Args:
      points: float64, shape (B, P).
      trim: share in [0, 0.5).
    """
    cut = min(max(1, round(trim * len(points))), (len(points) - 1) // 2)
    ordered = np.sort(points, axis=0)
    return np.asarray(ordered[cut : len(points) - cut].mean(axis=0))
