"""Tables of recorded rows, as a data scientist has them: CSV or npz files.

Responsible for finding a bundle's channels in a file and for saying exactly what is wrong with a
file that lacks one.  Refuses what is not a finite number, naming line and column, rather than
guess; pickles; and files over the caps, which are checked before anything is unpacked.

CSV: the first line names the columns (RFC 4180; UTF-8), one row a line, numbers with a point.
npz (numpy.lib.format): one array for each channel, its first axis the rows.
"""

import csv
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.manifest import Manifest

MAX_CSV_BYTES = 1 << 30
MAX_NPZ_BYTES = 4 << 30
"""Of all arrays together, unpacked."""
MAX_ARRAYS = 1024
MAX_ROWS = 20_000_000


class TableError(Exception):
    """A file that can not be used; the message names file, line and column."""


@dataclass(frozen=True)
class Table:
    """Rows of one file in order: group by group, each group in the order of time.

    Attributes:
      source: the file, for errors.
      channels: each channel's values, (R, ...), integers or floats as in the file.
      labels: float64 (R,), as in the file; None for a bundle without label.
      groups: int64 (R,), number of the row's group; rows of a group stand together.
      group_names: names of the groups.
      times: float64 (R,), in the file's unit; the row's number when the file has no time.
    """

    source: str
    channels: dict[str, NDArray[Any]]
    labels: NDArray[np.float64] | None
    groups: NDArray[np.int64]
    group_names: tuple[str, ...]
    times: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.groups)


def read_table(path: Path, manifest: Manifest, group: str = "", time: str = "") -> Table:
    """Read the columns that a bundle needs.

    Args:
      path: a `.csv` or `.npz` file.
      manifest: of the bundle.
      group: name of the column whose values tell machines, engines or orders apart; may be words.
      time: name of the column that orders the rows of a group, numbers, or in a CSV ISO 8601;
        empty: the file's order.

    Raises:
      TableError: the file can not be read, lacks a column, or holds something else than numbers.
    """
    shapes = {channel.name: channel.shape for channel in manifest.channels}
    if manifest.label is not None:
        shapes[manifest.label.channel] = ()
    if time:
        shapes.setdefault(time, ())
    try:
        if path.suffix == ".npz":
            raw, names = _read_npz(path, shapes, group)
        elif path.suffix == ".csv":
            raw, names = _read_csv(path, shapes, group, time)
        else:
            raise TableError(f"{path}: its name must end in .csv or .npz")
    except OSError as error:
        raise TableError(f"{path}: can not read: {error.strerror or error}") from None
    return _ordered(path, manifest, raw, names, time)


