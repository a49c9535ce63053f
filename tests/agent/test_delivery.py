"""Delivery: what is offered when, and what a cut link costs; over a real broker."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from agent.config import Identity
from agent.delivery import IN_PROGRESS, Delivery, Schedule, Sending
from agent.outbox import Outbox, UpdateId
from agent.tombstones import seal_update
from tests.agent.conftest import Broker
from tests.agent.federation import AGENT
from wire.chunks import CHUNK_BYTES, Assembly, describe, to_bitmap
from wire.codec import Counter, unseal
from wire.errors import LinkDownError
from wire.messages import Receipt, UpdateHeader
from wire.mqtt import PACKET_OVERHEAD, BrokerSettings, Link, Received, connect
from wire.topics import HEADER_PART

CHUNKS = 3
CONTENT = np.random.default_rng(3).bytes(CHUNK_BYTES * CHUNKS - 1)
INCARNATION = "0" * 16
ONE, TWO = UpdateId(INCARNATION, 1), UpdateId(INCARNATION, 2)


def schedule(known: list[UpdateId] | None = None) -> Schedule:
    return Schedule(known or [], random.Random(1))


def receipt(
    status: str, sequence: int = 1, wanted: list[int] | None = None, incarnation: str = INCARNATION
) -> Receipt:
    return Receipt(
        incarnation=incarnation,
        sequence=sequence,
        status=status,  # type: ignore[arg-type]
        wanted=to_bitmap(wanted or []),
    )


FIRST = Sending(ONE, header=True, chunks=None)
HEADER = Sending(ONE, header=True, chunks=())


def test_the_first_offer_is_header_and_chunks_and_every_later_one_the_header() -> None:
    plan = schedule()
    assert plan.next([ONE], 0.0) == FIRST
    assert plan.next([ONE], 0.1) is None
    assert plan.next([ONE], 100.0) == HEADER
    assert plan.next([ONE], 1000.0) == HEADER


def test_the_waits_between_offers_grow_to_a_minute_and_stay_there() -> None:
    plan, now_s, offered = schedule(), 0.0, []
    for _ in range(20_000):  # a day and more of a coordinator that never answers
        if plan.next([ONE], now_s) is not None:
            offered.append(now_s)
        now_s += 5.0
    waits = [later - earlier for earlier, later in pairwise(offered)]
    assert waits[0] <= 5.0
    assert all(40.0 <= wait <= 80.0 for wait in waits[10:])
    assert len(offered) > 1100


def test_a_wanted_bitmap_sends_exactly_those_chunks_once() -> None:
    plan = schedule()
    plan.next([ONE], 0.0)
    plan.received(receipt("wanted", wanted=[0, 5, 9]), 0.1)
    assert plan.next([ONE], 0.1) == Sending(ONE, header=False, chunks=(0, 5, 9))
    assert plan.next([ONE], 0.2) is None


def test_later_waits_some_seconds_and_then_offers_the_header() -> None:
    plan = schedule()
    plan.next([ONE], 0.0)
    plan.received(receipt("later"), 10.0)
    assert plan.next([ONE], 13.0) is None
    assert plan.next([ONE], 17.0) == HEADER


def test_after_committed_the_outcome_is_asked_for_rarely() -> None:
    plan = schedule()
    plan.next([ONE], 0.0)
    plan.received(receipt("committed"), 1.0)
    assert plan.next([ONE], 15.0) is None
    assert plan.next([ONE], 27.0) == HEADER


def test_a_new_connection_makes_everything_due_and_forgets_what_was_wanted() -> None:
    plan = schedule()
    plan.next([ONE, TWO], 0.0)
    plan.next([ONE, TWO], 0.0)
    plan.received(receipt("wanted", 2, [4]), 0.0)
    plan.reconnected()
    assert plan.next([ONE, TWO], 0.1) == HEADER
    assert plan.next([ONE, TWO], 0.1) == Sending(TWO, header=True, chunks=())
    assert plan.next([ONE, TWO], 0.1) is None


def test_only_the_oldest_updates_are_in_progress() -> None:
    plan = schedule()
    waiting = [UpdateId(INCARNATION, sequence) for sequence in range(1, 3 * IN_PROGRESS)]
    offered = []
    while (sending := plan.next(waiting, 0.0)) is not None:
        offered.append(sending.id)
    assert offered == waiting[:IN_PROGRESS]
    following = plan.next(waiting[1:], 0.0)
    assert following == Sending(waiting[IN_PROGRESS], header=True, chunks=None)


def test_updates_that_wait_for_a_fold_leave_the_way_to_newer_ones() -> None:
    plan = schedule()
    waiting = [UpdateId(INCARNATION, sequence) for sequence in range(1, 2 * IN_PROGRESS + 1)]
    while (sending := plan.next(waiting, 0.0)) is not None:
        plan.received(receipt("committed", sending.id.sequence), 0.0)
    assert all(not plan.takes_chunks(update) for update in waiting)  # all of them are over there
    asked = set()
    while (again := plan.next(waiting, 1000.0)) is not None:
        asked.add(again.id)
    assert asked == set(waiting[:IN_PROGRESS])  # and of the oldest the outcome is asked for


def test_updates_of_an_earlier_process_are_offered_by_their_header() -> None:
    plan = schedule(known=[ONE])
    assert plan.next([ONE, TWO], 0.0) == HEADER
    assert plan.next([ONE, TWO], 0.0) == Sending(TWO, header=True, chunks=None)


def test_a_settled_update_is_never_offered_again() -> None:
    plan = schedule()
    plan.next([ONE], 0.0)
    assert plan.next([], 1000.0) is None
    plan.received(receipt("wanted", wanted=[0]), 1000.0)
    assert plan.next([], 1000.0) is None


def test_chunks_are_of_no_use_once_a_receipt_says_so() -> None:
    plan = schedule()
    plan.next([ONE], 0.0)
    assert plan.takes_chunks(ONE)
    for status in ("committed", "later", "folded"):
        plan.received(receipt(status), 0.0)
        assert not plan.takes_chunks(ONE)
        plan.received(receipt("wanted", wanted=[1]), 0.0)
        assert plan.takes_chunks(ONE)


@dataclass
class Gateway:
    """An outbox and its delivery; what it publishes is read back from the broker."""

    identity: Identity
    port: int
    outbox: Outbox
    plan: Schedule
    live: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Received] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    counter: Counter = field(default_factory=lambda: Counter(1))
    beats: int = 0

    def beat(self) -> None:
        self.beats += 1

    def make(self, content: bytes = CONTENT) -> UpdateId:
        """One more update, with a real header."""

        def build(incarnation: str, sequence: int) -> tuple[bytes, bytes]:
            header = UpdateHeader(
                agent=AGENT,
                incarnation=incarnation,
                sequence=sequence,
                lineage=0,
                base_version=1,
                base_digest=bytes(32),
                examples=10,
                weight=10,
                scale=0.1,
                bits=8,
                content=describe(content),
            )
            return seal_update(header, self.identity, self.counter), content

        return self.outbox.add(0, 1, build)

    @asynccontextmanager
    async def delivering(self, **broker: object) -> AsyncIterator[Link]:
        """Deliver over one connection until it is aborted or the block ends."""
        settings = BrokerSettings(port=self.port, **broker)  # type: ignore[arg-type]
        delivery = Delivery(
            self.outbox, self.plan, self.identity, self.live, self.wake, beat=self.beat
        )
        async with connect(settings, AGENT) as link:
            running = asyncio.create_task(delivery.run(link, self.counter))
            try:
                yield link
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError, LinkDownError, ExceptionGroup):
                    await running

    async def listen(self, link: Link) -> None:
        with suppress(LinkDownError):
            async for message in link.messages():
                self.seen.append(message)
                self.news.set()

    async def until(self, parts: list[str], start: int = 0) -> None:
        """Wait until exactly these parts were published, and see that no more come."""
        async with asyncio.timeout(20):
            while len(self.seen) - start < len(parts):
                self.news.clear()
                await self.news.wait()
        await asyncio.sleep(0.1)
        assert self.parts()[start:] == parts

    def parts(self) -> list[str]:
        return [message.topic.rpartition("/")[2] for message in self.seen]

    def header(self, at: int) -> UpdateHeader:
        return unseal(
            self.seen[at].payload,
            UpdateHeader,
            federation=self.identity.trust.federation,
            signer=AGENT,
            key=self.identity.key.public,
        )[0]

    def tell(self, status: str, wanted: list[int] | None = None) -> None:
        said = receipt(status, 1, wanted, self.outbox.incarnation)
        self.outbox.settle((said,), 1)
        self.plan.received(said, time.monotonic())
        self.wake.set()


@asynccontextmanager
async def gateway(identity: Identity, broker: Broker) -> AsyncIterator[Gateway]:
    """A gateway with one update of three chunks, and somebody who reads what it publishes."""
    made = Gateway(identity, broker.port, Outbox(":memory:", 1 << 30), schedule())
    made.make()
    made.live.set()
    async with connect(BrokerSettings(port=broker.port), "reader") as reader:
        await reader.subscribe([identity.topics.all_updates])
        listening = asyncio.create_task(made.listen(reader))
        yield made
        listening.cancel()


def test_a_cut_link_costs_what_was_in_flight_and_nothing_else(
    identity: Identity, broker: Broker
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            async with made.delivering() as link:
                await made.until([HEADER_PART, "0", "1", "2"])
                link.abort()  # and one chunk did not get through, says the coordinator
            async with made.delivering():
                await made.until([HEADER_PART], start=4)
                made.tell("wanted", [2])
                await made.until([HEADER_PART, "2"], start=4)
            assert made.seen[-1].payload == CONTENT[2 * CHUNK_BYTES :]

    asyncio.run(scenario())


def test_nothing_is_sent_while_the_coordinator_is_away(identity: Identity, broker: Broker) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            made.live.clear()
            async with made.delivering():
                await asyncio.sleep(0.2)
                assert made.seen == []
                made.live.set()
                await made.until([HEADER_PART, "0", "1", "2"])

    asyncio.run(scenario())


def test_no_more_chunks_go_once_the_coordinator_has_the_update(
    identity: Identity, broker: Broker
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            # one chunk a second: the receipt (of an earlier offer) is here before the second
            async with made.delivering(bulk_bytes_s=CHUNK_BYTES):
                async with asyncio.timeout(20):
                    while HEADER_PART not in made.parts():
                        await made.news.wait()
                made.tell("committed")
                await asyncio.sleep(3.5)
            assert made.parts()[0] == HEADER_PART
            assert len(made.parts()) < 1 + CHUNKS

    asyncio.run(scenario())


def test_a_tombstone_is_a_header_without_chunks(identity: Identity, broker: Broker) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            made.outbox.bury(made.outbox.open_updates()[0], b"tombstone")
            async with made.delivering():
                await made.until([HEADER_PART])
            assert made.seen[0].payload == b"tombstone"

    asyncio.run(scenario())


def test_a_committed_update_that_the_coordinator_wants_again_is_sent_again(
    identity: Identity, broker: Broker
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made, made.delivering():
            await made.until([HEADER_PART, "0", "1", "2"])
            made.tell("committed")
            made.tell("wanted", [0, 2])  # restored from a backup
            await made.until(["0", "2"], start=4)

    asyncio.run(scenario())


def test_a_bitmap_beyond_the_last_chunk_sends_nothing_that_does_not_exist(
    identity: Identity, broker: Broker
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made, made.delivering():
            await made.until([HEADER_PART, "0", "1", "2"])
            made.tell("wanted", [2, 3, 4000])
            await made.until(["2"], start=4)

    asyncio.run(scenario())


def test_an_update_is_cut_smaller_for_a_broker_that_takes_small_packets(
    identity: Identity, broker: Broker
) -> None:
    broker.kill()
    broker.start("max_packet_size 50000\n")

    async def scenario() -> None:
        async with gateway(identity, broker) as made, made.delivering(protocol="5"):
            number = -(-len(CONTENT) // (50_000 - PACKET_OVERHEAD))
            # The first header went out before the first chunk turned out to be too large.
            parts = [HEADER_PART, HEADER_PART, *map(str, range(number))]
            await made.until(parts)
            first, second = made.header(0), made.header(1)
            assert second.content.digest == first.content.digest
            assert (second.incarnation, second.sequence) == (first.incarnation, first.sequence)
            assembly = Assembly(second.content)
            for index, message in enumerate(made.seen[2:]):
                assembly.add(index, message.payload)
            assert assembly.join() == CONTENT

    asyncio.run(scenario())


def test_an_update_that_rotted_on_the_disk_ends_as_a_tombstone(
    identity: Identity, broker: Broker
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            rot = vars(made.outbox)["_file"]
            rot.write(lambda database: database.execute("UPDATE updates SET content = x'00'"))
            async with made.delivering():
                await made.until([HEADER_PART])
            assert made.header(0).dropped == "damaged"
            assert made.header(0).content.digest == describe(CONTENT).digest

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_many_updates_all_arrive_whole_and_in_order(
    identity: Identity, broker: Broker, protocol: str
) -> None:
    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            for number in range(1, 12):
                made.make(bytes([number]) * 1000)
            async with made.delivering(protocol=protocol):
                await made.until([HEADER_PART, "0", "1", "2", *[HEADER_PART, "0"] * 11])

    asyncio.run(scenario())


def test_it_beats_while_it_waits_and_not_while_an_acknowledgment_never_comes(
    identity: Identity, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wire.waiting._SLICE_S", 0.01)

    async def scenario() -> None:
        async with gateway(identity, broker) as made:
            made.live.clear()
            async with made.delivering(ack_timeout_s=600, keepalive_s=600):
                await beats_on(made)  # there is no coordinator
                made.live.set()
                await made.until([HEADER_PART, "0", "1", "2"])
                await beats_on(made)  # there is nothing to do
                assert broker.process is not None
                broker.process.send_signal(signal.SIGSTOP)
                try:
                    made.make()
                    made.wake.set()
                    await asyncio.sleep(1.0)
                    stuck = made.beats
                    await asyncio.sleep(1.5)
                    assert made.beats == stuck
                finally:
                    broker.process.send_signal(signal.SIGCONT)
                await beats_on(made)

    asyncio.run(scenario())


async def beats_on(made: Gateway) -> None:
    begin = made.beats
    async with asyncio.timeout(20):
        while made.beats < begin + 3:  # noqa: ASYNC110  a counter has no event
            await asyncio.sleep(0.01)
