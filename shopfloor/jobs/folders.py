"""A person's own rows: a folder with a CSV or npz file for each site, for every job.

Responsible for who a file is, for its rows' times and for which of them judge.  A file's columns
are the bundle's channels, its label, the job's group where it has one, and `time` (seconds since
1970, in a CSV also ISO 8601); without `time` the file's order counts, a row a minute.  Other
columns are not even read.  Refuses files that lack a column or hold something else than numbers,
with file, line and column.

Which rows judge is what the bundle's `[split]` says: the last share of the time, or whole groups.
Groups, such as engines that ran side by side, are laid out one after the other, each from the
beginning of a stretch of its own, so that gateways hold out whole groups.

Invariant: no row and no group is on both sides.
"""

import csv
import re
import zipfile
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.examples import make_examples
from agent.bundle.tables import Table, TableError, read_table
from agent.history import is_held_out
from agent.learning.split import split_by_group
from shopfloor.jobs.supply_chain import ODD, ODD_SHARE
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task
from shopfloor.orders import make_odd
from wire.bundle import read_draft
from wire.manifest import Manifest

LEAST_SITES: Final = 2
MOST_SITES: Final = 50
"""The demo starts a gateway for each."""
LEAST_ROWS: Final = 100
"""Of a file: fewer, and a gateway has too few to train on (`[policy] min_rows`)."""
_ROW_S: Final = 60.0
_START_S: Final = 1_735_689_600.0
"""2025-01-01, for files that say no times."""
_LATEST_S: Final = 4e9
_HEADER_BYTES: Final = 1 << 16
_LONGEST_NAME: Final = 40
_FIRST_STRETCH: Final = 400

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def is_folder_of_sites(task: Task, path: Path) -> bool:
    """Whether two files or more name a channel of the job's bundle.

    The published tables name their columns otherwise, so none is taken for a site's file.
    """
    if not path.is_dir():
        return False
    wanted = {channel.name for channel in read_bundle_settings(task.description).channel}
    return sum(bool(wanted & set(_header(file))) for file in _files(path)) >= LEAST_SITES


def read_folder(task: Task, path: Path, seed: int) -> list[SiteRows]:
    """Read each site's file.

    Args:
      task: the job.
      path: a folder, all of whose `.csv` and `.npz` files are sites.
      seed: of who judges, where whole groups do.

    Raises:
      DataError: a file can not be used; names it, the line and what to do.
    """
    files = _files(path)
    if not LEAST_SITES <= len(files) <= MOST_SITES:
        raise DataError(
            f"{path}: {len(files)} files .csv or .npz; give a folder with one for each site,"
            f" {LEAST_SITES} to {MOST_SITES}, of the channels in {task.description.name}"
        )
    described = task.description
    manifest = read_draft(build_draft(described, read_bundle_settings(described)))[0].manifest
    sites = []
    for at, file in enumerate(files):
        try:
            sites.append(_site(task, manifest, file, seed * len(files) + at))
        except TableError as error:
            raise DataError(
                f"{error}; every .csv and .npz file of the folder is a site's, with the channels"
                f" and the label of {described.name}"
            ) from None
    return sites


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix in {".csv", ".npz"})


def _header(file: Path) -> list[str]:
    """Names of a file's columns; none where it can not be read, which `read_table` explains."""
    try:
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        with file.open(encoding="utf-8-sig", newline="") as lines:
            cells = next(csv.reader([lines.readline(_HEADER_BYTES)]), [])
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile):
        return []
    return [cell.strip() for cell in cells]


def _site(task: Task, manifest: Manifest, file: Path, seed: int) -> SiteRows:
    time = TIME if TIME in _header(file) else ""
    table = read_table(file, manifest, task.group, time)
    if len(table) < LEAST_ROWS:
        raise DataError(f"{file}: {len(table)} rows; give {LEAST_ROWS} or more")
    make_examples(manifest, table)  # says which label is none, and what is shorter than a window
    if time and not 0 <= table.times.min() <= table.times.max() <= _LATEST_S:
        raise DataError(
            f"{file}: column '{TIME}' goes from {table.times.min():g} to {table.times.max():g};"
            " give seconds since 1970, or in a CSV ISO 8601"
        )
    times = table.times if time else _START_S + _ROW_S * table.times
    is_test = _judging(manifest, table, seed)
    length = 1 if manifest.window is None else manifest.window.length
    if min(np.bincount(table.groups[chosen]).max() for chosen in (~is_test, is_test)) < length:
        raise DataError(
            f"{file}: of the rows that train or of those that judge no group is as long as a"
            f" window, {length} rows; give more rows"
        )
    sides = [_side(task, manifest, table, times, chosen) for chosen in (~is_test, is_test)]
    if manifest.label is None:
        odd, kinds = make_odd(sides[1], ODD_SHARE, seed)
        sides[1] = odd | {ODD: (kinds >= 0).astype(np.float64)}
    return SiteRows(_name(file), *sides)


def _judging(manifest: Manifest, table: Table, seed: int) -> Bools:
    """Which rows judge: whole groups, or of each group the last share."""
    split = manifest.split
    if split.by == "group":
        try:
            return split_by_group(np.array(table.group_names)[table.groups], split.share, seed)
        except ValueError as error:
            raise TableError(f"{table.source}: can not hold out whole groups: {error}") from None
    starts = np.searchsorted(table.groups, table.groups)
    sizes = np.bincount(table.groups)[table.groups]
    border = np.clip(np.rint((1 - split.share) * sizes), 1, sizes - 1)
    return np.asarray(np.arange(len(table)) - starts >= border)


def _side(
    task: Task, manifest: Manifest, table: Table, times: NDArray[np.float64], chosen: Bools
) -> Columns:
    """The chosen rows in the order that a gateway replays them in."""
    at_us = np.rint(times[chosen] * 1e6).astype(np.int64)
    groups = table.groups[chosen]
    if task.group:
        stretch_us = round(task.holdout_stretch_s * 1e6)
        at_us = _one_after_the_other(groups, at_us, stretch_us, task.holdout_share)
    number = np.arange(len(at_us))
    columns: Columns = {
        TIME: (np.maximum.accumulate(at_us - number) + number) / 1e6,  # equal times: 1 us apart
        **{name: values[chosen] for name, values in table.channels.items()},
    }
    if manifest.label is not None and table.labels is not None:
        columns[manifest.label.channel] = table.labels[chosen]
    if task.group:
        columns[task.group] = groups.astype(np.float64)
    return columns


def _one_after_the_other(groups: Ints, at_us: Ints, stretch_us: int, share: float) -> Ints:
    """Times at which each group begins in a stretch of its own.

    The first stretch is such that the gateway, which holds out stretches by a hash, holds out
    about its share of the groups, and one at least.

    Args:
      groups: (N,), rows of a group standing together.
      at_us: (N,), times, growing within a group.
      stretch_us: that a gateway holds out as a whole.
      share: of the stretches that it holds out.
    """
    first = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    last = np.append(first[1:], len(groups)) - 1
    needed = (at_us[last] - at_us[first]) // stretch_us + 1
    begins = np.cumsum(needed) - needed
    wanted = max(1, round(share * len(begins)))
    start = next(
        start
        for start in count(_FIRST_STRETCH)
        if sum(is_held_out(start + int(at), share) for at in begins) == wanted
    )
    shift = (start + begins) * stretch_us - at_us[first]
    return np.asarray(at_us + np.repeat(shift, last - first + 1))


def _name(file: Path) -> str:
    """A site's name of a file's: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", file.stem).strip("-")[:_LONGEST_NAME] or "site"
