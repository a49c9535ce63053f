"""A fleet of turbofan engines that wear out until they fail; pure.

Responsible for the recording that all sources of engines share, the law of wear, and a simulated
fleet at several hangars.  Invariant: one seed gives one fleet.

An engine begins with a little wear of its own manufacture and keeps it until a fault appears at a
random cycle.  From there on its health falls exponentially, as in the simulation behind NASA's
C-MAPSS streams (A. Saxena et al., "Damage Propagation Modeling for Aircraft Engine Run-to-Failure
Simulation", PHM08, 2008, section III), and it fails when no health is left:

    health(t) = 1 - wear at first - GROWTH * (exp(rate * (t - onset)) - 1)     after the onset

A channel moves from its new to its worn value as health falls, plus noise of its own: of the
sensor and of the flight.  The rate of wear differs from engine to engine around that of its hangar
(a desert's sand, a coast's salt), and so does the noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


class Behavior(NamedTuple):
    """How a channel tells wear: value of a new engine, of a failing one, and standard deviation."""

    new: float
    worn: float
    noise: float


BEHAVIOR: Final = MappingProxyType(
    {
        "s2": Behavior(642.4, 643.7, 0.30),
        "s3": Behavior(1587.0, 1602.3, 4.0),
        "s4": Behavior(1402.7, 1429.4, 4.0),
        "s7": Behavior(554.0, 551.4, 0.41),
        "s8": Behavior(2388.06, 2388.24, 0.03),
        "s9": Behavior(9057.0, 9099.0, 4.2),
        "s11": Behavior(47.35, 48.17, 0.10),
        "s12": Behavior(521.9, 519.8, 0.30),
        "s13": Behavior(2388.05, 2388.24, 0.03),
        "s14": Behavior(8138.0, 8167.0, 3.1),
        "s15": Behavior(8.42, 8.525, 0.02),
        "s17": Behavior(392.3, 396.3, 0.95),
        "s20": Behavior(38.93, 38.43, 0.10),
        "s21": Behavior(23.36, 23.06, 0.06),
    }
)
"""The 14 channels of `configs/jobs/turbofan.toml` and their units; fitted to C-MAPSS FD001, means
over rows with more than 150 cycles left and with fewer than 3, noise from neighbouring rows."""
CHANNELS: Final = tuple(BEHAVIOR)
WINDOW: Final = 30
"""Cycles that a prediction looks at; a recording has no fewer."""

GROWTH: Final = 0.04
FIRST_WEAR: Final = (0.0, 0.12)
ONSET_CYCLE: Final = (10, 90)
RATE: Final = (0.022, 0.029)
"""Range of the hangars' rates of wear, per cycle: from fault to failure 150 to 110 cycles."""
RATE_SPREAD: Final = 0.12
"""Standard deviation of the logarithm of an engine's rate around its hangar's."""
NOISE: Final = (0.7, 1.1)
"""Range of the hangars' noise, as a factor on `BEHAVIOR`'s."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One engine, cycle by cycle.

    Attributes:
      unit: its number in the fleet.
      sensors: float64 (cycles, 14), in the order of `CHANNELS`.
      left: cycles that it had left after the last one; 0 when it was run to failure.
    """

    unit: int
    sensors: Floats
    left: float = 0.0

    def __len__(self) -> int:
        return len(self.sensors)

    @property
    def life(self) -> Floats:
        """Cycles left after each cycle, float64 (cycles,)."""
        return self.left + np.arange(len(self) - 1, -1, -1.0)


@dataclass(frozen=True)
class Fleet:
    """Engines run to failure, to learn from, and engines recorded up to some day, to judge by."""

    training: Sequence[Recording]
    test: Sequence[Recording]


def generate(hangars: int, engines: int, seed: int) -> list[Fleet]:
    """Simulate a fleet.

    Args:
      hangars: places that keep engines, each with its own rate of wear and noise.
      engines: of a hangar to learn from, and as many others to judge by.
      seed: any integer >= 0.

    Returns:
      The engines of each hangar, numbered through the whole fleet from 1.
    """
    random = np.random.default_rng(seed)
    rates = random.permutation(np.geomspace(*RATE, hangars))
    noises = random.permutation(np.geomspace(*NOISE, hangars))
    fleets = []
    for hangar, (rate, noise) in enumerate(zip(rates, noises, strict=True)):
        first = 1 + 2 * engines * hangar
        runs = [
            Recording(first + at, _sensors(_health(float(rate), random), float(noise), random))
            for at in range(2 * engines)
        ]
        cut = [_cut_short(run, random) for run in runs[engines:]]
        fleets.append(Fleet(runs[:engines], cut))
    return fleets


def health_after(cycles: Floats, first_wear: float, onset: float, rate: float) -> Floats:
    """Health after so many cycles: 1 of a new engine, 0 or less of one that has failed."""
    worn_for = np.maximum(cycles - onset, 0.0)
    return 1.0 - first_wear - GROWTH * np.expm1(rate * worn_for)


def _health(mean_rate: float, random: np.random.Generator) -> Floats:
    """One engine's health from its first cycle to the last before it fails."""
    first_wear = random.uniform(*FIRST_WEAR)
    onset = float(random.integers(*ONSET_CYCLE))
    rate = mean_rate * math.exp(random.normal(0.0, RATE_SPREAD))
    failure = onset + math.log1p((1.0 - first_wear) / GROWTH) / rate
    return health_after(np.arange(1.0, failure), first_wear, onset, rate)


def _sensors(health: Floats, noise: float, random: np.random.Generator) -> Floats:
    new, worn, deviation = np.array(list(BEHAVIOR.values())).T
    wear = 1.0 - health[:, None]
    noised: Floats = new + wear * (worn - new)
    noised += noise * deviation * random.standard_normal(noised.shape)
    return noised


def _cut_short(run: Recording, random: np.random.Generator) -> Recording:
    """What was recorded up to some day of an engine's life."""
    cycles = int(random.integers(WINDOW, len(run), endpoint=True))
    return Recording(run.unit, run.sensors[:cycles], float(len(run) - cycles))
