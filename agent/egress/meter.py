"""Counts one MQTT connection, byte by byte, where they are handed to its socket.

Invariant: what was counted is what the socket took, at any moment but for a packet that is not
whole yet; that is counted when it becomes whole or the connection ends.
"""

from collections.abc import Callable

from agent.egress.categories import PROTOCOL, TLS, UNFINISHED
from agent.egress.classify import Classify
from agent.egress.packets import Packets

Count = Callable[[str, int, int], None]
"""Takes a category, messages and bytes."""


class LinkMeter:
    """The meter (`wire.mqtt.Meter`) of one connection.

    Args:
      count: where to.
      classify: of this broker's messages.
    """

    def __init__(self, count: Count, classify: Classify) -> None:
        self._count, self._classify = count, classify
        self._packets = Packets()
        self._sent = self._around = 0
        self._is_over = False

    def sent(self, data: bytes) -> None:
        """Take bytes that the socket has just taken."""
        self._sent += len(data)
        for packet in self._packets.feed(data):
            message = self._packets.message(packet)
            if message is None:
                self._count(PROTOCOL, 1, packet.size)
                continue
            for category, size in self._classify(message):
                self._count(category, 1, size)
            self._count(PROTOCOL, 0, packet.size - message.size)

    def on_wire(self, total: int) -> None:
        """Take what TCP was given so far: what is more than MQTT is TLS."""
        around = total - self._sent
        if around > self._around:
            self._count(TLS, 0, around - self._around)
            self._around = around

    def ended(self) -> None:
        """Count what was begun and not finished."""
        if self._packets.unfinished and not self._is_over:
            self._count(UNFINISHED, 1, self._packets.unfinished)
        self._is_over = True
