"""Agents as load: prebuilt, signed updates from one process, offered until they are receipted.

Each publisher is one MQTT client and one agent: birth, inbox, and at most as many updates without
a receipt as the product's own delivery has.  Contents come from a small pool per agent and headers
are signed beforehand, so that offering an update costs one `sendmsg`.
"""

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agent.delivery import IN_PROGRESS
from benchmarks.raw_mqtt import RawClient
from benchmarks.testbed import FEDERATION, PARAMETERS, TOPICS, BenchmarkError, Testbed
from wire.chunks import describe
from wire.codec import Counter, open_envelope, parse_body, seal
from wire.keys import make_agent
from wire.messages import AgentState, Content, CoordinatorState, Head, Receipts, UpdateHeader
from wire.signing import PrivateKey, read_private_key
from wire.topics import HEADER_PART

POOL = 24
"""Different contents of one agent; ids are what makes updates different."""
_WEIGHT = 100
_SILENCE_S = 3.0
"""Updates whose receipts did not come by then are offered again."""


@dataclass
class Observer:
    """Hears heads and the coordinator's births; sees what agents see."""

    client: RawClient
    heads: list[Head] = field(default_factory=list)
    births: list[tuple[float, CoordinatorState]] = field(default_factory=list)
    """When they came (monotonic), and what they said."""

    @classmethod
    def connect(cls, port: int) -> "Observer":
        """Connect and listen from here on; what is retained comes first."""
        client = RawClient(port, "benchmark-observer")
        client.subscribe([TOPICS.head, TOPICS.coordinator_state])
        return cls(client)

    def read(self) -> None:
        """Take what is there, waiting for some bytes."""
        for message in self.client.messages():
            if message.topic == TOPICS.head:
                self.heads.append(parse_body(open_envelope(message.payload, "head"), Head))
            else:
                opened = open_envelope(message.payload, "coordinator-state")
                state = parse_body(opened, CoordinatorState)
                self.births.append((time.monotonic(), state))

    def wait_online(self, after: int = 0, timeout_s: float = 20.0) -> float:
        """Wait for a birth with a session above `after`; return when it came (monotonic)."""
        until_s = time.monotonic() + timeout_s
        while True:
            for at_s, state in self.births:
                if state.status == "online" and state.session > after and self.heads:
                    return at_s
            if time.monotonic() > until_s:
                raise BenchmarkError(f"no birth of the coordinator above session {after}")
            if select.select([self.client.socket], [], [], 0.5)[0]:
                self.read()

    @property
    def session(self) -> int:
        """The coordinator's newest session."""
        return max((state.session for _, state in self.births), default=0)


@dataclass
class Publisher:
    """One agent with its prebuilt updates."""

    agent: str
    incarnation: str
    client: RawClient
    contents: list[bytes]
    topics: list[tuple[str, str]]
    """Of header and chunk, by sequence - 1; each content is one chunk."""
    headers: list[bytes]
    sent_s: dict[int, float] = field(default_factory=dict)
    """Sequences on their way, and when they were offered (monotonic)."""
    committed: dict[int, float] = field(default_factory=dict)
    """Sequences with a receipt, and the seconds that it took."""
    folded: dict[int, int] = field(default_factory=dict)
    """Sequences, and the version that the coordinator named."""
    resent: int = 0
    heard_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether each update has a durable receipt."""
        return len(self.committed) == len(self.headers)

    def content_of(self, sequence: int) -> bytes:
        """The content of an update."""
        return self.contents[sequence % len(self.contents)]

    def offer(self, sequence: int, *, content: bool = True) -> None:
        """Publish the header and (first time) the chunk."""
        header, chunk = self.topics[sequence - 1]
        self.sent_s[sequence] = time.monotonic()
        self.client.publish(header, self.headers[sequence - 1])
        if content:
            self.client.publish(chunk, self.content_of(sequence))

    def fill(self, window: int = IN_PROGRESS) -> None:
        """Offer new updates while there is room, and old ones again after a silence."""
        now_s = time.monotonic()
        if self.sent_s and now_s - max(self.heard_s, *self.sent_s.values()) > _SILENCE_S:
            self.resent += len(self.sent_s)
            for sequence in list(self.sent_s):
                self.offer(sequence)
        following = len(self.committed) + len(self.sent_s) + 1
        while len(self.sent_s) < window and following <= len(self.headers):
            self.offer(following)
            following += 1

    def read(self) -> None:
        """Take receipts."""
        for message in self.client.messages():
            if message.topic != TOPICS.to(self.agent):
                continue
            self.heard_s = time.monotonic()
            for item in parse_body(open_envelope(message.payload, "receipts"), Receipts).items:
                if item.status in ("wanted", "later"):
                    continue
                if item.status == "folded":
                    self.folded[item.sequence] = item.version
                elif item.status != "committed":
                    raise BenchmarkError(f"{self.agent} {item.sequence}: {item.reason}")
                began_s = self.sent_s.pop(item.sequence, None)
                if began_s is not None:
                    self.committed.setdefault(item.sequence, self.heard_s - began_s)


def make_publishers(
    testbed: Testbed, port: int, head: Head, agents: int, updates: int
) -> list[Publisher]:
    """Make agents with signed updates from the head's version, connect them, publish births."""
    return [_make(testbed, port, head, number, updates) for number in range(agents)]


