"""The `[[source.opcua]]` table: which nodes of which server feed which channels.

Nodes are named by namespace URI and identifier, or by a browse path, never by a namespace index,
which a server may renumber at each start.  Pure.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from agent.sensors.opcua.security_settings import SecuritySettings, problems_of_security
from agent.sensors.source import ChannelSettings
from wire.settings import Settings, host_problem

UA_NAMESPACE: Final = "http://opcfoundation.org/UA/"
MAX_CHANNELS: Final = 20_000

Text = Annotated[str, msgspec.Meta(max_length=1000)]
QueueSize = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
SamplingInterval = Annotated[float, msgspec.Meta(ge=-1, le=86_400_000)]


class OpcUaChannel(ChannelSettings, frozen=True, kw_only=True):
    """One `[[source.opcua.channel]]`.

    Attributes:
      node: identifier of the node, `s=Torque`, `i=1234`, `g=...` or `b=...`, without `ns=`.
      path: browse path from the root instead, `/Objects/Line1/Torque` (see README.md).
      namespace_uri: of `node` or of the names in `path`; empty means the source's.
      field: dotted path into a structure value, `Vibration.Rms`; empty means the value itself.
      sampling_interval_ms: how often the server looks; 0 as fast as it can, -1 at the publishing
        interval; absent means the source's.
      queue_size: samples that the server keeps for this item; absent means the source's.
      deadband: changes up to this size are not sent; 0 sends all.
      deadband_type: `absolute` in the value's unit, or `percent` of the item's EURange.
    """

    node: Text = ""
    path: Text = ""
    namespace_uri: Text = ""
    field: Text = ""
    sampling_interval_ms: SamplingInterval | None = None
    queue_size: QueueSize | None = None
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    deadband_type: Literal["absolute", "percent"] = "absolute"


class OpcUaSettings(Settings, frozen=True, kw_only=True):
    """One `[[source.opcua]]`.

    Attributes:
      endpoint: `opc.tcp://host:port/path`.
      namespace_uri: namespace of the nodes and browse names below that name none of their own.
      publishing_interval_ms: how often the server sends what it has queued.
      sampling_interval_ms: how often the server looks at each item; 0 as fast as it can.
      queue_size: samples that the server keeps per item while nobody fetches them.
      history: whether what was missed is read from the server's history: `auto` where the node's
        AccessLevel offers it.
      history_max_s: how far back at most.
      keep_alive_s: a subscription with nothing to send says so at least this often.
      silence_s: a subscription silent for this long beyond its keep-alive is lost.
      answer_s: how long the server may take to answer.
      retry_max_s: longest wait between two attempts to connect, or to create a missing item.
      audit_s: how often items that are silent are checked against the server.
      max_pending_samples: samples kept for a slow consumer; beyond, the oldest are dropped, counted
        and marked as gaps.
      security: policy, certificates and user, see README.md.
      channel: what to measure.
    """

    endpoint: Text
    namespace_uri: Text = ""
    publishing_interval_ms: Annotated[float, msgspec.Meta(ge=10, le=60_000)] = 250.0
    sampling_interval_ms: SamplingInterval = 0.0
    queue_size: QueueSize = 1000
    history: bool | Literal["auto"] = "auto"
    history_max_s: Annotated[float, msgspec.Meta(gt=0, le=10 * 366 * 86_400)] = 86_400.0
    keep_alive_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 2.0
    silence_s: Annotated[float, msgspec.Meta(ge=0.5, le=3600)] = 5.0
    answer_s: Annotated[float, msgspec.Meta(ge=0.5, le=600)] = 10.0
    retry_max_s: Annotated[float, msgspec.Meta(ge=0.2, le=3600)] = 15.0
    audit_s: Annotated[float, msgspec.Meta(ge=0.5, le=86_400)] = 30.0
    max_pending_samples: Annotated[int, msgspec.Meta(ge=1000, le=100_000_000)] = 500_000
    security: SecuritySettings = SecuritySettings()
    channel: Annotated[
        tuple[OpcUaChannel, ...], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)
    ]

    def namespace_of(self, channel: OpcUaChannel) -> str:
        """The namespace URI that counts for this channel."""
        return channel.namespace_uri or self.namespace_uri


def problems(settings: OpcUaSettings) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) for everything wrong with settings whose types are right."""
    problem = _endpoint_problem(settings.endpoint)
    if problem:
        yield "endpoint", problem
    for at, channel in enumerate(settings.channel):
        for key, reason in _channel_problems(channel, settings.namespace_of(channel)):
            yield f"channel[{at}].{key}", reason
    for key, reason in problems_of_security(settings.security):
        yield f"security.{key}", reason


