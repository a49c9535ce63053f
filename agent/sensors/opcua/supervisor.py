"""Keeps every configured item flowing, for ever.

    connect ─► same session? ─ yes ─► republish what was sent meanwhile ───────────┐
       ▲            │ no                                                           ▼
       │            └─► subscriptions ─► items ─► history, or a gap ─►  publish, retry what is
       │                                                                missing, audit what is
       └─────────── wait (decorrelated jitter) ◄─── anything fails ◄──  silent, renew the channel

An item that the server refuses (its node or its namespace is not there) is reported and asked for
again for ever, while the others flow (`roster.py`).  An item that stands but is silent is checked
(`audit.py`).  What was missed is read from the server's history (`backfill.py`).
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from typing import Final

from agent.sensors.opcua.advice import advice
from agent.sensors.opcua.audit import Audit
from agent.sensors.opcua.backfill import Backfill
from agent.sensors.opcua.intake import Intake
from agent.sensors.opcua.items import kind_of
from agent.sensors.opcua.link import FAILURES, MALFORMED, Link, reason_of
from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.publishing import (
    Publishing,
    SubscriptionLostError,
    create_subscription,
)
from agent.sensors.opcua.resolving import Limits, read_limits
from agent.sensors.opcua.roster import Roster
from agent.sensors.opcua.session import FastSession
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.structures import Structures
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.opcua.values import Values
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import EMPTY
from wire.reconnecting import Reconnecting

_FIRST_WAIT_S: Final = 0.2
_LOST: Final = "connection lost"

logger = logging.getLogger(__name__)


class Supervisor:
    """One source's connection, subscriptions and items.

    Args:
      settings: of the source.
      context: where its files are.
      report: what people read.
      pending: where blocks go.
    """

    def __init__(
        self,
        settings: OpcUaSettings,
        context: SourceContext,
        report: SourceReport,
        pending: Pending,
    ) -> None:
        self._settings, self._context = settings, context
        self._report, self._pending = report, pending
        count = len(settings.channel)
        structures = Structures()
        values = Values(settings.channel, structures)
        timeline = Timeline(count)
        self._timeline = timeline
        self._roster = Roster(settings, timeline, structures, report)
        intake = Intake(count, values, timeline, pending, self._roster.vanish)
        self._publishing = Publishing(intake, timeline, pending, report)
        self._backfill = Backfill(settings, timeline, values, intake, pending, report)
        self._audit = Audit(settings, timeline, values, self._publishing, self._roster)
        self._link = Link(settings, context, self._publishing.sink)
        self._limits = Limits()
        self._up_since_s: float | None = None
        self._reason = _LOST

    async def run(self) -> None:
        """Run until cancelled."""
        rng = random.Random()  # noqa: S311  jitter only
        waits = Reconnecting(_FIRST_WAIT_S, self._settings.retry_max_s, rng)
        try:
            while True:
                self._up_since_s = None
                try:
                    await self._serve()
                except FAILURES as error:
                    self._lost(error)
                except MALFORMED as error:
                    logger.warning("an answer of the server can not be read", exc_info=True)
                    self._lost(error)
                self._link.drop()
                self._pending.put(EMPTY)  # alive, and trying
                await asyncio.sleep(waits.wait_s(self._up_s()))
        finally:
            await self._link.close()

    async def _serve(self) -> None:
        """Connect, subscribe or resume, and run until something fails."""
        is_same_session = await self._link.open()
        session = self._link.session
        if is_same_session and self._publishing.subscriptions:
            await self._publishing.republish(session)
        else:
            self._limits = await read_limits(session)
            await self._subscribe(session)
        self._report.count("connections")
        self._up_since_s = time.monotonic()
        self._report.state = "subscribed"
        self._pending.put(EMPTY)
        logger.info("%s: subscribed", self._report.name)
        subscriptions = self._publishing.subscriptions.values()
        await _first_to_fail(
            self._publishing.run(session),
            self._link.keep_channel(),
            self._backfill.run(session, self._limits.history_reads),
            self._roster.retry(session, subscriptions, self._backfill, self._limits),
            self._audit.run(session, self._limits),
        )

    async def _subscribe(self, session: FastSession) -> None:
        """Create subscriptions and items anew; what came before them has a gap after it."""
        self._publishing.forget()
        await self._publishing.delete_forgotten(session)
        self._backfill.give_up()
        self._timeline.open_gaps(range(len(self._settings.channel)), self._reason)
        self._roster.lose_all()
        for kind in sorted({kind_of(channel) for channel in self._settings.channel}):
            created = await create_subscription(session, self._settings, kind)
            self._publishing.subscriptions[created.id] = created
        subscriptions = self._publishing.subscriptions.values()
        try:
            await self._roster.create_missing(session, subscriptions, self._backfill, self._limits)
        except BaseException:  # some may stand, and some not: the next attempt begins anew
            self._publishing.forget()
            raise

    def _up_s(self) -> float:
        """Seconds since everything was subscribed; 0 when it was not."""
        return 0.0 if self._up_since_s is None else time.monotonic() - self._up_since_s

    def _lost(self, error: Exception) -> None:
        reason = reason_of(error)
        todo = advice(error, self._settings, self._context)
        state = f"lost: {reason} ({todo})" if todo else f"lost: {reason}"
        if state != self._report.state:
            logger.warning("%s: %s, will try again", self._report.name, state)
        self._report.state = state
        if self._up_since_s is not None:
            self._reason = f"{_LOST}: {reason}"
            self._report.count("connections_lost")
        if isinstance(error, SubscriptionLostError):
            self._publishing.forget()


async def _first_to_fail(*running: Coroutine[object, object, None]) -> None:
    """Run all until one ends; raise what it raised.  None is left when this returns."""
    tasks = [asyncio.create_task(each) for each in running]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
