"""The agent as an OPC UA server: scores as nodes that are read, subscribed to, and have a history.

On a loopback address everybody on this machine may read, without security.  On any other one the
channel is encrypted with the agent's own certificate, and clients are let in whose certificate is
in the trust list (`journeyman-agent trust`), unless `allow_insecure` says otherwise.

An address that is taken, or a certificate that can not be read, is reported and tried again; the
agent goes on.
"""

import asyncio
import copy
import logging
import math
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from asyncua import Server, ua
from asyncua.common.connection import TransportLimits

from agent.sensors.opcua.own_certificate import agent_uri
from agent.sensors.source import SourceContext
from agent.serve.address_space import AddressSpace
from agent.serve.clients import Clients
from agent.serve.counted import CountClient, CountedTransports
from agent.serve.guarded import GuardedServer
from agent.serve.history import ScoreHistory
from agent.serve.inbox import Inbox, OutputReport
from agent.serve.nodes import MAX_MODELS, ScoreNodes
from agent.serve.score import OK
from agent.serve.settings import OpcUaServerSettings
from agent.serve.standard_nodes import node_id
from agent.serve.values import data_value
from wire.errors import SettingsError

PRODUCT_URI: Final = "urn:journeyman:agent"
_STATUS: Final = node_id("Server_ServerStatus")
_CURRENT_TIME: Final = node_id("Server_ServerStatus_CurrentTime")
_MODELS: Final = "models"
_CLOCK_S: Final = 1.0
_RETRY_S: Final = 10.0
_GOODBYE_S: Final = 2.0
_RENEWAL_S: Final = 3600.0
_TOGETHER: Final = 50
"""Scores shown before other tasks get their turn: 3 ms of a desktop processor."""
_MESSAGE_BYTES: Final = 1 << 20
_BUFFER_BYTES: Final = 65_535
# Whatever clients do wrong is an ERROR with a traceback to asyncua; they could fill the disk.
logging.getLogger("asyncua.server").setLevel(logging.CRITICAL)

logger = logging.getLogger(__name__)


class OpcUaOutput:
    """Shows what is in its inbox.

    Args:
      settings: the table.
      inbox: of scores.
      report: for people.
      context: where certificates are, and the agent's name.
      stale_after_s: without a new score for so long, the last one is marked; 0: never.
      count: takes what is sent.
    """

    def __init__(
        self,
        settings: OpcUaServerSettings,
        inbox: Inbox,
        report: OutputReport,
        context: SourceContext,
        stale_after_s: float,
        count: CountClient,
    ) -> None:
        self._settings, self._inbox, self._report = settings, inbox, report
        self._context, self._stale_after_s, self._count = context, stale_after_s, count
        self._history = ScoreHistory(settings.history)
        self._clients = Clients(settings, context, report)

    async def run(self) -> None:
        """Serve for ever; open again when something is in the way."""
        while True:
            try:
                await self._serve()
            except (OSError, ua.UaError, SettingsError) as error:
                reason = str(error) or type(error).__name__
                if self._report.state != reason:
                    logger.warning("scores over OPC UA: %s", reason)
                self._report.state = reason
                await asyncio.sleep(_RETRY_S)

    async def _serve(self) -> None:
        """Serve until the agent's own certificate is replaced by its successor."""
        internal = GuardedServer(self._clients.refusal, self._history)
        internal.asyncio_transports = CountedTransports(self._count)
        server = Server(internal)
        await self._prepare(server)
        namespace = await server.get_namespace_index(server.get_application_uri())
        nodes = ScoreNodes(AddressSpace(internal, namespace))
        try:
            await server.start()
            self._report.state = f"listening on {self._settings.listen}"
            await self._show(internal, nodes)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await server.stop()

    async def _prepare(self, server: Server) -> None:
        """Set what must be set before a server starts."""
        server.product_uri, server.manufacturer_name = PRODUCT_URI, "Journeyman"
        server.set_server_name(f"Journeyman agent {self._context.agent}")
        server.application_type = ua.ApplicationType.Server
        await server.init()
        await server.set_application_uri(agent_uri(self._context.agent))
        server.set_endpoint(self._settings.listen)
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        server.limits = TransportLimits(
            max_recv_buffer=_BUFFER_BYTES,
            max_send_buffer=_BUFFER_BYTES,
            max_chunk_count=_MESSAGE_BYTES // _BUFFER_BYTES + 1,
            max_message_size=_MESSAGE_BYTES,
        )
        policies = []
        if self._clients.is_open:
            policies.append(ua.SecurityPolicyType.NoSecurity)
        if not self._settings.is_loopback:
            own = await asyncio.to_thread(self._clients.own_certificate)
            server.iserver.certificate, server.iserver.private_key = own.certificate, own.key
            policies += [
                ua.SecurityPolicyType[f"{name}_SignAndEncrypt"] for name in self._settings.policies
            ]
        server.set_security_policy(policies)

    async def _show(self, internal: GuardedServer, nodes: ScoreNodes) -> None:
        """Show scores and health as they come, and keep the clock, until it is time to renew."""
        told, ticked_s, looked_s = OK, -math.inf, time.monotonic()
        while True:
            scores = await self._inbox.take(_CLOCK_S)
            for at in range(0, len(scores), _TOGETHER):
                if not await nodes.show(scores[at : at + _TOGETHER]):
                    self._report.problems[_MODELS] = f"more than {MAX_MODELS} models: restart it"
                await asyncio.sleep(0)
            self._report.sent += len(scores)
            if told != self._inbox.health:
                told = self._inbox.health
                await nodes.show_health(told)
            now_s = time.monotonic()
            if now_s - ticked_s >= _CLOCK_S:
                ticked_s = now_s
                await _write_time(internal)
                if self._stale_after_s:
                    await nodes.mark_stale(now_s - self._stale_after_s)
            if now_s - looked_s >= _RENEWAL_S and not self._settings.is_loopback:
                looked_s = now_s
                own = await asyncio.to_thread(self._clients.own_certificate)
                if own.certificate != internal.certificate:
                    return


async def _write_time(server: GuardedServer) -> None:
    """Let Server.ServerStatus.CurrentTime go on, which clients watch."""
    now = datetime.now(UTC)
    shown = server.read_attribute_value(_STATUS).Value
    status = copy.copy(shown.Value) if shown is not None else ua.ServerStatusDataType()
    status.CurrentTime = now
    for node, value, kind in (
        (_STATUS, status, ua.VariantType.ExtensionObject),
        (_CURRENT_TIME, now, ua.VariantType.DateTime),
    ):
        await server.write_attribute_value(node, data_value(value, kind, 0, now, now))
