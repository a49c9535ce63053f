"""A session of asyncua whose notifications come as columns.

Responsible for one thing: the answer to a PublishRequest goes to `decode` first, and its numbers to
a sink.  Acknowledgments, keep-alive, watchdog, Republish and transfer stay asyncua's, which sees
the message without its items.  What `decode` refuses, asyncua parses and gives to the
subscription's own callback, with all its items; `columns_of` turns those, and what Republish
answers, into the same columns.

Invariant: the items of a message go one of two ways, to the sink or to the callback, never both.
"""

import logging
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from asyncua import Client, ua
from asyncua.client.ua_client import UaClient
from asyncua.client.ua_session import SessionState, UaSession
from asyncua.common.shortcuts import Shortcuts
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaStructParsingError
from numpy.typing import NDArray

from agent.sensors.opcua.columns import BAD_STATUS, ArrayValue, Columns
from agent.sensors.opcua.decode import Decoder, Publish
from agent.sensors.opcua.layouts import NUMBERS

Sink = Callable[[int, int, Columns, tuple[ArrayValue, ...]], None]
"""Gets the subscription's id, the message's SequenceNumber, its numbers and its arrays.

It is called in the event loop, in the order of arrival, before the subscription's callback gets the
same message without items; not for keep-alives.  It must not raise: the message would be lost.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULL_TIME = datetime(1601, 1, 1, tzinfo=UTC)
"""What asyncua makes of a DateTime of zero, which says that there is none."""
_US = timedelta(microseconds=1)
_PARSER_RAISES = (
    ua.UaError,
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What asyncua's parser raises for broken messages."""
_NULL = 0
"""The built-in type of a Variant without a value (OPC 10000-6, 5.2.2.16)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class OtherValue:
    """One value that is no number: a text, a time, a structure, an array of such.

    Attributes:
      handle: ClientHandle.
      value: as asyncua parsed it: str, bytes, datetime, a dataclass with the structure's fields.
      status: StatusCode with all its bits.
      source_timestamp_us: as in `Columns`.
    """

    handle: int
    value: object
    status: int
    source_timestamp_us: int


@dataclass(frozen=True, eq=False, slots=True)
class Items:
    """Items that asyncua parsed; within each of the three the order is the message's."""

    columns: Columns
    arrays: tuple[ArrayValue, ...]
    others: tuple[OtherValue, ...]


class FastSession(UaSession):
    """A `UaSession` that gives numbers to `sink` as columns.

    Args:
      client: the transport, of a client that is not connected yet.
      sink: see `Sink`.
    """

    def __init__(self, client: UaClient, sink: Sink) -> None:
        super().__init__(client)
        self._sink = sink
        self._decoder = Decoder()

    async def publish(self, acks: list[ua.SubscriptionAcknowledgement]) -> ua.PublishResponse:
        """Send a PublishRequest and wait for its answer, which may take as long as a keep-alive.

        Args:
          acks: messages that the server need not keep any longer.

        Returns:
          The answer; without items when the sink has had them.

        Raises:
          UaStructParsingError: nobody can read the answer.
          ua.UaError: what the server answered instead.
          ConnectionError: the connection ended.
        """
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = acks
        data = await self._send_request(request, timeout=0)
        published = self._decoder.decode(bytes(data))
        if published is not None:
            if not published.is_keep_alive:
                self._sink(
                    published.subscription_id,
                    published.sequence_number,
                    published.columns,
                    published.arrays,
                )
            return _without_items(published)
        try:
            return struct_from_binary(ua.PublishResponse, data)
        except _PARSER_RAISES as error:
            logger.warning("a message of the server cannot be read: %s", error)
            raise UaStructParsingError from error


def install(client: Client, sink: Sink) -> None:
    """Give a client a `FastSession`, before it connects.

    Args:
      client: of asyncua 2.1.
      sink: see `Sink`.

    Raises:
      ValueError: the client has a session already.
    """
    transport = client.uaclient
    if transport.session.state is not SessionState.NEW:
        raise ValueError("install() before connect(): this client has a session already")
    transport.session = FastSession(transport, sink)
    client.nodes = Shortcuts(transport.session)