def node_problem(node: str) -> str:
    """Say what is wrong with a configured node; empty when nothing is.

    Accepted is the identifier alone, `s=Name`, `i=123`, `g=...` or `b=...` (OPC 10000-6, 5.3.1.10):
    its namespace is named by URI, because a server may renumber its indices.
    """
    kind, separator, identifier = node.partition("=")
    if kind not in ("s", "i", "g", "b") or not separator or not identifier:
        return f"{node!r} is not a node identifier such as 's=Torque' or 'i=1234', without 'ns='"
    from asyncua import ua  # noqa: PLC0415 - only where an OPC UA source is configured

    try:
        ua.NodeId.from_string(f"ns=1;{node}")
    except (ua.UaError, ValueError) as error:
        return f"{node!r} is not a node identifier: {error}"
    return ""


_SEGMENT = re.compile(r"/(?:\{(?P<uri>[^{}]+)\}|(?P<index>\d+):)?(?P<name>(?:&.|[^/&{}])+)")
_ROOT_FOLDERS: Final = ("Objects", "Types", "Views")


def path_segments(path: str, namespace_uri: str) -> list[tuple[str, str]]:
    """Split a browse path from the root into (namespace URI, name) pairs.

    `/Objects/Line1/{urn:vendor}Torque`: a name without braces is of `namespace_uri`, the root's own
    folders and names that begin with `0:` are of OPC UA's.  `&` before a character takes it
    literally, as in the text form of a RelativePath (OPC 10000-4, A.2).

    Raises:
      ValueError: says what is wrong with the path.
    """
    segments: list[tuple[str, str]] = []
    at = 0
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None:
            raise ValueError(f"{path!r} is not a browse path such as '/Objects/Line1/Torque'")
        name = re.sub(r"&(.)", r"\1", match["name"])
        if match["index"] not in (None, "0"):
            reason = f"{path!r} names a namespace by its index, which a server may renumber: "
            raise ValueError(f"{reason}write {{namespace URI}}{name}")
        is_standard = match["index"] == "0" or (not segments and name in _ROOT_FOLDERS)
        uri = match["uri"] or (UA_NAMESPACE if is_standard else namespace_uri)
        if not uri:
            raise ValueError(f"{name!r} in {path!r} has no namespace: set namespace_uri")
        segments.append((uri, name))
        at = match.end()
    return segments


def _endpoint_problem(endpoint: str) -> str:
    try:
        url = urlsplit(endpoint)
        host, port = url.hostname, url.port
    except ValueError as error:
        return f"{endpoint!r}: {error}"
    if url.scheme != "opc.tcp" or not host or not port:
        return f"{endpoint!r} is not an endpoint such as 'opc.tcp://10.0.0.5:4840'"
    if problem := host_problem(host):
        return problem
    if url.username is not None:
        return "an endpoint holds no user name: use the table security"
    return ""


def _channel_problems(channel: OpcUaChannel, namespace_uri: str) -> Iterator[tuple[str, str]]:
    if bool(channel.node) == bool(channel.path):
        yield "node", "exactly one of node and path must be set"
    elif channel.node:
        problem = node_problem(channel.node)
        if problem:
            yield "node", problem
        elif not namespace_uri:
            yield "namespace_uri", "no namespace_uri, neither here nor at the source"
    else:
        try:
            path_segments(channel.path, namespace_uri)
        except ValueError as error:
            yield "path", str(error)
    if channel.shape and channel.states:
        yield "states", "an array has no states"
    if channel.deadband_type == "percent" and channel.deadband > 100:
        yield "deadband", "more than 100 percent"
    if channel.deadband and (channel.states or channel.field):
        yield "deadband", "only numbers have a deadband, not texts and structures"
    if channel.field and not all(channel.field.split(".")):
        yield "field", f"{channel.field!r} is not a field such as 'Vibration.Rms'"
