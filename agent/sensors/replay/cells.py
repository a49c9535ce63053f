"""From the cells of one column to numbers, times and what is wrong with single cells.

A column is a list of texts (CSV), a list of Python objects or a numpy array (Parquet, npz).  Pure.
Invariant: every cell has a status; none disappears here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.quality import BAD_DECODING_ERROR, BAD_NO_DATA
from agent.signals.time_text import TimeReader, epoch_us

Column = Sequence[Any] | NDArray[Any]
_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, eq=False)
class Numbers:
    """Values of N cells.

    Attributes:
      value: float64 (N,); NaN where the status is Bad.
      status: uint32 (N,): Good, BadNoData for a cell without a value, BadDecodingError for one
        that is no number.
      damaged: which cells are no numbers, and their text for people.
    """

    value: NDArray[np.float64]
    status: NDArray[np.uint32]
    damaged: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NumberReader:
    """How numbers are written.

    Attributes:
      missing: texts of cells without a value.
      decimal: `.` or `,`.
    """

    missing: frozenset[str]
    decimal: str = "."

    def read(self, cells: Column, states: Mapping[str, float]) -> Numbers:
        """Read a column; `states` are numbers for texts."""
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
            value = cells.astype(np.float64)
        else:
            quick = None if states or self.decimal != "." else _floats(cells)
            if quick is None:
                return self._one_by_one(cells, states)
            value = quick
        status = np.zeros(len(value), np.uint32)
        status[np.isnan(value)] = BAD_NO_DATA
        infinite = np.flatnonzero(np.isinf(value))
        status[infinite] = BAD_DECODING_ERROR
        value[infinite] = np.nan
        return Numbers(value, status, {int(at): "not a finite number" for at in infinite})

    def _one_by_one(self, cells: Column, states: Mapping[str, float]) -> Numbers:
        value = np.full(len(cells), np.nan)
        status = np.zeros(len(cells), np.uint32)
        damaged: dict[int, str] = {}
        for at, cell in enumerate(cells):
            text = "" if cell is None else str(cell).strip()
            number = states[text] if text in states else self._number(text)
            if number is not None and math.isfinite(number):
                value[at] = number
            elif text in self.missing or cell is None or cell != cell:  # noqa: PLR0124  NaN
                status[at] = BAD_NO_DATA
            else:
                status[at] = BAD_DECODING_ERROR
                damaged[at] = f"{text[:40]!r} is not a number"
                if states:
                    damaged[at] += f" and none of the states {', '.join(states)[:80]}"
        return Numbers(value, status, damaged)

    def _number(self, text: str) -> float | None:
        if "_" in text:  # a separator of Python's, not of machines
            return None
        plain = text.replace(",", ".") if self.decimal == "," else text
        try:
            return float(plain)
        except ValueError:
            return _FLAGS.get(text.lower())


def _floats(cells: Column) -> NDArray[np.float64] | None:
    """All cells as numbers, or None when one is none."""
    try:
        value = np.fromiter(map(float, cells), np.float64, len(cells))
    except (ValueError, TypeError):
        return None
    if len(cells) and isinstance(cells[0], str) and "_" in "".join(cells):
        return None
    return value


def read_times(
    cells: Column, how: str, reader: TimeReader
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Source timestamps of N cells: int64 (N,) of microseconds, and which cells are no times."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "M":
        cells, how = cells.astype("datetime64[us]").astype(np.int64), "us"
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "iuf":
        unit = "auto" if how == "iso8601" or "%" in how else how
        micros, bad = epoch_us(cells, unit)
        return micros, {
            int(at): f"{cells[at]} is not a time ({unit})" for at in np.flatnonzero(bad)
        }
    micros = np.zeros(len(cells), np.int64)
    damaged: dict[int, str] = {}
    for at, cell in enumerate(cells):
        try:
            micros[at] = reader("" if cell is None else str(cell))
        except ValueError as error:
            damaged[at] = str(error)
    return micros, damaged
