"""Rows of a CSV file (RFC 4180), line by line.

Responsible for never holding more than a batch, and for going on after a damaged line: each line
stands for itself, so a quote that is never closed costs one row.  Refuses line breaks inside
quotes, lines over `MAX_LINE_BYTES`, and lines with another number of cells than the header.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from agent.sensors.replay.rows import (
    MAX_BATCH_BYTES,
    MAX_CELLS,
    MAX_ROWS,
    START,
    Damage,
    FileError,
    Point,
    Rows,
    check_columns,
)
from agent.sensors.replay.settings import ReplaySettings

MAX_LINE_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_TOO_LONG = f"a line longer than {MAX_LINE_BYTES} bytes"


@dataclass(frozen=True)
class _Dialect:
    """How the cells of a line are written; `cells` raises `ValueError` on what is none."""

    delimiter: str
    encoding: str

    def cells(self, line: bytes) -> list[str]:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(_TOO_LONG)
        try:
            text = line.decode(self.encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"not {self.encoding} at byte {error.start + 1}") from None
        if '"' not in text:
            return text.split(self.delimiter)
        try:
            return next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except (csv.Error, StopIteration) as error:
            raise ValueError(f"not CSV: {error}") from None


@dataclass
class _Batch:
    """Rows that were read and not yielded yet."""

    rows: list[list[str]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    size_bytes: int = 0

    def is_full(self, width: int) -> bool:
        return (
            len(self.rows) >= min(MAX_ROWS, max(1, MAX_CELLS // width))
            or self.size_bytes >= MAX_BATCH_BYTES
            or len(self.damage) >= MAX_ROWS
        )


def csv_rows(
    path: Path, settings: ReplaySettings, needed: Sequence[str], wanted: Sequence[str], start: Point
) -> Iterator[Rows]:
    """Yield the rows of a file from `start` on.

    Args:
      path: the file.
      settings: how it is written.
      needed: columns without which no row makes sense.
      wanted: further columns; those that the file lacks are left out.
      start: where to begin.

    Raises:
      FileError: it can not be read, or its header lacks what is needed.
    """
    dialect = _Dialect(settings.delimiter, settings.encoding)
    try:
        with path.open("rb") as file:
            header, first = _header(file, path, settings, dialect)
            check_columns(needed, header, f"{path}:{max(first.line - 1, 1)}")
            used = [name for name in dict.fromkeys((*needed, *wanted)) if name in header]
            place = first if start == START else start
            file.seek(place.offset)
            yield from _batches(file, path, dialect, header, used, place)
    except OSError as error:
        raise FileError(str(path), f"can not read: {error.strerror}") from None


def _header(
    file: BinaryIO, path: Path, settings: ReplaySettings, dialect: _Dialect
) -> tuple[list[str], Point]:
    """Names of the columns, and where the first row begins."""
    begin = file.read(3)
    if begin[:2] in _UTF16:
        raise FileError(f"{path}:1", "UTF-16; save the file as UTF-8")
    file.seek(len(_BOM) if begin == _BOM else 0)
    for number in range(1, settings.skip_lines + 1):
        if len(file.readline(MAX_LINE_BYTES + 1)) > MAX_LINE_BYTES:
            raise FileError(f"{path}:{number}", _TOO_LONG)
    line = settings.skip_lines + 1
    before = file.tell()
    try:
        cells = dialect.cells(file.readline(MAX_LINE_BYTES + 1))
    except ValueError as error:
        raise FileError(f"{path}:{line}", str(error)) from None
    if not settings.header:
        return [str(at) for at in range(1, len(cells) + 1)], Point(0, before, line)
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        place = f"{path}:{line}:{len(names) - names[::-1].index(twice)}"
        raise FileError(place, f"a second column {twice!r}")
    return names, Point(0, file.tell(), line + 1)


def _batches(
    file: BinaryIO,
    path: Path,
    dialect: _Dialect,
    header: Sequence[str],
    used: Sequence[str],
    place: Point,
) -> Iterator[Rows]:
    at = {name: header.index(name) for name in used}

    def rows_of(batch: _Batch, end: Point) -> Rows:
        def where(row: int, column: str) -> str:
            return f"{path}:{batch.points[row].line}:{at.get(column, 0) + 1} ({column})"

        columns = {name: [row[index] for row in batch.rows] for name, index in at.items()}
        return Rows(columns, batch.points, end, header, where, tuple(batch.damage))

    batch = _Batch()
    while line := file.readline(MAX_LINE_BYTES + 1):
        length = len(line) + _rest_of_line(file, line)
        if line.strip():
            try:
                batch.rows.append(_fitting(dialect.cells(line), len(header)))
                batch.points.append(place)
            except ValueError as error:
                reason = f"{path}:{place.line}: {error}"
                batch.damage.append(Damage(len(batch.rows), reason))
            batch.size_bytes += length
            place = Point(place.row + 1, place.offset + length, place.line + 1)
        else:
            place = Point(place.row, place.offset + length, place.line + 1)
        if batch.is_full(len(header)):
            yield rows_of(batch, place)
            batch = _Batch()
    yield rows_of(batch, place)


def _fitting(cells: list[str], width: int) -> list[str]:
    """Cells of a line; some programs end each with a delimiter."""
    if len(cells) < width or any(cells[width:]):
        raise ValueError(f"{len(cells)} cells, where the header has {width}")
    return cells


def _rest_of_line(file: BinaryIO, line: bytes) -> int:
    """Read over what is left of a line that is too long; how many bytes that were."""
    length = 0
    while line and not line.endswith(b"\n") and (length or len(line) > MAX_LINE_BYTES):
        line = file.readline(MAX_LINE_BYTES)
        length += len(line)
    return length
