"""PublishResponses written by hand from the standard, and asyncua's reading of them."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_to_binary, struct_from_binary, variant_to_binary

from agent.sensors.opcua.decode import ArrayValue, Columns, Publish, decode
from agent.sensors.opcua.session import columns_of

NOW_TICKS = 133_800_000_000_000_000
NOW_US = NOW_TICKS // 10 - 11_644_473_600_000_000
FIRST_TICK = 10
OVERFLOW = 0x480  # InfoType DataValue and the Overflow bit, OPC 10000-4, 7.39
SOURCE, SERVER, SOURCE_PICOSECONDS, SERVER_PICOSECONDS = 4, 8, 16, 32


@dataclass(frozen=True)
class Item:
    """A MonitoredItemNotification as the standard writes it; None is a field that is not there."""

    handle: int = 1
    value: ua.Variant | None = None
    status: int | None = None
    source: int | None = None
    source_picoseconds: int | None = None
    server: int | None = None
    server_picoseconds: int | None = None

    def encoded(self) -> bytes:
        fields = (
            (1, None if self.value is None else variant_to_binary(self.value)),
            (2, _packed("<I", self.status)),
            (SOURCE, _packed("<q", self.source)),
            (SOURCE_PICOSECONDS, _packed("<H", self.source_picoseconds)),
            (SERVER, _packed("<q", self.server)),
            (SERVER_PICOSECONDS, _packed("<H", self.server_picoseconds)),
        )
        mask = sum(bit for bit, field in fields if field is not None)
        return struct.pack("<IB", self.handle, mask) + b"".join(field or b"" for _, field in fields)


def _packed(code: str, value: int | None) -> bytes | None:
    return None if value is None else struct.pack(code, value)


def data_change(*items: Item) -> bytes:
    """A DataChangeNotification in its ExtensionObject."""
    body = struct.pack("<i", len(items)) + b"".join(item.encoded() for item in items)
    body += struct.pack("<i", -1)
    kind = nodeid_to_binary(
        ua.FourByteNodeId(ua.Int32(ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary))
    )
    return kind + b"\x01" + struct.pack("<i", len(body)) + body


def response(
    *notifications: bytes,
    available: tuple[int, ...] = (3, 4),
    more: bool = False,
    results: tuple[int, ...] = (0,),
) -> bytes:
    """The body of a PublishResponse."""
    kind = nodeid_to_binary(
        ua.FourByteNodeId(ua.Int32(ua.ObjectIds.PublishResponse_Encoding_DefaultBinary))
    )
    head = struct.pack("<qIIBi3x", NOW_TICKS, 17, 0, 0, -1)
    kept = struct.pack(f"<Ii{len(available)}I", 7, len(available), *available)
    message = struct.pack("<?Iqi", more, 5, NOW_TICKS, len(notifications)) + b"".join(notifications)
    return kind + head + kept + message + struct.pack(f"<i{len(results)}Ii", 1, *results, -1)


def rows_of(columns: Columns) -> list[tuple[str, ...]]:
    """To compare: NaN equals NaN."""
    return [
        tuple(repr(field) for field in row)
        for row in zip(
            columns.handle.tolist(),
            columns.value.tolist(),
            columns.status.tolist(),
            columns.source_timestamp_us.tolist(),
            strict=True,
        )
    ]


def rows_of_arrays(arrays: tuple[ArrayValue, ...]) -> list[tuple[Any, ...]]:
    return [
        (each.handle, each.status, each.source_timestamp_us, repr(each.value.tolist()))
        for each in arrays
    ]


def assert_equals_asyncua(body: bytes) -> Publish:
    """Both parsers agree on this message; asyncua reads it from a buffer of its own."""
    ours = decode(body)
    assert ours is not None
    theirs = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters
    assert ours.subscription_id == theirs.SubscriptionId
    assert ours.sequence_number == theirs.NotificationMessage.SequenceNumber
    assert list(ours.available) == theirs.AvailableSequenceNumbers
    assert ours.more_notifications == theirs.MoreNotifications
    parsed = columns_of(theirs.NotificationMessage)
    assert parsed.others == ()
    assert rows_of(ours.columns) == rows_of(parsed.columns)
    assert rows_of_arrays(ours.arrays) == rows_of_arrays(parsed.arrays)
    assert all(each.value.dtype == np.float32 for each in (*ours.arrays, *parsed.arrays))
    return ours
