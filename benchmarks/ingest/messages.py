"""Notification messages, encoded before they are served.

asyncua encodes one; the others are it with other values, timestamps and numbers in their places.
Each record is a ClientHandle, a Double, for one item in `UNCERTAIN_EVERY` a StatusCode, a source
and a server timestamp: 30 or 34 bytes.  `check` has asyncua read what was made.
"""

import struct

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from numpy.typing import NDArray

from agent.sensors.opcua.session import columns_of
from benchmarks.ingest.plan import Plan
from benchmarks.testbed import BenchmarkError

UNCERTAIN = 0x4090_0000
UNCERTAIN_EVERY = 97
"""One item in so many is Uncertain: its records are longer, and the runs of a layout end there."""
HANDLE_AT = 12
"""RequestHandle in a response: after the TypeId and a timestamp."""
_TAIL_BYTES = 12
"""Three empty arrays of diagnostics and results."""
_VALUE_AT = 6
_SERVER_DELAY_US = 1_000
_TICKS_PER_US, _UNIX_EPOCH_TICKS = 10, 116_444_736_000_000_000


def encode(plan: Plan, handles: list[int], subscription_id: int) -> list[bytearray]:
    """PublishResponses, numbered from 1."""
    template = np.frombuffer(_response(handles, plan.at_once, subscription_id), np.uint8)
    head = len(_response([], 0, subscription_id)) - _TAIL_BYTES
    is_uncertain = np.arange(plan.items) % UNCERTAIN_EVERY == UNCERTAIN_EVERY - 1
    widths = np.repeat(np.where(is_uncertain, 34, 30), plan.at_once)
    starts = head + np.concatenate([[0], np.cumsum(widths)[:-1]])
    if starts[-1] + widths[-1] + _TAIL_BYTES != len(template):
        raise BenchmarkError("asyncua encodes notifications otherwise than expected")
    times_at = starts + widths - 16
    made = []
    for number in range(plan.messages):
        body = template.copy()
        ticks = plan.times_us_of(number) * _TICKS_PER_US + _UNIX_EPOCH_TICKS
        _put(body, starts + _VALUE_AT, plan.values_of(number))
        _put(body, times_at, ticks)
        _put(body, times_at + 8, ticks + _SERVER_DELAY_US * _TICKS_PER_US)
        message = bytearray(body.tobytes())
        struct.pack_into("<Iq", message, head - _AFTER_SEQUENCE, number + 1, int(ticks[-1]))
        made.append(message)
    return made


_AFTER_SEQUENCE = 4 + 8 + 4 + 4 + 1 + 4 + 4
"""From the SequenceNumber to the first item: itself, PublishTime, NotificationData, TypeId,
encoding and length of the ExtensionObject, number of items."""


def _put(body: NDArray[np.uint8], at: NDArray[np.int64], column: NDArray[np.generic]) -> None:
    """Write eight bytes of each element of `column` at its place."""
    body[at[:, None] + np.arange(8)] = column.view(np.uint8).reshape(-1, 8)


def _response(handles: list[int], at_once: int, subscription_id: int) -> bytes:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = ua.UInt32(subscription_id)
    time = ua.DateTime(2026, 1, 1)
    items = [
        ua.MonitoredItemNotification(
            ClientHandle=ua.UInt32(handle),
            Value=ua.DataValue(
                Value=ua.Variant(0.0, ua.VariantType.Double),
                StatusCode=ua.StatusCode(ua.UInt32(UNCERTAIN))
                if at % UNCERTAIN_EVERY == UNCERTAIN_EVERY - 1
                else None,
                SourceTimestamp=time,
                ServerTimestamp=time,
            ),
        )
        for at, handle in enumerate(handles)
        for _ in range(at_once)
    ]
    message = response.Parameters.NotificationMessage
    message.NotificationData = [ua.DataChangeNotification(MonitoredItems=items)]
    return struct_to_binary(response)


def check(plan: Plan, handles: list[int], messages: list[bytearray]) -> None:
    """Have asyncua read the first and the last message.

    Raises:
      BenchmarkError: it reads something else than was meant.
    """
    for number in (0, plan.messages - 1):
        body = Buffer(bytes(messages[number]))
        message = struct_from_binary(ua.PublishResponse, body).Parameters.NotificationMessage
        read = columns_of(message).columns
        is_right = (
            message.SequenceNumber == number + 1
            and np.array_equal(read.handle, np.repeat(handles, plan.at_once))
            and np.array_equal(read.value, plan.values_of(number))
            and np.array_equal(read.source_timestamp_us, plan.times_us_of(number))
        )
        if not is_right:
            raise BenchmarkError(f"message {number} is encoded wrongly")
