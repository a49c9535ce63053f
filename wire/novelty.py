"""The noised histogram by which a site shows how its inputs differ, and the distance of two.

A row is projected on `PROJECTIONS` random directions that everybody computes from the bundle's
digest: signs instead of Gaussians, which keep distances as well (Achlioptas, "Database-friendly
random projections", JCSS 66, 2003) and are the same bits on every machine.  Of each projection goes
out which share of the rows falls into each of `BINS` bins, the octiles of a standard normal.

What is private, and how far: the shares come from counts with noise of the discrete Laplace
distribution, made with integers (Canonne, Kamath and Steinke, "The Discrete Gaussian for
Differential Privacy", arXiv:2004.00010, section 5.2), because the low bits of a Laplace variate
in floating point give the value away (Mironov, "On Significance of the Least Significant Bits for
Differential Privacy", CCS 2012).  Replacing one row moves it from one bin to another in each
projection, so the counts change by at most `SENSITIVITY` = 2 x 8 in L1, and noise of the scale
SENSITIVITY / epsilon makes one release epsilon-differentially private for a row; division by the
number of rows, which the site tells anyway, and clipping change nothing about it.

Releases add up: k releases about one row cost k x epsilon, and fresh noise on the same rows
averages away.  So a histogram is noised once and told again as it is (`agent/asking.py`,
`next_shown`).  What is protected is a row, neither the site nor what its rows have in common: that
is what is told.
"""

import hashlib
import random
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.messages import NOVELTY_BINS

PROJECTIONS: Final = 8
BINS: Final = NOVELTY_BINS // PROJECTIONS
SENSITIVITY: Final = 2 * PROJECTIONS
EPSILON: Final = 1.0
"""Of one release.  At 1,000 rows the noise moves a share of .125 by .016 on average."""

_EDGES = np.array([-1.15035, -0.67449, -0.31864, 0.0, 0.31864, 0.67449, 1.15035])
"""Octiles of the standard normal distribution."""
_BLOCK = 1 << 20
"""Numbers that are projected at once, so that memory does not grow with the rows."""

Vector = NDArray[np.float64]


def histogram(
    inputs: NDArray[np.floating], digest: bytes, epsilon: float, rng: random.Random
) -> tuple[float, ...]:
    """Noised shares in [0, 1] of the rows in each bin, `NOVELTY_BINS` numbers.

    Args:
      inputs: (N, ...), what the model is given, standardized by figures that all sites share: by
        a site's own, all sites would look alike.
      digest: SHA-256 of the bundle; histograms of two bundles can not be compared.
      epsilon: of this release, above 0.
      rng: of cryptographic quality (`random.SystemRandom`), but for tests.

    Returns:
      Projection by projection; nothing when there are no rows.
    """
    if not epsilon > 0:
        reason = f"epsilon must be above 0, not {epsilon}: a histogram without noise is not sent"
        raise ValueError(reason)
    if inputs.size == 0:
        return ()
    scale = Fraction(SENSITIVITY) / Fraction(epsilon)
    noised = [int(count) + discrete_laplace(scale, rng) for count in _counts(inputs, digest)]
    return tuple(min(max(count / len(inputs), 0.0), 1.0) for count in noised)


def distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """How far two histograms are apart: total variation in [0, 1], averaged over projections."""
    return float(distances(np.array([a], dtype=np.float64), np.array(b, dtype=np.float64))[0])


def distances(histograms: Vector, center: Vector) -> Vector:
    """`distance` of many, (N, NOVELTY_BINS), from one, (NOVELTY_BINS,); float64, (N,)."""
    apart = np.abs(_distributions(histograms) - _distributions(center[None]))
    result: Vector = apart.sum(axis=2).mean(axis=1) / 2
    return result


def distance_by_chance(examples: NDArray[np.floating], epsilon: float = EPSILON) -> Vector:
    """The distance at which a site of as many rows stands though its rows are like everybody's.

    Noise and sampling are larger in small sites; without taking this off, the smallest would look
    the most novel for ever.

    Args:
      examples: rows behind each histogram, (N,).
      epsilon: that of the histograms.

    Returns:
      float64, (N,): half the expected L1 norm of the deviation, at most 1.
    """
    rows = np.maximum(np.asarray(examples, dtype=np.float64), 1.0)
    share = 1 / BINS
    variance = 2 * (SENSITIVITY / (rows * epsilon)) ** 2 + share * (1 - share) / rows
    result: Vector = np.minimum(BINS * np.sqrt(2 / np.pi * variance) / 2, 1.0)
    return result


def discrete_laplace(scale: Fraction, rng: random.Random) -> int:
    """An integer k with a probability in proportion to exp(-|k| / scale), exactly.

    Canonne, Kamath and Steinke, arXiv:2004.00010, algorithm 2; no floating point is involved.
    """
    t, s = scale.numerator, scale.denominator
    while True:
        u = rng.randrange(t)
        if not _bernoulli_exp(Fraction(u, t), rng):
            continue
        v = 0
        while _bernoulli_exp(Fraction(1), rng):
            v += 1
        magnitude = (u + t * v) // s
        is_negative = rng.randrange(2) == 1
        if not (is_negative and magnitude == 0):  # or zero would come twice as often
            return -magnitude if is_negative else magnitude


def _bernoulli_exp(gamma: Fraction, rng: random.Random) -> bool:
    """True with probability exp(-gamma), gamma in [0, 1] (the same paper, algorithm 1)."""
    k = 1
    while rng.randrange(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def _counts(inputs: NDArray[np.floating], digest: bytes) -> NDArray[np.int64]:
    """Rows in each bin of each projection, (NOVELTY_BINS,); rows with a number missing are not."""
    rows = inputs.reshape(len(inputs), -1)
    directions = _directions(digest, rows.shape[1])
    counts = np.zeros((PROJECTIONS, BINS), dtype=np.int64)
    block = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), block):
        part = rows[start : start + block].astype(np.float64)
        bins = np.searchsorted(_EDGES, part[np.isfinite(part).all(axis=1)] @ directions)
        for projection in range(PROJECTIONS):
            counts[projection] += np.bincount(bins[:, projection], minlength=BINS)
    return counts.reshape(-1)


def _directions(digest: bytes, columns: int) -> Vector:
    """Signs over the root of their number, (columns, PROJECTIONS): one byte for each column."""
    stream = hashlib.shake_256(b"journeyman novelty 1" + digest).digest(columns)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8)).reshape(columns, PROJECTIONS)
    directions: Vector = (2.0 * bits - 1.0) / np.sqrt(columns)
    return directions


def _distributions(histograms: Vector) -> Vector:
    """(N, NOVELTY_BINS) as (N, PROJECTIONS, BINS) that add up to 1; without a sum it is uniform."""
    shares = np.clip(histograms, 0.0, 1.0).reshape(-1, PROJECTIONS, BINS)
    total = shares.sum(axis=2, keepdims=True)
    result: Vector = np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1 / BINS)
    return result
