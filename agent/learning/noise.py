"""Noise and secret batches for privacy, from the operating system's random bytes.

Pure but for the source of bytes. Whoever can predict the noise can subtract it, and whoever knows
who is in a batch gains what sampling was to hide; so neither ever comes from a generator with a
seed (NumPy's included). Values are float64 and inherit float64's uneven
grid; an attack on that grid (Mironov, CCS 2012, on Laplace noise) needs the noised value itself,
and what leaves a site is quantized to integers first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53
"""The spacing of the uniforms: float64 holds every multiple of it up to 1 exactly."""
_BLOCK = 1 << 17
"""Values drawn at once, so that five million parameters need no more than some MiB besides."""


def gaussian(
    count: int, deviation: float, random_bytes: Callable[[int], bytes] = os.urandom
) -> NDArray[np.float64]:
    """Draw independent normal values of mean 0 (Box and Muller, Ann. Math. Stat. 29, 1958).

    Args:
      count: how many, >= 0.
      deviation: their standard deviation, >= 0.
      random_bytes: gives that many bytes from a cryptographic source.

    Returns:
      float64 (count,); values beyond 8.57 deviations cannot come out of 53-bit uniforms, their
      probability is below 2^-53.
    """
    noise = np.empty(count)
    for start in range(0, count, _BLOCK):
        part = noise[start : start + _BLOCK]
        part[:] = deviation * _standard_normal(len(part), random_bytes)
    return noise


def _standard_normal(count: int, random_bytes: Callable[[int], bytes]) -> NDArray[np.float64]:
    pairs = (count + 1) // 2
    words = np.frombuffer(random_bytes(16 * pairs), "<u8") >> np.uint64(11)
    uniform = words.astype(np.float64) * _UNIT
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs] + _UNIT))  # in (0, 1]: no logarithm of 0
    angle = 2.0 * np.pi * uniform[pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:count]


def poisson_batch(
    count: int, rate: float, random_bytes: Callable[[int], bytes] = os.urandom
) -> NDArray[np.intp]:
    """Draw a Poisson sample: each of `count` rows by itself, with the same probability.

    Drawn are the gaps between chosen rows, which are geometric, so that the cost goes with the
    batch and not with the rows: a gap is at least k with probability (1 - rate)^k.

    Args:
      count: rows to choose from, >= 0.
      rate: probability of each, in (0, 1); to within the 2^-53 of the uniforms.
      random_bytes: gives that many bytes from a cryptographic source.

    Returns:
      Indices, ascending; there may be none.
    """
    chosen: list[NDArray[np.intp]] = []
    last, at_once = -1, 16 + int(count * rate + 4 * math.sqrt(count * rate))
    while last < count:
        words = np.frombuffer(random_bytes(8 * at_once), "<u8") >> np.uint64(11)
        uniform = words.astype(np.float64) * _UNIT + _UNIT  # in (0, 1]: no logarithm of 0
        gaps = np.minimum(np.floor(np.log(uniform) / math.log1p(-rate)), count)
        indices = last + np.cumsum(gaps.astype(np.intp) + 1)
        chosen.append(indices[indices < count])
        last = int(indices[-1])
    return np.concatenate(chosen)
