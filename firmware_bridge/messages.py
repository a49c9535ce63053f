"""What the payloads of frames mean: packed and parsed (FRAMING.md, 'Messages' and 'Requests').

Pure.  Refuses: nothing is ever raised for bytes that came from the line; a payload that is not what
its type says is None, and the caller counts it.

Invariant: what a parser returns has the length that its own fields announce.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.frames import VERSION

ANSWER: Final = 0x20
"""What the type of an answer adds to that of its request."""
NO_SLOT: Final = 0xFF
ID_BYTES: Final = 16
SHA256_BYTES: Final = 32
MODEL_PREFIX_BYTES: Final = 8
LARGEST_WINDOW: Final = 16
SMALLEST_PAYLOAD, LARGEST_PAYLOAD = 64, 512


class Request(enum.IntEnum):
    """Types of what the gateway asks."""

    CONNECT = 0x40
    TIME = 0x41
    POLL = 0x42
    SLOTS = 0x43
    BEGIN = 0x44
    WRITE = 0x45
    VERIFY = 0x46
    TEST = 0x47
    ACTIVATE = 0x48
    CONFIRM = 0x49
    ROLLBACK = 0x4A
    RESET = 0x4B


class Status(enum.IntEnum):
    """First byte of each answer."""

    OK = 0
    UNKNOWN = 1
    MALFORMED = 2
    ORDER = 3
    REFUSED = 4
    BUSY = 5
    FLASH = 6
    NOT_CONNECTED = 7


class Refusal(enum.IntEnum):
    """Why a device refuses; its words are for people."""

    TOO_LARGE = 1
    NOTHING_BEGUN = 2
    NOT_ALL_RECEIVED = 3
    SHA256_DIFFERS = 4
    IMAGE_NOT_VALID = 5
    ARENA_TOO_SMALL = 6
    OPERATOR_MISSING = 7
    GOLDEN_VECTOR_DIFFERS = 8
    NOT_TESTED = 9
    ANOTHER_CONTENT = 10
    NO_OTHER_MODEL = 11
    VERSION = 12
    A_TRIAL_IS_RUNNING = 13
    ALREADY_ACTIVE = 14


class SlotState(enum.IntEnum):
    """What is in a slot."""

    EMPTY = 0
    RECEIVING = 1
    RECEIVED = 2
    VERIFIED = 3
    TESTED = 4
    ON_TRIAL = 5
    CONFIRMED = 6
    REJECTED = 7


@dataclass(frozen=True, slots=True)
class Hello:
    """A device was reset.

    Attributes:
      version_low: oldest protocol version that it speaks.
      version_high: newest.
      boot: differs from the last reset's.
    """

    version_low: int
    version_high: int
    boot: int


@dataclass(frozen=True, eq=False, slots=True)
class Sensor:
    """Samples of one stream.

    Attributes:
      stream: its number.
      time_us: device time of the first.
      period_us: from each to the next; 0 where they come one by one.
      values: (count, channels), int16, int32 or float32, as the device sent them.
    """

    stream: int
    time_us: int
    period_us: int
    values: NDArray[np.generic]


@dataclass(frozen=True, eq=False, slots=True)
class Score:
    """What the active model said of one row.

    Attributes:
      model: first bytes of the SHA-256 of its slot's content.
      stream: whose row.
      time_us: device time of the row.
      on_trial: the model is not confirmed yet.
      values: (outputs,), int16, float32 or int8.
    """

    model: bytes
    stream: int
    time_us: int
    on_trial: bool
    values: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Connected:
    """What a device says of itself.

    Attributes:
      version: of the protocol, that both speak.
      window: requests that may be open at a time.
      largest: longest payload that it takes, in bytes.
      boot: of its last reset.
      has_slots: it takes models.
      polls_only: it speaks only when it is polled.
      id: its serial number, ID_BYTES.
      slot_bytes: room for a model's content.
      arena_bytes: memory for a model that runs.
      ops: bit n: it has operator n of MODEL_IMAGE.md.
      firmware: version of its firmware, for people.
    """

    version: int
    window: int
    largest: int
    boot: int
    has_slots: bool
    polls_only: bool
    id: bytes
    slot_bytes: int
    arena_bytes: int
    ops: int
    firmware: str


@dataclass(frozen=True, slots=True)
class Timed:
    """Device times of one TIME request, in microseconds; `gateway` is what the gateway sent."""

    gateway: int
    received_us: int
    sent_us: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: its state, how large its content is, how much of it is there, and its SHA-256."""

    state: SlotState
    size_bytes: int
    received_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Slots:
    """Both slots.

    Attributes:
      active: the one that runs, 0 or 1; None for none.
      left_s: of the trial.
      slots: A and B.
    """

    active: int | None
    left_s: int
    slots: tuple[Slot, Slot]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as far as it is the same for all requests.

    Attributes:
      status: its first byte.
      body: what follows, for OK; empty for other states.
      received: with ORDER: how much the device has.
      reason: with REFUSED: the number of a `Refusal`, or one that we do not know.
    """

    status: Status
    body: bytes = b""
    received: int = 0
    reason: int = 0

    def __str__(self) -> str:
        if self.status is not Status.REFUSED:
            return self.status.name.lower().replace("_", " ")
        known = {int(each): each.name.lower().replace("_", " ") for each in Refusal}
        return f"refused: {known.get(self.reason, f'reason {self.reason}')}"


_HELLO = struct.Struct("<BBI")
_SENSOR = struct.Struct("<BBBBQI")
_SCORE = struct.Struct("<8sBBBBQ")
_CONNECTED = struct.Struct("<BBHIB16sIII")
_TIMED = struct.Struct("<QQQ")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_POLLED = struct.Struct("<HI")
_SLOTS = struct.Struct("<BI")
_SLOT = struct.Struct("<BII32s")
_BEGIN = struct.Struct("<I32s")
_BEGUN = struct.Struct("<BI")
_FORMATS: Final[dict[int, "np.dtype[Any]"]] = {
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<f4"),
    4: np.dtype("i1"),
}
_SENSOR_FORMATS, _SCORE_FORMATS = (1, 2, 3), (1, 3, 4)
_ON_TRIAL = 1


def parse_hello(payload: bytes) -> Hello | None:
    """HELLO; what a later version adds behind it is not looked at."""
    if len(payload) < _HELLO.size:
        return None
    return Hello(*_HELLO.unpack_from(payload))


def parse_sensor(payload: bytes) -> Sensor | None:
    """SENSOR."""
    if len(payload) < _SENSOR.size:
        return None
    stream, number, channels, count, time_us, period_us = _SENSOR.unpack_from(payload)
    if number not in _SENSOR_FORMATS or not channels or not count:
        return None
    dtype = _FORMATS[number]
    if len(payload) != _SENSOR.size + dtype.itemsize * channels * count:
        return None
    values = np.frombuffer(payload, dtype, offset=_SENSOR.size).reshape(count, channels)
    return Sensor(stream, time_us, period_us, values)


def parse_score(payload: bytes) -> Score | None:
    """SCORE."""
    if len(payload) < _SCORE.size:
        return None
    model, stream, number, outputs, flags, time_us = _SCORE.unpack_from(payload)
    if number not in _SCORE_FORMATS or not outputs:
        return None
    dtype = _FORMATS[number]
    if len(payload) != _SCORE.size + dtype.itemsize * outputs:
        return None
    values = np.frombuffer(payload, dtype, offset=_SCORE.size)
    return Score(model, stream, time_us, bool(flags & _ON_TRIAL), values)


def parse_log(payload: bytes) -> str:
    """LOG: text; bytes that are not UTF-8 are replaced."""
    return payload.decode(errors="replace")


def parse_answer(payload: bytes) -> Answer | None:
    """The status and what belongs to it; None when it is none that we know, or cut."""
    if not payload or payload[0] > max(Status):
        return None
    status, rest = Status(payload[0]), payload[1:]
    if status is Status.OK:
        return Answer(status, rest)
    if status is Status.ORDER:
        return Answer(status, received=_U32.unpack(rest)[0]) if len(rest) == 4 else None
    if status is Status.REFUSED:
        return Answer(status, reason=rest[0]) if len(rest) == 1 else None
    return Answer(status)


def parse_connected(body: bytes) -> Connected | None:
    """What follows OK in the answer to CONNECT; out of range is None."""
    if len(body) < _CONNECTED.size:
        return None
    version, window, largest, boot, flags, who, slot, arena, ops = _CONNECTED.unpack_from(body)
    fits = 1 <= window <= LARGEST_WINDOW and SMALLEST_PAYLOAD <= largest <= LARGEST_PAYLOAD
    if version != VERSION or not fits:
        return None
    firmware = body[_CONNECTED.size :].decode(errors="replace")
    return Connected(
        version, window, largest, boot, bool(flags & 1), bool(flags & 2), who, slot, arena, ops,
        firmware,
    )  # fmt: skip


def parse_timed(body: bytes) -> Timed | None:
    """What follows OK in the answer to TIME; a device that sent before it received is None."""
    if len(body) != _TIMED.size:
        return None
    timed = Timed(*_TIMED.unpack(body))
    return timed if timed.received_us <= timed.sent_us else None


def parse_polled(body: bytes) -> tuple[int, int] | None:
    """What follows OK in the answer to POLL: bytes still queued, frames dropped since reset."""
    if len(body) != _POLLED.size:
        return None
    queued, dropped = _POLLED.unpack(body)
    return queued, dropped


def parse_slots(body: bytes) -> Slots | None:
    """What follows OK in the answer to SLOTS."""
    if len(body) != _SLOTS.size + 2 * _SLOT.size:
        return None
    active, left_s = _SLOTS.unpack_from(body)
    if active not in (0, 1, NO_SLOT):
        return None
    found = [_SLOT.unpack_from(body, _SLOTS.size + at * _SLOT.size) for at in range(2)]
    if any(state > max(SlotState) for state, *_ in found):
        return None
    first, second = (Slot(SlotState(state), *rest) for state, *rest in found)
    return Slots(None if active == NO_SLOT else active, left_s, (first, second))


def parse_begun(body: bytes) -> int | None:
    """What follows OK in the answer to BEGIN: how much the device has already."""
    return int(_BEGUN.unpack(body)[1]) if len(body) == _BEGUN.size else None


def parse_written(body: bytes) -> int | None:
    """What follows OK in the answer to WRITE: how much the device has now."""
    return int(_U32.unpack(body)[0]) if len(body) == _U32.size else None


def connect() -> bytes:
    """Payload of CONNECT."""
    return bytes((VERSION, VERSION))


def time(gateway: int) -> bytes:
    """Payload of TIME."""
    return gateway.to_bytes(8, "little")


def poll(most_bytes: int) -> bytes:
    """Payload of POLL: how much the device may send before its answer."""
    return _U16.pack(most_bytes)


def begin(size_bytes: int, sha256: bytes) -> bytes:
    """Payload of BEGIN."""
    return _BEGIN.pack(size_bytes, sha256)


def write(offset: int, data: bytes) -> bytes:
    """Payload of WRITE."""
    return _U32.pack(offset) + data


def activate(trial_s: int, sha256: bytes) -> bytes:
    """Payload of ACTIVATE."""
    return _BEGIN.pack(trial_s, sha256)


def reset(boot: int) -> bytes:
    """Payload of RESET: of the boot that is meant."""
    return _U32.pack(boot)
