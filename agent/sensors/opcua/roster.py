"""Which configured items stand on the server, and which are missing: asked for again for ever.

Invariant: every channel has an item in one of the subscriptions, or is in `missing` with a reason,
or the subscriptions are lost.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from asyncua import ua

from agent.sensors.opcua.backfill import Backfill
from agent.sensors.opcua.items import create_items, delete_items, kind_of
from agent.sensors.opcua.publishing import Subscription
from agent.sensors.opcua.resolving import Limits, channels_with_history, resolve
from agent.sensors.opcua.session import FastSession
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.structures import Structures
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.source import SourceReport
from wire.reconnecting import backoff

_FIRST_RETRY_S: Final = 1.0
_CALM: Final = 3.0
"""Times the longest wait without a missing item, and waits begin anew."""

logger = logging.getLogger(__name__)


class Roster:
    """Items of one source.

    Args:
      settings: of the source.
      timeline: of its channels.
      structures: learns those of channels with fields.
      report: where problems of single channels are.

    Attributes:
      node_ids: of the items that were created, by channel.
      missing: why there is no item, by channel.
    """

    def __init__(
        self,
        settings: OpcUaSettings,
        timeline: Timeline,
        structures: Structures,
        report: SourceReport,
    ) -> None:
        self._settings, self._timeline = settings, timeline
        self._structures, self._report = structures, report
        self.node_ids: dict[int, ua.NodeId] = {}
        self.missing: dict[int, str] = {}
        self._is_missing = asyncio.Event()

    def lose_all(self) -> None:
        """No item stands any more."""
        self.missing = dict.fromkeys(range(len(self._settings.channel)), "not asked for yet")

    def lose(self, channels: Iterable[int], reason: str) -> None:
        """These items are dead; they will be deleted and asked for again."""
        for channel in channels:
            if channel not in self.missing:
                self.missing[channel] = f"{self._where(channel)}: {reason}"
                self.remark(channel, self.missing[channel])
                self._report.count("lost_items")
        self._is_missing.set()

    def vanish(self, channels: Iterable[int]) -> None:
        """The server says itself that the nodes of these items are gone."""
        self.lose(channels, "the node is gone")

    async def create_missing(
        self,
        session: FastSession,
        subscriptions: Iterable[Subscription],
        backfill: Backfill,
        limits: Limits,
    ) -> None:
        """Ask once for every item that is missing."""
        found = await resolve(session, self._settings, list(self.missing), limits)
        self.missing.update(found.problems)
        unread = await self._describe(session, found.node_ids, limits)
        self._timeline.expect_repetition(found.node_ids)
        if self._settings.history is not False:
            backfill.expect(found.node_ids)
        for subscription in subscriptions:
            wanted = {
                channel: node_id
                for channel, node_id in found.node_ids.items()
                if kind_of(self._settings.channel[channel]) == subscription.kind
            }
            most = limits.monitored_items
            made = await create_items(session, self._settings, subscription.id, wanted, most)
            subscription.item_ids.update(made.item_ids)
            for channel in made.item_ids:
                self.node_ids[channel] = wanted[channel]
                self.missing.pop(channel, None)
                self.remark(channel, made.remarks.get(channel, unread.get(channel, "")))
            for channel, status in made.refused.items():
                self.missing[channel] = f"{self._where(channel)}: {status}"
        await self._want_history(session, found.node_ids.keys(), backfill, limits)
        for channel, reason in self.missing.items():
            self.remark(channel, f"{reason}; the agent goes on asking")

    async def retry(
        self,
        session: FastSession,
        subscriptions: Iterable[Subscription],
        backfill: Backfill,
        limits: Limits,
    ) -> None:
        """Ask again and again for items that are missing, for ever."""
        waits = self._waits()
        complete_s = time.monotonic()
        while True:
            if not self.missing:
                self._is_missing.clear()
                await self._is_missing.wait()
                if time.monotonic() - complete_s > _CALM * self._settings.retry_max_s:
                    waits = self._waits()
            await self._delete_lost(session, subscriptions)
            await asyncio.sleep(next(waits))
            try:
                await self._delete_lost(session, subscriptions)
                await self.create_missing(session, subscriptions, backfill, limits)
            except ua.UaStatusCodeError as error:  # refused as a whole; the others go on flowing
                logger.warning("%s: no items are created: %s", self._report.name, error)
            complete_s = time.monotonic()

    def remark(self, channel: int, problem: str) -> None:
        """Report what is wrong with a channel; nothing when `problem` is empty."""
        name = self._settings.channel[channel].name
        if not problem:
            self._report.problems.pop(name, None)
        elif self._report.problems.get(name) != problem:
            logger.warning("%s: channel %s: %s", self._report.name, name, problem)
            self._report.problems[name] = problem

    def _waits(self) -> Iterator[float]:
        longest_s = self._settings.retry_max_s
        rng = random.Random()  # noqa: S311  jitter only
        return backoff(min(_FIRST_RETRY_S, longest_s), longest_s, rng)

    def _where(self, channel: int) -> str:
        configured = self._settings.channel[channel]
        return f"path {configured.path}" if configured.path else f"node {configured.node}"

    async def _describe(
        self, session: FastSession, node_ids: dict[int, ua.NodeId], limits: Limits
    ) -> dict[int, str]:
        """Learn the structures of channels with fields; return what can not be read."""
        channel = self._settings.channel
        some = {at: node_id for at, node_id in node_ids.items() if channel[at].field}
        try:
            return await self._structures.describe(session, some, limits)
        except ua.UaStatusCodeError as error:
            return dict.fromkeys(some, f"the server does not describe the structure: {error}")

    async def _want_history(
        self,
        session: FastSession,
        channels: Iterable[int],
        backfill: Backfill,
        limits: Limits,
    ) -> None:
        """Have history read for those of these channels that miss something and have one."""
        standing = [each for each in channels if each not in self.missing]
        node_ids = {c: self.node_ids[c] for c in standing if self._timeline.is_open(c)}
        if self._settings.history is False:
            node_ids = {}
        elif node_ids and self._settings.history == "auto":
            have: set[int] = set()
            with suppress(ua.UaStatusCodeError):
                have = await channels_with_history(session, node_ids, limits)
            node_ids = {c: node_id for c, node_id in node_ids.items() if c in have}
        backfill.want(node_ids)

    async def _delete_lost(
        self, session: FastSession, subscriptions: Iterable[Subscription]
    ) -> None:
        """Delete items that are to be created again; samples may be missing until they are."""
        for subscription in subscriptions:
            lost = [channel for channel in self.missing if channel in subscription.item_ids]
            self._timeline.open_gaps(lost, self._reason(lost))
            ids = [subscription.item_ids.pop(channel) for channel in lost]
            if ids:
                with suppress(ua.UaStatusCodeError):
                    await delete_items(session, subscription.id, ids)

    def _reason(self, channels: list[int]) -> str:
        return self.missing[channels[0]] if channels else ""
