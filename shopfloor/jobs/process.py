"""Process optimisation: what energy does a ton, or a quarter of an hour, take?  Two surrogates.

`process`: a furnace with its rolling mill at five sites of a consortium, each in its own corner of
the set-points.  A row is a shift; one week in five judges, of the site's own regime.

`energy`: a steel plant's meters.  The published year is twelve sites, a month each; a fifth of the
quarter-hours of each month, drawn by the seed, judges.  Without data, ten simulated plants.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shopfloor import line, steel, steel_meters
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task

ROWS: Final = 1000
"""Shifts of each simulated site, eleven months."""
TEST_SHARE: Final = 0.2
START_S: Final = 1_735_689_600.0
"""2025-01-01.  Neither the line nor the published months name seconds, so rows are counted from
here: what counts is their order."""
SHIFT_S: Final = 8 * 3600.0
WEEK_ROWS: Final = 21
"""A week of shifts: neighbours share set-points and the meter's drift, so whole weeks judge."""
_PUBLISHED: Final = ("Steel_industry_data.csv", "Steel_industry_data.csv.gz")


def site_of(name: str, columns: Columns, row_s: float, block: int, seed: int) -> SiteRows:
    """One site, some of whose blocks of rows judge.

    Args:
      name: of the site.
      columns: of its rows in the order of time.
      row_s: seconds from one row to the next.
      block: rows that stay on one side; the last block may be shorter.
      seed: of who judges.

    Raises:
      DataError: there are too few rows for two sides.
    """
    rows = len(next(iter(columns.values())))
    blocks = -(-rows // block)
    judging = round(TEST_SHARE * blocks)
    if not judging:
        raise DataError(f"{name}: {rows} rows; a fifth of them judges, in blocks of {block}")
    chosen = np.random.default_rng(seed).permutation(blocks)[:judging]
    is_test = np.isin(np.arange(rows) // block, chosen)
    timed = {TIME: START_S + row_s * np.arange(rows), **columns}
    return SiteRows(name, _where(timed, ~is_test), _where(timed, is_test))


def _where(columns: Columns, chosen: NDArray[np.bool_]) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}


def _generate_process(seed: int) -> list[SiteRows]:
    return [
        site_of(
            f"site-{site + 1}",
            dict(line.generate(site, ROWS, seed).columns),
            SHIFT_S,
            WEEK_ROWS,
            seed + site,
        )
        for site in range(line.SITES)
    ]


def _read_process(path: Path, _seed: int) -> list[SiteRows]:
    """Nobody published such a line: there is no file of a known form (`shopfloor/jobs/folders`).

    Raises:
      DataError: always; says what to give.
    """
    raise DataError(
        f"{path}: no folder with a CSV or npz file for each site, of the columns in"
        f" {PROCESS.description.name}; give one, or no path to simulate the line"
    )


def _generate_energy(seed: int) -> list[SiteRows]:
    return [
        site_of(
            f"plant-{site + 1}",
            dict(steel_meters.generate(site, seed)),
            steel_meters.QUARTER_S,
            1,
            seed + site,
        )
        for site in range(steel_meters.SITES)
    ]


def _read_energy(path: Path, seed: int) -> list[SiteRows]:
    """The published table, by its path or by that of its folder."""
    file = path
    if path.is_dir():
        found = [path / name for name in _PUBLISHED if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: has neither {_PUBLISHED[0]} nor {_PUBLISHED[1]}; {_HINT}")
        file = found[0]
    try:
        months = steel.months_of(file)
    except steel.SteelError as error:
        raise DataError(f"{error}; {_HINT}") from None
    except OSError as error:
        raise DataError(f"{file}: can not read: {error.strerror or error}; {_HINT}") from None
    return [
        site_of(f"month-{month:02}", dict(columns), steel_meters.QUARTER_S, 1, seed + month)
        for month, columns in months.items()
    ]


_HINT: Final = "give the table of UCI data set 851, plain or gzip, or a folder that holds it"

# The federation's own rate has fallen too far by the end to move a model within its site.
_PERSONAL: Final = "learning_rate = 0.001\n"

PROCESS: Final = Task(
    name="process",
    title="Process optimisation: energy of a ton",
    bundle="process",
    metric="rmse",
    generate=_generate_process,
    read=_read_process,
    unit="kWh/t",
    personal=_PERSONAL + "fine_tune_epochs = 20\n",
    moving="flow_stress",
)
ENERGY: Final = Task(
    name="energy",
    title="Process optimisation: energy of a steel plant",
    bundle="steel_energy",
    metric="rmse",
    generate=_generate_energy,
    read=_read_energy,
    unit="kWh",
    # A few rows have most of the squared error, so one standard error asks for very much.
    personal=_PERSONAL + "fine_tune_epochs = 40\nevidence = 0.5\n",
    moving="lagging_reactive",
)
