"""Delivery: what is offered when, and what a cut link costs."""

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import pytest

from agent.delivery import IN_PROGRESS, Schedule, Sending, deliver
from agent.outbox import Outbox
from wire.chunks import CHUNK_BYTES, to_bitmap
from wire.errors import LinkDownError
from wire.messages import Receipt
from wire.mqtt import Link
from wire.topics import Topics

TOPICS = Topics("plant-net")
CHUNKS = 3


def schedule(known: list[int] | None = None) -> Schedule:
    return Schedule(known or [], random.Random(1))


def receipt(status: str, sequence: int = 1, wanted: list[int] | None = None) -> Receipt:
    return Receipt(
        incarnation="0" * 16,
        sequence=sequence,
        status=status,  # type: ignore[arg-type]
        wanted=to_bitmap(wanted or []),
    )


FIRST = Sending(1, header=True, chunks=None)
HEADER = Sending(1, header=True, chunks=())


def test_the_first_offer_is_header_and_chunks_and_every_later_one_the_header() -> None:
    plan = schedule()
    assert plan.next([1], 0.0) == FIRST
    assert plan.next([1], 0.1) is None
    assert plan.next([1], 100.0) == HEADER
    assert plan.next([1], 1000.0) == HEADER


def test_the_waits_between_offers_grow_to_a_minute_and_stay_there() -> None:
    plan, now_s, offered = schedule(), 0.0, []
    for _ in range(20_000):  # a day and more of a coordinator that never answers
        if plan.next([1], now_s) is not None:
            offered.append(now_s)
        now_s += 5.0
    waits = [later - earlier for earlier, later in pairwise(offered)]
    assert waits[0] <= 5.0
    assert all(40.0 <= wait <= 80.0 for wait in waits[10:])
    assert len(offered) > 1100


def test_a_wanted_bitmap_sends_exactly_those_chunks_once() -> None:
    plan = schedule()
    plan.next([1], 0.0)
    plan.received(receipt("wanted", wanted=[0, 5, 9]), 0.1)
    assert plan.next([1], 0.1) == Sending(1, header=False, chunks=(0, 5, 9))
    assert plan.next([1], 0.2) is None


def test_later_waits_some_seconds_and_then_offers_the_header() -> None:
    plan = schedule()
    plan.next([1], 0.0)
    plan.received(receipt("later"), 10.0)
    assert plan.next([1], 13.0) is None
    assert plan.next([1], 17.0) == HEADER


def test_after_committed_the_outcome_is_asked_for_rarely() -> None:
    plan = schedule()
    plan.next([1], 0.0)
    plan.received(receipt("committed"), 1.0)
    assert plan.next([1], 15.0) is None
    assert plan.next([1], 27.0) == HEADER


def test_a_new_connection_makes_everything_due_and_forgets_what_was_wanted() -> None:
    plan = schedule()
    plan.next([1, 2], 0.0)
    plan.next([1, 2], 0.0)
    plan.received(receipt("wanted", 2, [4]), 0.0)
    plan.reconnected()
    assert plan.next([1, 2], 0.1) == HEADER
    assert plan.next([1, 2], 0.1) == Sending(2, header=True, chunks=())
    assert plan.next([1, 2], 0.1) is None


def test_only_the_oldest_updates_are_in_progress() -> None:
    plan = schedule()
    waiting = list(range(1, 3 * IN_PROGRESS))
    offered = []
    while (sending := plan.next(waiting, 0.0)) is not None:
        offered.append(sending.sequence)
    assert offered == waiting[:IN_PROGRESS]
    following = plan.next(waiting[1:], 0.0)
    assert following == Sending(IN_PROGRESS + 1, header=True, chunks=None)


def test_updates_of_an_earlier_process_are_offered_by_their_header() -> None:
    plan = schedule(known=[1])
    assert plan.next([1, 2], 0.0) == HEADER
    assert plan.next([1, 2], 0.0) == Sending(2, header=True, chunks=None)


def test_a_settled_update_is_never_offered_again() -> None:
    plan = schedule()
    plan.next([1], 0.0)
    assert plan.next([], 1000.0) is None
    plan.received(receipt("wanted", wanted=[0]), 1000.0)
    assert plan.next([], 1000.0) is None


