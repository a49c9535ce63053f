"""Where the numbers of a notification are, and how they get into columns.

    find   where each record begins and which key it has: the order of the message
    fill   the records of each key as one structured array, their fields copied to columns

Servers send records of one key in runs, and the same items in the same order again and again.  A
run is found by one comparison, short runs record by record, and an order that was found before is
tried first: it fits where every record that it foresees has the key that it foresees.  As the keys
give the lengths, that proves where all records are.

Pure.  Invariant: nothing is read beyond the records' end, and nothing is allocated by a number that
the bytes could not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.sensors.opcua.array_records import ArrayRecord, read_array
from agent.sensors.opcua.columns import FIRST_TICK
from agent.sensors.opcua.layouts import LAYOUTS, LEAST_WIDTH, WIDTHS, ForeignError, Layout, key_at

_LONG_RUN = 16
"""Records that a run must have on average, or the others are found one by one."""
_RUNS_TRIED = 4


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """All records of one key in a message, in their order.

    Attributes:
      key: of them.
      layout: of that key.
      count: how many.
      starts: bytes from the first record of the message to each of them, int64 (count,); None where
        they are all of the message, one after the other.
    """

    key: int
    layout: Layout
    count: int
    starts: NDArray[np.int64] | None

    def records(self, body: bytes, at: int) -> NDArray[np.void]:
        """The records of a message whose first is at `at`: structured (count,)."""
        layout = self.layout
        if self.starts is None:
            return np.frombuffer(body, layout.record, self.count, at)
        # As texts, because numpy gathers a structure field by field: seven times slower.
        possible = len(body) - layout.width + 1
        anywhere: NDArray[np.bytes_] = np.ndarray(possible, f"S{layout.width}", body, 0, 1)
        return anywhere[self.starts + at].view(layout.record)


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """Where the numbers of a message are.

    Attributes:
      count: how many.
      length: bytes of all records.
      groups: of all keys.
      places: where in the groups, laid one after the other, each number of the message is: int64
        (count,); None where there is one group.
    """

    count: int
    length: int
    groups: tuple[Group, ...]
    places: NDArray[np.int64] | None


@dataclass
class _Runs:
    """Runs of records, as they are found.

    Attributes:
      keys: of each.
      starts: bytes from the first record of the message to each.
      lengths: records of each.
      rows: how many records they are together.
    """

    keys: list[int]
    starts: list[int]
    lengths: list[int]
    rows: int = 0

    @property
    def are_short(self) -> bool:
        """Whether looking for runs does not pay."""
        return len(self.keys) >= _RUNS_TRIED and self.rows < _LONG_RUN * len(self.keys)


def find(body: bytes, begin: int, end: int, count: int) -> tuple[Order, list[ArrayRecord]]:
    """Find `count` records from `begin` to at most `end`; read those that are arrays.

    Raises:
      ForeignError: not all of them are numbers or arrays of numbers, or `end` comes before.
      IndexError, struct.error: the body ends before.
    """
    if not 0 < count <= (end - begin) // LEAST_WIDTH:
        raise ForeignError
    runs = _Runs([], [], [])
    arrays: list[ArrayRecord] = []
    at = begin
    while runs.rows + len(arrays) < count:
        left = count - runs.rows - len(arrays)
        key = key_at(body, at)
        if key not in LAYOUTS:
            arrays.append(read_array(body, at, end))
            at = arrays[-1].end
        elif runs.are_short:
            at = _walk(body, at, begin, left, runs)
        else:
            most = min(left, (end - at) // WIDTHS[key])
            length = _run(body, at, most, LAYOUTS[key])
            runs.keys.append(key)
            runs.starts.append(at - begin)
            runs.lengths.append(length)
            runs.rows += length
            at += length * WIDTHS[key]
    if at > end:
        raise ForeignError
    return _order(runs, at - begin), arrays


def _run(body: bytes, at: int, most: int, layout: Layout) -> int:
    """How many of the next `most` records have the layout of the first."""
    if most <= 0:
        raise ForeignError
    key = np.frombuffer(body, layout.record, most, at)["key"]
    differs = key != key[0]
    return int(differs.argmax()) or most


def _walk(body: bytes, at: int, begin: int, most: int, runs: _Runs) -> int:
    """Append the next `most` records one by one, until one is no number; return where they end."""
    widths, keys, starts = WIDTHS, runs.keys, runs.starts
    for _ in range(most):
        mask = body[at + 4]  # as `key_at`: a call for each record would take as long as the rest
        key = mask | body[at + 5] << 8 if mask & 1 else mask
        width = widths.get(key)
        if width is None:
            break
        keys.append(key)
        starts.append(at - begin)
        at += width
    walked = len(keys) - len(runs.lengths)
    runs.lengths += [1] * walked
    runs.rows += walked
    return at


def _order(runs: _Runs, length: int) -> Order:
    """The runs as groups of one key each."""
    if not runs.keys:
        return Order(0, length, (), None)
    first = runs.keys[0]
    if len(set(runs.keys)) == 1 and runs.rows * WIDTHS[first] == length:
        return Order(runs.rows, length, (Group(first, LAYOUTS[first], runs.rows, None),), None)
    lengths = np.array(runs.lengths, np.int64)
    key = np.repeat(np.array(runs.keys, np.int64), lengths)
    width = np.array([WIDTHS[key] for key in runs.keys], np.int64)
    within = np.arange(runs.rows, dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = np.repeat(np.array(runs.starts, np.int64), lengths)
    start += within * np.repeat(width, lengths)
    by_key = np.argsort(key, kind="stable")
    places = np.empty_like(by_key)
    places[by_key] = np.arange(runs.rows)
    keys, firsts = np.unique(key[by_key], return_index=True)
    groups = tuple(
        Group(each, LAYOUTS[each], len(starts), starts)
        for each, starts in zip(keys.tolist(), np.split(start[by_key], firsts[1:]), strict=True)
    )
    return Order(runs.rows, length, groups, places if len(groups) > 1 else None)


class Filling:
    """Columns of N numbers as they lie on the wire: all ticks, values also of Bad samples.

    Attributes:
      handle: uint32 (N,).
      value: float64 (N,).
      status: uint32 (N,).
      ticks: int64 (N,), source timestamps, else server timestamps, else 0; 100 ns since 1601.
    """

    def __init__(self, count: int) -> None:
        self.handle = np.empty(count, np.uint32)
        self.value = np.empty(count, np.float64)
        self.status = np.zeros(count, np.uint32)
        self.ticks = np.zeros(count, np.int64)

    def put(self, begin: int, records: NDArray[np.void], layout: Layout) -> None:
        """Write records of one layout, the first of them to row `begin`."""
        rows, fields = slice(begin, begin + len(records)), layout.fields
        self.handle[rows] = records["handle"]
        if layout.is_boolean:
            self.value[rows] = records["value"] != 0
        else:
            self.value[rows] = records["value"] if "value" in fields else np.nan
        if "status" in fields:
            self.status[rows] = records["status"]
        if "source" in fields and "server" in fields:
            source = records["source"]
            self.ticks[rows] = np.where(source < FIRST_TICK, records["server"], source)
        elif "source" in fields:
            self.ticks[rows] = records["source"]
        elif "server" in fields:
            self.ticks[rows] = records["server"]

    def take(self, places: NDArray[np.int64]) -> None:
        """Put the rows into another order: row i is the one that was at `places[i]`."""
        self.handle, self.value = self.handle[places], self.value[places]
        self.status, self.ticks = self.status[places], self.ticks[places]


def fill(body: bytes, at: int, order: Order) -> Filling:
    """The numbers of a message whose records are the `order.length` bytes from `at`.

    Raises:
      ForeignError: it has another order.
    """
    filling = Filling(order.count)
    begin = 0
    for group in order.groups:
        records = group.records(body, at)
        if (records["key"] != group.key).any():
            raise ForeignError
        filling.put(begin, records, group.layout)
        begin += group.count
    if order.places is not None:
        filling.take(order.places)
    return filling


def joined(parts: Sequence[Filling]) -> Filling:
    """All numbers of some parts, in their order."""
    whole = Filling(sum(len(part.handle) for part in parts))
    at = 0
    for part in parts:
        rows = slice(at, at + len(part.handle))
        whole.handle[rows], whole.value[rows] = part.handle, part.value
        whole.status[rows], whole.ticks[rows] = part.status, part.ticks
        at = rows.stop
    return whole
