"""A reheating furnace with its rolling mill, whose best set-points are known.

Responsible for the law of its energy, for the best set-points under given conditions, and for rows
as five sites of a consortium would record them.  Refuses set-points outside their bounds and
conditions outside their ranges.  Pure; invariant: one site and seed give one table.

The law is this project's own, in the shape of what is known about such lines: energy per ton is

    heat     0.19 kWh/(t K) (soak - charge temperature) / efficiency, which is best at an excess of
             air that grows with the burners' wear and with cold air, and falls faster below it
    walls    losses as the fourth power of the absolute temperature, over the tons per hour
    rolling  flow stress times exp(-(soak - 1150) / 60): hot steel is soft
    scale    steel that burns away, growing fast above 1240 degC
    rework   slabs whose core is cold, because speed * thickness^2 left too little time

so each set-point has too little and too much, and where the middle is depends on the conditions.
It is no model of a real plant: its use is that regret against `optimum` can be measured.

Each site's people run the line in their own corner of the set-points (`REGIMES`), wander there
slowly, and read a meter with noise and drift: alone none has seen the best set-points.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = tuple[float, float]

SETTINGS: Final[Mapping[str, Bounds]] = MappingProxyType(
    {
        "soak_temperature": (1080.0, 1290.0),  # degC
        "line_speed": (0.6, 3.0),  # m/min
        "excess_air": (2.0, 30.0),  # %
    }
)
"""Set-points with their bounds, in the order of all arrays of settings."""

CONDITIONS: Final[Mapping[str, Bounds]] = MappingProxyType(
    {
        "charge_temperature": (20.0, 400.0),  # degC, of the slab when it comes in
        "thickness": (70.0, 130.0),  # mm, of the slab
        "flow_stress": (90.0, 170.0),  # MPa, of the grade at 1150 degC
        "ambient_temperature": (-5.0, 35.0),  # degC
        "burner_wear": (0.0, 180.0),  # days since the burners were serviced
    }
)
"""Measured conditions with their ranges, in the order of all arrays of conditions."""

LABEL: Final = "energy"
"""kWh per ton."""

UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "soak_temperature": "degC",
        "line_speed": "m/min",
        "excess_air": "%",
        "charge_temperature": "degC",
        "thickness": "mm",
        "flow_stress": "MPa",
        "ambient_temperature": "degC",
        "burner_wear": "d",
        LABEL: "kWh/t",
    }
)

REGIMES: Final[tuple[tuple[Bounds, Bounds, Bounds], ...]] = (
    ((1085.0, 1165.0), (0.7, 1.9), (3.0, 15.0)),
    ((1225.0, 1285.0), (0.7, 1.4), (4.0, 11.0)),
    ((1130.0, 1230.0), (1.9, 2.9), (14.0, 28.0)),
    ((1090.0, 1190.0), (0.7, 1.6), (16.0, 29.0)),
    ((1190.0, 1280.0), (1.0, 2.1), (17.0, 29.0)),
)
"""Where each site runs its set-points."""

SITES: Final = len(REGIMES)
NOISE_KWH_T: Final = 4.0
"""Standard deviation of one row's reading of the meter."""
DRIFT_KWH_T: Final = 2.0
"""Standard deviation of the meter's slow drift."""
MAX_ROWS: Final = 1_000_000

_HEAT_KWH_T_K: Final = 0.19  # 0.68 kJ/(kg K), steel from cold to hot on average
_EFFICIENCY: Final = 0.6
_WALLS_KW: Final = 4500.0  # at 1200 degC
_TONS_PER_MM_M: Final = 7.8 * 1.5 * 60 / 1000  # 7.8 t/m3, 1.5 m wide, per hour
_FURNACE_M: Final = 30.0
_SOAK_MIN: Final = 20.0  # for 100 mm
_DAY_ROWS: Final = 3  # a row a shift
_SERVICE_DAYS: Final = 180.0


@dataclass(frozen=True)
class Line:
    """Rows of one site in the order of time, the means of one shift of eight hours each.

    Attributes:
      settings: float64 (N, 3), as `SETTINGS`.
      conditions: float64 (N, 5), as `CONDITIONS`.
      energy: float64 (N,), kWh/t, as the meter read it.
    """

    settings: Floats
    conditions: Floats
    energy: Floats

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def columns(self) -> dict[str, Floats]:
        """Every column by its name, float64 (N,): set-points, conditions, the label."""
        named = dict(zip(SETTINGS, self.settings.T, strict=True))
        named |= dict(zip(CONDITIONS, self.conditions.T, strict=True))
        return {**named, LABEL: self.energy}


def truth(settings: Floats, conditions: Floats) -> Floats:
    """Energy without noise.

    Args:
      settings: float64 (..., 3).
      conditions: float64 (..., 5); both broadcast.

    Returns:
      kWh/t, float64 (...).

    Raises:
      ValueError: a value is outside its bounds or range; names it.
    """
    _check("settings", SETTINGS, settings)
    _check("conditions", CONDITIONS, conditions)
    return _energy(settings, conditions)


def optimum(conditions: Floats) -> tuple[Floats, Floats]:
    """The best set-points within their bounds, and their energy.

    A grid of 11 values a set-point, then boxes of half the size around the best point so far, until
    a cell is far below a ten-thousandth of the bounds.

    Args:
      conditions: float64 (N, 5).

    Returns:
      Set-points, float64 (N, 3), and kWh/t, float64 (N,).
    """
    _check("conditions", CONDITIONS, conditions)
    found = np.array([_best(each) for each in conditions]).reshape(-1, len(SETTINGS))
    return found, _energy(found, conditions)


