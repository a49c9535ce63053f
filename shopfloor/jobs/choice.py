"""Which jobs there are, by the names that `--job` takes.  Loaded when asked for."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from shopfloor.jobs.task import DataError, SiteRows, Task

_WHERE = {
    "maintenance": ("maintenance", "MAINTENANCE"),
    "life": ("life", "LIFE"),
    "inspection": ("inspection", "INSPECTION"),
    "process": ("process", "PROCESS"),
    "energy": ("process", "ENERGY"),
    "supply-chain": ("supply_chain", "SUPPLY_CHAIN"),
    "odd-orders": ("supply_chain", "ODD_ORDERS"),
}
NAMES = tuple(_WHERE)


def task_named(name: str) -> Task:
    """A job by its name, one of `NAMES`."""
    module, constant = _WHERE[name]
    task = getattr(importlib.import_module(f"shopfloor.jobs.{module}"), constant)
    if not isinstance(task, Task):
        raise TypeError(f"{module}.{constant} is no task")
    return task


def rows_of(task: Task, data: Path | None, seed: int) -> list[SiteRows]:
    """Each site's rows: generated, of the published files, or of a folder with a file a site.

    Raises:
      DataError: it can not be used.
    """
    sites = list(task.generate(seed) if data is None else _read(task, data, seed))
    if len({site.name.lower() for site in sites}) != len(sites):
        raise DataError(f"{data}: two sites have one name")
    return sites


def _read(task: Task, data: Path, seed: int) -> Sequence[SiteRows]:
    folders = importlib.import_module("shopfloor.jobs.folders")
    if folders.is_folder_of_sites(task, data):
        rows: list[SiteRows] = folders.read_folder(task, data, seed)
        return rows
    try:
        return task.read(data, seed)
    except (DataError, OSError) as error:
        if not data.is_dir():
            raise
        raise DataError(
            f"{error}; your own rows: a folder with a CSV or npz file for each site, its columns"
            f" the channels and the label of {task.description.name}"
        ) from None
