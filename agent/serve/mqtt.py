"""Scores to a broker of the plant: one JSON document each, and an availability topic with a will.

QoS 1: a score counts as sent when the broker has acknowledged it.  One that was on its way when the
connection ended is sent again, so a subscriber may see it twice, with the same `time`.

A broker that is away costs nothing but scores: the newest wait, bounded, and attempts to connect
are spread (`wire/reconnecting.py`).
"""

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.egress import Egress
from agent.egress.classify import score_messages
from agent.serve.document import availability_document, score_document
from agent.serve.inbox import Inbox, OutputReport
from agent.serve.score import Score
from agent.serve.settings import MqttSettings, filled
from wire.errors import LinkDownError, PacketTooLargeError, SettingsError
from wire.mqtt import Link, Will, connect
from wire.reconnecting import Reconnecting

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_TOGETHER = 100
"""Scores published at once; those not acknowledged are sent again after a cut."""
_FILES = ("password_file", "ca_file", "cert_file", "key_file")


class MqttOutput:
    """Publishes what is in its inbox; `keep_connected` and `publish` run side by side.

    Not one task group within the other: before Python 3.13 a group whose child fails in the
    instant in which it is cancelled forgets the cancellation, and the agent would not stop.
    """

    def __init__(
        self,
        settings: MqttSettings,
        inbox: Inbox,
        report: OutputReport,
        egress: Egress,
        *,
        site: str,
        agent: str,
    ) -> None:
        self._settings, self._inbox, self._report = settings, inbox, report
        self._egress = egress
        self._site, self._agent = site, agent
        self._topic = filled(settings.topic, site=site, agent=agent)
        self._availability = filled(settings.availability_topic, site=site, agent=agent)
        self._link: Link | None = None
        self._is_up = asyncio.Event()
        self._told = ""

    async def keep_connected(self) -> None:
        """Connect, say online, and connect again when the connection ends, for ever."""
        waits = Reconnecting(_FIRST_WAIT_S, _LONGEST_WAIT_S, random.Random())  # noqa: S311
        while True:
            began_s = time.monotonic()
            try:
                await self._connected()
            except (LinkDownError, PacketTooLargeError, SettingsError) as error:
                self._say(str(error))
            finally:
                self._link = None
                self._is_up.clear()
            await asyncio.sleep(waits.wait_s(time.monotonic() - began_s))

    async def _connected(self) -> None:
        client_id = self._settings.client_id or f"journeyman-{self._agent}"
        will = Will(self._availability, self._document(None))
        where = f"scores' broker {self._settings.host}:{self._settings.port}"
        meter = self._egress.link(where, score_messages(self._availability))
        async with connect(self._settings, client_id, will, meter) as link:
            await self._announce(link)
            self._link = link
            self._is_up.set()
            self._report.state = "connected"
            async for _ in link.messages():  # nothing is subscribed to: raises when the link ends
                pass

    async def publish(self) -> None:
        """Publish scores as they come, and the health when it changes, for ever."""
        while True:
            await self._is_up.wait()
            waiting = await self._inbox.take()
            link = self._link
            try:
                while waiting and link is not None:
                    unsent = await self._send(link, waiting[:_TOGETHER])
                    waiting = unsent + waiting[_TOGETHER:]
                    if unsent:
                        link = None
                if link is not None and self._told != self._inbox.health:
                    await self._announce(link)
            except LinkDownError:
                link = None
            finally:
                self._inbox.put_back(waiting)
            if link is None and self._is_up.is_set():
                await asyncio.sleep(0.1)  # until `keep_connected` has heard of it, too

    async def _send(self, link: Link, scores: list[Score]) -> list[Score]:
        """Publish these side by side; returns those that the broker did not acknowledge."""
        health, retain = self._inbox.health, self._settings.retain
        documents = (
            score_document(score, site=self._site, agent=self._agent, health=health)
            for score in scores
        )
        sends = (link.publish(self._topic, document, retain=retain) for document in documents)
        unsent: list[Score] = []
        for score, outcome in zip(
            scores, await asyncio.gather(*sends, return_exceptions=True), strict=True
        ):
            if outcome is None:
                self._report.sent += 1
            elif isinstance(outcome, LinkDownError):
                unsent.append(score)
            elif isinstance(outcome, PacketTooLargeError):
                self._report.dropped += 1
                self._say(str(outcome))
            else:
                raise outcome
        return unsent

    async def _announce(self, link: Link) -> None:
        self._told = self._inbox.health
        await link.publish(self._availability, self._document(datetime.now(UTC)), retain=True)

    def _document(self, now: datetime | None) -> bytes:
        return availability_document(
            site=self._site, agent=self._agent, health=self._inbox.health, now=now
        )

    def _say(self, reason: str) -> None:
        if self._report.state != reason:
            logger.warning("scores over MQTT: %s", reason)
        self._report.state = reason


def with_files_of(settings: MqttSettings, config_dir: Path, credentials: str) -> MqttSettings:
    """The settings with the paths of their files made absolute.

    Args:
      settings: as configured.
      config_dir: folder of the configuration file.
      credentials: replaces ${CREDENTIALS_DIRECTORY} (systemd's LoadCredential).
    """
    paths = {
        name: str(config_dir / value.replace("${CREDENTIALS_DIRECTORY}", credentials))
        for name in _FILES
        if (value := getattr(settings, name))
    }
    return msgspec.structs.replace(settings, **paths)
