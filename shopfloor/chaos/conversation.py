"""One MQTT connection with somebody in the middle who repeats and reorders messages, legally.

Both ends see a peer that follows the protocol: a repeated PUBLISH travels under a packet identifier
of its own, whose PUBACK goes no further; a PUBLISH that others overtake keeps its identifier, and
its sender gets the PUBACKs in the order in which it published ([MQTT-4.6.0-2]).  What the ends can
not rely on is what MQTT does not promise across brokers, bridges and reconnects: that a message
comes once and in order.

No I/O: bytes and monotonic time in, bytes out.  What is held back goes out with the next call, so
the caller calls at least every `TURN_S`.  Nothing is held back past the end of its connection.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shopfloor.chaos.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    Packet,
    PacketError,
    Splitter,
    acknowledged_id,
    is_accepted,
    protocol_level,
    read_publish,
    with_packet_id,
    with_packet_limit,
)

TURN_S: Final = 0.1
_LONGEST_HOLD_S: Final = 0.6
_LATEST_REPEAT_S: Final = 2.0
_MOST_OVERTAKING: Final = 4
_OWN_IDS: Final = range(65_535, 60_000, -1)
"""Identifiers of repeats.  Clients and brokers (paho, mosquitto) count up from 1, so these are
free; a sender that comes to use one while a repeat is on its way loses the connection."""


@dataclass
class Disturbance:
    """What a link does to messages now, and how often it did; shared by its connections.

    Attributes:
      share: share of the messages that come twice (`repeat`) or are overtaken (`reorder`), 0 to 1.
      done: how many messages that happened to.
    """

    share: dict[str, float] = field(default_factory=lambda: {"repeat": 0.0, "reorder": 0.0})
    done: dict[str, int] = field(default_factory=lambda: {"repeat": 0, "reorder": 0})


@dataclass
class _Held:
    """A message that waits: until its time, or until so many others have overtaken it."""

    packet: Packet
    until_s: float
    to_overtake: int
    is_repeat: bool
    overtaken: int = 0


@dataclass
class _Way:
    """One direction."""

    splitter: Splitter = field(default_factory=Splitter)
    held: list[_Held] = field(default_factory=list)
    unacknowledged: dict[int, Packet | None] = field(default_factory=dict)
    repeats: set[int] = field(default_factory=set)


class Conversation:
    """Both directions of one connection.

    Args:
      disturbance: what to do to messages; may change at any time.
      rng: decides which.
      saw: told of each message from the client (topic, payload), before anything is done to it.
      connected: called when the broker accepts the connection.
      limit_bytes: largest packet that a client of MQTT 5 may send; it is told so, and one that
        publishes more loses the connection.
    """

    def __init__(
        self,
        disturbance: Disturbance,
        rng: random.Random,
        saw: Callable[[str, bytes], None],
        connected: Callable[[], None],
        *,
        limit_bytes: int | None = None,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._disturbance, self._rng = disturbance, rng
        self._saw, self._connected = saw, connected
        self._level = 0
        self._up, self._down = _Way(), _Way()

    def up(self, data: bytes, now_s: float) -> bytes:
        """What goes to the broker, now that the client sent `data`.

        Raises:
          PacketError: the client does not speak MQTT.
        """
        return self._pass(self._up, self._down, data, now_s)

    def down(self, data: bytes, now_s: float) -> bytes:
        """What goes to the client, now that the broker sent `data`.

        Raises:
          PacketError: the broker does not speak MQTT.
        """
        return self._pass(self._down, self._up, data, now_s)

    def _pass(self, way: _Way, back: _Way, data: bytes, now_s: float) -> bytes:
        out: list[Packet] = []
        for packet in way.splitter.feed(data):
            if packet.kind == PUBLISH:
                out += self._publish(way, packet, now_s)
            elif packet.kind == PUBACK:
                out += _acknowledge(back, packet)
            else:
                out += self._other(way, packet)
        out += _due(way, now_s)
        return b"".join(packet.raw for packet in out)

    def _other(self, way: _Way, packet: Packet) -> list[Packet]:
        if packet.kind == CONNECT:
            self._level = protocol_level(packet)
        elif packet.kind == CONNACK and is_accepted(packet):
            self._connected()
            if self._level == 5 and self._limit_bytes is not None:
                return [with_packet_limit(packet, self._limit_bytes)]
        elif packet.kind == DISCONNECT:
            waiting, way.held = [held.packet for held in way.held], []
            return [*waiting, packet]
        return [packet]

    def _publish(self, way: _Way, packet: Packet, now_s: float) -> list[Packet]:
        message = read_publish(packet, self._level)
        self._check_size(way, packet)
        if way is self._up:
            self._saw(message.topic, message.payload)
        if message.qos != 1:
            return [packet]
        if message.packet_id in way.repeats:
            raise PacketError(f"packet identifier {message.packet_id} is taken by a repeat")
        way.unacknowledged[message.packet_id] = None
        disturbance, rng = self._disturbance, self._rng
        if rng.random() < disturbance.share["repeat"]:
            self._repeat(way, packet, now_s)
        if rng.random() < disturbance.share["reorder"]:
            until_s = now_s + rng.uniform(TURN_S, _LONGEST_HOLD_S)
            held = _Held(packet, until_s, rng.randint(1, _MOST_OVERTAKING), is_repeat=False)
            way.held.append(held)
            return []
        return [packet, *self._overtaken(way)]

    def _check_size(self, way: _Way, packet: Packet) -> None:
        if way is self._up and self._level == 5 and self._limit_bytes is not None:
            size = len(packet.raw)
            if size > self._limit_bytes:
                raise PacketError(f"a packet of {size} bytes; at most {self._limit_bytes} may come")

    def _repeat(self, way: _Way, packet: Packet, now_s: float) -> None:
        free = next((own for own in _OWN_IDS if own not in way.repeats), None)
        if free is None or free in way.unacknowledged:
            return
        way.repeats.add(free)
        until_s = now_s + self._rng.uniform(0.0, _LATEST_REPEAT_S)
        copy = with_packet_id(packet, free)
        way.held.append(_Held(copy, until_s, to_overtake=1 << 30, is_repeat=True))
        self._disturbance.done["repeat"] += 1

    def _overtaken(self, way: _Way) -> list[Packet]:
        """A message went out: those that waited for it follow."""
        out: list[Packet] = []
        for held in list(way.held):
            if held.is_repeat:
                continue
            if held.overtaken == 0:
                self._disturbance.done["reorder"] += 1
            held.overtaken += 1
            if held.overtaken >= held.to_overtake:
                way.held.remove(held)
                out.append(held.packet)
        return out


def _due(way: _Way, now_s: float) -> list[Packet]:
    due = [held for held in way.held if held.until_s <= now_s]
    way.held = [held for held in way.held if held.until_s > now_s]
    return [held.packet for held in due]


def _acknowledge(way: _Way, puback: Packet) -> list[Packet]:
    """PUBACKs that may go back to the sender of `way` now, in the order of its messages."""
    packet_id = acknowledged_id(puback)
    if packet_id in way.repeats:
        way.repeats.discard(packet_id)
        return []
    if packet_id not in way.unacknowledged:
        return [puback]
    way.unacknowledged[packet_id] = puback
    out: list[Packet] = []
    while way.unacknowledged:
        first = next(iter(way.unacknowledged))
        answered = way.unacknowledged[first]
        if answered is None:
            break
        del way.unacknowledged[first]
        out.append(answered)
    return out