def draw_conditions(rows: int, seed: int) -> Floats:
    """Conditions that have nothing to do with each other, float64 (rows, 5), evenly spread."""
    low, high = np.array(list(CONDITIONS.values())).T
    drawn: Floats = np.random.default_rng([seed, SITES]).uniform(low, high, (rows, len(low)))
    return drawn


def generate(site: int, rows: int, seed: int) -> Line:
    """Simulate what a site recorded.

    Args:
      site: 0 to `SITES` - 1.
      rows: shifts, 0 to `MAX_ROWS`.
      seed: any integer >= 0.

    Raises:
      ValueError: a number is out of range.
    """
    if not 0 <= site < SITES:
        raise ValueError(f"site must be 0 to {SITES - 1}, not {site}")
    if not 0 <= rows <= MAX_ROWS:
        raise ValueError(f"rows must be 0 to {MAX_ROWS}, not {rows}")
    rng = np.random.default_rng([seed, site])
    conditions = _conditions(rows, rng)
    settings = np.column_stack([_wander(*bounds, rows, rng) for bounds in REGIMES[site]])
    drift = DRIFT_KWH_T * _slow(rows, 240.0, rng)
    noise = rng.normal(0.0, NOISE_KWH_T, rows)
    return Line(settings, conditions, _energy(settings, conditions) + drift + noise)


def write_csv(line: Line, path: Path) -> None:
    """Write rows with a header, as `journeyman bundle test` and `recommend` read them."""
    columns = line.columns
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.3f}" for value in row])


def _energy(settings: Floats, conditions: Floats) -> Floats:
    soak, speed, air = np.moveaxis(settings, -1, 0)
    charge, thickness, flow, ambient, wear = np.moveaxis(conditions, -1, 0)
    off = air - (9.0 + 0.04 * wear + 0.1 * (15.0 - ambient))
    burned = 1.0 + 0.0009 * off**2 * np.exp(-0.03 * off)
    heat = _HEAT_KWH_T_K * (soak - charge) / _EFFICIENCY * burned
    walls = _WALLS_KW * ((soak + 273.0) / 1473.0) ** 4 / (_TONS_PER_MM_M * thickness * speed)
    rolling = 0.7 * flow * np.exp(-(soak - 1150.0) / 60.0) * (1.0 + 0.04 * speed**2)
    scale = 6.0 * np.exp((soak - 1240.0) / 20.0)
    needed = _SOAK_MIN * (thickness / 100.0) ** 2 * (1200.0 / soak) ** 2
    lack = needed * speed / _FURNACE_M - 1.0
    rework = 18.0 * np.logaddexp(0.0, 5.0 * lack)
    return np.asarray(heat + walls + rolling + scale + rework)


def _best(conditions: Floats) -> Floats:
    """The best set-points, (3,), for one row of conditions, (5,)."""
    low, high = np.array(list(SETTINGS.values())).T
    centre, half = (low + high) / 2, (high - low) / 2
    for _ in range(14):
        axes = [
            np.linspace(max(low_, c - h), min(high_, c + h), 11)
            for low_, high_, c, h in zip(low, high, centre, half, strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        centre = grid[_energy(grid, conditions).argmin()]
        half = half / 2
    return np.asarray(centre)


def _conditions(rows: int, rng: np.random.Generator) -> Floats:
    """A slab differs from the next; ambient air and burners change slowly."""
    days = np.arange(rows) / _DAY_ROWS
    ambient = 15.0 + 13.0 * np.sin(2 * np.pi * (days / 365.0 + rng.random()))
    ambient += 5.0 * np.sin(2 * np.pi * days) + rng.normal(0.0, 1.0, rows)
    drawn = [rng.uniform(*CONDITIONS[name], rows) for name in list(CONDITIONS)[:3]]
    wear = (days + rng.uniform(0.0, _SERVICE_DAYS)) % _SERVICE_DAYS
    return np.column_stack([*drawn, np.clip(ambient, *CONDITIONS["ambient_temperature"]), wear])


def _wander(low: float, high: float, rows: int, rng: np.random.Generator) -> Floats:
    """A set-point that people move by and by, and a little with each slab; within its regime."""
    slow = _slow(rows, 48.0, rng)
    mixed = 0.5 + 0.25 * slow + 0.15 * rng.standard_normal(rows)
    return np.asarray(low + (high - low) * np.clip(mixed, 0.0, 1.0))


def _slow(rows: int, memory: float, rng: np.random.Generator) -> Floats:
    """A first-order autoregressive process of deviation 1 that forgets within so many rows."""
    keep = np.exp(-1.0 / memory)
    steps = rng.standard_normal(rows) * np.sqrt(1.0 - keep**2)
    state, values = rng.standard_normal(), np.empty(rows)
    for at, step in enumerate(steps):
        state = keep * state + step
        values[at] = state
    return values


def _check(what: str, bounds: Mapping[str, Bounds], values: Floats) -> None:
    if values.shape[-1:] != (len(bounds),):
        raise ValueError(f"{what} are of shape {values.shape}, need {len(bounds)} in the last axis")
    for at, (name, (low, high)) in enumerate(bounds.items()):
        column = values[..., at]
        if not ((column >= low) & (column <= high)).all():
            raise ValueError(f"{name} must be {low:g} to {high:g}")
