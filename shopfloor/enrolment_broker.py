"""The enrolment authority at the broker: renews certificates and publishes what was revoked.

Connects under its own certificate, user name `enrolment`.  It may be away for days: agents go on
asking, and what was revoked stays retained and is in the coordinator's database.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field

from shopfloor.enrolment_office import Office
from wire.database import DiskError
from wire.errors import LinkDownError, PacketTooLargeError, SettingsError, WireError, one_line
from wire.mqtt import BrokerSettings, Link, Received, connect, reason_of
from wire.reconnecting import Reconnecting
from wire.topics import Topics
from wire.trust import ENROLMENT

logger = logging.getLogger(__name__)

_LOOK_S = 2.0
"""How soon a revocation at the terminal is told to everybody."""
_AGAIN_S = 2.0
"""One agent is answered at most so often."""
_MOST_WAITING = 1000


@dataclass
class Desk:
    """Keeps the authority connected."""

    office: Office
    broker: BrokerSettings
    topics: Topics
    _waiting: "asyncio.Queue[tuple[str, bytes]]" = field(init=False)
    _answered_s: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._waiting = asyncio.Queue(_MOST_WAITING)

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        waits = Reconnecting(0.5, 30.0, random.Random())
        while True:
            began_s = time.monotonic()
            try:
                await self._connected()
            except* (LinkDownError, PacketTooLargeError) as group:
                logger.warning("broker lost: %s", reason_of(group))
            except* (DiskError, SettingsError) as group:
                logger.error("can not work: %s", reason_of(group))  # noqa: TRY400  said in full
            await asyncio.sleep(waits.wait_s(time.monotonic() - began_s))

    async def _connected(self) -> None:
        async with connect(self.broker, ENROLMENT) as link, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link), name="listen")
            await link.subscribe([self.topics.all_renewals])
            logger.info("connected to the broker at %s:%d", self.broker.host, self.broker.port)
            tasks.create_task(self._answer(link), name="answer")
            tasks.create_task(self._tell_revoked(link), name="revoked")

    async def _listen(self, link: Link) -> None:
        # Publishes nothing itself: its PUBACK would wait behind the messages that it does not take.
        async for message in link.messages():
            try:
                self._take(message)
            except WireError as error:
                logger.warning("refused %.200r: %s", message.topic, error)

    def _take(self, message: Received) -> None:
        agent, now_s = self.topics.agent_of(message.topic, "renew"), time.monotonic()
        if now_s - self._answered_s.get(agent, -_AGAIN_S) < _AGAIN_S or self._waiting.full():
            return  # it asks again
        if len(self._answered_s) >= _MOST_WAITING:
            self._answered_s.clear()
        self._answered_s[agent] = now_s
        self._waiting.put_nowait((agent, message.payload))

    async def _answer(self, link: Link) -> None:
        while True:
            agent, question = await self._waiting.get()
            try:
                answer = await asyncio.to_thread(self.office.renew, agent, question)
            except WireError as error:
                logger.warning("%s is not renewed: %s", agent, one_line(str(error)))
                continue
            await link.publish(self.topics.renewed(agent), answer)
            logger.info("%s asked and was answered", agent)

    async def _tell_revoked(self, link: Link) -> None:
        """Publish the list now, and whenever somebody revokes."""
        told: bytes | None = None
        while True:
            revoked = await asyncio.to_thread(self.office.revoked)
            if revoked is not None and revoked != told:
                await link.publish(self.topics.revoked, revoked, retain=True)
                logger.info("told everybody who is revoked")
                told = revoked
            await asyncio.sleep(_LOOK_S)
