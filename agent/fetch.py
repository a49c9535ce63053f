"""Pulling chunks through the broker: a few at a time, the most urgent first, until all are here.

Retained chunks come as fast as the broker can push them when one filter names them all, and what
exceeds its queues it drops without a word.  So every chunk is subscribed to by its own topic, in a
window that opens while chunks come promptly and closes when they do not (`wire/pacing.py`): on a
slow link little is on its way at a time, and a small message waits behind little.

    wanted ──► asked ── chunk ──► stored, unsubscribed with the next question
      ▲          │
      └──────────┘ not here in time: unsubscribed and asked again, with growing patience

Nothing is remembered between connections but what is stored: a new one asks for what is missing
then.  While the disk does not take anything, nothing is asked for.
"""

import asyncio
import logging
from contextlib import suppress

from agent.adoption import Adoption
from wire.mqtt import Link
from wire.pacing import BulkWindow

logger = logging.getLogger(__name__)

WINDOW = 16
"""Chunks on their way at most; mosquitto's default is 20 messages in flight for each client."""
_LONGEST_PATIENCE_S = 320.0
_SLOWNESS = 4.0
"""A chunk is late after this many times what the last one took."""
_STORE_S = 1.0
"""How long a chunk may be in memory only."""
_REFILL = 0.25
"""Share of the window that is asked for at a time, so that one packet asks for several."""


class Fetch:
    """Fetches what the adoption wants, over one connection after another.

    Args:
      adoption: says what is missing and takes it.
      patience_s: a chunk that is not here by then is asked for again; doubles each time.
      pause_s: how long nothing is asked for when the disk did not take a chunk.
    """

    def __init__(
        self, adoption: Adoption, *, patience_s: float = 10.0, pause_s: float = 30.0
    ) -> None:
        self._adoption = adoption
        self._patience_s, self._pause_s = patience_s, pause_s
        self._window = BulkWindow(WINDOW)
        self.asked: dict[str, float] = {}
        """Chunks on their way, and when they were asked for (monotonic)."""
        self._times: dict[str, int] = {}
        """How often chunks that are not here were asked for."""
        self._finished: list[str] = []
        """Chunks that came and are still subscribed to."""
        self._took_s = 0.0
        self._news = asyncio.Event()

    def on_head(self, envelope: bytes) -> bool:
        """Take a head from the network, as `Adoption.on_head` does."""
        try:
            return self._adoption.on_head(envelope)
        finally:
            self._news.set()

    def on_chunk(self, topic: str, data: bytes) -> bool:
        """Take a chunk from the network, as `Adoption.on_chunk` does.

        Raises:
          WireError: as there; a chunk that is not the announced one is asked for again when late.
        """
        try:
            return self._adoption.on_chunk(topic, data)
        finally:
            if not self._adoption.is_wanted(topic):
                self._came(topic)

    async def run(self, link: Link, tasks: asyncio.TaskGroup) -> None:
        """Fetch until the connection ends (`LinkDownError`).

        Args:
          link: a new connection.
          tasks: of the connection; gets questions to the broker whose answer nobody waits for,
            because it stands behind the chunks.
        """
        self.asked.clear()
        self._times.clear()
        self._finished.clear()
        storing = tasks.create_task(self._store(), name="store chunks")
        try:
            while True:
                self._news.clear()
                if self._adoption.stalled:
                    await self._pause(link)
                self._ask(link, tasks)
                await self._wait()
        finally:
            storing.cancel()
            self._adoption.keep_chunks()

    def _came(self, topic: str) -> None:
        asked_s = self.asked.pop(topic, None)
        if asked_s is not None:
            self._took_s = _now_s() - asked_s
            self._window.acknowledged(self._took_s)
            self._times.pop(topic, None)
            self._finished.append(topic)
        self._news.set()

    def _ask(self, link: Link, tasks: asyncio.TaskGroup) -> None:
        """Ask for what is missing, and give up what is late or not wanted any more."""
        now_s = _now_s()
        wanted = self._adoption.wanted(WINDOW)
        late = [topic for topic in self.asked if self._due_s(topic) <= now_s]
        if late:
            logger.info("asking again for %d chunks that did not come", len(late))
        given_up = late + [topic for topic in self.asked if topic not in wanted]
        for topic in given_up:
            self.asked.pop(topic, None)
        room = self._window.size - len(self.asked)
        new = [topic for topic in wanted if topic not in self.asked][: max(room, 0)]
        if self.asked and room < _REFILL * self._window.size:
            new = []
        for topic in new:
            self.asked[topic] = now_s
            self._times[topic] = self._times.get(topic, 0) + 1
        if new or given_up or not self.asked:
            given_up += self._finished
            self._finished = []
        if given_up:
            tasks.create_task(link.unsubscribe([*dict.fromkeys(given_up)]), name="unsubscribe")
        if new:
            tasks.create_task(link.subscribe(new), name="subscribe")

    def _due_s(self, topic: str) -> float:
        """When a chunk is late (monotonic)."""
        first_s = max(self._patience_s, _SLOWNESS * self._took_s)
        longest_s = max(self._patience_s, _LONGEST_PATIENCE_S)
        return self.asked[topic] + min(first_s * 2.0 ** (self._times[topic] - 1), longest_s)

    async def _wait(self) -> None:
        """Wait for news, or for the first chunk to be late."""
        due_s = min(map(self._due_s, self.asked), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due_s):
                await self._news.wait()

    async def _store(self) -> None:
        while True:
            await asyncio.sleep(_STORE_S)
            if not self._adoption.stalled:
                self._adoption.keep_chunks()

    async def _pause(self, link: Link) -> None:
        """Ask for nothing until the disk takes something again."""
        logger.warning("fetching pauses: %s", self._adoption.stalled)
        given_up = [*self.asked, *self._finished]
        self.asked.clear()
        self._finished.clear()
        if given_up:
            await link.unsubscribe(given_up)
        while self._adoption.stalled:
            await asyncio.sleep(self._pause_s)
            self._adoption.retry()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