@dataclass
class RecordingLink:
    """A link that remembers what was published and ends after so many messages."""

    ends_after: int
    published: list[tuple[str, bytes]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(self.published) == self.ends_after:
            raise LinkDownError("cut")
        self.published.append((topic, payload))
        self.news.set()

    async def until(self, number: int) -> None:
        """Wait until so many messages were published."""
        while len(self.published) < number:
            self.news.clear()
            await self.news.wait()

    def parts(self) -> list[str]:
        return [topic.rpartition("/")[2] for topic, _ in self.published]


@dataclass
class Delivery:
    """An outbox with one update of three chunks, delivered over one link after another."""

    outbox: Outbox
    plan: Schedule
    live: asyncio.Event
    wake: asyncio.Event

    async def over(self, link: RecordingLink, until_s: float = 5.0) -> None:
        """Deliver until the link ends."""
        with pytest.raises((LinkDownError, ExceptionGroup)):
            await asyncio.wait_for(
                deliver(
                    cast("Link", link), self.outbox, self.plan, TOPICS, "gw", self.live, self.wake
                ),
                until_s,
            )


def delivery(quota_bytes: int = 1 << 30) -> Delivery:
    outbox = Outbox(":memory:", quota_bytes)
    outbox.add(0, 1, lambda _at: (b"header", b"x" * (CHUNK_BYTES * CHUNKS - 1)))
    made = Delivery(outbox, schedule(), asyncio.Event(), asyncio.Event())
    made.live.set()
    return made


def test_a_cut_link_costs_what_was_in_flight_and_nothing_else() -> None:
    async def scenario() -> None:
        made = delivery()
        first = RecordingLink(ends_after=3)
        await made.over(first)
        assert first.parts() == ["h", "0", "1"]
        second = RecordingLink(ends_after=2)
        made.plan.reconnected()
        task = asyncio.create_task(made.over(second))
        await second.until(1)
        made.plan.received(receipt("wanted", wanted=[2]), 0.0)
        made.wake.set()
        await second.until(2)
        made.outbox.add(0, 1, lambda _at: (b"next", b"x"))  # the next publish meets the cut
        made.wake.set()
        await task
        assert second.parts() == ["h", "2"]
        assert second.published[1][1] == b"x" * (CHUNK_BYTES - 1)

    asyncio.run(scenario())


def test_nothing_is_sent_while_the_coordinator_is_away() -> None:
    async def scenario() -> None:
        made = delivery()
        made.live.clear()
        link = RecordingLink(ends_after=1)
        task = asyncio.create_task(made.over(link))
        await asyncio.sleep(0.05)
        assert link.published == []
        made.live.set()
        await task
        assert link.parts() == ["h"]

    asyncio.run(scenario())


def test_a_tombstone_is_a_header_without_chunks() -> None:
    async def scenario() -> None:
        made = delivery()
        made.outbox.bury(1, b"tombstone")
        made.outbox.add(0, 1, lambda _at: (b"next", b"x"))
        link = RecordingLink(ends_after=2)
        await made.over(link)
        assert [payload for _, payload in link.published] == [b"tombstone", b"next"]

    asyncio.run(scenario())


def test_a_committed_update_that_the_coordinator_wants_again_is_sent_again() -> None:
    async def scenario() -> None:
        made = delivery()
        link = RecordingLink(ends_after=CHUNKS + 3)
        task = asyncio.create_task(made.over(link))
        await link.until(CHUNKS + 1)
        incarnation = made.outbox.incarnation
        committed = Receipt(incarnation=incarnation, sequence=1, status="committed")
        made.outbox.settle((committed,), 1)
        made.plan.received(committed, 0.0)
        made.plan.received(receipt("wanted", wanted=[0, 2]), 0.0)  # restored from a backup
        made.wake.set()
        await link.until(CHUNKS + 3)
        made.outbox.add(0, 1, lambda _at: (b"next", b"x"))
        made.wake.set()
        await task
        assert link.parts()[-2:] == ["0", "2"]

    asyncio.run(scenario())


def test_a_bitmap_beyond_the_last_chunk_sends_nothing_that_does_not_exist() -> None:
    async def scenario() -> None:
        made = delivery()
        made.plan.next([1], 1e9)  # offered before
        made.plan.received(receipt("wanted", wanted=[2, 3, 4000]), 0.0)
        link = RecordingLink(ends_after=2)
        # deliver() starts with a new connection, so the header comes first
        task = asyncio.create_task(made.over(link))
        await link.until(1)
        made.plan.received(receipt("wanted", wanted=[2, 3, 4000]), 0.0)
        made.wake.set()
        await link.until(2)
        made.outbox.add(0, 1, lambda _at: (b"next", b"x"))
        made.wake.set()
        await task
        assert link.parts() == ["h", "2"]

    asyncio.run(scenario())
