"""One session on one server, over one connection after the other.

Responsible for connecting, for taking up the same session again on a new secure channel (OPC
10000-4, 6.7), for renewing the channel and for a goodbye that is not long.  Of asyncua only the
services are used, not its supervisor: that one recreates subscriptions, and with them loses what
the server had queued, and forgets items that the server refuses.

Invariant: the session is given up only when a new one stands, so a server that answers strangely
for a while keeps what it queued for us.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from asyncua import Client, ua

from agent.sensors.opcua.security import secure
from agent.sensors.opcua.session import FastSession, Sink, install
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.source import SourceContext

GOODBYE_S: Final = 1.0
FAILURES: Final = (OSError, EOFError, TimeoutError, ua.UaError)
"""What a server or a network can do to any service call; an OSError is also `RefusedError`, what
`secure` does not accept."""
MALFORMED: Final = (
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What asyncua's parsers raise for answers that are not as they should be."""
_SESSION_S: Final = 600.0
_RENEW_AT: Final = 0.75  # of its lifetime, OPC 10000-4, 5.5.2.1
logging.getLogger("asyncua").setLevel(logging.ERROR)  # INFO costs 40 % more CPU

logger = logging.getLogger(__name__)


class Link:
    """A client and its session.

    Args:
      settings: of the source.
      context: where its files are.
      sink: what takes decoded notifications, see `session.install`.
    """

    def __init__(self, settings: OpcUaSettings, context: SourceContext, sink: Sink) -> None:
        self._settings, self._context, self._sink = settings, context, sink
        self._client: Client | None = None

    @property
    def session(self) -> FastSession:
        """The session, whose `publish` gives notifications to the sink.

        Raises:
          ConnectionError: there is none.
        """
        session = None if self._client is None else self._client.uaclient.session
        if not isinstance(session, FastSession):
            reason = "not connected"
            raise ConnectionError(reason)
        return session

    async def open(self) -> bool:
        """Connect; true when the session is the same as before, with its subscriptions.

        Raises:
          FAILURES: the server can not be reached or refuses.  Before that, certificates, the
            trust list and the password file were read anew, so that what a person corrects
            counts at the next attempt.
        """
        if self._client is not None and await self._open_again(self._client):
            return True
        client = Client(self._settings.endpoint, timeout=self._settings.answer_s)
        client.session_timeout = int(_SESSION_S * 1000)
        install(client, self._sink)
        await self._connect(client)
        try:
            await client.create_session()
            try:
                await client._activate_with_credentials()  # noqa: SLF001  no public one knows them
            except BaseException:
                await _briefly(client.uaclient.close_session(True))
                raise
        except BaseException:
            _disconnect(client)
            raise
        self._client = client
        return False

    def drop(self) -> None:
        """End the connection without a word; the session stays on the server for a while."""
        if self._client is not None:
            _disconnect(self._client)

    async def close(self) -> None:
        """Close session and connection, waiting for the server at most `GOODBYE_S`."""
        if self._client is None:
            return
        client, self._client = self._client, None
        await _briefly(client.uaclient.close_session(True))
        _disconnect(client)

    async def keep_channel(self) -> None:
        """Renew the secure channel for ever, each time before it expires."""
        client = self._client
        while client is not None:
            await asyncio.sleep(client.secure_channel_timeout / 1000 * _RENEW_AT)
            await client.open_secure_channel(renew=True)
            client.uaclient.revolve_security_token()

    async def _connect(self, client: Client) -> None:
        await secure(client, self._settings, self._context)
        try:
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
        except BaseException:
            _disconnect(client)
            raise

    async def _open_again(self, client: Client) -> bool:
        """Connect and take up the session again; false when the server does not let us."""
        await self._connect(client)
        try:
            client.uaclient.session.rebind_authentication_token()
            await client._activate_with_credentials()  # noqa: SLF001  no public one knows them
        except ua.UaStatusCodeError as error:
            _disconnect(client)
            logger.info("the session can not be taken up again: %s", error)
            return False
        except BaseException:
            _disconnect(client)
            raise
        return True


async def _briefly(farewell: Awaitable[None]) -> None:
    """Wait for something polite, but not for long: a server that hangs never answers."""
    with suppress(*FAILURES, *MALFORMED):
        async with asyncio.timeout(GOODBYE_S):
            await farewell


def _disconnect(client: Client) -> None:
    """Close the socket at once, also when bytes wait that a dead network will never take."""
    protocol = client.uaclient.protocol
    transport = None if protocol is None else protocol.transport
    client.disconnect_socket()
    if transport is not None:
        transport.abort()


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line for people."""
    if isinstance(error, ua.UaStatusCodeError):
        status = ua.StatusCode(ua.UInt32(error.code))
        return f"{status.name}: {status.doc}"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    return str(error) or type(error).__name__
