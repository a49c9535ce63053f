"""Labels from a file: what somebody knows about a time span, written into a table.

    channel,from,until,value
    Defect,2026-03-31T14:05:00Z,2026-03-31T14:06:30Z,Scratch
    Defect,2026-03-31T14:07:00Z,,0

Responsible for the whole file or nothing: half of a table of labels would teach the wrong thing, so
the first problem refuses it, with file, line and column.  Columns may stand in any order, and
further columns (a remark, a name) are read over.

Pure but for `read_label_file`.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TypeVar

from agent.signals.time_text import time_reader
from wire.errors import one_line

T = TypeVar("T")

COLUMNS = ("channel", "from", "until", "value")
MAX_FILE_BYTES = 64 << 20
MAX_LINE_CHARACTERS = 4096
MAX_RECORDS = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """What was true of one channel from one moment until another.

    Attributes:
      channel: the label's channel, by the federation's name.
      from_us: first moment; microseconds since 1970 UTC, by the clock of the samples' source.
      until_us: last moment; equal to `from_us` for a moment.
      value: a finite number; for a class, its number.
    """

    channel: str
    from_us: int
    until_us: int
    value: float


class LabelFileError(Exception):
    """A file of labels that can not be used.

    Attributes:
      file: its name.
      line: 1-based; None when the whole file is meant.
      column: 1-based number of the cell in its line; None when the whole line is meant.
      reason: what is wrong, and what to do.
    """

    def __init__(self, file: str, line: int | None, column: int | None, reason: str) -> None:
        self.file, self.line, self.column, self.reason = file, line, column, one_line(reason)
        place = ":".join(str(each) for each in (file, line, column) if each is not None)
        super().__init__(f"{place}: {self.reason}")


def read_label_file(
    path: Path,
    classes: Mapping[str, Mapping[str, float]] | None = None,
    zone: tzinfo = UTC,
) -> list[LabelRecord]:
    """Read a file of labels; see `parse_labels`.

    Raises:
      LabelFileError: it can not be read, or is no file of labels.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LabelFileError(str(path), None, None, f"can not read: {error.strerror}") from None
    return parse_labels(data, str(path), classes, zone)


def parse_labels(
    data: bytes,
    file: str,
    classes: Mapping[str, Mapping[str, float]] | None = None,
    zone: tzinfo = UTC,
) -> list[LabelRecord]:
    """Parse a file of labels; the order is that of its lines.

    Args:
      data: UTF-8 CSV (RFC 4180, without line breaks inside quotes), with the header `COLUMNS`.
      file: what errors call it.
      classes: by channel, the numbers of its classes; a value that is a number needs none.
      zone: of times that do not say theirs.

    Raises:
      LabelFileError: at the first problem.
    """
    if len(data) > MAX_FILE_BYTES:
        raise LabelFileError(file, None, None, f"larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelFileError(file, line, None, "not UTF-8; export the file as UTF-8") from None
    lines = _cells(text, file)
    parser = _Parser(file, _header(next(lines, (1, [])), file), classes or {}, zone)
    records: list[LabelRecord] = []
    for number, cells in lines:
        if len(records) == MAX_RECORDS:
            reason = f"more than {MAX_RECORDS:,} labels; split the file"
            raise LabelFileError(file, number, None, reason)
        records.append(parser.record(number, cells))
    return records


def _cells(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line that is not empty."""
    for number, line in enumerate(text.split("\n"), start=1):
        bare = line.removesuffix("\r")
        if len(bare) > MAX_LINE_CHARACTERS:
            reason = f"longer than {MAX_LINE_CHARACTERS} characters"
            raise LabelFileError(file, number, None, reason)
        if not bare.strip():
            continue
        try:
            yield number, next(csv.reader([bare], strict=True))
        except csv.Error as error:
            reason = f"not CSV: {error}; a quoted cell ends on the line on which it begins"
            raise LabelFileError(file, number, None, reason) from None


def _header(line: tuple[int, list[str]], file: str) -> dict[str, int]:
    number, cells = line
    names = [cell.strip() for cell in cells]
    for name in COLUMNS:
        if names.count(name) != 1:
            wrong = "has no" if name not in names else "has more than one"
            reason = f"the header {wrong} column {name!r}; it must be {','.join(COLUMNS)}"
            raise LabelFileError(file, number, None, reason)
    return {name: names.index(name) for name in COLUMNS}


class _Parser:
    """Lines of one file; `at` says in which cell a column stands."""

    def __init__(
        self,
        file: str,
        at: dict[str, int],
        classes: Mapping[str, Mapping[str, float]],
        zone: tzinfo,
    ) -> None:
        self._file, self._at, self._classes = file, at, classes
        self._time = time_reader("auto", zone)

    def record(self, line: int, cells: list[str]) -> LabelRecord:
        """Read one line."""
        if len(cells) <= max(self._at.values()):
            reason = f"{len(cells)} cells, where the header has {max(self._at.values()) + 1}"
            raise LabelFileError(self._file, line, len(cells), reason)

        def cell(column: str, read: Callable[[str], T]) -> T:
            try:
                return read(cells[self._at[column]].strip())
            except ValueError as error:
                place = self._at[column] + 1
                raise LabelFileError(self._file, line, place, str(error)) from None

        channel = cell("channel", _name)
        from_us = cell("from", self._time)
        until_us = cell("until", lambda text: self._time(text) if text else from_us)
        if until_us < from_us:
            place = self._at["until"] + 1
            raise LabelFileError(self._file, line, place, "ends before it begins")
        value = cell("value", lambda text: _value(text, channel, self._classes.get(channel, {})))
        return LabelRecord(channel, from_us, until_us, value)


def _name(text: str) -> str:
    if not text:
        raise ValueError("no channel")
    return text


def _value(text: str, channel: str, classes: Mapping[str, float]) -> float:
    known = classes.get(text)
    if known is not None:
        return known
    try:
        number = float(text)
    except ValueError:
        choice = f"one of its classes {sorted(classes)}" if classes else "a number"
        raise ValueError(f"{text!r} is not {choice} (channel {channel!r})") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number
