"""The account's lines, and how they add up.  Pure."""

from collections.abc import Iterable

import msgspec

Key = tuple[str, str]


class Line(msgspec.Struct, frozen=True):
    """Sum of one category to one destination.

    Attributes:
      bytes: payload of messages; all bytes for categories that are no messages.
      first: Unix time, as `last`, by the gateway's clock.
    """

    destination: str
    category: str
    messages: int
    bytes: int
    first: float
    last: float


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The account at one moment.

    Attributes:
      since: Unix time at which it began.
      cuts: how often a process ended without writing its last seconds.
    """

    since: float
    cuts: int
    lines: tuple[Line, ...] = ()


def add(into: dict[Key, Line], line: Line) -> None:
    """Add a line that is later than those that are there."""
    key = (line.destination, line.category)
    before = into.get(key)
    if before is not None:
        line = Line(
            *key,
            before.messages + line.messages,
            before.bytes + line.bytes,
            before.first,
            line.last,
        )
    into[key] = line


def add_all(into: dict[Key, Line], lines: Iterable[Line]) -> None:
    """Add lines that are later than those that are there."""
    for line in lines:
        add(into, line)
