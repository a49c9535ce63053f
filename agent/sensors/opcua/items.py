"""MonitoredItems: what the server is asked to watch, and in which subscription.

Every item asks for the trigger StatusValueTimestamp (OPC 10000-4, 7.22.2), so that an unchanged
value with a new source timestamp is a sample too; one with a deadband asks for StatusValue, because
a new timestamp alone would be reported despite the deadband.  The ClientHandle is the channel's
index.

Pure but for the calls that create and check them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from asyncua import ua
from asyncua.client.ua_session import UaSession

from agent.sensors.opcua.resolving import batches, check_count
from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings

Kind = Literal["numbers", "others"]
_FILTER_REFUSALS: Final = frozenset(
    {
        ua.StatusCodes.BadMonitoredItemFilterInvalid,
        ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ua.StatusCodes.BadFilterNotAllowed,
        ua.StatusCodes.BadDeadbandFilterInvalid,
        ua.StatusCodes.BadFilterOperatorUnsupported,
    }
)
_TOO_MUCH: Final = frozenset(
    {
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadRequestTooLarge,
        ua.StatusCodes.BadResponseTooLarge,
        ua.StatusCodes.BadEncodingLimitsExceeded,
    }
)
_VANISHED: Final = frozenset(
    {ua.StatusCodes.BadMonitoredItemIdInvalid, ua.StatusCodes.BadNodeIdUnknown}
)
_PLAIN, _NONE = 1, 2
"""How much of its filter a refused item gives up: the deadband, then all."""


@dataclass
class Created:
    """What became of a batch of items.

    Attributes:
      item_ids: MonitoredItemIds by channel.
      refused: StatusCode names by channel.
      remarks: of items that stand, but not quite as configured; for people, by channel.
    """

    item_ids: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)


def kind_of(channel: OpcUaChannel) -> Kind:
    """Which subscription an item is in: numbers have one of their own, which decodes fast."""
    return "others" if channel.shape or channel.states or channel.field else "numbers"


def create_request(
    settings: OpcUaSettings, channel: int, node_id: ua.NodeId, less: int = 0
) -> ua.MonitoredItemCreateRequest:
    """What to ask for; `less` drops the deadband (1) or the whole filter (2)."""
    configured = settings.channel[channel]
    sampling_ms = configured.sampling_interval_ms
    parameters = ua.MonitoringParameters(
        ClientHandle=ua.UInt32(channel),
        SamplingInterval=settings.sampling_interval_ms if sampling_ms is None else sampling_ms,
        QueueSize=ua.UInt32(configured.queue_size or settings.queue_size),
        DiscardOldest=True,
    )
    if less < _NONE:
        changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        if configured.deadband and less < _PLAIN:
            is_percent = configured.deadband_type == "percent"
            kind = ua.DeadbandType.Percent if is_percent else ua.DeadbandType.Absolute
            changes.Trigger = ua.DataChangeTrigger.StatusValue
            changes.DeadbandType = ua.UInt32(kind)
            changes.DeadbandValue = configured.deadband
        parameters.Filter = changes
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=parameters,
    )


async def create_items(
    session: UaSession,
    settings: OpcUaSettings,
    subscription_id: int,
    node_ids: Mapping[int, ua.NodeId],
    most: int,
) -> Created:
    """Create items, `most` in one call; the refused are in the result, not an error.

    A server that does not know the filter gets less of it: a tag with too many samples is better
    than one with none.
    """
    created = Created()
    asked = dict(node_ids)
    for less in range(_NONE + 1):
        again: dict[int, ua.NodeId] = {}
        for some in batches(list(asked.items()), most):
            requests = [create_request(settings, *each, less) for each in some]
            results = await _create(session, subscription_id, requests)
            for (channel, node_id), result in zip(some, results, strict=True):
                status = result.StatusCode
                if status.is_good():
                    created.item_ids[channel] = int(result.MonitoredItemId)
                    if less:
                        created.remarks[channel] = _remark(settings.channel[channel], less)
                elif status.value in _FILTER_REFUSALS and less < _NONE:
                    again[channel] = node_id
                else:
                    created.refused[channel] = status.name
        asked = again
    return created


async def _create(
    session: UaSession, subscription_id: int, requests: list[ua.MonitoredItemCreateRequest]
) -> list[ua.MonitoredItemCreateResult]:
    """Create items in one call, or in two halves where the server says that it is too much."""
    try:
        results = await session.create_monitored_items(
            ua.CreateMonitoredItemsParameters(
                SubscriptionId=ua.UInt32(subscription_id),
                TimestampsToReturn=ua.TimestampsToReturn.Both,
                ItemsToCreate=requests,
            )
        )
    except ua.UaStatusCodeError as error:
        if error.code not in _TOO_MUCH or len(requests) == 1:
            raise
        middle = len(requests) // 2
        first = await _create(session, subscription_id, requests[:middle])
        return first + await _create(session, subscription_id, requests[middle:])
    check_count(results, requests)
    return results


async def delete_items(session: UaSession, subscription_id: int, item_ids: list[int]) -> None:
    """Delete items; that some are gone already is no matter."""
    await session.delete_monitored_items(
        ua.DeleteMonitoredItemsParameters(
            SubscriptionId=ua.UInt32(subscription_id),
            MonitoredItemIds=[ua.UInt32(each) for each in item_ids],
        )
    )


async def vanished_items(
    session: UaSession, subscription_id: int, item_ids: Mapping[int, int], most: int
) -> dict[int, str]:
    """Channels whose item the server does not know any more, with its StatusCode.

    Asked by setting the monitoring mode that each item has already, which changes nothing, and
    which every server with subscriptions must offer (facet Monitor Basic, OPC 10000-7).
    """
    vanished: dict[int, str] = {}
    for some in batches(list(item_ids.items()), most):
        parameters = ua.SetMonitoringModeParameters(
            SubscriptionId=ua.UInt32(subscription_id),
            MonitoringMode=ua.MonitoringMode.Reporting,
            MonitoredItemIds=[ua.UInt32(item_id) for _, item_id in some],
        )
        results = await session.set_monitoring_mode(parameters)
        check_count(results, some)
        for (channel, _), status in zip(some, results, strict=True):
            if status.value in _VANISHED:  # others, such as BadNothingToDo, are of items that stand
                vanished[channel] = status.name
    return vanished


def _remark(configured: OpcUaChannel, less: int) -> str:
    if less == _PLAIN:
        return f"the server refuses the deadband of {configured.deadband:g}: it sends every change"
    return "the server refuses the filter: a value that repeats with a new time is not sent"
