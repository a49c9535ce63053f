"""Robust aggregation: what a minority of hostile or broken sites can do to a version is bounded.

Two steps, each optional, that work with one vector of memory and a few sums:

`clip`     each update, when it arrives, is pulled towards a centre until it is at most a
           radius away.  `norm`: the centre is zero.  `centred`: the centre is the last version's
           mean delta (centred clipping: Karimireddy, He and Jaggi, "Learning from History for
           Byzantine Robust Optimization", arXiv:2012.10333).  The radius follows the median of the
           distances (geometric update of adaptive clipping: Andrew et al., arXiv:1905.03871,
           section 2), unless it is given.  What is more than `FAR` radii away counts as nothing:
           pulled in, it would still push all the radius in a direction that an attacker chose
           (a redescending influence, as Hampel's in robust statistics).  It stays a member, so
           that the radius grows again when all updates have become longer.
           As integers must add, clipping lowers the update's coefficient; the centre's share is
           added when the version is made.
`combine`  updates go into `buckets` (Karimireddy, He and Jaggi, "Byzantine-Robust Learning on
           Heterogeneous Datasets via Bucketing", arXiv:2006.09365), all of one site into the same,
           and the buckets' means are combined: `mean`; `geometric_median` (RFA: Pillutla, Kakade
           and Harchaoui, arXiv:1912.13445); `trimmed_mean` and `median`, by coordinate (Yin et al.,
           "Byzantine-Robust Distributed Learning", arXiv:1803.01498).

A bucket with fewer sites than the charter's k_min is joined with others before its mean is looked
at: comparing single sites' updates is what secure aggregation forbids.

Nothing here tells a weight that is true from one that is claimed: the policy's `weight_cap` does
its part.
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
_GROUP = 16
FAR = 3.0
"""What is more radii away than this counts as nothing."""
_WEISZFELD_STEPS = 100
_BLOCK = 1 << 17
"""Parameters looked at once: 2**16 pairs of squares fit 32 bits."""


class RobustSettings(Settings, frozen=True, kw_only=True):
    """The `[robust]` table.

    As shipped it is off.  Where sites are not trusted: `clip = "centred"`, `combine =
    "geometric_median"`, `buckets = 5`, and a `policy.weight_cap` near the rows of small sites.
    With a fifth of hostile sites that loses 1.4 points of accuracy where they send reversed updates
    at five or a hundred times the length and the plain mean loses 52; 8 where theirs are no longer
    than honest ones, which no distance tells; and .2 where there are none (`benchmarks/robust.py`).

    Attributes:
      clip: to what an update is pulled within the radius: `none`, `norm` (zero) or `centred` (the
        last version's mean delta).
      radius: largest distance from the centre; 0: it follows the median.
      combine: how the buckets become one: `mean` (one bucket), or with three and more
        `geometric_median`, `trimmed_mean` or `median`.
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
      delta: integers, int8 or int16, shape (P,).
      scale: value of one step.
      centre: float64, shape (P,); None for zero, which is several times as fast.
    """
    # Nowhere a dot product: that wakes BLAS's threads, which spin for longer than this takes.
    if centre is None:
        return math.sqrt(sum_of_squares(delta)) * scale
    total = 0.0
    block = np.empty(min(_BLOCK, len(delta)))
    for start in range(0, len(delta), _BLOCK):
        part = block[: min(_BLOCK, len(delta) - start)]
        np.multiply(delta[start : start + _BLOCK], scale, out=part)
        np.subtract(part, centre[start : start + _BLOCK], out=part)
        np.multiply(part, part, out=part)
        total += float(part.sum())
    return math.sqrt(total)


def is_within(delta: NDArray[np.signedinteger], scale: float, bound: float) -> bool:
    """Whether an update's norm is at most a bound.

    Most updates are far shorter, and that is cheap to tell: the largest of each `_GROUP` numbers
    bounds them all, and few are left to square.  What may be too long by that measure is measured
    exactly, for three times the cost.

    Args:
      delta: integers, int8 or int16, shape (P,).
      scale: value of one step.
      bound: in parameters' units.
    """
    groups = len(delta) // _GROUP * _GROUP
    sizes = np.abs(delta[:groups]).view(f"u{delta.dtype.itemsize}")  # |-128| fits once unsigned
    largest = np.maximum.reduce(sizes.reshape(_GROUP, -1), axis=0)
    most = _GROUP * sum_of_squares(largest) + sum_of_squares(delta[groups:])
    return math.sqrt(most) * scale <= bound or distance(delta, scale) <= bound


def sum_of_squares(delta: NDArray[np.integer]) -> int:
    """Sum of squares, exactly.

    Args:
      delta: of 8 bits, from -128 to 128, or of 16, shape (P,).
    """
    if delta.dtype.itemsize > 1:
        return sum(
            int(np.square(delta[start : start + _BLOCK], dtype=np.int64).sum())
            for start in range(0, len(delta), _BLOCK)
        )
    total = 0
    block = np.empty(min(_BLOCK, len(delta)), np.int16)
    for start in range(0, len(delta), _BLOCK):
        squares = block[: min(_BLOCK, len(delta) - start)]
        np.copyto(squares, delta[start : start + _BLOCK])
        np.multiply(squares, squares, out=squares)
        # A square is at most 2**14: two fit 16 bits without a sign, half a block of those 32 bits.
        half = len(squares) // 2
        pairs, others = squares[:half].view(np.uint16), squares[half : 2 * half].view(np.uint16)
        np.add(pairs, others, out=pairs)
        total += int(pairs.sum(dtype=np.uint32)) + int(squares[2 * half :].sum())
    return total


def clipped(weight: int, away: float, radius: float) -> int:
    """Coefficient, in UNITs of the weight, of an update that is this far away from the centre.

    Zero beyond `FAR` radii, and only there.
    """
    if away <= radius:
        return weight * UNIT
    if away > FAR * radius:
        return 0
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
    """The buffer with every bucket at k_min sites that count, or more.

    The ones with the fewest sites are joined first.  Where all together are too few, none counts:
    a sum of fewer sites is not published.
    """
    sites: dict[int, set[str]] = {}
    for member in buffer.members:
        if member.coefficient:
            sites.setdefault(member.bucket, set()).add(member.site)
    if len(set[str]().union(*sites.values())) < k_min:
        members = tuple(msgspec.structs.replace(item, coefficient=0) for item in buffer.members)
        return Buffer(np.zeros_like(buffer.summed), members, buffer.weight)
    target = {bucket: bucket for bucket in sites}
    while len(sites) > 1:
        smallest, second = sorted(sites, key=lambda bucket: (len(sites[bucket]), bucket))[:2]
        if len(sites[smallest]) >= k_min:
            break
        sites[second] |= sites.pop(smallest)
        target = {old: second if new == smallest else new for old, new in target.items()}
    if all(old == new for old, new in target.items()):
        return buffer
    summed, total = np.zeros_like(buffer.summed), buffer.total
    for old, new in target.items():
        summed[new] += total[old]
    members = tuple(
        msgspec.structs.replace(member, bucket=target.get(member.bucket, member.bucket))
        for member in buffer.members
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
        return np.asarray(means[0])
    match settings.combine:
        case "geometric_median":
            return geometric_median(means, weights)
        case "trimmed_mean":
            return trimmed_mean(means, settings.trim)
        case "median":
            return np.asarray(np.median(means, axis=0))
        case _:
            return _weighted_mean(means, weights)


def geometric_median(points: Vector, weights: Vector) -> Vector:
    """The point with the least weighted sum of distances to all points (smoothed Weiszfeld).

    Everything starts from the median by coordinate, and is measured by the median distance from
    it: the mean and the largest distance are what an attacker chooses.

    The plain iteration crawls beside a point that is nearly the answer, and its start is often a
    point.  So distances below a bound count as the bound, which halves with each step down to a
    millionth, and a step reaches twice as far as the last one for as long as the sum still falls
    where it ends; that makes it fall all the way, as the sum is convex.  A step that reached too
    far is taken back.  The slope decides, not the sum: far points drown that in rounding.

    Args:
      points: float64, shape (B, P).
      weights: float64, shape (B,), positive.

    Returns:
      float64, shape (P,); its sum of distances is at most a ten-thousandth above the least.  Of
      7,510 random, nearly collinear, repeated and nearly tied cases the worst was 6.3e-5 above it.
    """
    middle: Vector = np.asarray(np.median(points, axis=0))
    away = _distances(points, middle)
    typical = float(np.median(away)) or float(away.max())
    if typical == 0.0:
        return middle
    least, reach = typical, 1.0
    toward = _pull(points, weights, middle, least)
    for _ in range(_WEISZFELD_STEPS):
        least = max(0.5 * least, 1e-6 * typical)
        moved = middle + reach * toward
        onward = _pull(points, weights, moved, least)
        if reach > 1.0 and float((onward * toward).sum()) < 0.0:
            reach = 1.0
            continue
        middle, toward, reach = moved, onward, 2.0 * reach
        if least == 1e-6 * typical and _length(toward) <= 1e-7 * typical:
            break
    return middle


def _pull(points: Vector, weights: Vector, middle: Vector, least: float) -> Vector:
    """Weiszfeld's step from `middle`: against the slope of the sum of distances, shape (P,).

    Distances below `least` count as that.
    """
    return _weighted_mean(points, weights / np.maximum(_distances(points, middle), least)) - middle


def _length(vector: Vector) -> float:
    return math.sqrt(float(np.square(vector).sum()))


def _distances(points: Vector, middle: Vector) -> Vector:
    """Row by row: one vector of scratch memory, not B."""
    return np.array([_length(point - middle) for point in points])


def _weighted_mean(points: Vector, weights: Vector) -> Vector:
    # Not `@`: that is BLAS, and its sum depends on the number of its threads.
    mean: Vector = np.einsum("b,bp->p", weights / weights.sum(), points)
    return mean


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
