"""Where live samples are written: a table that refreshes itself, or one line after the other.

Owner of the terminal's lines while the table is there.  Writes to the stream it is given.
"""

import shutil
from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from agent.live.words import COLUMNS, table

_UP, _CLEAR_BELOW = "\x1b[{}A", "\x1b[J"
_FRAME_LINES = 3
"""Of a terminal: the heading, a line that says how many did not fit, and the cursor's."""

Row = tuple[str, ...]


class Screen(Protocol):
    """Takes all rows, and which of them are news."""

    def show(self, rows: Sequence[Row], news: Iterable[int]) -> None:
        """Show them."""


class Table:
    """A table in place, as much as the terminal has room for."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = 0

    def show(self, rows: Sequence[Row], news: Iterable[int]) -> None:  # noqa: ARG002
        """Draw the table over the one before."""
        width, height = shutil.get_terminal_size()
        fitting = max(1, height - _FRAME_LINES)
        lines = table([COLUMNS, *rows[:fitting]])
        if len(rows) > fitting:
            lines.append(f"... and {len(rows) - fitting} more: choose some with --channel")
        above = _UP.format(self._shown) if self._shown else ""
        text = "\n".join(line[: width - 1] for line in lines)
        self._out.write(f"{above}\r{_CLEAR_BELOW}{text}\n")
        self._out.flush()
        self._shown = len(lines)


class Lines:
    """One line for each channel with news, for files and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, rows: Sequence[Row], news: Iterable[int]) -> None:
        """Write what is new."""
        for at in news:
            name, value, unit, quality, stamp, age, rate = rows[at]
            words = (f"{name}", f"{value} {unit}".rstrip(), quality, stamp, f"age {age}")
            self._out.write("  ".join(words) + f"  {rate}/s\n")
        self._out.flush()
