"""NASA's published engine streams (C-MAPSS), as recordings.

Responsible for the files `train_FD001.txt`, `test_FD001.txt` and `RUL_FD001.txt` and their like,
plain or gzip: blank-separated unit, cycle, 3 settings and 21 sensors; remaining cycles, one for
each test unit.  Refuses what has another form, naming file, line and column.

Source: A. Saxena et al., "Damage Propagation Modeling for Aircraft Engine Run-to-Failure
Simulation", PHM08, 2008.
"""

import gzip
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np

from shopfloor.engines import CHANNELS, WINDOW, Fleet, Recording

MAX_BYTES: Final = 64 << 20
"""Of a file's text; the largest published one has 10 MB."""
LONGEST_CYCLES: Final = 1000
"""Of an engine; the longest published one has 543."""
_COLUMNS: Final = 26
_SENSORS: Final = [4 + int(channel[1:]) for channel in CHANNELS]


class EngineFileError(ValueError):
    """A file that is none of these; the message names file, line and column, and what to do."""


def read_fleet(path: Path) -> Fleet:
    """Read one data set.

    Args:
      path: the folder of the files, for FD001; or one training file, such as
        `train_FD003.txt.gz`, beside which the other two are.

    Returns:
      All engines of `WINDOW` cycles or more; nothing can be predicted of shorter ones.

    Raises:
      EngineFileError: a file is missing, too large, or of another form.
      OSError: one can not be read.
    """
    training = _beside(path, "train_FD001.txt") if path.is_dir() else path
    if not training.name.startswith("train_"):
        raise EngineFileError(
            f"{path}: not a training file; name the folder of the C-MAPSS files, or one file"
            " such as train_FD003.txt"
        )
    data_set = training.name.removeprefix("train_").removesuffix(".gz")
    test = _beside(training.parent, f"test_{data_set}")
    life = _beside(training.parent, f"RUL_{data_set}")
    recorded = list(_engines(test))
    left = [numbers[0] for _, numbers in _rows(life, 1)]
    if len(left) != len(recorded):
        raise EngineFileError(
            f"{life}: {len(left)} lines, but {test.name} has {len(recorded)} engines; take both"
            " from the same data set"
        )
    cut = [
        Recording(engine.unit, engine.sensors, after)
        for engine, after in zip(recorded, left, strict=True)
    ]
    return Fleet(_long_enough(_engines(training)), _long_enough(cut))


def _long_enough(engines: Iterable[Recording]) -> list[Recording]:
    return [engine for engine in engines if len(engine) >= WINDOW]


def _beside(folder: Path, name: str) -> Path:
    """The file of this name, plain or gzip."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise EngineFileError(
            f"{folder}: has neither {name} nor {name}.gz; unpack NASA's C-MAPSS data there"
        )
    return found[0]


def _engines(path: Path) -> Iterator[Recording]:
    """Yield the engines of a training or test file, none of which has a life yet."""
    seen: set[float] = set()
    for unit, group in itertools.groupby(_rows(path, _COLUMNS), lambda row: row[1][0]):
        rows = []
        for cycle, (line, numbers) in enumerate(group, 1):
            if numbers[1] != cycle or unit in seen or not unit.is_integer():
                raise EngineFileError(
                    f"{path}:{line}: unit {unit:g}, cycle {numbers[1]:g}: each engine's cycles"
                    f" are in one piece and count from 1, so cycle {cycle} is due; take the file"
                    " as published"
                )
            rows.append(itemgetter(*_SENSORS)(numbers))
        if len(rows) > LONGEST_CYCLES:
            raise EngineFileError(
                f"{path}:{line}: unit {unit:g} has more than {LONGEST_CYCLES} cycles; leave it out"
            )
        seen.add(unit)
        yield Recording(int(unit), np.array(rows))


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[float]]]:
    """Yield line number and numbers of each line."""
    for number, line in enumerate(_read(path).decode("utf-8", "replace").splitlines(), 1):
        cells = line.split()
        if len(cells) != columns:
            raise EngineFileError(
                f"{path}:{number}: {len(cells)} columns, {columns} are expected, separated by"
                " blanks; take the file as published"
            )
        yield (
            number,
            [_number(f"{path}:{number}", column, cell) for column, cell in enumerate(cells, 1)],
        )


def _number(where: str, column: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise EngineFileError(
            f"{where}: column {column}: {cell[:40]!r} is no finite number; correct it, or leave"
            " the engine out"
        )
    return value


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        try:
            packed = path.suffix == ".gz"
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise EngineFileError(f"{path}: not a gzip file: {error}; download it again") from None
    if len(data) > MAX_BYTES:
        raise EngineFileError(f"{path}: more than {MAX_BYTES} bytes; is it a C-MAPSS file?")
    return data
