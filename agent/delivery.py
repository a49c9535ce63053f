"""Delivery: offer every update until the coordinator says what became of it.

The first offer is the header and all chunks.  Every later one is the header alone: the coordinator
answers with a receipt, or with a bitmap of the chunks it still wants, and only those are sent.  So
a cut link costs what was in flight, and a lost receipt costs one header.

Chunks are bulk: paced, behind births, reports and headers (`wire/mqtt.py`), and no more of them go
once the coordinator has said that it needs none.  Where the broker takes smaller packets than an
update was cut for, its header is signed again over smaller chunks; id and digest stay.

`Schedule` is pure (monotonic time is passed in); `Delivery` is the loop around it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from agent.config import Identity
from agent.health import Beat, no_beat, until
from agent.outbox import Offer, Outbox, UpdateId
from agent.tombstones import bury_doomed, seal_update
from wire.chunks import describe, from_bitmap, split
from wire.codec import Counter, open_envelope, parse_body
from wire.errors import MalformedError, PacketTooLargeError
from wire.messages import Receipt, UpdateHeader
from wire.mqtt import PACKET_OVERHEAD, Link
from wire.topics import HEADER_PART

logger = logging.getLogger(__name__)

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
    is_there: bool = False
    is_committed: bool = False


@dataclass(frozen=True)
class Sending:
    """What to send now for one update: its header, and these chunks (None: all)."""

    id: UpdateId
    header: bool
    chunks: tuple[int, ...] | None


class Schedule:
    """When to offer which update again."""

    def __init__(self, known: list[UpdateId], rng: random.Random) -> None:
        # What an earlier process made may be over there already: header first.
        self._attempts = {update: _Attempt(offers=1) for update in known}
        self._rng = rng

    def reconnected(self) -> None:
        """Everything is due: nothing that was in flight counts."""
        for attempt in self._attempts.values():
            attempt.due_s, attempt.wanted = 0.0, []

    def next(self, open_updates: list[UpdateId], now_s: float) -> Sending | None:
        """Return what to send at monotonic time `now_s`, or None when nothing is due."""
        for gone in self._attempts.keys() - set(open_updates):
            del self._attempts[gone]
        for update in self._in_progress(open_updates):
            attempt = self._attempts[update]
            if attempt.wanted:
                chunks, attempt.wanted = tuple(attempt.wanted), []
                attempt.is_there = False
                return Sending(update, header=False, chunks=chunks)
            if attempt.due_s <= now_s:
                first = attempt.offers == 0
                wait_s = min(_FIRST_S * 2 ** min(attempt.offers, _DOUBLINGS), _LONGEST_S)
                attempt.due_s = now_s + wait_s * self._rng.uniform(0.75, 1.25)
                attempt.offers += 1
                return Sending(update, header=True, chunks=None if first else ())
        return None

    def _in_progress(self, open_updates: list[UpdateId]) -> Iterator[UpdateId]:
        """The oldest to bring over, and the oldest of those that are there and wait for a fold."""
        places = {True: IN_PROGRESS, False: IN_PROGRESS}
        for update in open_updates:
            if not any(places.values()):
                return
            is_committed = self._attempts.setdefault(update, _Attempt()).is_committed
            if places[is_committed]:
                places[is_committed] -= 1
                yield update

    def received(self, receipt: Receipt, now_s: float) -> None:
        """Take a receipt's consequence for the timing."""
        attempt = self._attempts.get(UpdateId(receipt.incarnation, receipt.sequence))
        if attempt is None:
            return
        attempt.is_there = receipt.status != "wanted"
        attempt.is_committed = receipt.status == "committed"
        if receipt.status == "wanted":
            attempt.wanted = from_bitmap(receipt.wanted)
        elif receipt.status == "later":
            attempt.due_s = now_s + _LATER_S * self._rng.uniform(0.75, 1.25)
        elif receipt.status == "committed":
            attempt.due_s = now_s + _COMMITTED_S * self._rng.uniform(0.75, 1.25)

    def forget(self, update: UpdateId) -> None:
        """Offer it as if for the first time: its header is another one now."""
        self._attempts.pop(update, None)

    def takes_chunks(self, update: UpdateId) -> bool:
        """Whether chunks of this update still make sense, or its receipt says that none do."""
        attempt = self._attempts.get(update)
        return attempt is not None and not attempt.is_there


