"""A bare MQTT 3.1.1 client for load generators: a socket, prebuilt packets, no state but that.

A load generator on the machine that it loads must cost nearly nothing, so nothing is copied or
remembered that is not needed.  It speaks only to the broker that a benchmark has started itself.
"""

import socket
import struct
from collections.abc import Iterator

from shopfloor.chaos.packets import PUBLISH, Packet, Publish, Splitter, read_publish

_CONNECT, _SUBSCRIBE, _UNSUBSCRIBE, _DISCONNECT = 0x10, 0x82, 0xA2, b"\xe0\x00"
_PUBACK = b"\x40\x02"
_PUBLISH_QOS_1, _RETAIN = 0x32, 0x01
_KEEPALIVE_S = 600
_READ_BYTES = 1 << 18


class RawClient:
    """One connection, clean session, no will.

    Args:
      port: of the broker on 127.0.0.1.
      client_id: also for the log of the broker.
    """

    def __init__(self, port: int, client_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._splitter = Splitter()
        self._packet_id = 0
        head = _text("MQTT") + bytes([4, 2]) + struct.pack("!H", _KEEPALIVE_S)
        self.socket.sendall(_packet(_CONNECT, head + _text(client_id)))
        if self.socket.recv(4) != b"\x20\x02\x00\x00":
            raise ConnectionError("the broker did not accept the connection")

    def subscribe(self, topic_filters: list[str]) -> None:
        """Ask for these topics with QoS 1; the SUBACK comes among what is read."""
        filters = b"".join(_text(each) + b"\x01" for each in topic_filters)
        self.socket.sendall(_packet(_SUBSCRIBE, self._next_id() + filters))

    def unsubscribe(self, topic_filters: list[str]) -> None:
        """Stop hearing these topics."""
        filters = b"".join(_text(each) for each in topic_filters)
        self.socket.sendall(_packet(_UNSUBSCRIBE, self._next_id() + filters))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1; the PUBACK comes among what is read."""
        head = _text(topic) + self._next_id()
        first = _PUBLISH_QOS_1 | (_RETAIN if retain else 0)
        start = bytes([first]) + _length(len(head) + len(payload)) + head
        unsent = len(start) + len(payload) - self.socket.sendmsg([start, payload])
        if unsent > len(payload):
            self.socket.sendall(start[-(unsent - len(payload)) :] + payload)
        elif unsent:
            self.socket.sendall(memoryview(payload)[-unsent:])

    def receive(self) -> Iterator[Packet]:
        """Read once (waiting for bytes unless there are some) and yield what is complete."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the broker closed the connection")
        yield from self._splitter.feed(data)

    def messages(self) -> Iterator[Publish]:
        """Read once and yield the messages, each acknowledged."""
        for packet in self.receive():
            if packet.kind == PUBLISH:
                message = read_publish(packet, 4)
                self.socket.sendall(_PUBACK + struct.pack("!H", message.packet_id))
                yield message

    def close(self) -> None:
        """Say goodbye, so that no will is published."""
        self.socket.sendall(_DISCONNECT)
        self.socket.close()

    def _next_id(self) -> bytes:
        self._packet_id = self._packet_id % 65_535 + 1
        return struct.pack("!H", self._packet_id)


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _length(len(body)) + body


def _text(words: str) -> bytes:
    data = words.encode()
    return struct.pack("!H", len(data)) + data


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)
