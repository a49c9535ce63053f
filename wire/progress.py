"""Which tasks make progress, and which are stuck.

A task that waits for ever for something that never comes looks to the service manager like one with
nothing to do.  So each watched task has a longest allowed silence, and beats whenever it comes
around, also while it waits for what may take long (`wire/waiting.py`): a machine that is
off or a broker that is away never makes a task silent, because its loop goes on trying.

Silence is counted by whoever looks, about once a second, and each look counts a few seconds at
most: time in which nothing ran at all (a blocked event loop, a stopped process) is nobody's silence
and needs no name.  Then nobody looks either, and the service manager sees that by itself.

Pure; used on one thread, but `stalled`, `looked_s` and `silences` may be read from others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Beat = Callable[[], None]
"""Says that a watched task is alive."""

_MOST_S = 5.0
"""What one look counts at most."""


@dataclass(frozen=True)
class Stall:
    """A task that was silent for too long.

    Attributes:
      name: the task's.
      silent_s: for how long.
    """

    name: str
    silent_s: float

    def __str__(self) -> str:
        return f"{self.name} (silent for {self.silent_s:.0f} s)"


@dataclass
class _Watched:
    """One task: how long it may be silent, and is."""

    longest_s: float
    silent_s: float = 0.0

    def beat(self) -> None:
        self.silent_s = 0.0


class Progress:
    """The tasks that must not be silent for long.

    Attributes:
      stalled: those that were silent for longer, at the last look; replaced whole.
      looked_s: monotonic time of the last look; None before the first.
    """

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self.stalled: tuple[Stall, ...] = ()
        self.looked_s: float | None = None

    @contextmanager
    def watching(self, name: str, longest_s: float) -> Iterator[Beat]:
        """Watch a task from here to the end of the block; gives its beat.

        Args:
          name: for people; one task at a time has it.
          longest_s: the longest silence that is allowed, in seconds.

        Raises:
          ValueError: a task of this name is watched already.
        """
        if name in self._watched:
            raise ValueError(f"a task {name!r} is watched already")
        watched = self._watched[name] = _Watched(longest_s)
        try:
            yield watched.beat
        finally:
            del self._watched[name]

    def look(self, now_s: float) -> tuple[Stall, ...]:
        """Count the silence since the last look; return `stalled`.

        Args:
          now_s: monotonic time.
        """
        passed_s = 0.0 if self.looked_s is None else min(now_s - self.looked_s, _MOST_S)
        for watched in self._watched.values():
            watched.silent_s += passed_s
        self.looked_s = now_s
        self.stalled = tuple(
            Stall(name, watched.silent_s)
            for name, watched in self._watched.items()
            if watched.silent_s > watched.longest_s
        )
        return self.stalled

    def silences(self) -> dict[str, float]:
        """How long each task was silent at the last look, in seconds."""
        # A copy first: tasks begin and end while another thread asks.
        return {name: watched.silent_s for name, watched in dict(self._watched).items()}
