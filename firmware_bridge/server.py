"""The bridge's unix socket: agents connect, get everything, and may deploy.

Whoever may open the socket is trusted with the plant's samples and the devices' models, so its mode
is 0660 and its group the configured one; the folder it is in decides too.

A client that does not read fills its mailbox, and then loses the oldest samples (`mailbox.py`); it
never stops a line, nor another client.  One that sends what is no message is disconnected.
"""

import asyncio
import contextlib
import grp
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from firmware_bridge.mailbox import Mailbox
from firmware_bridge.settings import BridgeTable
from wire.bridge import FromBridge, ToBridge, to_bridge
from wire.errors import SettingsError, WireError

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 65_536
_MODE: Final = 0o660
_BUFFER_BYTES: Final = 65_536
"""What waits in asyncio's buffer beside the mailbox."""
Greet = Callable[[], FromBridge]
Order = Callable[[ToBridge], FromBridge | None]


class _Client:
    """One connection."""

    def __init__(self, writer: asyncio.StreamWriter, most_bytes: int) -> None:
        self.writer, self.mailbox = writer, Mailbox(most_bytes)
        self._news = asyncio.Event()

    def push(self, message: FromBridge) -> None:
        self.mailbox.push(message)
        self._news.set()

    async def write(self) -> None:
        """Send what waits, for ever."""
        while True:
            while packed := self.mailbox.pop():
                self.writer.write(packed)
                await self.writer.drain()
            self._news.clear()
            await self._news.wait()


class Server:
    """The clients.

    Args:
      table: `[bridge]`.
      greet: makes the first message of a connection.
      order: carries out what a client asks; gives an answer for that client, if any.

    Attributes:
      dropped: samples that slow clients did not get.
      refused: connections that were one too many, or sent what is no message.
    """

    def __init__(self, table: BridgeTable, greet: Greet, order: Order) -> None:
        self._table, self._greet, self._order = table, greet, order
        self._clients: set[_Client] = set()
        self._dropped = 0
        self.refused = 0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    @property
    def dropped(self) -> int:
        """Samples that slow clients did not get."""
        return self._dropped + sum(each.mailbox.dropped for each in self._clients)

    def tell(self, message: FromBridge) -> None:
        """Give a message to all clients; never waits."""
        for client in self._clients:
            client.push(message)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve from here on.

        Raises:
          SettingsError: the socket can not be made; says why.
        """
        listener = open_socket(self._table)
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_READ_BYTES)
        try:
            yield
        finally:
            server.close()
            for client in tuple(self._clients):
                client.writer.close()
            _remove(self._table.socket)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(writer, self._table.client_bytes)
        writer.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        if len(self._clients) >= self._table.clients:
            self.refused += 1
            logger.warning("a client was refused: %d are connected", len(self._clients))
            writer.close()
            return
        client.push(self._greet())
        self._clients.add(client)
        writing = asyncio.create_task(client.write(), name="write to client")
        try:
            await self._read(reader, client)
        except WireError as error:
            self.refused += 1
            logger.warning("a client is disconnected: %s", error)
        except (OSError, asyncio.IncompleteReadError):
            pass  # it is gone, which is its right
        finally:
            self._clients.discard(client)
            self._dropped += client.mailbox.dropped
            writing.cancel()
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writing

    async def _read(self, reader: asyncio.StreamReader, client: _Client) -> None:
        stream = to_bridge()
        while data := await reader.read(_READ_BYTES):
            for order in stream.feed(data):
                answer = self._order(order)
                if answer is not None:
                    client.push(answer)


def _remove(socket_path: str) -> None:
    with contextlib.suppress(OSError):
        Path(socket_path).unlink()


def open_socket(table: BridgeTable) -> socket.socket:
    """Make and bind the socket; one that a dead program left behind is taken over.

    Raises:
      SettingsError: it can not be made, or a bridge that lives has it.
    """
    path = Path(table.socket)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise SettingsError(str(path), None, None, "another bridge serves this socket")
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~_MODE)
    try:
        listener.bind(str(path))
        if table.group:
            os.chown(path, -1, grp.getgrnam(table.group).gr_gid)
    except KeyError:
        listener.close()
        reason = f"there is no group {table.group!r}"
        raise SettingsError(str(path), None, "bridge.group", reason) from None
    except OSError as error:
        listener.close()
        reason = f"can not make the socket: {error.strerror}"
        raise SettingsError(str(path), None, "bridge.socket", reason) from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener
