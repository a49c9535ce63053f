"""Decodes the body of an OPC UA PublishResponse into columns, with numpy.

Responsible for messages of numbers and arrays of numbers, of any layout; `records` and
`array_records` read those.  Refuses, by answering None, whatever else there is: texts, structures,
events, diagnostics, status changes, broken messages.  The caller then asks asyncua's own parser, so
nothing is lost but speed.

Pure, but that a `Decoder` remembers the order of items to be faster, never to answer otherwise.
Invariant: any bytes give a `Publish` or None; nothing is read beyond them, and nothing is allocated
by a length that they could not hold.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.sensors.opcua.array_records import ArrayRecord
from agent.sensors.opcua.columns import (
    BAD_STATUS,
    EPOCH_US,
    FIRST_TICK,
    LAST_TICK,
    TICKS_PER_US,
    ArrayValue,
    Columns,
    microseconds,
)
from agent.sensors.opcua.layouts import ForeignError
from agent.sensors.opcua.records import Filling, Order, fill, find, joined

__all__ = ["ArrayValue", "Columns", "Decoder", "Publish", "decode"]

_PUBLISH_RESPONSE = b"\x01\x00" + (829).to_bytes(2, "little")
_DATA_CHANGE = b"\x01\x00" + (811).to_bytes(2, "little")
"""NodeIds of the binary encodings, four bytes each (OPC 10000-6, A.3 and 5.2.2.9)."""
_NO_HEADER = b"\x00\x00\x00"

# TypeId; ResponseHeader: timestamp, handle, result, diagnostics, texts, more; SubscriptionId,
# number of AvailableSequenceNumbers (OPC 10000-4, 5.14.5 and 7.34).
_HEAD = struct.Struct("<4sqIIBi3sIi")
# MoreNotifications; NotificationMessage: SequenceNumber, PublishTime, number of NotificationData.
_MESSAGE = struct.Struct("<?Iqi")
# ExtensionObject: TypeId, encoding, length; DataChangeNotification: number of MonitoredItems.
_NOTIFICATION = struct.Struct("<4sBii")
_INT32 = struct.Struct("<i")
_UINT32_BYTES = 4
_MOST_REMEMBERED: Final = 16
"""Subscriptions whose order is remembered; an order takes about 16 bytes for each item."""


@dataclass(frozen=True, eq=False, slots=True)
class Publish:
    """What one PublishResponse says.

    Attributes:
      subscription_id: whose it is.
      sequence_number: of its NotificationMessage; a keep-alive names the next one and uses none.
      available: SequenceNumbers that the server still keeps for Republish.
      more_notifications: the server has more than fitted.
      publish_time_us: microseconds since 1970 UTC.
      is_keep_alive: it has no notifications, so there is nothing to acknowledge.
      columns: all its numbers.
      arrays: all its arrays of numbers.
    """

    subscription_id: int
    sequence_number: int
    available: tuple[int, ...]
    more_notifications: bool
    publish_time_us: int
    is_keep_alive: bool
    columns: Columns
    arrays: tuple[ArrayValue, ...]


class Decoder:
    """Decodes messages of one session, and remembers in which order items came."""

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        """Of the last message of numbers of each subscription."""

    def decode(self, body: bytes) -> Publish | None:
        """Decode the body of a PublishResponse.

        Args:
          body: of the decrypted message, from its TypeId to its last byte.

        Returns:
          The message, or None where it holds anything but numbers and arrays of numbers.
        """
        try:
            with np.errstate(all="ignore"):  # a float64 may be more than float32 holds: infinite
                return self._publish(body)
        except (ForeignError, struct.error, IndexError):
            return None

    def _publish(self, body: bytes) -> Publish:
        kind, _, _, result, diagnostics, texts, more, subscription, kept = _HEAD.unpack_from(body)
        if kind != _PUBLISH_RESPONSE or result or diagnostics or texts > 0 or more != _NO_HEADER:
            raise ForeignError
        at = _HEAD.size
        available = struct.unpack_from(f"<{_held(body, kept, _UINT32_BYTES, at)}I", body, at)
        at += _UINT32_BYTES * len(available)
        has_more, sequence_number, published, count = _MESSAGE.unpack_from(body, at)
        at += _MESSAGE.size
        fillings: list[Filling] = []
        arrays: list[ArrayValue] = []
        for _ in range(_held(body, count, _NOTIFICATION.size, at)):
            at, filling, found = self._notification(body, at, subscription)
            fillings.append(filling)
            arrays += [_array(each, published) for each in found]
        _check_end(body, at)
        return Publish(
            subscription,
            sequence_number,
            available,
            has_more,
            microseconds(published),
            count <= 0,
            _columns(fillings, published),
            tuple(arrays),
        )

    def _notification(
        self, body: bytes, at: int, subscription: int
    ) -> tuple[int, Filling, list[ArrayRecord]]:
        """Where a DataChangeNotification ends, and what is in it."""
        kind, encoding, length, count = _NOTIFICATION.unpack_from(body, at)
        end: int = at + _NOTIFICATION.size - _INT32.size + length
        begin, last = at + _NOTIFICATION.size, end - _INT32.size
        if kind != _DATA_CHANGE or encoding != 1 or length < 0 or end > len(body):
            raise ForeignError
        if _INT32.unpack_from(body, last)[0] > 0:  # diagnostics
            raise ForeignError
        known = self._orders.get(subscription)
        if known is not None and known.count == count and known.length == last - begin:
            with suppress(ForeignError):  # the items are others, or their types or fields
                return end, fill(body, begin, known), []
        order, arrays = find(body, begin, last, count)
        if order.length != last - begin:
            raise ForeignError
        if not arrays:
            self._remember(subscription, order)
        return end, fill(body, begin, order), arrays

    def _remember(self, subscription: int, order: Order) -> None:
        self._orders.pop(subscription, None)
        self._orders[subscription] = order
        if len(self._orders) > _MOST_REMEMBERED:
            del self._orders[next(iter(self._orders))]


def decode(body: bytes) -> Publish | None:
    """Decode one message, as `Decoder` does."""
    return Decoder().decode(body)


def _held(body: bytes, count: int, least_bytes: int, at: int) -> int:
    """The length of an array whose elements begin at `at`; a null array (-1) has none."""
    if count > (len(body) - at) // least_bytes:
        raise ForeignError
    return max(count, 0)


def _check_end(body: bytes, at: int) -> None:
    """After the message: results of acknowledgments, no diagnostics, and nothing else."""
    (results,) = _INT32.unpack_from(body, at)
    at += _INT32.size
    at += _UINT32_BYTES * _held(body, results, _UINT32_BYTES, at)
    (diagnostics,) = _INT32.unpack_from(body, at)
    if diagnostics > 0 or at + _INT32.size != len(body):
        raise ForeignError


def _columns(fillings: list[Filling], publish_ticks: int) -> Columns:
    """Columns of all numbers; a message has one notification as a rule."""
    if len(fillings) == 1:
        (all_of,) = fillings
    else:
        all_of = joined(fillings)
    value, status, ticks = all_of.value, all_of.status, all_of.ticks
    value[status >= BAD_STATUS] = np.nan
    ticks[ticks < FIRST_TICK] = max(publish_ticks, 0)
    np.minimum(ticks, LAST_TICK, out=ticks)
    return Columns(all_of.handle, value, status, ticks // TICKS_PER_US - EPOCH_US)


def _array(record: ArrayRecord, publish_ticks: int) -> ArrayValue:
    ticks = publish_ticks if record.ticks < FIRST_TICK else record.ticks
    value = record.value
    if record.status >= BAD_STATUS:
        value = np.full_like(value, np.nan)
    return ArrayValue(record.handle, value, record.status, microseconds(ticks))