def _make(testbed: Testbed, port: int, head: Head, number: int, updates: int) -> Publisher:
    agent, incarnation = f"press-{number}", f"{number:016x}"
    make_agent(testbed.keys, FEDERATION, agent, f"site-{number}")
    key = read_private_key(testbed.keys / f"{agent}.key")
    credential = (testbed.keys / f"{agent}.credential").read_bytes()
    counter = Counter(1)
    random = np.random.default_rng(number)
    contents = [
        random.integers(-127, 128, PARAMETERS).astype(np.int8).tobytes() for _ in range(POOL)
    ]
    described = [describe(content) for content in contents]
    headers = [
        _header(agent, incarnation, sequence, head, described[sequence % POOL], counter, key)
        for sequence in range(1, updates + 1)
    ]
    topics = [
        (
            TOPICS.update(agent, incarnation, sequence, HEADER_PART),
            TOPICS.update(agent, incarnation, sequence, 0),
        )
        for sequence in range(1, updates + 1)
    ]
    client = RawClient(port, agent)
    client.subscribe([TOPICS.to(agent)])
    client.publish(
        TOPICS.state(agent), birth(agent, incarnation, credential, counter, key), retain=True
    )
    return Publisher(agent, incarnation, client, contents, topics, headers)


def birth(
    agent: str, incarnation: str, credential: bytes, counter: Counter, key: PrivateKey
) -> bytes:
    """A signed birth of session 1."""
    state = AgentState(
        status="online", incarnation=incarnation, session=1, credential=credential, produced=1 << 40
    )
    return seal(state, federation=FEDERATION, signer=agent, counter=counter.next(), key=key)


def _header(
    agent: str,
    incarnation: str,
    sequence: int,
    head: Head,
    content: Content,
    counter: Counter,
    key: PrivateKey,
) -> bytes:
    header = UpdateHeader(
        agent=agent,
        incarnation=incarnation,
        sequence=sequence,
        lineage=head.lineage,
        base_version=head.train.version,
        base_digest=head.train.content.digest,
        examples=_WEIGHT,
        weight=_WEIGHT,
        scale=head.policy.scale,
        bits=8,
        content=content,
    )
    return seal(header, federation=FEDERATION, signer=agent, counter=counter.next(), key=key)


def pump(
    publishers: list[Publisher],
    observer: Observer,
    until: Callable[[], bool],
    timeout_s: float,
    window: int = IN_PROGRESS,
) -> None:
    """Offer and read until a condition holds.

    Raises:
      BenchmarkError: it did not within `timeout_s`.
    """
    poller = select.epoll()
    readers: dict[int, Callable[[], None]] = {
        publisher.client.socket.fileno(): publisher.read for publisher in publishers
    }
    readers[observer.client.socket.fileno()] = observer.read
    for number in readers:
        poller.register(number, select.EPOLLIN)
    until_s = time.monotonic() + timeout_s
    try:
        while not until():
            for publisher in publishers:
                publisher.fill(window)
            for number, _ in poller.poll(0.2):
                readers[number]()
            if time.monotonic() > until_s:
                done = sum(len(publisher.committed) for publisher in publishers)
                raise BenchmarkError(f"only {done} updates have receipts after {timeout_s:g} s")
    finally:
        poller.close()
