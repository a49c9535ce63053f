"""What a stream of bytes to an MQTT broker holds: packets, and their messages.  Pure.

Reads what the agent's own client wrote (MQTT 3.1.1 and 5.0, sections 2.1 and 3), in pieces as the
socket took them.  Never raises: bytes that make no sense are a packet without a message.

Invariant: the sizes of all packets and `unfinished` add up to the bytes fed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

CONNECT, PUBLISH = 1, 3
KEPT_BYTES = 300_000
"""Of a packet; more than any signed message has, less than a large chunk."""
_MQTT_5 = 5
_LENGTH_BYTES = 4
_WILL, _QOS = 0x04, 0x06


@dataclass(frozen=True)
class Packet:
    """One whole packet.

    Attributes:
      kind: as in section 2.1.2.
      flags: lower half of its first byte.
      size: all of its bytes.
      body: what follows the fixed header, or the first `KEPT_BYTES` of it.
      body_size: all bytes of the body.
    """

    kind: int
    flags: int
    size: int
    body: bytes
    body_size: int


@dataclass(frozen=True)
class Message:
    """A message in a packet: that of a PUBLISH, or the will of a CONNECT.

    Attributes:
      payload: the first bytes of it, at least all of a signed message.
      size: all bytes of the payload.
    """

    topic: str
    payload: bytes
    size: int


class Packets:
    """Cuts one connection's stream into packets."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._header_size, self._body_size, self._seen = 0, 0, 0
        self._protocol = 4

    @property
    def unfinished(self) -> int:
        """Bytes of a packet that is not whole yet."""
        return self._seen

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that become whole with these bytes."""
        at = 0
        while at < len(data):
            if not self._header_size:
                self._begun.append(data[at])
                self._seen += 1
                at += 1
                self._read_header()
            else:
                rest = self._header_size + self._body_size - self._seen
                piece = data[at : at + rest]
                room = self._header_size + KEPT_BYTES - len(self._begun)
                self._begun += piece[: max(0, room)]
                self._seen += len(piece)
                at += len(piece)
            if self._header_size and self._seen == self._header_size + self._body_size:
                yield self._finished()

    def message(self, packet: Packet) -> Message | None:
        """The message that a packet holds; None for those that only serve the protocol."""
        try:
            if packet.kind == PUBLISH:
                return self._published(packet)
            if packet.kind == CONNECT:
                return self._will(packet)
        except (IndexError, UnicodeDecodeError):
            return None
        return None

    def _read_header(self) -> None:
        length, is_whole = 0, False
        for at, byte in enumerate(self._begun[1:]):
            length |= (byte & 0x7F) << (7 * at)
            is_whole = not byte & 0x80
        if is_whole or len(self._begun) > _LENGTH_BYTES:
            self._header_size, self._body_size = len(self._begun), length

    def _finished(self) -> Packet:
        kind, flags = self._begun[0] >> 4, self._begun[0] & 0x0F
        body = bytes(self._begun[self._header_size :])
        packet = Packet(kind, flags, self._seen, body, self._body_size)
        self._begun.clear()
        self._header_size = self._body_size = self._seen = 0
        return packet

    def _published(self, packet: Packet) -> Message:
        topic, at = _field(packet.body, 0)
        at += 2 if packet.flags & _QOS else 0
        if self._protocol == _MQTT_5:
            at = _after_properties(packet.body, at)
        return Message(topic.decode(), packet.body[at:], packet.body_size - at)

    def _will(self, packet: Packet) -> Message | None:
        """Look for the will, and learn which version of the protocol the rest is in."""
        _, at = _field(packet.body, 0)
        self._protocol, flags = packet.body[at], packet.body[at + 1]
        is_5 = self._protocol == _MQTT_5
        at += 4  # with two bytes of keep-alive
        at = _after_properties(packet.body, at) if is_5 else at
        _, at = _field(packet.body, at)
        if not flags & _WILL:
            return None
        at = _after_properties(packet.body, at) if is_5 else at
        topic, at = _field(packet.body, at)
        payload, _ = _field(packet.body, at)
        return Message(topic.decode(), payload, len(payload))


def _field(body: bytes, at: int) -> tuple[bytes, int]:
    """A string or binary with its length before it, and where the next field begins."""
    begin = at + 2
    end = begin + (body[at] << 8 | body[at + 1])
    return body[begin:end], end


def _after_properties(body: bytes, at: int) -> int:
    length, shift = 0, 0
    while True:
        byte = body[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return at + length
