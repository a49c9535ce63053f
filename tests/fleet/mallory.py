"""Mallory: an enrolled agent, correctly signed and within every limit, who means harm."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.model import Model
from shopfloor.baselines import judge
from shopfloor.plant import FEDERATION, Plant
from wire.chunks import Assembly, describe, split
from wire.codec import Counter, seal, unseal
from wire.messages import (
    AgentState,
    Head,
    Message,
    Receipt,
    Receipts,
    UpdateHeader,
    VersionRef,
)
from wire.mqtt import Link, Received
from wire.signing import read_private_key
from wire.tensors import Params, flatten, pack_integers, read_params, round_to_steps
from wire.topics import Topics
from wire.trust import COORDINATOR

MALLORY = "mallory"
INCARNATION = "0123456789abcdef"
TOPICS = Topics(FEDERATION)
WAIT_S = 100.0
"""For what takes a second or ten on a machine with nothing else to do."""
T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass
class Mallory:
    """Trains nothing, sees everything, and turns back what was learned.

    Attributes:
      heads: every head that crossed the broker, its signature verified.
      receipts: what the coordinator told each agent, in order.
      offered: how many updates she made.
    """

    plant: Plant
    link: Link
    model: Model
    start: Params
    heads: list[Head] = field(default_factory=list)
    receipts: dict[str, list[Receipt]] = field(default_factory=dict)
    offered: int = 0
    _retained: dict[str, bytes] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        keys = self.plant.directory / "keys"
        self._key, self._counter = read_private_key(keys / f"{MALLORY}.key"), Counter(1)
        self._credential = (keys / f"{MALLORY}.credential").read_bytes()
        self._coordinator = read_private_key(keys / "coordinator.key").public

    # What she sees

    async def listen(self) -> None:
        """Write down what crosses the broker, until cancelled."""
        async for message in self.link.messages():
            self._take(message)
            async with self._news:
                self._news.notify_all()

    def _take(self, message: Received) -> None:
        kind = message.topic.removeprefix(f"{TOPICS.base}/").partition("/")[0]
        if kind == "head":
            self.heads.append(self._read(Head, message))
        elif kind == "to":
            inbox = self.receipts.setdefault(message.topic.rpartition("/")[2], [])
            inbox.extend(self._read(Receipts, message).items)
        elif kind == "model" and message.payload:
            self._retained[message.topic] = message.payload

    def _read(self, what: type[M], message: Received) -> M:
        read, _ = unseal(
            message.payload,
            what,
            federation=FEDERATION,
            signer=COORDINATOR,
            key=self._coordinator,
        )
        return read

    async def until(self, what: Callable[[], T | None], name: str) -> T:
        """Wait for `what` to give something; it is asked after each message and now and then."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not (found := what()):
                    async with self._news:
                        try:
                            await asyncio.wait_for(self._news.wait(), 0.2)
                        except TimeoutError:
                            continue
                return found
        except TimeoutError:
            reason = f"waited {WAIT_S:g} s for {name}; see {self.plant.directory}"
            raise AssertionError(reason) from None

    @property
    def head(self) -> Head:
        """The newest head."""
        return self.heads[-1]

    def weights(self, ref: VersionRef) -> Params | None:
        """A version as it was published, every hash checked; None while some of it is missing."""
        assembly, name = Assembly(ref.content), ref.content.digest.hex()
        for index in range(len(ref.content.chunks)):
            chunk = self._retained.get(TOPICS.model(name, index))
            if chunk is None:
                return None
            assembly.add(index, chunk)
        return read_params(assembly.join(), self.model.manifest.shared_shapes)

    def quality(self, ref: VersionRef) -> float:
        """PR-AUC of a version on the rows that no agent saw; 0 while some of it is missing."""
        params = self.weights(ref)
        held_out = {site.name: site.held_out for site in self.plant.sites}
        return judge(self.model, params, held_out).pr_auc if params is not None else 0.0

    # What she does

    async def birth(self) -> None:
        """Come online as any agent does."""
        state = AgentState(
            status="online", incarnation=INCARNATION, session=1, credential=self._credential
        )
        await self.link.publish(TOPICS.state(MALLORY), self._seal(state), retain=True)

    async def poison(self, good: Params) -> None:
        """Push every version of this lineage away from what was learned, until there is another."""
        lineage, poisoned = self.head.lineage, -1
        learned = flatten(good).astype(np.float64) - flatten(self.start)
        direction = -learned / np.linalg.norm(learned)

        def next_base() -> Head | None:
            head = self.head
            return head if head.train.version > poisoned or head.lineage != lineage else None

        while (head := await self.until(next_base, "another version")).lineage == lineage:
            poisoned = head.train.version
            await self._offer(head, direction * head.policy.clip_norm)

    async def _offer(self, head: Head, delta: NDArray[np.float64]) -> None:
        """Send an update from this head's version, as heavy as the policy allows."""
        policy, self.offered = head.policy, self.offered + 1
        rng = np.random.default_rng(self.offered)
        integers, saturated = round_to_steps(delta, policy.scale, policy.bits, rng)
        content = pack_integers(integers, policy.bits)
        header = UpdateHeader(
            agent=MALLORY,
            incarnation=INCARNATION,
            sequence=self.offered,
            lineage=head.lineage,
            base_version=head.train.version,
            base_digest=head.train.content.digest,
            examples=policy.weight_cap,
            weight=policy.weight_cap,
            scale=policy.scale,
            bits=policy.bits,
            saturated=saturated,
            content=describe(content),
        )
        parts: list[tuple[int | str, bytes]] = [("h", self._seal(header))]
        parts += enumerate(split(content))
        for part, payload in parts:
            topic = TOPICS.update(MALLORY, INCARNATION, header.sequence, part)
            await self.link.publish(topic, payload)

    def _seal(self, message: AgentState | UpdateHeader) -> bytes:
        return seal(
            message,
            federation=FEDERATION,
            signer=MALLORY,
            counter=self._counter.next(),
            key=self._key,
        )