def _ordered(
    path: Path,
    manifest: Manifest,
    raw: dict[str, NDArray[Any]],
    names: NDArray[np.str_] | None,
    time: str,
) -> Table:
    """Bring the rows of a group together, in the order of time; groups in order of appearance."""
    channels = [channel.name for channel in manifest.channels]
    label = raw[manifest.label.channel] if manifest.label is not None else None
    rows = len(raw[channels[0]])
    groups = np.zeros(rows, np.int64)
    group_names: tuple[str, ...] = ("",)
    if names is not None:
        unique, first, number = np.unique(names, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        groups = rank[number.reshape(-1)].astype(np.int64)
        group_names = tuple(str(unique[index]) for index in np.argsort(first))
    times = raw[time].astype(np.float64) if time else np.arange(rows, dtype=np.float64)
    order = np.lexsort((np.arange(rows), times, groups))
    return Table(
        source=str(path),
        channels={name: raw[name][order] for name in channels},
        labels=None if label is None else label[order].astype(np.float64),
        groups=groups[order],
        group_names=group_names,
        times=times[order],
    )


def _read_csv(
    path: Path, shapes: dict[str, tuple[int, ...]], group: str, time: str
) -> tuple[dict[str, NDArray[Any]], NDArray[np.str_] | None]:
    shaped = next((name for name, shape in shapes.items() if shape), None)
    if shaped is not None:
        raise TableError(
            f"{path}: channel {shaped!r} has shape {shapes[shaped]}, which a CSV cell does not "
            "hold; give an .npz file"
        )
    if path.stat().st_size > MAX_CSV_BYTES:
        raise TableError(f"{path}: larger than {MAX_CSV_BYTES} bytes")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return _parse_csv(path, file, list(shapes), group, time)
        except UnicodeDecodeError:
            raise TableError(f"{path}: not UTF-8 text") from None
        except csv.Error as error:
            raise TableError(f"{path}: not a CSV file: {error}") from None


def _parse_csv(
    path: Path, lines: Iterable[str], names: list[str], group: str, time: str
) -> tuple[dict[str, NDArray[Any]], NDArray[np.str_] | None]:
    reader = csv.reader(lines, strict=True)
    header = [cell.strip() for cell in next(reader, [])]
    _check_names(path, header, [*names, group] if group else names, "columns")
    places = [header.index(name) for name in names]
    group_place = header.index(group) if group else -1
    values = array("d")
    group_names: list[str] = []
    for row in reader:
        if not row:  # an empty line, as at the end of many files
            continue
        if len(row) != len(header):
            raise TableError(
                f"{path}:{reader.line_num}: {len(row)} cells, the header names {len(header)}"
            )
        for name, place in zip(names, places, strict=True):
            seconds = _seconds(row[place]) if name == time else None
            values.append(
                _number(path, reader.line_num, name, row[place]) if seconds is None else seconds
            )
        if group:
            group_names.append(row[group_place].strip())
        if len(values) > MAX_ROWS * len(names):
            raise TableError(f"{path}: more than {MAX_ROWS} rows")
    if not values:
        raise TableError(f"{path}: has a header and no rows")
    table = np.frombuffer(values).reshape(-1, len(names))
    columns = {name: np.ascontiguousarray(table[:, index]) for index, name in enumerate(names)}
    return columns, np.array(group_names) if group else None


def _seconds(cell: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 time, UTC where it names no zone; None for another cell."""
    if cell.strip().isdecimal():  # a number, though 20260101 is a date by ISO 8601 too
        return None
    try:
        found = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _number(path: Path, line: int, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        shown = repr(cell[:40]) if cell.strip() else "empty"
        raise TableError(f"{path}:{line}: column {name!r}: {shown}, not a number") from None
    if not np.isfinite(value):
        raise TableError(f"{path}:{line}: column {name!r}: {cell.strip()}, not a finite number")
    return value


def _read_npz(
    path: Path, shapes: dict[str, tuple[int, ...]], group: str
) -> tuple[dict[str, NDArray[Any]], NDArray[np.str_] | None]:
    wanted = [*shapes, group] if group else list(shapes)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if len(sizes) > MAX_ARRAYS or sum(sizes.values()) > MAX_NPZ_BYTES:
            raise TableError(f"{path}: over {MAX_ARRAYS} arrays or {MAX_NPZ_BYTES} bytes unpacked")
        _check_names(path, [name.removesuffix(".npy") for name in sizes], wanted, "arrays")
        with np.load(path, allow_pickle=False) as arrays:
            raw = {name: arrays[name] for name in wanted}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise TableError(f"{path}: not an npz file of plain arrays: {error}") from None
    names = raw[group] if group else None
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "iuUb"):
        raise TableError(f"{path}: {group!r}: groups must be integers or words, shape (rows,)")
    columns = {name: _numbers(path, name, raw[name], shape) for name, shape in shapes.items()}
    rows = {name: len(array) for name, array in raw.items()}
    if len(set(rows.values())) > 1:
        raise TableError(f"{path}: arrays have different numbers of rows: {rows}")
    if not min(rows.values()):
        raise TableError(f"{path}: has no rows")
    return columns, None if names is None else names.astype(np.str_)


def _numbers(path: Path, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype.kind not in "iufb" or array.shape[1:] != shape or array.ndim < 1:
        expected = ", ".join(["rows", *map(str, shape)])
        raise TableError(
            f"{path}: {name!r} is {array.dtype} {array.shape}, expected numbers ({expected})"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise TableError(f"{path}: {name!r}: row {row} holds a value that is not finite")
    return array


def _check_names(path: Path, found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise TableError(
            f"{path}: {what} missing: {', '.join(missing)} (it has: {_some(list(found))})"
        )
    twice = [name for name in wanted if list(found).count(name) > 1]
    if twice:
        raise TableError(f"{path}: {what} named twice: {', '.join(twice)}")


def _some(names: list[str]) -> str:
    shown: Iterator[str] = (repr(name[:40]) for name in names[:20])
    return ", ".join(shown) + (", ..." if len(names) > 20 else "")
