"""OPC UA: one subscription on one server, every sample with its source timestamp and StatusCode.

Nodes are named by namespace URI and identifier, never by namespace index (which a server may
renumber).  Every MonitoredItem asks for the trigger StatusValueTimestamp (Part 4, section
7.22.2), so that an unchanged value with a new source timestamp is a sample too.  The source never
writes to the server.

A node that does not exist is an error that names it; a lost connection is `SourceLostError`, and
the caller opens the source again.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from asyncua import Client, ua
from asyncua.common.subscription import (
    DataChangeEvent,
    StatusChangeEvent,
    SubEvent,
    Subscription,
)

from agent.signals.sample import Sample
from wire.settings import Settings

_QUEUE = 200_000
_LIVENESS_S = 5.0
_GOODBYE_S = 1.0
_POLL_S = 0.5
_SESSION_TIMEOUT_MS = 600_000
_SEVERITY_SHIFT, _BAD = 30, 2  # OPC 10000-4, 7.39: the two highest bits; 3 is reserved
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
logging.getLogger("asyncua").setLevel(logging.WARNING)  # INFO costs 40 % more CPU

logger = logging.getLogger(__name__)


class SourceLostError(Exception):
    """The connection to the source ended or could not be made."""


class ChannelSettings(Settings, frozen=True, kw_only=True):
    """One `[[source.opcua.channel]]`: which node feeds which of the federation's channels."""

    name: str
    node: str
    unit: str = ""


class OpcUaSettings(Settings, frozen=True, kw_only=True):
    """The `[source.opcua]` table.

    Attributes:
      endpoint: `opc.tcp://host:port/path`.
      namespace_uri: namespace of all nodes below.
      publishing_interval_ms: how often the server sends what it has queued.
      queue_size: samples the server keeps per item between two publishes.
    """

    endpoint: str
    namespace_uri: str
    publishing_interval_ms: Annotated[float, msgspec.Meta(ge=10, le=60_000)] = 250.0
    queue_size: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    channel: Annotated[tuple[ChannelSettings, ...], msgspec.Meta(min_length=1, max_length=1000)]


def node_problem(node: str) -> str:
    """Say what is wrong with a configured node; empty when nothing is.

    Accepted is the identifier alone, `s=Name`, `i=123`, `g=...` or `b=...` (OPC 10000-6, 5.3.1.10):
    its namespace is named once for all, by URI, because a server may renumber its indices.
    """
    kind, separator, identifier = node.partition("=")
    if kind not in ("s", "i", "g", "b") or not separator or not identifier:
        return f"{node!r} is not a node identifier such as 's=Torque' or 'i=1234', without 'ns='"
    try:
        ua.NodeId.from_string(f"ns=1;{node}")
    except (ua.UaError, ValueError) as error:
        return f"{node!r} is not a node identifier: {error}"
    return ""


async def opcua_samples(settings: OpcUaSettings) -> AsyncGenerator[list[Sample], None]:
    """Yield batches of samples in order of arrival; the first, empty one says 'subscribed'.

    Raises:
      SourceLostError: the server can not be reached, refuses a node, or the connection ended.
    """
    client = Client(settings.endpoint, timeout=10, watchdog_intervall=_LIVENESS_S)
    client.session_timeout = _SESSION_TIMEOUT_MS
    lost = asyncio.Event()

    async def on_lost(_error: Exception) -> None:
        lost.set()

    client.connection_lost_callback = on_lost
    try:
        async with _session(client):
            subscription, channels = await _subscribe(client, settings)
            yield []
            async for batch in _batches(subscription, channels, lost):
                yield batch
    except (OSError, TimeoutError, ua.UaError) as error:
        reason = f"OPC UA {settings.endpoint}: {str(error) or type(error).__name__}"
        raise SourceLostError(reason) from error


