"""Which NodeId each configured channel has on this server, now.

Namespace URIs become indices, browse paths become NodeIds; both are asked anew with every
subscription, because a server that restarted may have renumbered or rebuilt them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from asyncua import ua
from asyncua.client.ua_session import UaSession

from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings, path_segments

T = TypeVar("T")

READ_BATCH: Final = 500
"""Nodes per call where the server names no limit of its own."""
_HISTORY_READ: Final = 0x04  # AccessLevelType, OPC 10000-3, 8.57


@dataclass
class Resolved:
    """What was found.

    Attributes:
      node_ids: by channel.
      problems: for people, by channel; a channel is in one of the two.
    """

    node_ids: dict[int, ua.NodeId] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """The server's OperationLimits (OPC 10000-5, 6.3.11); what it does not name is our own."""

    monitored_items: int = 1000
    reads: int = READ_BATCH
    browse_paths: int = READ_BATCH
    history_reads: int = 50


async def read_limits(session: UaSession) -> Limits:
    """Ask for the limits; a server without them gets our own."""
    ids = ua.ObjectIds
    named = {
        "monitored_items": (ids.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
        "reads": ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
        "browse_paths": (
            ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds
        ),
        "history_reads": (ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData),
    }
    found: dict[str, int] = {}
    own = Limits()
    for name, identifier in named.items():  # one by one: MaxNodesPerRead may be 1
        try:
            values = await read_values(session, [ua.NodeId(ua.Int32(identifier))], 1)
        except ua.UaStatusCodeError:  # refused as a whole: our own limit
            continue
        value = values[0].Value.Value if values[0].Value is not None else None
        if isinstance(value, int) and value > 0:
            found[name] = min(value, getattr(own, name))
    return Limits(**found)


async def read_values(
    session: UaSession,
    node_ids: Sequence[ua.NodeId],
    batch: int,
    attribute: ua.AttributeIds = ua.AttributeIds.Value,
) -> list[ua.DataValue]:
    """Read an attribute of many nodes; what is Bad is in the answers."""
    values: list[ua.DataValue] = []
    for some in batches(node_ids, batch):
        nodes = [ua.ReadValueId(NodeId=each, AttributeId=attribute) for each in some]
        parameters = ua.ReadParameters(NodesToRead=nodes)
        parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        answers = await session.read(parameters)
        check_count(answers, some)
        values += answers
    return values


async def resolve(
    session: UaSession, settings: OpcUaSettings, channels: Iterable[int], limits: Limits
) -> Resolved:
    """Find the nodes of these channels."""
    found = Resolved()
    namespaces = await _namespaces(session)
    paths: dict[int, ua.BrowsePath] = {}
    for channel in channels:
        configured = settings.channel[channel]
        uri = settings.namespace_of(configured)
        try:
            if configured.path:
                paths[channel] = _browse_path(configured, uri, namespaces)
            else:
                text = f"ns={_index(uri, namespaces)};{configured.node}"
                found.node_ids[channel] = ua.NodeId.from_string(text)
        except LookupError as error:
            found.problems[channel] = str(error.args[0])
    for some in batches(list(paths.items()), limits.browse_paths):
        try:
            answers = await session.translate_browsepaths_to_nodeids([path for _, path in some])
        except ua.UaStatusCodeError as error:
            reason = f"the server resolves no browse paths: {error}"
            found.problems.update((channel, reason) for channel, _ in some)
            continue
        check_count(answers, some)
        for (channel, _), answer in zip(some, answers, strict=True):
            _take_target(found, channel, settings.channel[channel].path, answer)
    return found


async def channels_with_history(
    session: UaSession, node_ids: dict[int, ua.NodeId], limits: Limits
) -> set[int]:
    """Channels whose node says that its history can be read (AccessLevel)."""
    channels = list(node_ids)
    nodes = [node_ids[channel] for channel in channels]
    levels = await read_values(session, nodes, limits.reads, ua.AttributeIds.UserAccessLevel)
    return {
        channel
        for channel, level in zip(channels, levels, strict=True)
        if level.Value is not None
        and isinstance(level.Value.Value, int)
        and level.Value.Value & _HISTORY_READ
    }


def batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """Cut into pieces of at most `size`."""
    return (items[at : at + size] for at in range(0, len(items), size))


def check_count(answers: Sequence[object] | None, asked: Sequence[object]) -> None:
    """Refuse an answer that does not say one thing for each that was asked."""
    if answers is None or len(answers) != len(asked):
        got = 0 if answers is None else len(answers)
        reason = f"the server answered {got} of {len(asked)} operations of one call"
        raise ua.UaError(reason)


async def _namespaces(session: UaSession) -> list[str]:
    node_id = ua.NodeId(ua.Int32(ua.ObjectIds.Server_NamespaceArray))
    (answer,) = await read_values(session, [node_id], 1)
    value = answer.Value.Value if answer.Value is not None else None
    if not isinstance(value, list):
        reason = "the server does not give its NamespaceArray"
        raise ua.UaError(reason)
    return [str(each) for each in value]


def _index(uri: str, namespaces: list[str]) -> int:
    if uri not in namespaces:
        reason = f"no namespace {uri!r}; the server has {namespaces[:20]}"
        raise LookupError(reason)
    return namespaces.index(uri)


def _browse_path(configured: OpcUaChannel, uri: str, namespaces: list[str]) -> ua.BrowsePath:
    elements = [
        ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HierarchicalReferences)),
            IsInverse=False,  # type: ignore[arg-type] # its Boolean is no bool
            IncludeSubtypes=True,  # type: ignore[arg-type]
            TargetName=ua.QualifiedName(name, _index(namespace, namespaces)),
        )
        for namespace, name in path_segments(configured.path, uri)
    ]
    root = ua.NodeId(ua.Int32(ua.ObjectIds.RootFolder))
    return ua.BrowsePath(StartingNode=root, RelativePath=ua.RelativePath(Elements=elements))


def _take_target(found: Resolved, channel: int, path: str, answer: ua.BrowsePathResult) -> None:
    if not answer.StatusCode.is_good():
        found.problems[channel] = f"path {path}: {answer.StatusCode.name}"
        return
    whole = [each for each in answer.Targets if each.RemainingPathIndex == 0xFFFF_FFFF]
    if len(whole) != 1:
        found.problems[channel] = f"path {path}: {len(whole)} nodes on this server have it"
        return
    target = whole[0].TargetId
    found.node_ids[channel] = ua.NodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType)
