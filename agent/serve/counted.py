"""Counts what the OPC UA server sends, where it hands bytes to its connections."""

from asyncio import Transport
from collections.abc import Callable
from typing import Any

from agent.egress.categories import OPCUA

CountClient = Callable[[str, str, str, int], None]
"""Takes protocol, a client's address, category and bytes."""


class CountedTransports(list[Any]):
    """The connections of asyncua's server, which it adds before it writes to them (asyncua 2.1).

    Args:
      count: takes what is sent.
    """

    def __init__(self, count: CountClient) -> None:
        super().__init__()
        self._count = count

    def append(self, transport: Transport) -> None:
        """Add a connection; from here on what is written to it is counted."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "unknown"
        write = transport.write

        def counted(data: bytes) -> None:
            self._count("OPC UA", address, OPCUA, len(data))
            write(data)

        transport.write = counted  # type: ignore[method-assign,assignment]
        super().append(transport)