@asynccontextmanager
async def _session(client: Client) -> AsyncGenerator[None, None]:
    """Connect, and say goodbye at the end, but not for long: a server that hangs may not answer."""
    try:
        await client.connect()
        yield
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await client.disconnect()
        client.disconnect_socket()


async def _subscribe(
    client: Client, settings: OpcUaSettings
) -> tuple[Subscription, dict[ua.NodeId, int]]:
    namespaces = await client.get_namespace_array()
    if settings.namespace_uri not in namespaces:
        reason = f"OPC UA {settings.endpoint}: no namespace {settings.namespace_uri!r}; the server "
        reason += f"has {namespaces}"
        raise SourceLostError(reason)
    index = namespaces.index(settings.namespace_uri)
    node_ids = [ua.NodeId.from_string(f"ns={index};{item.node}") for item in settings.channel]
    subscription = await client.create_subscription(
        settings.publishing_interval_ms, queue_maxsize=_QUEUE
    )
    requests = [
        _monitored_item(node_id, handle, settings.queue_size)
        for handle, node_id in enumerate(node_ids)
    ]
    results = await subscription.create_monitored_items(requests)
    for item, result in zip(settings.channel, results, strict=True):
        if isinstance(result, ua.StatusCode):
            reason = f"OPC UA {settings.endpoint}: node {item.node} ({item.name}): {result.name}"
            raise SourceLostError(reason)
    return subscription, {node_id: channel for channel, node_id in enumerate(node_ids)}


def _monitored_item(
    node_id: ua.NodeId, handle: int, queue_size: int
) -> ua.MonitoredItemCreateRequest:
    changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle,
            SamplingInterval=0.0,
            Filter=changes,
            QueueSize=queue_size,
            DiscardOldest=True,
        ),
    )


async def _batches(
    subscription: Subscription, channels: dict[ua.NodeId, int], lost: asyncio.Event
) -> AsyncGenerator[list[Sample], None]:
    while not lost.is_set():
        batch: list[Sample] = []
        for event in await _events(subscription):
            if isinstance(event, StatusChangeEvent):
                reason = f"the server ended the subscription: {event.notification.Status.name}"
                raise ConnectionError(reason)
            if isinstance(event, DataChangeEvent):
                batch.append(_sample(event, channels))
        yield batch
    reason = "connection lost"
    raise ConnectionError(reason)


async def _events(subscription: Subscription) -> list[SubEvent]:
    """Everything that waits, after at most `_POLL_S`; `ConnectionError` when it was closed.

    Without asyncua's own timeout: it is `asyncio.wait_for`, which before Python 3.12 can swallow a
    cancellation that meets an event (cpython #86296).
    """
    events: list[SubEvent] = []
    try:
        async with asyncio.timeout(_POLL_S):
            first = await subscription.next_event()
    except TimeoutError:
        return events
    except StopAsyncIteration:
        reason = "the subscription was closed"
        raise ConnectionError(reason) from None
    queue = subscription._event_queue  # noqa: SLF001  asyncua has no public non-blocking get
    item: SubEvent | None = first
    while item is not None:
        events.append(item)
        if queue is None or queue.empty():
            return events
        item = queue.get_nowait()
    if queue is not None:
        queue.put_nowait(None)  # closed: the next call says so
    return events


def _sample(event: DataChangeEvent, channels: dict[ua.NodeId, int]) -> Sample:
    value = event.data.monitored_item.Value
    status = value.StatusCode.value if value.StatusCode is not None else 0
    stamp = value.SourceTimestamp or value.ServerTimestamp or datetime.now(UTC)
    number = event.value
    if status >> _SEVERITY_SHIFT >= _BAD:
        number = math.nan
    elif not isinstance(number, bool | int | float):
        number, status = math.nan, ua.StatusCodes.BadTypeMismatch
    return Sample(channels[event.node.nodeid], float(number), status, _microseconds(stamp))


def _microseconds(stamp: datetime) -> int:
    aware = stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
