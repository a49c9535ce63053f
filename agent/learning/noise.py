"""Gaussian noise for privacy, from the operating system's random bytes.

Pure but for the source of bytes. Whoever can predict the noise can subtract it, so it never comes
from a generator with a seed (NumPy's included). Values are float64 and inherit float64's uneven
grid; an attack on that grid (Mironov, CCS 2012, on Laplace noise) needs the noised value itself,
and what leaves a site is quantized to integers first.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53
"""The spacing of the uniforms: float64 holds every multiple of it up to 1 exactly."""


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
    pairs = (count + 1) // 2
    words = np.frombuffer(random_bytes(16 * pairs), "<u8") >> np.uint64(11)
    uniform = words.astype(np.float64) * _UNIT
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs] + _UNIT))  # in (0, 1]: no logarithm of 0
    angle = 2.0 * np.pi * uniform[pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return deviation * both[:count]
