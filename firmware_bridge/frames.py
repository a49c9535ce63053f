"""The frame codec of the microcontroller link, as FRAMING.md specifies it. No I/O.

`encode` turns a frame into the bytes to send; a `Decoder` is fed whatever a serial port gives
and returns frames and errors in the order in which they lay on the line.

Refuses: nothing is ever raised for bytes that came from the line. What is not a frame becomes a
`FrameError` with its reason, and decoding goes on behind the next delimiter.

Invariant: a `Frame` that the decoder returns had a correct CRC-32, a known version and a length
field that agrees with its size; the decoder never holds more than MAX_ENCODED_BYTES of input.
"""

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from firmware_bridge import cobs

VERSION = 1
DELIMITER = b"\0"

# 512 bytes are 46 ms of a line at 115,200 baud, so that a control frame never waits long behind
# sensor data, and two buffers fit into a microcontroller with 4 KiB of RAM.
MAX_PAYLOAD_BYTES = 512

# version u8, type u8, address u8, sequence u16, length u16; little endian, as the
# microcontrollers on the other side are.
_HEADER = struct.Struct("<BBBHH")
_CRC = struct.Struct("<I")
OVERHEAD_BYTES = _HEADER.size + _CRC.size
"""What a frame has beside its payload, before COBS."""
MAX_ENCODED_BYTES = cobs.encoded_bound(OVERHEAD_BYTES + MAX_PAYLOAD_BYTES)
"""The most bytes between two delimiters; more cannot be a frame."""

FIRST_ACKNOWLEDGED_TYPE = 0x40
"""Types below are sent once, and numbered without gaps; see FRAMING.md, 'Types'."""

SEQUENCE_MODULUS = 1 << 16


class FrameType(enum.IntEnum):
    """The types in use. FRAMING.md reserves more; the codec carries any."""

    HELLO = 0x01
    SENSOR = 0x02
    LOG = 0x03
    SCORE = 0x04


