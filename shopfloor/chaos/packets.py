"""MQTT packets in a stream of bytes: cut apart, looked into, given another packet identifier.

Pure.  Follows OASIS "MQTT Version 3.1.1" and "MQTT Version 5.0", sections 2.1 (fixed header), 3.1
(CONNECT), 3.3 (PUBLISH) and 3.4 (PUBACK).  Refuses whatever does not follow the framing
(`PacketError`); knows only the packets that a link in the middle has to understand.
"""

from dataclasses import dataclass
from typing import Final

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
DISCONNECT: Final = 14

_MAXIMUM_PACKET_SIZE: Final = 0x27
MAX_PACKET_BYTES: Final = 32 << 20
_PROTOCOL_LEVELS: Final = (4, 5)


class PacketError(ConnectionError):
    """Bytes that are not MQTT; whoever carries them drops the connection."""


@dataclass(frozen=True)
class Packet:
    """One whole packet.

    Attributes:
      first: the first byte, type and flags.
      body: everything behind the remaining length.
    """

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        """The control packet type."""
        return self.first >> 4

    @property
    def raw(self) -> bytes:
        """The bytes on the wire."""
        return bytes([self.first]) + _variable_length(len(self.body)) + self.body


@dataclass(frozen=True)
class Publish:
    """What a PUBLISH says; `packet_id` is 0 at QoS 0."""

    topic: str
    qos: int
    packet_id: int
    payload: bytes


class Splitter:
    """Cuts a stream into packets, whatever the pieces it comes in."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """Add bytes; return the packets that are complete now.

        Raises:
          PacketError: the framing is wrong or a packet is larger than `MAX_PACKET_BYTES`.
        """
        self._rest += data
        packets: list[Packet] = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def _next(self) -> Packet | None:
        found = _read_length(self._rest, 1)
        if found is None:
            return None
        length, start = found
        if length > MAX_PACKET_BYTES:
            raise PacketError(f"a packet of {length} bytes; at most {MAX_PACKET_BYTES}")
        if len(self._rest) < start + length:
            return None
        packet = Packet(self._rest[0], bytes(self._rest[start : start + length]))
        del self._rest[: start + length]
        return packet


def protocol_level(connect: Packet) -> int:
    """4 (MQTT 3.1.1) or 5, from a CONNECT."""
    name, at = _text(connect.body, 0)
    level = connect.body[at] if at < len(connect.body) else 0
    if connect.kind != CONNECT or name != "MQTT" or level not in _PROTOCOL_LEVELS:
        raise PacketError(f"not a CONNECT of MQTT 3.1.1 or 5: {connect.body[:12]!r}")
    return level


def is_accepted(connack: Packet) -> bool:
    """Whether a CONNACK lets the client in."""
    return len(connack.body) >= 2 and connack.body[1] == 0


def with_packet_limit(connack: Packet, limit_bytes: int) -> Packet:
    """A CONNACK of MQTT 5 that also says Maximum Packet Size (3.2.2.3.6), which it must not yet."""
    found = _read_length(connack.body, 2)
    if found is None:
        raise PacketError("a CONNACK without properties")
    properties = connack.body[found[1] :] + bytes([_MAXIMUM_PACKET_SIZE])
    properties += limit_bytes.to_bytes(4, "big")
    body = connack.body[:2] + _variable_length(len(properties)) + properties
    return Packet(connack.first, body)


def read_publish(packet: Packet, level: int) -> Publish:
    """Look into a PUBLISH of this protocol level."""
    qos = packet.first >> 1 & 3
    topic, at = _text(packet.body, 0)
    packet_id = 0
    if qos:
        packet_id, at = _number(packet.body, at)
        if packet_id == 0:
            raise PacketError("a PUBLISH with packet identifier 0")
    if level == 5:
        found = _read_length(packet.body, at)
        if found is None or found[0] + found[1] > len(packet.body):
            raise PacketError("a PUBLISH whose properties do not fit")
        at = found[0] + found[1]
    return Publish(topic, qos, packet_id, packet.body[at:])


def with_packet_id(packet: Packet, packet_id: int) -> Packet:
    """The same message as a packet of its own: another identifier, not a redelivery (DUP 0)."""
    _, at = _text(packet.body, 0)
    body = packet.body[:at] + packet_id.to_bytes(2, "big") + packet.body[at + 2 :]
    return Packet(packet.first & ~0x08, body)


def acknowledged_id(puback: Packet) -> int:
    """Which PUBLISH a PUBACK speaks of."""
    return _number(puback.body, 0)[0]


def _variable_length(value: int) -> bytes:
    """Section 2.2.3 (3.1.1) and 1.5.5 (5.0): seven bits a byte, least significant first."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable length at `at` and where it ends; None when bytes are missing."""
    value = 0
    for place in range(4):
        if at + place >= len(data):
            return None
        digit = data[at + place]
        value |= (digit & 0x7F) << 7 * place
        if not digit & 0x80:
            return value, at + place + 1
    raise PacketError("a length of more than four bytes")


def _number(data: bytes, at: int) -> tuple[int, int]:
    if len(data) < at + 2:
        raise PacketError("a packet that ends too early")
    return int.from_bytes(data[at : at + 2], "big"), at + 2


def _text(data: bytes, at: int) -> tuple[str, int]:
    length, start = _number(data, at)
    if len(data) < start + length:
        raise PacketError("a packet that ends too early")
    try:
        return data[start : start + length].decode(), start + length
    except UnicodeDecodeError:
        raise PacketError("a text that is not UTF-8") from None
