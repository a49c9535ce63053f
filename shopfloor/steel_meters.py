"""A simulated steel plant's energy meters, where the published readings are not at hand.

Responsible for quarter-hours with the columns of `configs/jobs/steel_energy.toml`.  Pure;
invariant: one site and seed give one table.

In each third of a quarter-hour the plant takes active energy P and inductive reactive energy Q, as
its motors need it: some for their field, loaded or not, and more with the load.  Banks of
capacitors take off what is switched on of them.  What is left over a third is lagging if positive
and leading if not; the meter adds up each kind apart, and tells a power factor of each from the
whole quarter-hour:

    power factor = 100 P / sqrt(P^2 + Q^2)

as the published readings have it too (their median difference from it is below the rounding).  So
energy follows from two reactive readings and two power factors, and near 100 % the meter's rounding
to 0.01 leaves a model less and less to know it by.

Sites differ in what they make, when, and how their banks are switched (`PLANTS`).  It is no model
of a real plant.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shopfloor.steel import Columns, Floats

ROWS_PER_DAY: Final = 96
DAYS: Final = 28
QUARTER_S: Final = 900.0
_THIRDS: Final = 3
_PEAK_H: Final = ((10, 12), (17, 20))
_MEDIUM_H: Final = ((9, 10), (12, 17), (20, 23))
_OFF_S: Final = 3.0
"""Hours by which lines start and stop around a shift's nominal hours, standard deviation in
quarters."""


@dataclass(frozen=True)
class Plant:
    """What makes one site's readings its own.

    Attributes:
      hours: of working days, in which lines run.
      weekends: share of weekend days that are worked.
      load: energy of running lines, kWh a quarter-hour.
      idle: energy of a plant at rest.
      field: reactive energy of the motors' fields, kvarh a quarter-hour.
      slope: reactive over active energy of the load.
      bank: reactive energy of the capacitors, all switched on.
      follows: share of the bank that is switched with the load; the rest is always on.
    """

    hours: tuple[float, float]
    weekends: float
    load: float
    idle: float
    field: float
    slope: float
    bank: float
    follows: float


PLANTS: Final = (
    Plant((8.0, 22.0), 0.2, 85.0, 4.0, 6.0, 0.55, 20.0, 0.8),
    Plant((8.0, 18.0), 0.0, 60.0, 3.0, 4.0, 0.75, 22.0, 0.7),
    Plant((6.0, 22.0), 0.3, 50.0, 3.5, 3.5, 0.60, 13.0, 0.5),
    Plant((20.0, 30.0), 0.1, 70.0, 3.0, 5.0, 0.65, 16.0, 1.0),
    Plant((0.0, 24.0), 1.0, 95.0, 12.0, 9.0, 0.60, 26.0, 0.8),
    Plant((9.0, 17.0), 0.0, 35.0, 2.8, 2.5, 0.90, 12.0, 0.7),
    Plant((7.0, 20.0), 0.5, 75.0, 3.0, 7.0, 0.70, 24.0, 0.9),
    Plant((5.0, 14.0), 0.0, 45.0, 5.0, 4.0, 0.50, 8.0, 0.6),
    Plant((14.0, 23.0), 0.1, 65.0, 3.2, 3.0, 0.80, 26.0, 0.6),
    Plant((10.0, 26.0), 0.4, 55.0, 4.5, 5.0, 0.45, 10.0, 0.9),
)
"""`hours` past 24 go on into the next morning."""
SITES: Final = len(PLANTS)


def generate(site: int, seed: int) -> Columns:
    """Simulate four weeks of one site, from a Monday on.

    Args:
      site: 0 to `SITES` - 1.
      seed: any integer >= 0.

    Returns:
      Every column of `shopfloor.steel.read_months`, float64 (`DAYS` * `ROWS_PER_DAY`,).

    Raises:
      ValueError: there is no such site.
    """
    if not 0 <= site < SITES:
        raise ValueError(f"site must be 0 to {SITES - 1}, not {site}")
    plant, rng = PLANTS[site], np.random.default_rng([seed, site])
    rows = DAYS * ROWS_PER_DAY
    seconds = (np.arange(rows) % ROWS_PER_DAY).astype(np.float64) * QUARTER_S
    weekend = np.arange(rows) // ROWS_PER_DAY % 7 >= 5
    active, reactive = _thirds(plant, _running(plant, weekend, rng), rng)
    usage: Floats = active.sum(axis=1)
    lagging: Floats = np.maximum(reactive, 0.0).sum(axis=1)
    leading: Floats = np.maximum(-reactive, 0.0).sum(axis=1)
    return {
        "usage": usage.round(2),
        "lagging_reactive": lagging.round(2),
        "leading_reactive": leading.round(2),
        "lagging_power_factor": _power_factor(usage, lagging),
        "leading_power_factor": _power_factor(usage, leading),
        "seconds_of_day": seconds,
        "weekend": weekend.astype(np.float64),
        "load_type": _tariff(seconds / 3600.0, weekend),
    }


def _running(plant: Plant, weekend: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Share of the lines that run, float64 (N,), 0 to 1."""
    rows = len(weekend)
    days = rows // ROWS_PER_DAY
    worked = ~weekend[::ROWS_PER_DAY] | (rng.random(days) < plant.weekends)
    share = np.zeros(rows + ROWS_PER_DAY)
    for day in np.flatnonzero(worked):
        start, end = (
            np.round(4 * np.array(plant.hours) + rng.normal(0.0, _OFF_S, 2)) + ROWS_PER_DAY * day
        )
        share[max(0, int(start)) : int(end)] = rng.uniform(0.7, 1.0)
    stops = rng.random(rows) < 0.05  # a change of rolls, a cobble, a break
    return np.where(stops, 0.15, 1.0) * share[:rows] * rng.uniform(0.75, 1.0, rows)


def _thirds(plant: Plant, running: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Active and reactive energy of the thirds of quarter-hours, float64 (N, 3) each."""
    shape = (len(running), _THIRDS)
    load = plant.load * running[:, np.newaxis] * rng.uniform(0.7, 1.3, shape)
    idle = plant.idle * rng.uniform(0.85, 1.15, shape)
    active = (load + idle) / _THIRDS
    inductive = plant.field * rng.uniform(0.85, 1.15, shape) + plant.slope * load
    on = 1.0 - plant.follows + plant.follows * np.round(4 * np.clip(running, 0.0, 1.0)) / 4
    return active, (inductive - plant.bank * on[:, np.newaxis]) / _THIRDS


def _power_factor(active: Floats, reactive: Floats) -> Floats:
    """In percent, as the meter shows it."""
    return np.asarray((100.0 * active / np.hypot(active, reactive)).round(2))


def _tariff(hour: Floats, weekend: NDArray[np.bool_]) -> Floats:
    """0 light, 1 medium, 2 maximum: hours of working days."""

    def within(spans: tuple[tuple[int, int], ...]) -> NDArray[np.bool_]:
        inside = np.zeros(len(hour), np.bool_)
        for start, end in spans:
            inside |= (hour >= start) & (hour < end)
        return inside

    return np.asarray((within(_MEDIUM_H) + 2.0 * within(_PEAK_H)) * ~weekend)