class Address(enum.IntEnum):
    """Values of the address byte with a meaning of their own; see FRAMING.md, 'Addresses'."""

    POINT_TO_POINT = 0x00
    BROADCAST = 0x7F
    FROM_DEVICE = 0x80


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to or from a microcontroller.

    Attributes:
      type: 0 to 255; see `FrameType`.
      sequence: 0 to 65,535; counted by the sender, wrapping.
      payload: at most MAX_PAYLOAD_BYTES.
      address: 0 to 255; the device, with `Address.FROM_DEVICE` set in what a device sends.

    Raises:
      ValueError: a field is outside these limits.
    """

    type: int
    sequence: int
    payload: bytes
    address: int = Address.POINT_TO_POINT

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("type", self.type, 0xFF),
            ("address", self.address, 0xFF),
            ("sequence", self.sequence, SEQUENCE_MODULUS - 1),
            ("payload length", len(self.payload), MAX_PAYLOAD_BYTES),
        ):
            if not 0 <= value <= limit:
                raise ValueError(f"frame {name} {value} is outside 0 to {limit}")


class FrameErrorReason(enum.Enum):
    """Why bytes between two delimiters are not a frame; the first that applies."""

    OVERSIZE = "oversize"
    COBS = "cobs"
    SHORT = "short"
    CRC = "crc"
    VERSION = "version"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class FrameError:
    """Bytes that were discarded.

    Attributes:
      reason: the first check that failed.
      size_bytes: how many bytes stood before the delimiter. OVERSIZE is reported when the limit
        is passed, not when the delimiter comes (at a wrong baud rate it may never come), so
        there it is always MAX_ENCODED_BYTES + 1.
    """

    reason: FrameErrorReason
    size_bytes: int


@dataclass(slots=True)
class Counters:
    """What a decoder has seen since it was made.

    Attributes:
      frames: frames returned.
      missing: unacknowledged frames that the sequence numbers show to be lost.
      restarts: times that a sender's numbering went back, without the HELLO that announces it.
      errors: errors returned, by reason.
    """

    frames: int = 0
    missing: int = 0
    restarts: int = 0
    errors: dict[FrameErrorReason, int] = field(
        default_factory=lambda: dict.fromkeys(FrameErrorReason, 0)
    )

    @property
    def error_total(self) -> int:
        """Errors of all reasons together."""
        return sum(self.errors.values())


def encode(frame: Frame) -> bytes:
    """Return the bytes to send, closing delimiter included."""
    body = _HEADER.pack(VERSION, frame.type, frame.address, frame.sequence, len(frame.payload))
    body += frame.payload
    return cobs.encode(body + _CRC.pack(zlib.crc32(body))) + DELIMITER


def _parse(stuffed: bytes) -> Frame | FrameErrorReason:
    """Return the frame in the bytes between two delimiters, or why there is none."""
    try:
        body = cobs.decode(stuffed)
    except cobs.CobsError:
        return FrameErrorReason.COBS
    if len(body) < OVERHEAD_BYTES:
        return FrameErrorReason.SHORT
    # The CRC first: a line error must never look like a version or a length. Every version
    # keeps the CRC-32 of all that precedes it in its last four bytes.
    (crc,) = _CRC.unpack_from(body, len(body) - _CRC.size)
    if crc != zlib.crc32(body[: -_CRC.size]):
        return FrameErrorReason.CRC
    version, frame_type, address, sequence, length = _HEADER.unpack_from(body)
    if version != VERSION:
        return FrameErrorReason.VERSION
    payload = body[_HEADER.size : -_CRC.size]
    if length != len(payload) or length > MAX_PAYLOAD_BYTES:
        return FrameErrorReason.LENGTH
    return Frame(frame_type, sequence, payload, address)


class Numbering:
    """The sequence numbers of one sender (FRAMING.md, 'Sequence numbers')."""

    def __init__(self) -> None:
        self._last: int | None = None

    def skipped(self, frame: Frame) -> int | None:
        """How many frames are missing before this one; None when the numbering went back."""
        if frame.type >= FIRST_ACKNOWLEDGED_TYPE:
            return 0
        last, self._last = self._last, frame.sequence
        if last is None or frame.type == FrameType.HELLO:
            return 0
        skipped = (frame.sequence - last - 1) % SEQUENCE_MODULUS
        return skipped if skipped < SEQUENCE_MODULUS // 2 else None


class Decoder:
    """Frames out of a byte stream that may begin anywhere and be damaged everywhere.

    Attributes:
      counters: running totals; read them at any time.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self._pending = bytearray()
        self._discarding = False
        self._numberings: dict[int, Numbering] = {}  # by address byte: at most 256 entries

    @property
    def pending_bytes(self) -> int:
        """Bytes held back because their delimiter has not come yet."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Frame | FrameError]:
        """Take what the line gave; return what it completes, in the order of the line."""
        return list(self._feed(data))

    def _feed(self, data: bytes) -> Iterator[Frame | FrameError]:
        start = 0
        while (end := data.find(DELIMITER, start)) >= 0:
            yield from self._collect(data[start:end])
            yield from self._finish()
            start = end + 1
        yield from self._collect(data[start:])

    def _collect(self, piece: bytes) -> Iterator[FrameError]:
        if self._discarding:
            return
        if len(self._pending) + len(piece) <= MAX_ENCODED_BYTES:
            self._pending += piece
            return
        self._discarding = True
        self._pending.clear()
        yield self._error(FrameErrorReason.OVERSIZE, MAX_ENCODED_BYTES + 1)

    def _finish(self) -> Iterator[Frame | FrameError]:
        stuffed = bytes(self._pending)
        self._pending.clear()
        self._discarding = False
        if not stuffed:  # delimiters in a row are idle fill, or end what was discarded
            return
        parsed = _parse(stuffed)
        if isinstance(parsed, FrameErrorReason):
            yield self._error(parsed, len(stuffed))
            return
        self.counters.frames += 1
        self._count_gap(parsed)
        yield parsed

    def _error(self, reason: FrameErrorReason, size_bytes: int) -> FrameError:
        self.counters.errors[reason] += 1
        return FrameError(reason, size_bytes)

    def _count_gap(self, frame: Frame) -> None:
        skipped = self._numberings.setdefault(frame.address, Numbering()).skipped(frame)
        if skipped is None:
            self.counters.restarts += 1
        else:
            self.counters.missing += skipped