def _without_items(published: Publish) -> ua.PublishResponse:
    """What asyncua needs of a message: whose it is, its number, and whether to acknowledge it."""
    message = ua.NotificationMessage(
        SequenceNumber=ua.UInt32(published.sequence_number),
        PublishTime=_EPOCH + published.publish_time_us * _US,
        NotificationData=[] if published.is_keep_alive else [_NO_ITEMS],
    )
    return ua.PublishResponse(
        ResponseHeader=_GOOD,
        Parameters=ua.PublishResult(
            SubscriptionId=ua.UInt32(published.subscription_id),
            MoreNotifications=published.more_notifications,
            NotificationMessage=message,
        ),
    )


_NO_ITEMS = ua.DataChangeNotification(MonitoredItems=[])
_GOOD = ua.ResponseHeader()


def columns_of(message: ua.NotificationMessage) -> Items:
    """The items of a message that asyncua parsed; its events and status changes are left out."""
    published = message.PublishTime or _NULL_TIME
    return items_of(
        (
            (int(item.ClientHandle), item.Value)
            for notification in message.NotificationData or ()
            if isinstance(notification, ua.DataChangeNotification)
            for item in notification.MonitoredItems
        ),
        published,
    )


def items_of(values: Iterable[tuple[int, ua.DataValue]], otherwise: datetime) -> Items:
    """Values that asyncua parsed, of a message, a Read or a HistoryRead, as columns.

    Args:
      values: handles and their values.
      otherwise: the time of those that have none.
    """
    numbers: list[tuple[int, float, int, int]] = []
    arrays: list[ArrayValue] = []
    others: list[OtherValue] = []
    for handle, data in values:
        status = 0 if data.StatusCode is None else int(data.StatusCode.value)
        stamp_us = _microseconds(_timestamp(data, otherwise))
        value = _value(data.Value or ua.Variant())
        if isinstance(value, float):
            numbers.append((handle, value if status < BAD_STATUS else np.nan, status, stamp_us))
        elif isinstance(value, np.ndarray):
            if status >= BAD_STATUS:
                value = np.full_like(value, np.nan)
            arrays.append(ArrayValue(handle, value, status, stamp_us))
        else:
            others.append(OtherValue(handle, value, status, stamp_us))
    return Items(_columns(numbers), tuple(arrays), tuple(others))


def _columns(numbers: list[tuple[int, float, int, int]]) -> Columns:
    handle, value, status, stamp_us = zip(*numbers, strict=True) if numbers else ((), (), (), ())
    return Columns(
        np.array(handle, np.uint32),
        np.array(value, np.float64),
        np.array(status, np.uint32),
        np.array(stamp_us, np.int64),
    )


def _value(variant: ua.Variant) -> float | NDArray[np.float32] | object:
    """A float, an array, or what is neither; NaN for a number or numbers that are not there."""
    kind: int = variant.VariantType.value
    value: object = variant.Value
    if kind == _NULL or (kind in NUMBERS and value is None):
        return np.nan
    if kind not in NUMBERS:
        return value
    if isinstance(value, int | float):
        return float(value)
    try:
        with np.errstate(all="ignore"):
            return np.asarray(value, NUMBERS[kind]).astype(np.float32)
    except ValueError:  # dimensions that do not fit the elements leave lists of unequal lengths
        return value


def _timestamp(data: ua.DataValue, otherwise: datetime) -> datetime:
    """Source timestamp, else server timestamp, else `otherwise`."""
    if data.SourceTimestamp not in (None, _NULL_TIME):
        return data.SourceTimestamp
    # asyncua 2.1 reads the server timestamp before the source picoseconds, but it comes after
    # them (OPC 10000-6, 5.2.2.17): with both, it is not what the server sent.
    if data.SourcePicoseconds is None and data.ServerTimestamp not in (None, _NULL_TIME):
        return data.ServerTimestamp
    return otherwise


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _US