@dataclass
class Delivery:
    """Offers what is in the outbox over one connection after another."""

    outbox: Outbox
    schedule: Schedule
    identity: Identity
    coordinator_is_live: asyncio.Event
    wake: asyncio.Event
    beat: Beat = no_beat
    """Whoever watches: called whenever the loop or a chunk gets on."""

    async def run(self, link: Link, counter: Counter) -> None:
        """Offer updates over one connection until it ends (`LinkDownError`)."""
        self.schedule.reconnected()
        while True:
            await until(self.coordinator_is_live, self.beat)
            sending = self.schedule.next(self.outbox.open_updates(), time.monotonic())
            if sending is None:
                await self._wait_for_news()
                continue
            offer = self.outbox.offer(sending.id)
            if offer is None:  # settled meanwhile, or damaged on the disk
                bury_doomed(self.outbox, self.identity, counter)
                continue
            try:
                await self._send(link, sending, offer)
            except* PacketTooLargeError:
                self._cut_smaller(link, offer, counter)

    async def _wait_for_news(self) -> None:
        self.wake.clear()
        with suppress(TimeoutError):
            # Not wait_for: before Python 3.12 it can swallow a cancellation (cpython #86296).
            async with asyncio.timeout(_LOOK_S):
                await self.wake.wait()

    async def _send(self, link: Link, sending: Sending, offer: Offer) -> None:
        """The header first, on the same connection: the coordinator drops chunks without it."""
        async with asyncio.TaskGroup() as sends:
            if sending.header:
                topic = self._topic(offer, HEADER_PART)
                sends.create_task(link.publish(topic, offer.header))
            if offer.content is not None:
                sends.create_task(link.publish_bulk(self._chunks(sending, offer)))

    def _chunks(self, sending: Sending, offer: Offer) -> Iterator[tuple[str, bytes]]:
        """Topic and payload of what was asked for, as long as it is."""
        if offer.content is None or sending.chunks == ():
            return
        chunks = split(offer.content, _header(offer).content.chunk_bytes)
        wanted = range(len(chunks)) if sending.chunks is None else sending.chunks
        for index in wanted:
            self.beat()
            if index < len(chunks) and self.schedule.takes_chunks(offer.id):
                yield self._topic(offer, index), chunks[index]

    def _cut_smaller(self, link: Link, offer: Offer, counter: Counter) -> None:
        """Announce an update's content in chunks that this broker takes."""
        header = _header(offer)
        limit = (link.packet_bytes or 0) - PACKET_OVERHEAD
        if offer.content is None or header.content.chunk_bytes <= limit:
            logger.error("the broker's maximum packet size is too small for update %s", offer.id)
            return
        try:
            smaller = describe(offer.content, limit)
        except MalformedError as error:
            logger.error("update %s does not fit this broker's packets: %s", offer.id, error)  # noqa: TRY400
            return
        logger.info("update %s is cut into chunks of %d bytes", offer.id, limit)
        header = msgspec.structs.replace(header, content=smaller)
        if self.outbox.replace_header(offer.id, seal_update(header, self.identity, counter)):
            self.schedule.forget(offer.id)

    def _topic(self, offer: Offer, part: int | str) -> str:
        update = offer.id
        return self.identity.topics.update(
            self.identity.agent, update.incarnation, update.sequence, part
        )


def _header(offer: Offer) -> UpdateHeader:
    """Read our own header; the outbox has checked that it is what was put in."""
    return parse_body(open_envelope(offer.header, "update"), UpdateHeader)
