"""A TCP relay on loopback that counts bytes: what the sites' links would carry.

It forwards any bytes unchanged and looks at none; when either side ends, both are closed.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

_READ_BYTES = 1 << 16


@dataclass
class Relay:
    """Forwards every connection to `target_port` on loopback.

    Attributes:
      up_bytes: received from those who connect, in all.
      down_bytes: sent back to them, in all.
    """

    target_port: int
    up_bytes: int = 0
    down_bytes: int = 0
    _carrying: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> tuple[asyncio.Server, int]:
        """Listen on a free port of loopback; return the server and its port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def drained(self) -> None:
        """Wait until every connection has ended, as it does when its program has."""
        await asyncio.gather(*self._carrying)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer), name="relay")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far_writer, up=True))
                pumps.create_task(self._pump(far_reader, writer, up=False))
        finally:
            writer.close()
            far_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                self.up_bytes += len(data) if up else 0
                self.down_bytes += 0 if up else len(data)
                writer.write(data)
                await writer.drain()
        writer.close()
