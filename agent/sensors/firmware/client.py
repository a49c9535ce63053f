"""A connection to the bridge: its messages, and orders to it.

Capped and checked by `wire/bridge.py`.  Used by the source of samples; whoever brings models to
microcontrollers opens a connection of his own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from wire.bridge import FromBridge, ToBridge, from_bridge, pack
from wire.errors import WireError

_READ_BYTES: Final = 65_536
_CONNECT_S: Final = 5.0
_SEND_S: Final = 30.0


class BridgeLostError(Exception):
    """No bridge answers, or it went; says what to do.  Connect again later."""


class BridgeClient:
    """An open connection; made by `bridge_client`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._stream = from_bridge()

    async def read(self) -> list[FromBridge]:
        """The next messages; the first of a connection is `Devices`.

        Raises:
          BridgeLostError: the bridge is gone, or what it sends is no message.
        """
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
                messages = list(self._stream.feed(data))
            except (OSError, WireError) as error:
                raise BridgeLostError(f"the bridge is gone: {error}") from None
            if not data:
                raise BridgeLostError("the bridge closed the connection; has it too many clients?")
            if messages:
                return messages

    async def send(self, order: ToBridge) -> None:
        """Send an order; what becomes of it comes as `Deployment` messages.

        Raises:
          BridgeLostError: the bridge is gone.
          TooLargeError: a model over the bridge's cap.
        """
        packed = pack(order)
        try:
            self._writer.write(packed)
            async with asyncio.timeout(_SEND_S):
                await self._writer.drain()
        except OSError as error:
            raise BridgeLostError(f"the bridge is gone: {error}") from None


@asynccontextmanager
async def bridge_client(socket: str) -> AsyncIterator[BridgeClient]:
    """Connect to the bridge; close at the end.

    Args:
      socket: path.

    Raises:
      BridgeLostError: no bridge answers there.
    """
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(socket)
    except PermissionError:
        reason = f"{socket}: permission denied; add this program's user to the socket's group"
        raise BridgeLostError(reason) from None
    except OSError as error:
        words = error.strerror or str(error)
        raise BridgeLostError(f"{socket}: {words}; does journeyman-bridge run?") from None
    try:
        yield BridgeClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
