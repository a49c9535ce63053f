"""The published energy readings of a steel plant, month by month, as twelve sites.

Responsible for reading the published CSV (UCI 851: V. E. Sathishkumar et al., Building Research &
Information 49(1), 2021, doi:10.24432/C52G8C), plain or gzip, and for its columns under the names of
`configs/jobs/steel_energy.toml`.  Refuses rows of another form, naming file, line and column.

`CO2(tCO2)` is not read: it was computed from the energy, so a model that has it learns nothing.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = dict[str, Floats]

MAX_BYTES: Final = 64 << 20
"""Of the text."""
_NUMBERS: Final = {
    "usage": "Usage_kWh",
    "lagging_reactive": "Lagging_Current_Reactive.Power_kVarh",
    "leading_reactive": "Leading_Current_Reactive_Power_kVarh",
    "lagging_power_factor": "Lagging_Current_Power_Factor",
    "leading_power_factor": "Leading_Current_Power_Factor",
    "seconds_of_day": "NSM",
}
_WORDS: Final = {
    "weekend": ("WeekStatus", ("Weekday", "Weekend")),
    "load_type": ("Load_Type", ("Light_Load", "Medium_Load", "Maximum_Load")),
}


class SteelError(ValueError):
    """A file that is none of these readings; the message names file, line and column."""


def read_months(path: Path) -> list[Columns]:
    """Read the file: `months_of` without the months' numbers."""
    return list(months_of(path).values())


def months_of(path: Path) -> dict[int, Columns]:
    """Read the file.

    Args:
      path: the published CSV, `.csv` or `.csv.gz`.

    Returns:
      By month that has rows, 1 to 12 in order, every column, float64 (N,), in the file's order.

    Raises:
      SteelError: it is too large or of another form.
      OSError: it can not be read.
    """
    data = _read(path)
    months: dict[int, list[list[float]]] = {}
    try:
        for month, row in _rows(path, data.decode("utf-8-sig")):
            months.setdefault(month, []).append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise SteelError(f"{path}: not a CSV text in UTF-8: {error}") from None
    if not months:
        raise SteelError(f"{path}: no rows after the header")
    names = [*_NUMBERS, *_WORDS]
    return {
        month: dict(zip(names, np.array(rows, np.float64).T, strict=True))
        for month, rows in sorted(months.items())
    }


def write_csv(columns: Columns, path: Path) -> None:
    """Write one month as `journeyman bundle test` reads it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        try:
            packed = path.suffix == ".gz"
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SteelError(f"{path}: not a gzip file: {error}") from None
    if len(data) > MAX_BYTES:
        raise SteelError(f"{path}: more than {MAX_BYTES} bytes")
    return data


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[float]]]:
    """Yield month, 1 to 12, and numbers of each row."""
    reader = csv.DictReader(io.StringIO(text), strict=True)
    wanted = ["date", *_NUMBERS.values(), *(name for name, _ in _WORDS.values())]
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise SteelError(f"{path}: columns missing: {', '.join(missing)}")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        numbers = [_number(where, name, row[name]) for name in _NUMBERS.values()]
        numbers += [_word(where, name, words, row[name]) for name, words in _WORDS.values()]
        yield _month(where, row["date"]), numbers


def _month(where: str, cell: str | None) -> int:
    """Of `15/1/2018 0:15`."""
    parts = (cell or "").split("/")
    if len(parts) != 3 or not parts[1].isdecimal() or not 1 <= int(parts[1]) <= 12:
        raise SteelError(f"{where}: column 'date': {str(cell)[:40]!r} is no day/month/year")
    return int(parts[1])


def _number(where: str, name: str, cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SteelError(f"{where}: column {name!r}: {str(cell)[:40]!r} is no finite number")
    return value


def _word(where: str, name: str, words: tuple[str, ...], cell: str | None) -> float:
    if cell not in words:
        raise SteelError(f"{where}: column {name!r}: {str(cell)[:40]!r} is none of {words}")
    return float(words.index(cell))
