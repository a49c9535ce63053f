"""The helper's side of the broker.

On every connection it first looks whether the broker has seen a newer copy of itself: its own state
and its newest endorsement are retained.  A message to itself comes back after those, and only then
it announces itself and hears what the coordinator asks.  Answers leave in the order of questions;
sums of masks are computed by a task of their own.

A message that deserves no answer is logged with its reason and dropped; what is lost on the way is
asked again by the coordinator.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.helper.counting import Figures, word
from coordinator.helper.judging import judge
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening
from coordinator.helper.summing import Answers
from wire.chunks import describe
from wire.codec import Counter, seal
from wire.database import DiskError
from wire.errors import LinkDownError, PacketTooLargeError, WireError
from wire.messages import Endorsement, HelperState, Masks, Verdicts
from wire.mqtt import BrokerSettings, Link, Received, Will, connect, reason_of
from wire.progress import Beat, Progress
from wire.reconnecting import Reconnecting
from wire.topics import Topics
from wire.waiting import no_beat, until

logger = logging.getLogger(__name__)

_WAITING, _WAITING_RELEASES = 256, 16
"""Answers, and releases, that wait; what is beyond is dropped, and asked again.  A release of
thousands of members takes megabytes."""
_TICK_S = 1.0
_SILENT_S, _SILENT_MASKS_S = 120.0, 600.0
_LOOKED_S = 30.0
"""Within so long a message to itself has to come back."""
_FORGET_S = 3600.0
KEPT_S = 30 * 86_400.0
"""Seeds whose masks were given so long ago are forgotten."""
_NEWEST_KEPT = 8
"""Not those of the newest manifests, whose masks may be asked for again after a clock has jumped:
the coordinator opens one manifest of each purpose at a time."""
_Answer = Verdicts | Endorsement | Masks
_Masks = tuple[bytes, tuple[int, ...]]
"""Digest of a manifest, and seeds."""


@dataclass
class Connection:
    """Keeps the helper connected.

    Attributes:
      is_stopping: set before `run` is cancelled: a link that ends in the same instant can hide it.
    """

    broker: BrokerSettings
    office: Office
    figures: Figures = field(default_factory=Figures)
    progress: Progress = field(default_factory=Progress)
    is_stopping: bool = False
    _beat: Beat = no_beat
    _answers: Answers = field(default_factory=Answers)

    def __post_init__(self) -> None:
        self._topics = Topics(self.office.trust.federation)
        self._counter = Counter(0)
        self._session = 0
        self._has_looked = asyncio.Event()
        self._sends = asyncio.Lock()
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        """What was asked over an earlier connection is asked again."""
        self._outgoing: asyncio.Queue[_Answer | None] = asyncio.Queue(_WAITING)
        self._releases: dict[_Masks, Opening] = {}
        self._giving: _Masks | None = None
        self._is_release = asyncio.Event()

    async def run(self) -> None:
        """Connect, serve, and connect again, for ever."""
        with self.progress.watching("connection", _SILENT_S) as self._beat:
            await self._keep_connected()

    async def _keep_connected(self) -> None:
        waits = Reconnecting(0.2, 5.0, random.Random())  # noqa: S311  jitter only
        while True:
            self._beat()
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
            lived_s = time.monotonic() - began_s if self.figures.is_up else 0.0
            self.figures.is_up = False
            await asyncio.sleep(waits.wait_s(lived_s))

    async def _connected(self) -> None:
        name, topics = self.office.name, self._topics
        self._session = self.office.store.next_session()
        self._counter = Counter(self._session)
        self._has_looked.clear()
        self._forget_waiting()
        state = topics.helper_state(name)
        will = Will(state, self._state("offline"))
        client = f"helper-{name}"
        async with connect(self.broker, client, will) as link, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link), name="listen")
            tasks.create_task(self._tick(), name="tick")
            await link.subscribe([state, topics.helper_answer(name)])
            # Not retained: what is there must be read before it is replaced.
            await link.publish(state, self._state("offline"))
            await self._look()
            await link.subscribe([topics.charter, topics.revoked, topics.head])
            await link.subscribe([topics.helper_ask(name)])
            self.figures.is_up = True
            await link.publish(state, self._state("online"), retain=True)
            logger.info("connected as %s, connection %d", name, self._session)
            tasks.create_task(self._send_answers(link), name="answers")
            tasks.create_task(self._send_masks(link), name="masks")

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_LOOKED_S):
                await self._has_looked.wait()
        except TimeoutError:
            reason = "the broker does not give back what is said on this helper's own topic: "
            reason += "may its user read it?"
            raise LinkDownError(reason) from None

    def _state(self, status: str) -> bytes:
        known = self.office.store.known()
        return self._seal(
            HelperState(
                status="online" if status == "online" else "offline",
                session=self._session,
                store=known.store,
                endorsed=max(known.endorsed, known.highest),
            )
        )

    def _seal(self, message: HelperState | _Answer) -> bytes:
        return seal(
            message,
            federation=self.office.trust.federation,
            signer=self.office.name,
            counter=self._counter.next(),
            key=self.office.keys.signing,
        )

    # Coming in

    async def _listen(self, link: Link) -> None:
        async for message in link.messages():
            try:
                self._receive(message)
            except WireError as error:
                self.figures.ignored[message.topic.rpartition("/")[2]] += 1
                logger.warning("refused %.200r: %s", message.topic, error)

    def _receive(self, message: Received) -> None:
        name, topics, office = self.office.name, self._topics, self.office
        if message.topic == topics.helper_ask(name):
            self._on_ask(message.payload)
        elif message.topic == topics.helper_state(name):
            self._on_own_state(office.hear_own_state(message.payload))
        elif message.topic == topics.helper_answer(name):
            if message.retained:
                office.hear_own_endorsement(message.payload)
        elif message.topic == topics.charter:
            office.hear_charter(message.payload)
        elif message.topic == topics.revoked:
            office.hear_revoked(message.payload)
        elif message.topic == topics.head:
            office.hear_head(message.payload)

    def _on_own_state(self, state: HelperState) -> None:
        if state.session == self._session:
            self._has_looked.set()
        elif self.figures.is_up and state.status == "offline" and not self._outgoing.full():
            self._outgoing.put_nowait(None)  # the late will of an earlier connection: not true

    def _on_ask(self, payload: bytes) -> None:
        answer = judge(self.office, payload)
        if isinstance(answer, Opening):
            which = (answer.release.manifest, tuple(answer.release.seeds))
            is_room = which in self._releases or len(self._releases) < _WAITING_RELEASES
            if which != self._giving and is_room:
                self._releases[which] = answer  # the newest knows best which chunks are missing
                self._is_release.set()
            return
        self._count(answer)
        if self._outgoing.full():
            logger.warning("an answer is dropped: the broker is slow")
        else:
            self._outgoing.put_nowait(answer)

    def _count(self, answer: _Answer) -> None:
        if isinstance(answer, Verdicts):
            self.figures.verdicts.update(word(accepted=each.accepted) for each in answer.items)
        elif isinstance(answer, Endorsement):
            self.figures.endorsements[word(accepted=answer.accepted)] += 1
        else:
            self.figures.releases[word(accepted=answer.content is not None)] += 1

    # Going out

    async def _send_answers(self, link: Link) -> None:
        while True:
            await self._send(link, await self._outgoing.get())

    async def _send(self, link: Link, answer: _Answer | None) -> None:
        """Publish an answer, or a birth alone."""
        name = self.office.name
        is_promise = isinstance(answer, Endorsement) and answer.accepted
        state, topic = self._topics.helper_state(name), self._topics.helper_answer(name)
        async with self._sends:  # so that counters grow in the order of sending
            if is_promise or answer is None:
                await link.publish(state, self._state("online"), retain=True)
            if answer is None:
                return
            # A promise is retained: the will of this connection can not know of it, and an old
            # copy of this helper must.
            await link.publish(topic, self._seal(answer), retain=is_promise)

    async def _send_masks(self, link: Link) -> None:
        """Sum and publish what may be given, one release after the other."""
        with self.progress.watching("masks", _SILENT_MASKS_S) as beat:
            while True:
                await until(self._is_release, beat)
                if not self._releases:
                    self._is_release.clear()
                    continue
                self._giving = next(iter(self._releases))
                await self._give(link, self._releases.pop(self._giving), beat)
                self._giving = None

    async def _give(self, link: Link, opening: Opening, beat: Beat) -> None:
        asked, began_s = opening.release, time.monotonic()
        data = await self._answers.of(opening, beat)
        content = await asyncio.to_thread(describe, data, asked.chunk_bytes)
        self.figures.computing_s += time.monotonic() - began_s
        answer = Masks(manifest=asked.manifest, seeds=asked.seeds, content=content)
        self._count(answer)
        await self._send(link, answer)
        await link.publish_bulk(self._chunks(opening, data, content.digest.hex(), beat))
        self.office.store.given(asked.manifest, time.time())
        logger.info("gave masks %s of %s", asked.seeds, asked.manifest.hex()[:16])

    def _chunks(
        self, opening: Opening, data: bytes, digest: str, beat: Beat
    ) -> Iterator[tuple[str, bytes]]:
        size = opening.release.chunk_bytes
        number = -(-len(data) // size)
        for at in opening.wanted or range(number):
            if at < number:
                beat()
                chunk = data[at * size : (at + 1) * size]
                self.figures.masks_bytes += len(chunk)
                yield self._topics.helper_masks(self.office.name, digest, at), chunk

    async def _tick(self) -> None:
        forgot_s = -_FORGET_S
        while True:
            self._beat()
            if time.monotonic() - forgot_s >= _FORGET_S:
                forgot_s = time.monotonic()
                forgotten = self.office.store.forget_seeds(time.time() - KEPT_S, _NEWEST_KEPT)
                if forgotten:
                    logger.info("forgot the seeds of %d reports", forgotten)
            await asyncio.sleep(_TICK_S)
