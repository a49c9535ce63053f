"""Subscriptions, and the loop that fetches what they have to say.

A NotificationMessage has a sequence number; one that is missing is asked for again (Republish, OPC
10000-4, 5.14.6), and where the server does not have it any more, samples of all items of its
subscription may be missing, which is a gap.  A keep-alive names the next number, so a message that
was lost is noticed also when none follows.

Invariant: a message is acknowledged only once its samples are placed, each number once.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from asyncua import ua
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import (
    BadMessageNotAvailable,
    BadNoSubscription,
    BadSubscriptionIdInvalid,
    BadTimeout,
    BadTooManyPublishRequests,
    UaStructParsingError,
)

from agent.sensors.opcua.columns import ArrayValue, Columns
from agent.sensors.opcua.intake import Intake
from agent.sensors.opcua.items import Kind
from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.session import FastSession, Items, columns_of
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.source import SourceReport
from agent.signals.block import EMPTY

_DEPTH: Final = 3
"""PublishRequests that wait at the server: one answers, one is on the way, one in reserve."""
_TOO_MANY_S: Final = 0.1
_LIFETIME_S: Final = 600.0
_MOST_NOTIFICATIONS: Final = 20_000
_MOST_REPUBLISHED: Final = 1000
_SEQUENCE_END: Final = 0xFFFF_FFFF
_DATA_LOST: Final = "the server no longer had a notification message"


class SubscriptionLostError(ConnectionError):
    """The server does not know the subscription any more, or ended it."""


@dataclass
class Subscription:
    """One subscription on the server.

    Attributes:
      kind: of its items.
      id: SubscriptionId.
      silence_s: longer without a sign of life, and it is lost.
      next_sequence: number of the message that comes next.
      item_ids: MonitoredItemIds by channel.
      is_catching_up: its next message holds what was queued while we were away.
      heard_s: when it gave its last sign of life, by the monotonic clock.
    """

    kind: Kind
    id: int
    silence_s: float
    next_sequence: int = 1
    item_ids: dict[int, int] = field(default_factory=dict)
    is_catching_up: bool = False
    heard_s: float = field(default_factory=time.monotonic)

    def rest(self) -> None:
        """Count silence from now."""
        self.heard_s = time.monotonic()


async def create_subscription(
    session: FastSession, settings: OpcUaSettings, kind: Kind
) -> Subscription:
    """Create a subscription without items."""
    interval_s = settings.publishing_interval_ms / 1000
    keep_alives = max(1, round(settings.keep_alive_s / interval_s))
    request = ua.CreateSubscriptionRequest()
    request.Parameters = ua.CreateSubscriptionParameters(
        RequestedPublishingInterval=settings.publishing_interval_ms,
        RequestedLifetimeCount=ua.UInt32(max(3 * keep_alives, round(_LIFETIME_S / interval_s))),
        RequestedMaxKeepAliveCount=ua.UInt32(keep_alives),
        MaxNotificationsPerPublish=ua.UInt32(_MOST_NOTIFICATIONS),
        PublishingEnabled=True,
        Priority=ua.Byte(0),
    )
    # Not asyncua's create_subscription: that starts a publish loop of its own.
    data = await session._send_request(request)  # noqa: SLF001
    response = struct_from_binary(ua.CreateSubscriptionResponse, data)
    response.ResponseHeader.ServiceResult.check()
    revised = response.Parameters
    keep_alive_s = revised.RevisedPublishingInterval / 1000 * revised.RevisedMaxKeepAliveCount
    return Subscription(kind, int(revised.SubscriptionId), keep_alive_s + settings.silence_s)


class Publishing:
    """Fetches messages of all subscriptions of one session.

    Args:
      intake: takes samples.
      timeline: where gaps are opened.
      pending: gets an empty block for each keep-alive.
      report: where losses are counted.
    """

    def __init__(
        self, intake: Intake, timeline: Timeline, pending: Pending, report: SourceReport
    ) -> None:
        self._intake, self._timeline, self._pending = intake, timeline, pending
        self._report = report
        self._decoded: dict[tuple[int, int], Items] = {}
        self._acknowledgements: list[ua.SubscriptionAcknowledgement] = []
        self._depth = _DEPTH
        self._forgotten: list[int] = []
        self.subscriptions: dict[int, Subscription] = {}

    def sink(
        self,
        subscription_id: int,
        sequence_number: int,
        columns: Columns,
        arrays: tuple[ArrayValue, ...],
    ) -> None:
        """Keep what was decoded until its message is handled, in order: see `session.Sink`."""
        self._decoded[subscription_id, sequence_number] = Items(columns, arrays, ())

    def forget(self) -> None:
        """No subscription stands any more, whatever the server thinks."""
        self._forgotten += self.subscriptions
        self.subscriptions.clear()
        self._decoded.clear()
        self._acknowledgements.clear()

    async def delete_forgotten(self, session: FastSession) -> None:
        """Delete on the server what it may still keep of subscriptions that are forgotten."""
        forgotten, self._forgotten = self._forgotten, []
        if forgotten:
            with suppress(ua.UaStatusCodeError):  # a session that is new has none of them
                await session.delete_subscriptions(forgotten)

    async def run(self, session: FastSession) -> None:
        """Fetch for ever.

        Raises:
          ConnectionError: a subscription is silent, or was ended (`SubscriptionLostError`).
          ua.UaError, TimeoutError: what the server answered.
        """
        requests: deque[asyncio.Task[ua.PublishResponse]] = deque()
        for each in self.subscriptions.values():
            each.rest()
        try:
            while True:
                while len(requests) < self._depth:
                    acknowledged, self._acknowledgements = self._acknowledgements, []
                    requests.append(asyncio.create_task(session.publish(acknowledged)))
                await asyncio.wait(
                    requests,
                    timeout=self._until_silence_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for request in [each for each in requests if each.done()]:
                    requests.remove(request)
                    await self._handle(session, request)
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            self._decoded.clear()

    async def republish(self, session: FastSession) -> None:
        """Ask for what was sent while nobody listened, after a session was taken up again.

        Raises:
          SubscriptionLostError: the server does not know a subscription any more.
        """
        for subscription in self.subscriptions.values():
            subscription.is_catching_up = True
            subscription.rest()
            for _ in range(_MOST_REPUBLISHED):
                if not await self._republish_next(session, subscription):
                    break

    def _until_silence_s(self) -> float:
        """Seconds until the first subscription counts as silent.

        Raises:
          ConnectionError: one does.
        """
        now_s = time.monotonic()
        left_s = [each.heard_s + each.silence_s - now_s for each in self.subscriptions.values()]
        if left_s and min(left_s) <= 0:
            reason = "the server is silent: neither samples nor a keep-alive"
            raise ConnectionError(reason)
        return min(left_s, default=1.0)

    async def _handle(
        self, session: FastSession, request: "asyncio.Task[ua.PublishResponse]"
    ) -> None:
        try:
            response = request.result()
        except BadTimeout:  # the request waited too long at the server; the next one replaces it
            return
        except BadTooManyPublishRequests:
            self._depth = max(1, self._depth - 1)
            await asyncio.sleep(_TOO_MANY_S)
            return
        except BadNoSubscription:
            reason = "the server has no subscription of ours any more"
            raise SubscriptionLostError(reason) from None
        except UaStructParsingError:  # its number is missing from now on: see `_fill_hole`
            self._report.count("unreadable_messages")
            return
        parameters = response.Parameters
        subscription = self.subscriptions.get(int(parameters.SubscriptionId))
        if subscription is None:
            return
        subscription.rest()
        message = parameters.NotificationMessage
        await self._fill_hole(session, subscription, int(message.SequenceNumber))
        if not message.NotificationData:
            self._pending.put(EMPTY)
            return
        decoded = self._decoded.pop((subscription.id, int(message.SequenceNumber)), None)
        self._take(subscription, message, decoded)
        if not parameters.MoreNotifications:
            subscription.is_catching_up = False

    def _take(
        self, subscription: Subscription, message: ua.NotificationMessage, decoded: Items | None
    ) -> None:
        """Place the samples of a message, unless they were placed before; acknowledge it."""
        sequence = int(message.SequenceNumber)
        self._acknowledgements.append(
            ua.SubscriptionAcknowledgement(
                SubscriptionId=ua.UInt32(subscription.id), SequenceNumber=ua.UInt32(sequence)
            )
        )
        if _ahead(sequence, subscription.next_sequence) < 0:
            self._report.count("repeated_messages")
            return
        subscription.next_sequence = _after(sequence)
        items = decoded if decoded is not None else columns_of(message)
        self._intake.take(items, is_replayed=subscription.is_catching_up)
        for notification in message.NotificationData or ():
            if isinstance(notification, ua.StatusChangeNotification):
                reason = f"the server ended the subscription: {notification.Status.name}"
                raise SubscriptionLostError(reason)

    async def _fill_hole(
        self, session: FastSession, subscription: Subscription, sequence: int
    ) -> None:
        """Ask again for all messages before this one that did not come."""
        missing = _ahead(sequence, subscription.next_sequence)
        while 0 < missing <= _MOST_REPUBLISHED:
            if not await self._republish_next(session, subscription):
                break
            missing = _ahead(sequence, subscription.next_sequence)
        if missing > 0:
            self._report.count("lost_messages", missing)
            self._timeline.open_gaps(subscription.item_ids, _DATA_LOST)
            subscription.next_sequence = sequence

    async def _republish_next(self, session: FastSession, subscription: Subscription) -> bool:
        """Ask for the message that is next; false when the server does not have it."""
        try:
            message = await session.republish(subscription.id, subscription.next_sequence)
        except BadMessageNotAvailable:
            return False
        except (BadSubscriptionIdInvalid, BadNoSubscription):
            reason = "the server has no subscription of ours any more"
            raise SubscriptionLostError(reason) from None
        if int(message.SequenceNumber) != subscription.next_sequence:
            return False
        self._report.count("republished_messages")
        was, subscription.is_catching_up = subscription.is_catching_up, True
        self._take(subscription, message, None)
        subscription.is_catching_up = was
        return True


def _after(sequence: int) -> int:
    """The number after this one; it begins again with 1 (OPC 10000-4, 7.26)."""
    return 1 if sequence >= _SEQUENCE_END else sequence + 1


def _ahead(sequence: int, expected: int) -> int:
    """How many messages `sequence` is ahead of `expected`; negative when it is behind."""
    distance = (sequence - expected) % _SEQUENCE_END
    return distance if distance <= _SEQUENCE_END // 2 else distance - _SEQUENCE_END
