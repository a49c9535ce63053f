"""A thousand light agents in one process: bare sockets, the product's way of pulling chunks.

Each is one MQTT client.  `Pulling` asks for explicit chunk topics in a window, as `agent/fetch.py`
does (with its window, its refills and its unsubscribing), from the moment that the head comes;
`Pushed` takes what comes.  Both check the SHA-256 of every chunk, and neither stores anything.
"""

import select
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.fetch import WINDOW
from benchmarks.raw_mqtt import RawClient
from benchmarks.testbed import TOPICS, BenchmarkError
from shopfloor.chaos.packets import Publish
from wire.chunks import sha256
from wire.pacing import BulkWindow

REFILL = 0.25
"""Share of the window that is asked for at a time, as in `agent/fetch.py`."""
PUSHED = f"{TOPICS.base}/pushed"
"""The one topic of plain pushing."""


class Subscriber(Protocol):
    """One light agent."""

    client: RawClient
    whole_s: float
    """When the last chunk was verified (monotonic); 0 before."""

    def take(self, message: Publish) -> None:
        """Take a message."""

    def ask(self) -> None:
        """Ask for more, after all messages of one read were taken."""


class Pushed:
    """Takes every chunk that is published to the one topic.

    Args:
      port: of the broker.
      number: of the agent.
      digests: SHA-256 of the chunks to come.
    """

    def __init__(self, port: int, number: int, digests: frozenset[bytes]) -> None:
        self.client = RawClient(port, f"pushed-{number}")
        self.client.subscribe([PUSHED])
        self.whole_s = 0.0
        self._missing = set(digests)

    def take(self, message: Publish) -> None:
        """Verify a chunk."""
        digest = sha256(message.payload)
        if digest not in self._missing:
            raise BenchmarkError("a pushed chunk is not one that was sent, or came twice")
        self._missing.remove(digest)
        if not self._missing:
            self.whole_s = time.monotonic()

    def ask(self) -> None:
        """Ask for nothing."""


class Pulling:
    """Waits for the head, then pulls the chunks that it needs.

    Args:
      port: of the broker.
      number: of the agent.
      chunks: SHA-256 by topic of the chunks to pull, in their order.
    """

    def __init__(self, port: int, number: int, chunks: Mapping[str, bytes]) -> None:
        self.client = RawClient(port, f"pulling-{number}")
        self.client.subscribe([TOPICS.head])
        self.whole_s = 0.0
        self._chunks = chunks
        self._window = BulkWindow(WINDOW)
        self._missing: dict[str, None] = {}
        self._asked: dict[str, float] = {}
        self._finished: list[str] = []

    def take(self, message: Publish) -> None:
        """Begin with the head; verify a chunk."""
        if message.topic == TOPICS.head:
            self._missing = dict.fromkeys(self._chunks)
            return
        if message.topic not in self._missing:
            return
        if sha256(message.payload) != self._chunks[message.topic]:
            raise BenchmarkError(f"{message.topic} is not the announced chunk")
        now_s = time.monotonic()
        del self._missing[message.topic]
        self._window.acknowledged(now_s - self._asked.pop(message.topic))
        self._finished.append(message.topic)
        if not self._missing:
            self.whole_s = now_s

    def ask(self) -> None:
        """Refill the window, and unsubscribe from what came with the same breath."""
        room = self._window.size - len(self._asked)
        new = [topic for topic in self._missing if topic not in self._asked][: max(room, 0)]
        if self._asked and room < REFILL * self._window.size:
            new = []
        if self._finished and (new or not self._asked):
            self.client.unsubscribe(self._finished)
            self._finished = []
        if new:
            self._asked |= dict.fromkeys(new, time.monotonic())
            self.client.subscribe(new)


def serve(subscribers: Sequence[Subscriber], timeout_s: float) -> None:
    """Read until everybody has everything.

    Raises:
      BenchmarkError: somebody had not within `timeout_s`.
    """
    by_number = {each.client.socket.fileno(): each for each in subscribers}
    waiting = len(by_number)
    until_s = time.monotonic() + timeout_s
    with select.epoll() as poller:
        for number in by_number:
            poller.register(number, select.EPOLLIN)
        while waiting:
            for number, _ in poller.poll(1.0):
                subscriber = by_number[number]
                was_whole = subscriber.whole_s > 0.0
                for message in subscriber.client.messages():
                    subscriber.take(message)
                subscriber.ask()
                waiting -= subscriber.whole_s > 0.0 and not was_whole
            if time.monotonic() > until_s:
                raise BenchmarkError(f"{waiting} agents have no whole model after {timeout_s:g} s")
