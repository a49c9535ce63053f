"""The three signals that the emulated board measures, for the sites that have no board.

The same machine as `firmware_bridge/device/ports/mps2_an385/machine.c`, with a noise of its own at
each site: two oscillations and their product, disturbed now and then.
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = ("slow", "fast", "product")
PERIOD_S: Final = 0.01
_STEP: Final = 1024.0
_DISTURBED_EVERY, _DISTURBED_FOR = 4096, 512


def machine_samples(count: int, seed: int) -> NDArray[np.float64]:
    """Samples of the machine, float64 (count, 3).

    Args:
      count: of samples, `PERIOD_S` apart.
      seed: of the noise, and where in its movement the machine begins.
    """
    rng = np.random.default_rng(seed)
    number = np.arange(count) + int(rng.integers(_DISTURBED_EVERY))
    slow, fast = _triangle(number, 97), _triangle(number, 13)
    is_disturbed = number % _DISTURBED_EVERY >= _DISTURBED_EVERY - _DISTURBED_FOR
    fast = np.where(is_disturbed, 3 * fast, fast)
    clean = np.stack([slow, fast, slow * fast / _STEP], axis=1)
    return np.rint(clean + rng.integers(-128, 128, clean.shape)) / _STEP


def _triangle(number: NDArray[np.int64], period: int) -> NDArray[np.float64]:
    phase = number % period * 4096 // period
    return np.where(phase < 2048, phase - 1024, 3072 - phase).astype(np.float64)


def write_samples(path: Path, count: int, seed: int) -> None:
    """Write a recording for `[[source.replay]]`.

    Raises:
      OSError: the disk does not take it.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows(machine_samples(count, seed).tolist())
