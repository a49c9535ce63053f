"""Scores into nodes of a machine's own server: to the listed nodes only, and off by default.

One session of its own for each server, secured as the source of that server is, never the one that
measures.  A node's type is read first; the value is of that type.  Every result is looked at.  A
node that refuses is reported and tried again with the newest value, at the earliest after
`retry_s`; values in between are not made up for.

Bad scores are not written: the node keeps its last value.  `field = "count"` is what a PLC watches.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from asyncua import Client, ua
from asyncua.ua.ua_binary import variant_to_binary

from agent.egress import Egress
from agent.egress.categories import WRITTEN
from agent.sensors.opcua.link import FAILURES, MALFORMED, reason_of
from agent.sensors.opcua.security import secure
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.source import SourceContext
from agent.serve.convert import UnwritableError, Written, converted, kind_of
from agent.serve.inbox import Inbox, OutputReport
from agent.serve.score import Score
from agent.serve.settings import WriteBackSettings

_GOODBYE_S: Final = 1.0
_SESSION_MS: Final = 60_000
_LIVENESS_S: Final = 5.0
_FAILURES: Final = (*FAILURES, *MALFORMED)
_TYPE_ATTRIBUTES: Final = (
    ua.AttributeIds.DataType,
    ua.AttributeIds.ValueRank,
    ua.AttributeIds.Value,
)

logger = logging.getLogger(__name__)


@dataclass
class Target:
    """One listed node and what waits for it.

    Attributes:
      settings: of the table.
      newest: score to write; None when it was written.
      count: scores so far.
      due_s: not before this time of `time.monotonic`.
      kind: in which type it is written; None until it was read.
    """

    settings: WriteBackSettings
    newest: Score | None = None
    count: int = 0
    due_s: float = 0.0
    kind: ua.VariantType | None = None

    def note(self, score: Score) -> None:
        """Take a score, instead of what waits."""
        if not score.is_bad and self.settings.model in ("", score.origin.model):
            self.newest, self.count = score, self.count + 1


class WriteBackOutput:
    """Writes the newest score to the listed nodes of one server.

    Args:
      source: of this server: its endpoint and security.
      targets: the enabled ones of this endpoint.
      inbox: of scores.
      report: for people.
      context: where certificates are.
      egress: counts what is written.
    """

    def __init__(
        self,
        source: OpcUaSettings,
        targets: Sequence[WriteBackSettings],
        inbox: Inbox,
        report: OutputReport,
        context: SourceContext,
        egress: Egress,
    ) -> None:
        self._source, self._inbox, self._egress = source, inbox, egress
        self._report, self._context = report, context
        self._targets = [Target(target) for target in targets]
        self._retry_s = min(target.retry_s for target in targets)
        self._is_lost = False

    async def run(self) -> None:
        """Connect, write, and connect again, for ever."""
        while True:
            try:
                async with self._session() as client:
                    await self._write_for_ever(client)
            except _FAILURES as error:
                self._say(reason_of(error))
            for target in self._targets:
                target.kind = None  # another program may have been loaded into the PLC
            await asyncio.sleep(self._retry_s)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Client]:
        client = Client(
            self._source.endpoint, timeout=self._source.answer_s, watchdog_intervall=_LIVENESS_S
        )
        client.session_timeout = _SESSION_MS
        self._is_lost = False
        client.connection_lost_callback = self._on_lost
        try:
            await secure(client, self._source, self._context)
            await client.connect()
            yield client
        finally:
            with suppress(*_FAILURES):
                async with asyncio.timeout(_GOODBYE_S):
                    await client.disconnect()
            client.disconnect_socket()

    async def _on_lost(self, _error: Exception) -> None:
        self._is_lost = True
        self._inbox.wake()

    async def _write_for_ever(self, client: Client) -> None:
        namespaces = await client.get_namespace_array()
        self._report.state = "connected"
        while not self._is_lost:
            await self._take()
            ready = [target for target in self._targets if self._is_ready(target)]
            if ready:
                await self._write(client, namespaces, ready)
        raise ConnectionError("connection lost")

    async def _take(self) -> None:
        """Take what waits, once there is something new or a refused write is due again."""
        now_s = time.monotonic()
        due = [target.due_s - now_s for target in self._targets if target.newest is not None]
        for score in await self._inbox.take(max(0.0, min(due)) if due else None):
            for target in self._targets:
                target.note(score)

    def _is_ready(self, target: Target) -> bool:
        return target.newest is not None and time.monotonic() >= target.due_s

    async def _write(self, client: Client, namespaces: list[str], ready: list[Target]) -> None:
        """Write what waits for these nodes, in one request, and look at each result."""
        await self._read_kinds(client, namespaces, [each for each in ready if each.kind is None])
        values: list[ua.WriteValue] = []
        written: list[tuple[Target, bool]] = []
        for target in ready:
            if target.newest is None or target.kind is None:
                continue
            value = self._converted(target, target.newest, target.kind)
            if value is not None:
                node = node_id(target.settings, namespaces)
                values.append(_write_value(node, value.variant))
                written.append((target, value.is_clamped))
        if not values:
            return
        self._count(values)
        results = await client.uaclient.write(ua.WriteParameters(NodesToWrite=values))
        for (target, is_clamped), status in zip(written, results, strict=True):
            if status.is_bad():
                target.kind = None
                self._fail(target, f"the server refused to write it: {status.name}: {status.doc}")
            else:
                self._succeed(target, is_clamped=is_clamped)

    def _count(self, values: list[ua.WriteValue]) -> None:
        for each in values:
            if each.Value.Value is not None:
                size = len(variant_to_binary(each.Value.Value))
                self._egress.count(self._source.endpoint, WRITTEN, 1, size)

    async def _read_kinds(
        self, client: Client, namespaces: list[str], targets: list[Target]
    ) -> None:
        """Read of which type the values of these nodes are."""
        reads: list[ua.ReadValueId] = []
        found: list[Target] = []
        for target in targets:
            node = node_id(target.settings, namespaces)
            if node is None:
                uri = target.settings.namespace_uri
                self._fail(target, f"no namespace {uri!r}; the server has {namespaces}")
                continue
            found.append(target)
            reads += [ua.ReadValueId(NodeId=node, AttributeId=each) for each in _TYPE_ATTRIBUTES]
        if not reads:
            return
        answers = await client.uaclient.read(ua.ReadParameters(NodesToRead=reads))
        for at, target in enumerate(found):
            data_type, rank, value = answers[3 * at : 3 * at + 3]
            status = data_type.StatusCode
            if data_type.Value is None or rank.Value is None or (status and status.is_bad()):
                shown = f"{status.name}: {status.doc}" if status else "no answer"
                self._fail(target, f"can not read its type: {shown}")
                continue
            try:
                current = value.Value or ua.Variant()
                target.kind = kind_of(data_type.Value.Value, rank.Value.Value, current)
            except UnwritableError as error:
                self._fail(target, str(error))

    def _converted(self, target: Target, score: Score, kind: ua.VariantType) -> Written | None:
        settings = target.settings
        try:
            return converted(score, target.count, settings.field, settings.scale, kind)
        except UnwritableError as error:
            self._fail(target, str(error))
            return None

    def _fail(self, target: Target, reason: str) -> None:
        """Report why a node was not written; the newest value is tried again later."""
        target.due_s = time.monotonic() + target.settings.retry_s
        node = target.settings.node
        if self._report.problems.get(node) != reason:
            logger.warning("write-back to %s, node %s: %s", self._source.endpoint, node, reason)
        self._report.problems[node] = reason

    def _succeed(self, target: Target, *, is_clamped: bool) -> None:
        target.newest, target.due_s = None, 0.0
        self._report.sent += 1
        if is_clamped:
            kind = target.kind.name if target.kind is not None else ""
            reason = f"a value beyond the range of {kind} was written as its end: see scale"
            self._report.problems[target.settings.node] = reason
        else:
            self._report.problems.pop(target.settings.node, None)

    def _say(self, reason: str) -> None:
        if self._report.state != reason:
            logger.warning("write-back to %s: %s", self._source.endpoint, reason)
        self._report.state = reason


def node_id(settings: WriteBackSettings, namespaces: list[str]) -> ua.NodeId | None:
    """The node in a server with these namespaces; None when it has not that one."""
    if settings.namespace_uri not in namespaces:
        return None
    index = namespaces.index(settings.namespace_uri)
    return ua.NodeId.from_string(f"ns={index};{settings.node}")


def _write_value(node: ua.NodeId | None, value: ua.Variant) -> ua.WriteValue:
    # Neither status nor time: many servers refuse to take them (BadWriteNotSupported).
    return ua.WriteValue(
        NodeId=node or ua.NodeId(),
        AttributeId=ua.AttributeIds.Value,
        Value=ua.DataValue(value, StatusCode=None),
    )
