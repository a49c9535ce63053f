"""Captures what an agent sends to its broker, and reads it with a parser of its own.

The parser shares nothing with `agent/egress`: it takes a whole connection at once, after the fact
(MQTT 3.1.1, sections 2.2 and 3.1, 3.3).
"""

import asyncio
import struct
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.agent.federation import FEDERATION

BASE = f"journeyman/v1/{FEDERATION}"


@dataclass
class Conversation:
    """One connection's bytes, as a proxy read them from the agent; a `Carrier` of FlakyLink."""

    sent: bytearray = field(default_factory=bytearray)

    def up(self, data: bytes, now_s: float) -> bytes:
        del now_s
        self.sent += data
        return data

    def down(self, data: bytes, now_s: float) -> bytes:
        del now_s
        return data


@dataclass
class Capture:
    """All connections, in order."""

    conversations: list[Conversation] = field(default_factory=list)

    def begin(self) -> Conversation:
        """Make what carries the next connection."""
        self.conversations.append(Conversation())
        return self.conversations[-1]

    @property
    def size(self) -> int:
        """Bytes of TCP payload."""
        return sum(len(each.sent) for each in self.conversations)

    @property
    def whole(self) -> bytes:
        """Everything, one connection after the other."""
        return b"".join(each.sent for each in self.conversations)

    async def reaches(self, size: int) -> None:
        """Wait for so many bytes."""
        while self.size < size:  # noqa: ASYNC110  what carries bytes knows of no event loop
            await asyncio.sleep(0.005)

    def messages(self) -> list[tuple[str, bytes]]:
        """Topics and payloads of all whole messages and wills."""
        return [message for each in self.conversations for message in messages_of(each.sent)]

    def payload_bytes(self) -> Counter[str]:
        """Payload bytes by kind of topic."""
        sizes: Counter[str] = Counter()
        for topic, payload in self.messages():
            sizes[kind_of(topic)] += len(payload)
        return sizes


def messages_of(sent: bytes | bytearray) -> list[tuple[str, bytes]]:
    """The messages of one connection; a packet that is cut short ends it."""
    found: list[tuple[str, bytes]] = []
    rest = bytes(sent)
    while len(rest) >= 2:
        lengths = rest[1:5]
        digits = next((at for at, byte in enumerate(lengths, 1) if byte < 128), 0)
        size = sum((byte & 127) * 128**at for at, byte in enumerate(lengths[:digits]))
        body, whole = rest[1 + digits :][:size], 1 + digits + size
        if not digits or len(rest) < whole:
            break
        if rest[0] >> 4 == 3:  # PUBLISH
            assert rest[0] & 0x06 == 0x02, "everything goes with QoS 1"
            topic, after = _text(body)
            found.append((topic, after[2:]))
        elif rest[0] >> 4 == 1:  # CONNECT
            assert body[:7] == b"\x00\x04MQTT\x04"
            assert body[7] & 0x04, "every connection has a will"
            _, after = _text(body[10:])
            topic, after = _text(after)
            (length,) = struct.unpack_from(">H", after)
            found.append((topic, after[2 : 2 + length]))
        rest = rest[whole:]
    return found


def kind_of(topic: str) -> str:
    """What a topic is for, by wire/PROTOCOL.md."""
    levels = topic.removeprefix(f"{BASE}/").split("/")
    if levels[0] == "up":
        return "header" if levels[-1] == "h" else "chunk"
    if levels[0] in ("state", "report", "ask", "renew"):
        return levels[0]
    pytest.fail(f"nothing may be sent to {topic}")


def _text(body: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from(">H", body)
    return body[2 : 2 + length].decode(), body[2 + length :]
