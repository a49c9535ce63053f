"""asyncua's table of the standard's node ids, in a tenth of the memory.

`asyncua.ua.object_ids` holds the 14,800 names of OPC 10000-6, A.1, twice, as attributes of a class
and as a dict: 5.5 MB, of which a client uses some hundred.  Here they are one string of names and
two arrays of numbers.  Reads the module's source, never runs it, and refuses what is not exactly
such a table; then the real module is to be loaded.
"""

import mmap
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_CLASS: Final = re.compile(rb"class ObjectIds:")
_ATTRIBUTE: Final = re.compile(rb"    ([A-Za-z_][A-Za-z_0-9]*) = ([0-9]{1,9})")
_DICT: Final = re.compile(rb"ObjectIdNames = \{\}")
_ITEM: Final = re.compile(rb"ObjectIdNames\[([0-9]{1,9})\] = '([A-Za-z_][A-Za-z_0-9]*)'")
_MAX_BYTES: Final = 16 << 20


class NotATableError(ValueError):
    """The source is not the table that this module knows; says where."""


class CompactIds(Mapping[int, str]):
    """Names by number, as `ObjectIdNames` has them; `number_of` is the other way.

    Args:
      numbers: ascending.
      names: as many, with a line's end before, between and after them.
    """

    def __init__(self, numbers: "array[int]", names: bytes) -> None:
        self._numbers, self._names = numbers, names
        self._begins = array("I", (at.start() + 1 for at in re.finditer(b"\n", names[:-1])))
        if len(self._begins) != len(numbers):
            raise NotATableError(f"{len(self._begins)} names for {len(numbers)} numbers")

    def __getitem__(self, number: object) -> str:
        at = bisect_left(self._numbers, number) if isinstance(number, int) else len(self)
        if at == len(self._numbers) or self._numbers[at] != number:
            raise KeyError(number)
        return self._name(at)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def names(self) -> Iterator[str]:
        """All names, in the order of their numbers."""
        return (self._name(at) for at in range(len(self)))

    def number_of(self, name: str) -> int | None:
        """The number of a name; None where the standard has no such name."""
        # From the end: of attributes with one name, the last one counts.
        found = self._names.rfind(b"\n%s\n" % name.encode()) if "\n" not in name else -1
        return self._numbers[bisect_left(self._begins, found + 1)] if found >= 0 else None

    def _name(self, at: int) -> str:
        begin = self._begins[at]
        return self._names[begin : self._names.index(b"\n", begin)].decode()


def read_compact_ids(source: Path) -> CompactIds:
    """Read the table out of the module's source.

    Raises:
      NotATableError: the source says something else as well, or its two halves differ.
      OSError: it can not be read.
    """
    with source.open("rb") as file:
        if not 0 < (size := source.stat().st_size) <= _MAX_BYTES:
            raise NotATableError(f"{source}: {size} bytes, not 1 to {_MAX_BYTES}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            lines = enumerate(iter(text.readline, b""), 1)
            numbers, names = _attributes(source, lines)
            table = CompactIds(numbers, names)
            _check_names(source, lines, table)
    return table


_Lines = Iterator[tuple[int, bytes]]


def _attributes(source: Path, lines: _Lines) -> tuple["array[int]", bytes]:
    """The class's attributes, up to where the dict begins."""
    numbers, names = array("I"), bytearray(b"\n")
    expected = _CLASS
    for at, line in lines:
        said = line.rstrip()
        if not said or said.startswith(b"#"):
            continue
        if numbers and _DICT.fullmatch(said):
            return numbers, bytes(names)
        found = expected.fullmatch(said)
        if found is None:
            break
        if expected is _ATTRIBUTE:
            number = int(found[2])
            if numbers and number <= numbers[-1]:
                raise NotATableError(f"{source}:{at}: the numbers do not ascend")
            numbers.append(number)
            names += found[1] + b"\n"
        expected = _ATTRIBUTE
    else:
        raise NotATableError(f"{source}: the table of names is missing")
    raise NotATableError(f"{source}:{at}: not a line of the table")


def _check_names(source: Path, lines: _Lines, table: CompactIds) -> None:
    """Check that the dict says the same as the class."""
    count = 0
    for at, line in lines:
        found = _ITEM.fullmatch(line.rstrip())
        if found is None or table.get(int(found[1])) != found[2].decode():
            raise NotATableError(f"{source}:{at}: not a name of the table")
        count += 1
    if count != len(table):
        raise NotATableError(f"{source}: {count} names for {len(table)} numbers")
