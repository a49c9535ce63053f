"""The recipient's side of the broker.

    helper/NAME/ask       examine, manifest            from the coordinator
    model/DIGEST/OFFSET   ciphertexts of a sum, not retained, once its manifest is endorsed
    helper/NAME/answer    endorsement, masks           masks: here the sum's integers themselves
    helper/NAME/masks/..  their chunks
    helper/NAME/state     birth and will, retained

A message that deserves no answer is logged with its reason and dropped; what is lost on the way is
asked again by the coordinator, and answered again.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field

from coordinator.recipient.desk import Desk
from coordinator.recipient.gathering import Gathering
from coordinator.secure.sums import filled_buckets
from wire.bfv import encrypted_bytes
from wire.chunks import CHUNK_BYTES, describe, split
from wire.codec import Counter, kind_of, seal, unseal
from wire.database import DiskError
from wire.errors import LinkDownError, MalformedError, PacketTooLargeError, WireError
from wire.messages import Endorsement, HelperState, Masks
from wire.mqtt import (
    PACKET_OVERHEAD,
    BrokerSettings,
    Link,
    Received,
    Will,
    connect,
    reason_of,
)
from wire.progress import Beat, Progress
from wire.reconnecting import Reconnecting
from wire.signing import PublicKey
from wire.topics import Topics
from wire.waiting import no_beat

logger = logging.getLogger(__name__)

_SILENT_S = 600.0
_TICK_S = 1.0
_MOST_OPEN = 8
"""Sums whose ciphertexts are awaited at a time; the oldest goes first, and is asked again."""


@dataclass
class Connection:
    """Keeps the recipient connected.

    Attributes:
      is_stopping: set before `run` is cancelled: a link that ends in the same instant can hide it.
    """

    broker: BrokerSettings
    desk: Desk
    progress: Progress = field(default_factory=Progress)
    is_stopping: bool = False
    _beat: Beat = no_beat
    _open: dict[bytes, tuple[bytes, Gathering]] = field(default_factory=dict)
    """By what the sum's ciphertexts are called: digest of the manifest, and their parts."""

    def __post_init__(self) -> None:
        self._name = self.desk.keys.public.name
        self._topics = Topics(self.desk.trust.federation)
        self._counter = Counter(0)
        self._session = 0

    async def run(self) -> None:
        """Connect, serve, and connect again, for ever."""
        with self.progress.watching("connection", _SILENT_S) as self._beat:
            waits = Reconnecting(0.2, 5.0, random.Random())  # noqa: S311  jitter only
            while True:
                began_s = time.monotonic()
                try:
                    await self._connected()
                except* (LinkDownError, PacketTooLargeError) as group:
                    logger.warning("broker lost: %s", reason_of(group))
                except* DiskError as group:
                    # Nothing that was not stored was answered; the coordinator asks again.
                    logger.error("offline until the disk works: %s", reason_of(group))  # noqa: TRY400
                if self.is_stopping:
                    return
                await asyncio.sleep(waits.wait_s(time.monotonic() - began_s))

    async def _connected(self) -> None:
        topics, name = self._topics, self._name
        self._session = self.desk.store.next_session()
        self._counter = Counter(self._session)
        self._open.clear()
        state = topics.helper_state(name)
        will = Will(state, self._state("offline"))
        async with (
            connect(self.broker, f"recipient-{name}", will) as link,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._listen(link), name="listen")
            tasks.create_task(self._tick(), name="tick")
            await link.subscribe([topics.charter, topics.revoked, topics.helper_ask(name)])
            await link.publish(state, self._state("online"), retain=True)
            await link.subscribe([state])
            logger.info("connected as %s, connection %d", name, self._session)

    async def _tick(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(_TICK_S)

    async def _listen(self, link: Link) -> None:
        async for message in link.messages():
            try:
                await self._receive(link, message)
            except WireError as error:
                logger.warning("refused %.200r: %s", message.topic, error)

    async def _receive(self, link: Link, message: Received) -> None:
        topics, desk = self._topics, self.desk
        if message.topic == topics.helper_ask(self._name):
            if kind_of(message.payload, ("examine", "manifest")) == "examine":
                desk.examine(message.payload)
            else:
                await self._endorse(link, message.payload)
        elif message.topic == topics.helper_state(self._name):
            await self._on_own_state(link, message.payload)
        elif message.topic == topics.charter:
            desk.charter.take(message.payload)
        elif message.topic == topics.revoked:
            desk.hear_revoked(message.payload)
        else:
            await self._on_part(link, message)

    async def _on_own_state(self, link: Link, payload: bytes) -> None:
        """A will of an earlier connection that took the place of the birth is overwritten again."""
        federation, key = self.desk.trust.federation, PublicKey(self.desk.keys.public.signing)
        state, _ = unseal(payload, HelperState, federation=federation, signer=self._name, key=key)
        if state.status == "offline":
            logger.info("answering a late will with a new birth")
            topic = self._topics.helper_state(self._name)
            await link.publish(topic, self._state("online"), retain=True)

    async def _endorse(self, link: Link, envelope: bytes) -> None:
        answer = self.desk.endorse(envelope)
        manifest = self.desk.promised(answer.manifest) if answer.accepted else None
        if manifest is not None:
            subject, size = manifest.subject, encrypted_bytes(manifest.count)
            whole = Gathering(subject, size * len(filled_buckets(manifest)))
            if subject not in self._open:
                await link.subscribe([self._parts_of(subject)])
            self._open[subject] = (answer.manifest, whole)
            while len(self._open) > _MOST_OPEN:
                await self._leave(link, next(iter(self._open)))
        await self._answer(link, answer)

    async def _on_part(self, link: Link, message: Received) -> None:
        levels = message.topic.split("/")
        try:
            subject, offset = bytes.fromhex(levels[-2]), int(levels[-1])
        except (IndexError, ValueError):
            raise MalformedError("nothing that was asked for") from None
        awaited = self._open.get(subject)
        if awaited is None:
            return
        whole = awaited[1].add(offset, message.payload)
        if whole is not None:
            await self._leave(link, subject)
            await self._decrypt(link, awaited[0], whole)

    async def _decrypt(self, link: Link, digest: bytes, ciphertexts: bytes) -> None:
        began_s = time.monotonic()
        try:
            sums = self.desk.decrypt(digest, ciphertexts)
        except WireError as error:
            logger.error("manifest %s: %s", digest.hex()[:16], error)  # noqa: TRY400
            await self._answer(link, Masks(manifest=digest, seeds=(0,), reason=str(error)[:300]))
            return
        content = describe(sums, _chunk_bytes(link))
        await self._answer(link, Masks(manifest=digest, seeds=(0,), content=content))
        name = content.digest.hex()
        for at, chunk in enumerate(split(sums, content.chunk_bytes)):
            self._beat()
            await link.publish(self._topics.helper_masks(self._name, name, at), chunk)
        took_s = time.monotonic() - began_s
        logger.info("decrypted the sum of manifest %s in %.2f s", digest.hex()[:16], took_s)

    async def _leave(self, link: Link, subject: bytes) -> None:
        self._open.pop(subject, None)
        await link.unsubscribe([self._parts_of(subject)])

    def _parts_of(self, subject: bytes) -> str:
        return self._topics.model(subject.hex(), 0).removesuffix("0") + "+"

    async def _answer(self, link: Link, message: Endorsement | Masks) -> None:
        await link.publish(self._topics.helper_answer(self._name), self._seal(message))

    def _state(self, status: str) -> bytes:
        store = self.desk.store
        return self._seal(
            HelperState(
                status="online" if status == "online" else "offline",
                session=self._session,
                store=store.name,
                endorsed=store.promised,
            )
        )

    def _seal(self, message: HelperState | Endorsement | Masks) -> bytes:
        return seal(
            message,
            federation=self.desk.trust.federation,
            signer=self._name,
            counter=self._counter.next(),
            key=self.desk.keys.signing,
        )


def _chunk_bytes(link: Link) -> int:
    if link.packet_bytes is None:
        return CHUNK_BYTES
    return min(CHUNK_BYTES, link.packet_bytes - PACKET_OVERHEAD)
