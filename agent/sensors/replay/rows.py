"""Rows of a file by columns, a bounded number at a time, and where each of them stands.

What the readers of all formats yield.  Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from agent.sensors.replay.cells import Column
from wire.errors import one_line

MAX_ROWS = 1000
MAX_CELLS = 1 << 16
MAX_BATCH_BYTES = 4 << 20
"""Of what is read at once: with 10,000 columns a batch has few rows."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class FileError(Exception):
    """A file, or what is left of it, that can not be read; the message says where and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(one_line(f"{place}: {reason}"))


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a row begins.

    Attributes:
      row: from 0; rows that could not be read count.
      offset: bytes from the beginning of the file; 0 where the format has no such thing.
      line: from 1.
    """

    row: Count = 0
    offset: Count = 0
    line: Count = 0


START = Point()


@dataclass(frozen=True)
class Damage:
    """Rows that could not be read.

    Attributes:
      before: index, in the batch, of the next row that could.
      reason: where it stands and what is wrong.
    """

    before: int
    reason: str


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of one file.

    Attributes:
      columns: N cells of each column that was asked for and that the file has.
      points: where the rows begin.
      end: where the row after them begins.
      header: names of all columns of the file.
      where: the place, for people, of a row of the batch and a column.
      damage: rows that are not among them.
    """

    columns: Mapping[str, Column]
    points: Sequence[Point]
    end: Point
    header: Sequence[str]
    where: Callable[[int, str], str]
    damage: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def point(self, row: int) -> Point:
        """Where to go on before row `row` of the batch; N is its end."""
        return self.points[row] if row < len(self.points) else self.end


def check_columns(needed: Sequence[str], header: Sequence[str], place: str) -> None:
    """Refuse a file without a column that every row needs.

    Raises:
      FileError: names the column, and those that the file has.
    """
    for name in needed:
        if name not in header:
            raise FileError(place, f"no column {name!r}; the file has {listed(header)}")


def listed(header: Sequence[str]) -> str:
    """The first names of a header, for people."""
    return ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
