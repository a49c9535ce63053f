"""Remaining useful life: how many cycles has this engine left?  A window of 30 cycles says it.

Responsible for who keeps which engines and for the time that a recording has.  Ten sites keep the
published engines (NASA's C-MAPSS, ten to learn from each), six the simulated ones.  A site is
judged on other engines, of which it has the last window alone, as the published test is made; all
sites together so give the figure that is published for the set.

Labels come late: the life that an engine had left is known when it has failed.

Invariant: an engine that is learned from has a stretch of time to itself, so that agents hold out
whole engines.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from shopfloor.cmapss import LONGEST_CYCLES, EngineFileError, read_fleet
from shopfloor.engines import CHANNELS, WINDOW, Fleet, Recording, generate
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task

ENGINE: Final = "engine"
CYCLE: Final = "cycle"
LABEL: Final = "rul"
SITES: Final = 10
HANGARS: Final = 6
ENGINES: Final = 10
"""Of a simulated hangar, to learn from; as many judge."""

CYCLE_S: Final = 3600.0
"""A flight an hour; the files say no times."""
STRETCH_S: Final = LONGEST_CYCLES * CYCLE_S
START_S: Final = 457 * STRETCH_S
"""18 February 2022: of ten stretches from here on the agent's hash holds out one, the last.  From
other starts on it may be none of a site's ten engines, or three."""
PERSONAL: Final = """\
models = ["global", "fine_tuned"]
local_normalisation = false
evidence = 5.5
"""
"""One engine chooses, and its windows of 30 cycles overlap, so that standard errors reckoned as if
they did not are too small by the root of 30.  With the usual evidence of 1 what ten sites serve is
worse than the global model (FD001: RMSE 14.2 for 13.6)."""


def sites_of(fleets: Sequence[Fleet]) -> list[SiteRows]:
    """One site for each fleet."""
    return [
        SiteRows(
            f"hangar-{number:02}",
            _columns(fleet.training),
            _columns([_last_window(engine) for engine in fleet.test]),
        )
        for number, fleet in enumerate(fleets, 1)
    ]


def shared_out(fleet: Fleet, sites: int, seed: int) -> list[Fleet]:
    """Share engines out to sites by lot, as evenly as they go."""
    random = np.random.default_rng(seed)
    training, test = (
        [[engines[at] for at in part] for part in np.array_split(order, sites)]
        for engines in (fleet.training, fleet.test)
        for order in (random.permutation(len(engines)),)
    )
    return [Fleet(*each) for each in zip(training, test, strict=True)]


def _generate(seed: int) -> list[SiteRows]:
    return sites_of(generate(HANGARS, ENGINES, seed))


def _read(path: Path, seed: int) -> list[SiteRows]:
    try:
        fleet = read_fleet(path)
    except EngineFileError as error:
        raise DataError(str(error)) from None
    fewest = min(len(fleet.training), len(fleet.test))
    if fewest < SITES:
        raise DataError(
            f"{path}: {len(fleet.training)} engines to learn from and {len(fleet.test)} to judge"
            f" by, of {WINDOW} cycles or more; {SITES} sites need {SITES} of both"
        )
    return sites_of(shared_out(fleet, SITES, seed))


def _last_window(engine: Recording) -> Recording:
    return Recording(engine.unit, engine.sensors[-WINDOW:], engine.left)


def _columns(engines: Sequence[Recording]) -> Columns:
    """Rows of engines, one after the other, each in a stretch of its own."""
    sensors = np.concatenate([engine.sensors for engine in engines]).T
    cycles = [np.arange(1.0, len(engine) + 1) for engine in engines]
    return {
        TIME: np.concatenate(
            [START_S + at * STRETCH_S + CYCLE_S * (each - 1) for at, each in enumerate(cycles)]
        ),
        ENGINE: np.repeat([float(engine.unit) for engine in engines], list(map(len, engines))),
        CYCLE: np.concatenate(cycles),
        **dict(zip(CHANNELS, sensors, strict=True)),
        LABEL: np.concatenate([engine.life for engine in engines]),
    }


LIFE: Final = Task(
    name="life",
    title="Predictive maintenance: remaining useful life",
    bundle="turbofan",
    metric="rmse",
    generate=_generate,
    read=_read,
    group=ENGINE,
    late_labels=True,
    holdout_stretch_s=STRETCH_S,
    personal=PERSONAL,
    unit="cycles",
    moving="s11",
)
