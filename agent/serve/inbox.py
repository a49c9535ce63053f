"""What waits for one output, and what the output says about itself to people.

An output that is slow or away costs nothing but its own oldest scores: they are dropped and
counted, and nobody waits for it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from agent.serve.score import OK, Score


@dataclass
class OutputReport:
    """State of one output; only the output writes it.

    Attributes:
      name: such as `mqtt 127.0.0.1:1883`.
      state: one line.
      problems: what is wrong with single nodes, by name, until it is not.
      sent: scores that arrived there, since the process started.
      dropped: scores that did not, because the output was away or too slow.
    """

    name: str
    state: str = "connecting"
    problems: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    dropped: int = 0


class Inbox:
    """Scores for one output, in order, at most `size`; and the agent's health beside them."""

    def __init__(self, size: int, report: OutputReport) -> None:
        self._waiting: deque[Score] = deque(maxlen=size)
        self._report = report
        self._changed = asyncio.Event()
        self.health = OK

    def put(self, score: Score) -> None:
        """Add a score; the oldest goes when it is full."""
        if len(self._waiting) == self._waiting.maxlen:
            self._report.dropped += 1
        self._waiting.append(score)
        self._changed.set()

    def put_health(self, text: str) -> None:
        """Say how the agent is."""
        if text != self.health:
            self.health = text
            self._changed.set()

    def wake(self) -> None:
        """Let `take` return, with whatever there is."""
        self._changed.set()

    async def take(self, timeout_s: float | None = None) -> list[Score]:
        """Everything that waits, oldest first, once there is something or the health changed.

        Args:
          timeout_s: return an empty list after so long; None waits for ever.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return []
        self._changed.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def put_back(self, scores: list[Score]) -> None:
        """Return scores that were taken and not sent; what does not fit any more is dropped."""
        room = (self._waiting.maxlen or 0) - len(self._waiting)
        kept = scores[len(scores) - room :] if room < len(scores) else scores
        self._report.dropped += len(scores) - len(kept)
        self._waiting.extendleft(reversed(kept))
        if self._waiting:
            self._changed.set()
