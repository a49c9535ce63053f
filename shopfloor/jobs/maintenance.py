"""Predictive maintenance: will the machining of this product fail?  Milling machines, by AI4I 2020.

Three sites make products of low, medium and high quality, as the published table's `Type` says; a
machine failure in thirty products, and very unequal numbers of them.  A fifth of the rows of each
quality and label judges.  The flags of the failure's mode are not even in the sites' files: they
are known after the failure only.
"""

from pathlib import Path
from typing import Final

import numpy as np

from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task
from shopfloor.milling import (
    QUALITIES,
    Index,
    Table,
    TableError,
    generate,
    read_ai4i,
    split_held_out,
)

ROWS: Final = 10_000
"""Of the simulated machines, as many as the published table has."""
TEST_SHARE: Final = 0.2
PRODUCT_S: Final = 60.0
START_S: Final = 1_735_689_600.0
"""2025-01-01; the table says no times, so it is a product a minute."""
_CHANNELS: Final = {
    "air_temperature": "air_temperature_k",
    "process_temperature": "process_temperature_k",
    "rotational_speed": "rotational_speed_rpm",
    "torque": "torque_nm",
    "tool_wear": "tool_wear_min",
    "machine_failure": "machine_failure",
}


def sites_of(table: Table, seed: int) -> list[SiteRows]:
    """One site for each quality.

    Raises:
      DataError: a site would have no failure to learn from or to be judged by.
    """
    train, test = split_held_out(table, TEST_SHARE, seed)
    sites = []
    for quality in QUALITIES:
        sides = [index[table.quality[index] == quality] for index in (train, test)]
        failures = [int(table.machine_failure[index].sum()) for index in sides]
        if 0 in failures:
            raise DataError(
                f"site {quality}: {failures[0]} failures to learn from, {failures[1]} to be judged"
                " by; it needs some of both, so give more rows of this quality"
            )
        sites.append(SiteRows(quality, *(_columns(table, index) for index in sides)))
    return sites


def _columns(table: Table, index: Index) -> Columns:
    rows = {
        channel: getattr(table, column)[index].astype(np.float64)
        for channel, column in _CHANNELS.items()
    }
    return {TIME: START_S + PRODUCT_S * index, **rows}


def _generate(seed: int) -> list[SiteRows]:
    return sites_of(generate(ROWS, seed), seed)


def _read(path: Path, seed: int) -> list[SiteRows]:
    try:
        table = read_ai4i(path)
    except TableError as error:
        raise DataError(
            f"{error}; give the table of UCI data set 601 (ai4i2020.csv) or Kaggle's copy of it"
        ) from None
    try:
        return sites_of(table, seed)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


MAINTENANCE: Final = Task(
    name="maintenance",
    title="Predictive maintenance: machine failures",
    bundle="ai4i",
    metric="pr_auc",
    generate=_generate,
    read=_read,
    holdout_share=0.05,
    moving="torque",
)
