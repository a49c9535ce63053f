"""Fetching: a window of chunks over real brokers and links that fail."""

import asyncio
import contextlib
import getpass
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import pytest

from agent.adoption import Adoption
from agent.fetch import WINDOW, Fetch
from agent.models import Models
from shopfloor.links import FlakyLink
from shopfloor.links import Link as Ports
from shopfloor.ports import free_port
from tests.agent.federation import CHANNELS, Federation, Publication
from tests.agent.test_models import full_disk
from wire.chunks import describe, split
from wire.errors import LinkDownError, WireError
from wire.messages import VersionRef
from wire.mqtt import BrokerSettings, Link, connect

CHUNK_BYTES = 120_000
DEADLINE_S = 60.0


@dataclass
class Broker:
    """A mosquitto with settings of the test's own; what it holds is gone when it ends."""

    program: str
    folder: Path
    more: str = ""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Broker":
        self.port = self.port or free_port()
        settings = self.folder / "mosquitto.conf"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n"
            + self.more
        )
        self.process = subprocess.Popen(
            [self.program, "-c", str(settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            time.sleep(0.02)
        pytest.fail("mosquitto does not listen")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


StartBroker = Callable[[str], Broker]


@pytest.fixture
def start_broker(mosquitto_program: str, tmp_path: Path) -> Iterator[StartBroker]:
    """Start a mosquitto with more lines of settings; all end with the test."""
    with contextlib.ExitStack() as running:

        def start(more: str) -> Broker:
            broker = Broker(mosquitto_program, tmp_path, more)
            running.callback(broker.kill)
            return broker.start()

        yield start


def large(
    federation: Federation, size: int, sequence: int = 1, seed: int = 1
) -> tuple[Publication, bytes]:
    """A head whose `train` content is so many random bytes: no weights, but that is found last."""
    data = random.Random(seed).randbytes(size)
    content = describe(data, CHUNK_BYTES)
    plain = federation.publish(sequence)
    head = msgspec.structs.replace(plain.head, train=VersionRef(version=1, content=content))
    topics = federation.topics
    chunks = plain.chunks | {
        topics.model(content.digest.hex(), at): chunk
        for at, chunk in enumerate(split(data, CHUNK_BYTES))
    }
    return Publication(head, federation.seal_head(head), chunks), data


async def publish(port: int, federation: Federation, publication: Publication) -> None:
    """Publish contents and head, retained, as the coordinator does."""
    async with connect(BrokerSettings(port=port), "coordinator") as link:
        for topic, chunk in publication.chunks.items():
            await link.publish(topic, chunk, retain=True)
        await link.publish(federation.topics.head, publication.envelope, retain=True)


@dataclass
class Agent:
    """As much of an agent as fetches: models, adoption, and one connection after another."""

    federation: Federation
    path: Path
    connections: int = 0
    received_bytes: int = 0

    def __post_init__(self) -> None:
        self.models = Models(self.path / "models.db")
        self.adoption = Adoption(self.models, self.federation.trust, CHANNELS)
        self.fetch = Fetch(self.adoption, patience_s=2.0)
        self.changed = asyncio.Event()

    async def run(self, port: int) -> None:
        """Stay connected, for ever."""
        while True:
            with contextlib.suppress(LinkDownError):
                try:
                    await self._connected(port)
                except* LinkDownError as group:
                    raise LinkDownError("ended") from group
            await asyncio.sleep(0.02)

    async def _connected(self, port: int) -> None:
        broker = BrokerSettings(port=port)
        async with connect(broker, "gateway-1") as link, asyncio.TaskGroup() as tasks:
            self.connections += 1
            tasks.create_task(self._listen(link))
            await link.subscribe([self.federation.topics.head])
            tasks.create_task(self.fetch.run(link, tasks))

    async def _listen(self, link: Link) -> None:
        async for message in link.messages():
            self.received_bytes += len(message.payload)
            with contextlib.suppress(WireError):
                if message.topic == self.federation.topics.head:
                    self.fetch.on_head(message.payload)
                else:
                    self.fetch.on_chunk(message.topic, message.payload)
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, at most the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def running(agent: Agent, port: int) -> AsyncIterator[Agent]:
    task = asyncio.create_task(agent.run(port))
    try:
        yield agent
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_broker_that_queues_little_loses_no_chunk_of_a_large_model(
    tmp_path: Path, federation: Federation, start_broker: StartBroker
) -> None:
    broker = start_broker("max_queued_messages 20\n")
    publication, data = large(federation, 5_000_000)

    async def scenario() -> None:
        await publish(broker.port, federation, publication)
        async with running(Agent(federation, tmp_path), broker.port) as agent:
            await agent.until(
                lambda: not agent.adoption.wanted() and agent.adoption.head is not None
            )
            assert agent.models.read(publication.head.train.content.digest) == data
            assert agent.received_bytes < 1.1 * (len(data) + len(federation.bundle) + 10_000)

    asyncio.run(scenario())


def test_a_link_that_is_cut_again_and_again_costs_little_more_than_the_model(
    tmp_path: Path, federation: Federation, start_broker: StartBroker
) -> None:
    broker = start_broker("")
    publication, data = large(federation, 4_000_000)

    async def cut(link: FlakyLink) -> None:
        while True:
            await asyncio.sleep(0.6)
            link.cut("reset")
            await asyncio.sleep(0.1)
            link.restore()

    async def scenario() -> None:
        await publish(broker.port, federation, publication)
        ports = Ports("gateway-1", free_port(), broker.port)
        async with FlakyLink(ports, 2_000_000.0) as link:
            cuts = asyncio.create_task(cut(link))
            async with running(Agent(federation, tmp_path), ports.listen_port) as agent:
                digest = publication.head.train.content.digest
                await agent.until(lambda: agent.models.has(digest))
                assert agent.models.read(digest) == data
                assert agent.connections >= 2
                assert link.down_bytes < 1.5 * len(data)
            cuts.cancel()

    asyncio.run(scenario())


def test_a_restart_in_the_middle_fetches_only_the_rest(
    tmp_path: Path, federation: Federation, start_broker: StartBroker
) -> None:
    broker = start_broker("")
    publication, data = large(federation, 5_000_000)
    digest = publication.head.train.content.digest

    async def scenario() -> None:
        await publish(broker.port, federation, publication)
        ports = Ports("gateway-1", free_port(), broker.port)
        async with FlakyLink(ports, 5_000_000.0):
            async with running(Agent(federation, tmp_path), ports.listen_port) as first:
                await first.until(lambda: len(first.models.parts(digest)) >= 10)
            assert not first.models.has(digest)
            here = len(first.models.parts(digest)) * CHUNK_BYTES
            first.models.close()
            async with running(Agent(federation, tmp_path), ports.listen_port) as second:
                await second.until(lambda: second.models.has(digest))
                assert second.models.read(digest) == data
                assert second.received_bytes <= len(data) - here + len(publication.envelope)

    asyncio.run(scenario())


def test_a_broker_that_lost_its_retained_messages_is_waited_for(
    tmp_path: Path, federation: Federation, start_broker: StartBroker
) -> None:
    broker = start_broker("")
    publication, data = large(federation, 1_000_000)
    digest = publication.head.train.content.digest

    async def scenario() -> None:
        headless = Publication(publication.head, publication.envelope, {})
        await publish(broker.port, federation, headless)
        async with running(Agent(federation, tmp_path), broker.port) as agent:
            await agent.until(lambda: agent.adoption.head is not None)
            broker.kill()
            broker.start()
            await publish(broker.port, federation, publication)
            await agent.until(lambda: agent.models.has(digest))
            assert agent.models.read(digest) == data
            assert agent.connections >= 2

    asyncio.run(scenario())


def test_what_a_new_head_does_not_name_is_given_up(
    tmp_path: Path, federation: Federation, start_broker: StartBroker
) -> None:
    broker = start_broker("")
    first, _ = large(federation, 1_000_000, sequence=1, seed=1)
    second, data = large(federation, 1_000_000, sequence=2, seed=2)
    digest = second.head.train.content.digest

    async def scenario() -> None:
        await publish(broker.port, federation, Publication(first.head, first.envelope, {}))
        async with running(Agent(federation, tmp_path), broker.port) as agent:
            await agent.until(lambda: agent.adoption.head is not None)
            await publish(broker.port, federation, second)
            await agent.until(lambda: agent.models.has(digest))
            assert agent.models.read(digest) == data
            assert not agent.models.has(first.head.train.content.digest)

    asyncio.run(scenario())


@dataclass
class RecordingLink:
    """A link that answers a subscription by handing over the chunk, or does not."""

    fetch: Fetch
    chunks: dict[str, bytes]
    answers: Callable[[str], bool]
    subscribed: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    outstanding: list[int] = field(default_factory=list)
    repeated: asyncio.Event = field(default_factory=asyncio.Event)

    async def subscribe(self, topics: list[str]) -> None:
        for topic in topics:
            if topic in self.subscribed:
                self.repeated.set()
            self.subscribed.append(topic)
            assert topic not in self.open
        self.open.update(topics)
        self.outstanding.append(len(self.fetch.asked))
        await asyncio.sleep(0)
        for topic in topics:
            if self.answers(topic):
                with contextlib.suppress(WireError):
                    self.fetch.on_chunk(topic, self.chunks[topic])

    async def unsubscribe(self, topics: list[str]) -> None:
        self.open.difference_update(topics)


async def fetched(link: RecordingLink, adoption: Adoption, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(link.fetch.run(cast("Link", link), tasks))
        while not condition():  # noqa: ASYNC110  what it asks has no event
            await asyncio.sleep(0.01)
        task.cancel()


def test_the_window_opens_from_two_to_sixteen_chunks_and_everything_is_unsubscribed(
    tmp_path: Path, federation: Federation
) -> None:
    publication, _ = large(federation, 5_000_000)
    adoption = Adoption(Models(tmp_path / "models.db"), federation.trust, CHANNELS)

    async def scenario() -> RecordingLink:
        fetch = Fetch(adoption)
        link = RecordingLink(fetch, publication.chunks, lambda _: True)
        fetch.on_head(publication.envelope)
        await fetched(link, adoption, lambda: not adoption.wanted() and not link.open)
        return link

    link = asyncio.run(scenario())
    assert sorted(link.subscribed) == sorted(publication.chunks)
    assert link.outstanding[0] == 2
    assert max(link.outstanding) == WINDOW
    train = publication.head.train.content.digest.hex()
    assert train not in "".join(link.subscribed[: len(publication.chunks) - 42])


def test_a_chunk_that_does_not_come_is_unsubscribed_and_asked_for_again(
    tmp_path: Path, federation: Federation
) -> None:
    publication = federation.publish(1)
    adoption = Adoption(Models(tmp_path / "models.db"), federation.trust, CHANNELS)
    lost = next(iter(publication.chunks))

    async def scenario() -> RecordingLink:
        fetch = Fetch(adoption, patience_s=0.02)
        link = RecordingLink(
            fetch,
            publication.chunks,
            lambda topic: topic != lost or link.subscribed.count(lost) == 3,
        )
        fetch.on_head(publication.envelope)
        await fetched(link, adoption, lambda: adoption.current is not None)
        return link

    link = asyncio.run(scenario())
    assert link.subscribed.count(lost) == 3
    assert sorted(set(link.subscribed)) == sorted(publication.chunks)


def test_a_wrong_chunk_is_asked_for_again(tmp_path: Path, federation: Federation) -> None:
    publication = federation.publish(1)
    adoption = Adoption(Models(tmp_path / "models.db"), federation.trust, CHANNELS)
    topic, right = next(iter(publication.chunks.items()))

    async def scenario() -> None:
        fetch = Fetch(adoption, patience_s=0.02)
        forged = publication.chunks | {topic: b"forged"}
        link = RecordingLink(fetch, forged, lambda _: True)
        fetch.on_head(publication.envelope)

        def repeated() -> bool:
            if link.repeated.is_set():
                link.chunks[topic] = right
            return adoption.current is not None

        await fetched(link, adoption, repeated)

    asyncio.run(scenario())
    assert adoption.current is not None


def test_nothing_is_asked_for_while_the_disk_is_full(
    tmp_path: Path, federation: Federation
) -> None:
    publication, data = large(federation, 2_000_000)
    digest = publication.head.train.content.digest
    models = Models(tmp_path / "models.db")
    adoption = Adoption(models, federation.trust, CHANNELS)

    async def scenario() -> None:
        fetch = Fetch(adoption, pause_s=0.02)
        link = RecordingLink(fetch, publication.chunks, lambda _: True)
        with full_disk(tmp_path / "models.db"):
            fetch.on_head(publication.envelope)
            await fetched(link, adoption, lambda: bool(adoption.stalled) and not link.open)
            asked = len(link.subscribed)
            await fetched(link, adoption, lambda: True)
            await asyncio.sleep(0.1)
            assert len(link.subscribed) == asked
        await fetched(link, adoption, lambda: models.has(digest))

    asyncio.run(scenario())
    assert models.read(digest) == data
