"""Rows of a Parquet file, one row group after the other (pyarrow, an optional extra).

Responsible for reading only the columns that are asked for, and of these a bounded piece at a time,
however large the row groups are.  Looks at no metadata of single columns: pyarrow 26 ends the whole
process when those are damaged, where damaged pages are errors.
"""

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.sensors.replay.cells import Column
from agent.sensors.replay.rows import (
    MAX_BATCH_BYTES,
    MAX_CELLS,
    MAX_ROWS,
    FileError,
    Point,
    Rows,
    check_columns,
)
from agent.sensors.replay.settings import PARQUET_MISSING, ReplaySettings

_BUFFER_BYTES = 1 << 16
"""Of each column's file: without it pyarrow reads a column of a whole row group at once, which for
48 million doubles in one group took 382 MiB instead of 10."""


def parquet_rows(
    path: Path, settings: ReplaySettings, needed: Sequence[str], wanted: Sequence[str], start: Point
) -> Iterator[Rows]:
    """Yield the rows of a file from `start` on; the arguments are those of `csv_rows`.

    Raises:
      FileError: it can not be read, or lacks a column that is needed, or pyarrow is missing.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise FileError(str(path), PARQUET_MISSING) from None
    try:
        with parquet.ParquetFile(
            path, pre_buffer=False, memory_map=False, buffer_size=_BUFFER_BYTES
        ) as file:
            yield from _rows(file, path, settings, needed, wanted, start)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise FileError(str(path), f"can not read this Parquet file: {error}") from None


def _rows(
    file: Any,  # noqa: ANN401  pyarrow has no types
    path: Path,
    settings: ReplaySettings,
    needed: Sequence[str],
    wanted: Sequence[str],
    start: Point,
) -> Iterator[Rows]:
    header: list[str] = file.schema_arrow.names
    check_columns(needed, header, str(path))
    used = [name for name in dict.fromkeys((*needed, *wanted)) if name in header]
    elements = {channel.column: math.prod(channel.shape) for channel in settings.channel}
    cells = sum(elements.get(name, 1) for name in used)
    at_once = max(1, min(MAX_ROWS, MAX_CELLS // max(len(used), 1), MAX_BATCH_BYTES // (8 * cells)))
    first = 0
    for group in range(file.metadata.num_row_groups):
        held = file.metadata.row_group(group)
        if first + held.num_rows > start.row:
            row = first
            for batch in file.iter_batches(
                batch_size=at_once, row_groups=[group], columns=used, use_threads=False
            ):
                skipped = min(max(start.row - row, 0), batch.num_rows)
                if skipped < batch.num_rows:
                    yield _batch(batch.slice(skipped), row + skipped, header, path, settings)
                row += batch.num_rows
        first += held.num_rows


def _batch(
    batch: Any,  # noqa: ANN401
    first: int,
    header: Sequence[str],
    path: Path,
    settings: ReplaySettings,
) -> Rows:
    columns: Mapping[str, Column] = {
        name: _cells(batch.column(at), settings) for at, name in enumerate(batch.schema.names)
    }
    points = [Point(row, 0, row + 1) for row in range(first, first + batch.num_rows)]
    end = Point(first + batch.num_rows, 0, first + batch.num_rows + 1)

    def where(row: int, column: str) -> str:
        return f"{path}:{first + row + 1}:{column}"

    return Rows(columns, points, end, header, where)


def _cells(column: Any, settings: ReplaySettings) -> Column:  # noqa: ANN401
    types = importlib.import_module("pyarrow.types")
    kind = column.type
    if types.is_timestamp(kind):
        arrow = importlib.import_module("pyarrow")
        if kind.tz is None and settings.time_zone != "UTC":
            compute = importlib.import_module("pyarrow.compute")
            column = compute.assume_timezone(
                column, settings.time_zone, ambiguous="earliest", nonexistent="earliest"
            )
        return np.asarray(
            column.cast(arrow.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
        )
    if types.is_floating(kind) or types.is_integer(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [
            np.asarray(cell.values.to_numpy(zero_copy_only=False)) if cell.is_valid else None
            for cell in column
        ]
    cells: list[Any] = column.to_pylist()
    return cells
