"""An agent by hand: one link that sees everything and says what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from coordinator.ingest import Update
from tests.coordinator.small_federation import FEDERATION, Site, evaluation
from wire.chunks import Assembly, split
from wire.codec import Counter, seal, unseal
from wire.messages import (
    AgentState,
    Content,
    CoordinatorState,
    Head,
    Message,
    Receipt,
    Receipts,
    Report,
)
from wire.mqtt import BrokerSettings, Link, Received, connect
from wire.signing import PrivateKey, read_private_key
from wire.topics import Topics
from wire.trust import COORDINATOR

TOPICS = Topics(FEDERATION)
WAIT_S = 20.0
T = TypeVar("T")
M = TypeVar("M", bound=Message)


class Floor:
    """Everything that was published in the federation since this link came up."""

    def __init__(self, link: Link, keys: Path) -> None:
        self.link, self.keys = link, keys
        self.messages: list[Received] = []
        self.retained: dict[str, bytes] = {}
        self._news = asyncio.Condition()
        self._coordinator = read_private_key(keys / "coordinator.key")
        self._agents: dict[str, tuple[PrivateKey, Counter, Site]] = {}

    async def listen(self) -> None:
        """Collect until cancelled."""
        async for message in self.link.messages():
            self.messages.append(message)
            if not message.topic.startswith((f"{TOPICS.base}/up/", f"{TOPICS.base}/to/")):
                self.retained[message.topic] = message.payload
            async with self._news:
                self._news.notify_all()

    async def until(self, what: Callable[[], T | None], name: str) -> T:
        """Wait for `what` to give something; it is asked after each message and now and then."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = what()
                    if found:
                        return found
                    async with self._news:
                        try:
                            await asyncio.wait_for(self._news.wait(), 0.1)
                        except TimeoutError:
                            continue
        except TimeoutError:
            raise AssertionError(f"waited {WAIT_S} s for {name}") from None

    # What the coordinator says

    def _read(self, what: type[M], payload: bytes) -> tuple[M, int]:
        return unseal(
            payload,
            what,
            federation=FEDERATION,
            signer=COORDINATOR,
            key=self._coordinator.public,
        )

    def sign(self, message: Message) -> bytes:
        """What only the coordinator can say, as a broker may bring it back."""
        return seal(
            message, federation=FEDERATION, signer=COORDINATOR, counter=1, key=self._coordinator
        )

    async def head(self, version: int = 0, at_least: int = 1) -> Head:
        """The newest head, verified, once it is at this version and sequence."""

        def newest() -> Head | None:
            payloads = [item.payload for item in self.messages if item.topic == TOPICS.head]
            if not payloads:
                return None
            head, counter = self._read(Head, payloads[-1])
            assert counter == head.sequence
            fits = head.train.version >= version and head.sequence >= at_least
            return head if fits else None

        return await self.until(newest, f"a head with version {version}, sequence {at_least}")

    def coordinator_states(self) -> list[CoordinatorState]:
        """Births and wills of the coordinator."""
        topic = TOPICS.coordinator_state
        payloads = [item.payload for item in self.messages if item.topic == topic]
        return [self._read(CoordinatorState, payload)[0] for payload in payloads]

    def receipts(self, agent: str) -> list[Receipt]:
        """All receipts for one agent; their counters only grow."""
        payloads = [item.payload for item in self.messages if item.topic == TOPICS.to(agent)]
        read = [self._read(Receipts, payload) for payload in payloads]
        counters = [counter for _, counter in read]
        assert counters == sorted(set(counters))
        return [receipt for receipts, _ in read for receipt in receipts.items]

    async def watermark(self, agent: str, after: int = 0) -> tuple[str, int]:
        """Wait for the answer to a birth: the incarnation, and the highest sequence known of it."""

        def answered() -> tuple[str, int] | None:
            answers = self._answers(agent)
            return answers[after] if len(answers) > after else None

        return await self.until(answered, f"an answer to the birth of {agent}")

    def _answers(self, agent: str) -> list[tuple[str, int]]:
        payloads = [
            item.payload
            for item in self.messages
            if item.topic == TOPICS.to(agent) and b"command" not in item.payload[:24]
        ]
        read = [self._read(Receipts, payload)[0] for payload in payloads]
        return [(item.incarnation, item.highest) for item in read if item.incarnation]

    async def receipt(self, agent: str, status: str, sequence: int, after: int = 0) -> Receipt:
        """Wait for a receipt, ignoring the first `after` ones."""
        return await self.until(
            lambda: next(
                (
                    receipt
                    for receipt in self.receipts(agent)[after:]
                    if (receipt.status, receipt.sequence) == (status, sequence)
                ),
                None,
            ),
            f"{status} of update {sequence} of {agent}",
        )

    def content(self, kind: str, content: Content) -> bytes:
        """Content from its retained chunks, every hash checked."""
        topic_of = {"bundle": TOPICS.bundle, "model": TOPICS.model}[kind]
        assembly = Assembly(content)
        for index in range(len(content.chunks)):
            assembly.add(index, self.retained[topic_of(content.digest.hex(), index)])
        return assembly.join()

    def model_topics(self) -> set[str]:
        """Retained model chunks that are not empty, as their topics."""
        prefix = f"{TOPICS.base}/model/"
        return {topic for topic, data in self.retained.items() if topic.startswith(prefix) and data}

    # What an agent says

    async def birth(
        self,
        agent: str,
        session: int = 1,
        status: str = "online",
        produced: int = 0,
        *,
        is_answered: bool = True,
    ) -> Site:
        """Publish an agent's birth or will; a birth is answered before this returns.

        Returns:
          What numbers the agent's updates.
        """
        if agent not in self._agents:
            key = read_private_key(self.keys / f"{agent}.key")
            self._agents[agent] = key, Counter(session), Site(agent)
        key, counter, site = self._agents[agent]
        state = AgentState(
            status="online" if status == "online" else "offline",
            incarnation=site.incarnation,
            session=session,
            credential=(self.keys / f"{agent}.credential").read_bytes(),
            produced=produced,
        )
        envelope = self._seal(agent, state, key, counter)
        before = len(self._answers(agent))
        await self.link.publish(TOPICS.state(agent), envelope, retain=True)
        if status == "online" and is_answered:
            await self.watermark(agent, after=before)
        return site

    def header(self, update: Update) -> bytes:
        """The signed header of an update."""
        key, counter, _ = self._agents[update.header.agent]
        return self._seal(update.header.agent, update.header, key, counter)

    def _seal(self, agent: str, message: Message, key: PrivateKey, counter: Counter) -> bytes:
        return seal(message, federation=FEDERATION, signer=agent, counter=counter.next(), key=key)

    async def offer(self, update: Update, chunks: tuple[int, ...] | None = None) -> None:
        """Publish the header and these chunks (None: all)."""
        await self.publish_part(update, "h", self.header(update))
        parts = split(update.content, update.header.content.chunk_bytes)
        for index in range(len(parts)) if chunks is None else chunks:
            await self.publish_part(update, index, parts[index])

    async def publish_part(self, update: Update, part: int | str, payload: bytes) -> None:
        """Publish bytes under an update's topic."""
        header = update.header
        topic = TOPICS.update(header.agent, header.incarnation, header.sequence, part)
        await self.link.publish(topic, payload)

    async def report(self, agent: str, head: Head, quality: float = 2.0) -> None:
        """Publish a site's judgement of everything that the head names."""
        key, counter, _ = self._agents[agent]
        named = {ref.content.digest for ref in (head.train, head.serve, head.candidate) if ref}
        evaluations = tuple(evaluation(digest, quality, 40) for digest in sorted(named))
        message = Report(head=head.sequence, evaluations=evaluations)
        await self.link.publish(TOPICS.report(agent), self._seal(agent, message, key, counter))


@asynccontextmanager
async def floor(port: int, keys: Path) -> AsyncIterator[Floor]:
    """Connect and watch the whole federation."""
    broker = BrokerSettings(port=port)
    async with connect(broker, "scripted-floor") as link:
        watched = Floor(link, keys)
        listening = asyncio.create_task(watched.listen())
        await link.subscribe([f"{TOPICS.base}/#"])
        try:
            yield watched
        finally:
            listening.cancel()
