"""Rows of an npz file (a zip of arrays, as `numpy.savez` writes it): row i is element i of each.

Responsible for reading all arrays side by side in pieces, never one of them whole.  Refuses arrays
of Python objects (they are pickles, and a pickle runs code), Fortran order in more than one
dimension, and arrays that are not equally long.
"""

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from agent.sensors.replay.rows import (
    MAX_BATCH_BYTES,
    MAX_CELLS,
    MAX_ROWS,
    FileError,
    Point,
    Rows,
    check_columns,
)
from agent.sensors.replay.settings import ReplaySettings

MAX_ARRAYS = 10_000
MAX_ROW_BYTES = 64 << 20
_SUFFIX = ".npy"
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)
"""What `zipfile` and the decompressors let through when they meet damaged bytes."""


@dataclass
class _Array:
    """One array of the file, open before its row number `row`."""

    name: str
    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def read(self, rows: int) -> NDArray[Any]:
        """The next rows: (rows, ...); `ValueError` when the file ends before."""
        need = rows * self.row_bytes
        data = bytearray()
        while len(data) < need:
            piece = self.file.read(need - len(data))
            if not piece:
                raise ValueError("the array ends before its last row")
            data += piece
        array = np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
        return array.astype(np.str_) if self.dtype.kind == "S" else array


def npz_rows(
    path: Path, settings: ReplaySettings, needed: Sequence[str], wanted: Sequence[str], start: Point
) -> Iterator[Rows]:
    """Yield the rows of a file from `start` on; the arguments are those of `csv_rows`.

    Raises:
      FileError: it can not be read, or lacks an array that is needed.
    """
    del settings  # what it says about texts is not meant for arrays
    try:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            header = [
                name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX)
            ]
            if len(header) > MAX_ARRAYS:
                raise FileError(str(path), f"more than {MAX_ARRAYS} arrays")
            check_columns(needed, header, str(path))
            used = [name for name in dict.fromkeys((*needed, *wanted)) if name in header]
            arrays = [_open(archive, name, path, stack) for name in used]
            yield from _rows(arrays, path, header, start)
    except OSError as error:
        raise FileError(str(path), f"can not read: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise FileError(str(path), f"not a sound npz file: {error}") from None


def _open(archive: zipfile.ZipFile, name: str, path: Path, stack: ExitStack) -> _Array:
    file = stack.enter_context(archive.open(name + _SUFFIX))
    place = f"{path}:1:{name}"
    try:
        if npy.read_magic(file) == (1, 0):
            shape, is_fortran, dtype = npy.read_array_header_1_0(file)
        else:
            shape, is_fortran, dtype = npy.read_array_header_2_0(file)
    except ValueError as error:
        raise FileError(place, f"not an array: {error}") from None
    if dtype.hasobject or dtype.kind not in "biufMUS":
        raise FileError(place, f"holds {dtype}, not numbers, times or texts")
    if not shape or (is_fortran and len(shape) > 1):
        reason = "has no rows" if not shape else "is in Fortran order; save a C-ordered copy"
        raise FileError(place, f"the array {reason}")
    array = _Array(name, file, dtype, shape)
    if not 0 < array.row_bytes <= MAX_ROW_BYTES:
        raise FileError(place, f"a row of {array.row_bytes} bytes; at most {MAX_ROW_BYTES}")
    return array


def _rows(arrays: list[_Array], path: Path, header: Sequence[str], start: Point) -> Iterator[Rows]:
    if not arrays:
        return
    total = arrays[0].shape[0]
    for array in arrays:
        if array.shape[0] != total:
            reason = f"{array.shape[0]} rows, but {arrays[0].name} has {total}"
            raise FileError(f"{path}:1:{array.name}", reason)
    row_bytes = sum(array.row_bytes for array in arrays)
    cells = MAX_CELLS // len(arrays)
    at_once = max(1, min(MAX_ROWS, cells, MAX_BATCH_BYTES // row_bytes))
    row = 0
    while row < total:
        count = min(at_once, total - row)
        columns: dict[str, NDArray[Any]] = {}
        for array in arrays:
            try:
                columns[array.name] = array.read(count)
            except _DAMAGE as error:
                raise FileError(f"{path}:{row + 1}:{array.name}", str(error)) from None
        skipped = min(max(start.row - row, 0), count)
        if skipped < count:
            yield _batch(columns, row + skipped, skipped, header, path)
        row += count


def _batch(
    columns: dict[str, NDArray[Any]], first: int, skipped: int, header: Sequence[str], path: Path
) -> Rows:
    kept = {name: cells[skipped:] for name, cells in columns.items()}
    count = len(next(iter(kept.values())))

    def where(row: int, column: str) -> str:
        return f"{path}:{first + row + 1}:{column}"

    points = [Point(row, 0, row + 1) for row in range(first, first + count)]
    return Rows(kept, points, Point(first + count, 0, first + count + 1), header, where)
