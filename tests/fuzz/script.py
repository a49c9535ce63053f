"""What stands in for the broker: messages from a list, and a watch over what the program says.

`Script` is the link's receiving half: the program's own `_listen` takes its messages from it.
`Watch` counts what a program refused and judges the words: a line of a log is one printable line of
bounded length, whatever a stranger sent.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from wire.errors import LinkDownError
from wire.mqtt import Link, Received

LONGEST_WORDS = 2_000
"""Characters of one line of a log, whatever was in the message that it is about."""
PROGRAMS = ("coordinator", "agent", "wire")


class Watch(logging.Handler):
    """Counts refused messages and remembers the first line that is not fit for a log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.refused = 0
        self.unfit = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        line = record.getMessage()
        if record.name.endswith(".connection") and line.startswith(("refused ", "ignored: ")):
            self.refused += 1
        self.unfit = self.unfit or unfit(line)


def unfit(line: str) -> str:
    """Why a line does not belong into a log, or nothing."""
    if len(line) > LONGEST_WORDS:
        return f"{len(line)} characters in one line: {line[:200]!r}"
    strange = [character for character in line if not character.isprintable()]
    return f"not printable, {strange[:3]!r}: {line[:300]!r}" if strange else ""


class UnfitWordsError(AssertionError):
    """Words about a message that do not belong on one line of a log."""


def check_words(error: Exception) -> None:
    """Raise `UnfitWordsError` for an error that can not be logged as it is."""
    problem = unfit(str(error))
    if problem:
        raise UnfitWordsError(f"{type(error).__name__}: {problem}") from error


@contextmanager
def watching() -> Iterator[Watch]:
    """Listen to the programs' logs, and keep them from anybody else."""
    watch = Watch()
    loggers = [logging.getLogger(name) for name in PROGRAMS]
    before = [(each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.addHandler(watch)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield watch
    finally:
        for each, (level, propagate) in zip(loggers, before, strict=True):
            each.removeHandler(watch)
            each.setLevel(level)
            each.propagate = propagate


class Script:
    """A link that receives what `steps` yields and then goes down."""

    waiting = 0  # nothing waits behind a message, so a batch is committed at once

    def __init__(self, steps: Iterator[Received]) -> None:
        self._steps = steps

    async def messages(self) -> AsyncIterator[Received]:
        """Yield the messages; the listener has taken one when it asks for the next."""
        for message in self._steps:
            yield message
        raise LinkDownError("the script is over")


class Listener(Protocol):
    """The part of both programs' `Connection` that takes messages."""

    async def _listen(self, link: Link) -> None: ...


def listen(program: object, steps: Iterator[Received]) -> None:
    """Let a program take all messages; raises what its listener raised, which should be nothing."""
    script = cast("Link", Script(steps))

    async def taken() -> None:
        try:
            await cast("Listener", program)._listen(script)  # noqa: SLF001 - the entry point itself
        except LinkDownError:
            return
        raise AssertionError("the listener ended before its link")

    loop().run_until_complete(taken())


_loops: list[asyncio.AbstractEventLoop] = []


def loop() -> asyncio.AbstractEventLoop:
    """One event loop for all cases: a new one for each would be most of a case's time."""
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


def changes(owner: object) -> int:
    """Rows that the owner of a database has changed since it was opened."""
    return database(owner).total_changes


def database(owner: object) -> sqlite3.Connection:
    """The owner's open database."""
    found = vars(vars(owner).get("_file", owner))["_db"]
    if not isinstance(found, sqlite3.Connection):
        raise TypeError(f"{owner!r} owns no open database")
    return found
