"""Delivery: offer every update until the coordinator says what became of it.

The first offer is the header and all chunks.  Every later one is the header alone: the coordinator
answers with a receipt, or with a bitmap of the chunks it still wants, and only those are sent.  So
a cut link costs what was in flight, and a lost receipt costs one header.

`Schedule` is pure (monotonic time is passed in); `deliver` is the loop around it.
"""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

from agent.outbox import Offer, Outbox
from wire.chunks import CHUNK_BYTES, from_bitmap, split
from wire.messages import Receipt
from wire.mqtt import Link
from wire.topics import HEADER_PART, Topics

IN_PROGRESS = 16
"""Updates offered at a time, the oldest first."""
_FIRST_S, _LONGEST_S = 2.0, 60.0
_DOUBLINGS = 10  # past the longest; a float power of a day's offers would overflow
_COMMITTED_S = 20.0
_LATER_S = 5.0
_LOOK_S = 0.5


@dataclass
class _Attempt:
    offers: int = 0
    due_s: float = 0.0
    wanted: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Sending:
    """What to send now for one update: its header, and these chunks (None: all)."""

    sequence: int
    header: bool
    chunks: tuple[int, ...] | None


class Schedule:
    """When to offer which update again."""

    def __init__(self, known: list[int], rng: random.Random) -> None:
        # What an earlier process made may be over there already: header first.
        self._attempts = {sequence: _Attempt(offers=1) for sequence in known}
        self._rng = rng

    def reconnected(self) -> None:
        """Everything is due: nothing that was in flight counts."""
        for attempt in self._attempts.values():
            attempt.due_s, attempt.wanted = 0.0, []

    def next(self, open_sequences: list[int], now_s: float) -> Sending | None:
        """Return what to send at monotonic time `now_s`, or None when nothing is due."""
        for gone in self._attempts.keys() - set(open_sequences):
            del self._attempts[gone]
        for sequence in open_sequences[:IN_PROGRESS]:
            attempt = self._attempts.setdefault(sequence, _Attempt())
            if attempt.wanted:
                chunks, attempt.wanted = tuple(attempt.wanted), []
                return Sending(sequence, header=False, chunks=chunks)
            if attempt.due_s <= now_s:
                first = attempt.offers == 0
                wait_s = min(_FIRST_S * 2 ** min(attempt.offers, _DOUBLINGS), _LONGEST_S)
                attempt.due_s = now_s + wait_s * self._rng.uniform(0.75, 1.25)
                attempt.offers += 1
                return Sending(sequence, header=True, chunks=None if first else ())
        return None

    def received(self, receipt: Receipt, now_s: float) -> None:
        """Take a receipt's consequence for the timing."""
        attempt = self._attempts.get(receipt.sequence)
        if attempt is None:
            return
        if receipt.status == "wanted":
            attempt.wanted = from_bitmap(receipt.wanted)
        elif receipt.status == "later":
            attempt.due_s = now_s + _LATER_S * self._rng.uniform(0.75, 1.25)
        elif receipt.status == "committed":
            attempt.due_s = now_s + _COMMITTED_S * self._rng.uniform(0.75, 1.25)


async def deliver(
    link: Link,
    outbox: Outbox,
    schedule: Schedule,
    topics: Topics,
    agent: str,
    coordinator_is_live: asyncio.Event,
    wake: asyncio.Event,
) -> None:
    """Offer updates over one connection until it ends (`LinkDownError`)."""
    schedule.reconnected()
    while True:
        await coordinator_is_live.wait()
        sending = schedule.next(outbox.open_sequences(), time.monotonic())
        if sending is None:
            wake.clear()
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation (cpython #86296).
                async with asyncio.timeout(_LOOK_S):
                    await wake.wait()
            continue
        offer = outbox.offer(sending.sequence)
        if offer is not None:
            await _send(link, sending, offer, topics, agent, outbox.incarnation)


async def _send(
    link: Link, sending: Sending, offer: Offer, topics: Topics, agent: str, incarnation: str
) -> None:
    if sending.header:
        topic = topics.update(agent, incarnation, offer.sequence, HEADER_PART)
        await link.publish(topic, offer.header)
    if offer.content is None:
        return
    chunks = split(offer.content, CHUNK_BYTES)
    wanted = range(len(chunks)) if sending.chunks is None else sending.chunks
    async with asyncio.TaskGroup() as sends:
        for index in wanted:
            if index < len(chunks):
                topic = topics.update(agent, incarnation, offer.sequence, index)
                sends.create_task(link.publish(topic, chunks[index]))
