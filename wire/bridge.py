"""What the bridge to microcontrollers and its clients say to each other, on a local unix socket.

    firmware_bridge  ──►  Devices, Samples, Gap, Scores, Judgment, Deployment   ──►  agent
                     ◄──  Offer, Deploy, Confirm, Rollback                      ◄──

The bridge owns the serial ports; whoever may open its socket gets everything and may deploy, so
the socket's mode and group say who that is.  Each message is

    size u32 (little endian, of what follows) | MessagePack

an array whose first element is the message's name (BRIDGE.md beside this file).  `pack` makes one,
a `Stream` is fed what the socket gave and returns them.

Refuses: messages over their direction's cap before they are read, and anything that is not a
message; then the connection is to be closed.
Decoder invariant: any bytes give messages or `WireError`, nothing else.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError, TooLargeError

MAX_FROM_BRIDGE_BYTES: Final = 1 << 20
MAX_TO_BRIDGE_BYTES: Final = 4 << 20
"""A model's content and a little more: the largest that a microcontroller's flash has room for."""
_SIZE_BYTES: Final = 4

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Sha256 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Microseconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Period = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
TrialSeconds = Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400)]
StageName = Literal[
    "looking",
    "beginning",
    "sending",
    "verifying",
    "testing",
    "activating",
    "on trial",
    "confirming",
    "leaving",
    "confirmed",
    "rolled back",
    "failed",
]
ENDED_STAGES: Final = ("confirmed", "rolled back", "failed")


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="type"):
    """A message of either direction; later versions append fields."""


class StreamState(msgspec.Struct, frozen=True, array_like=True):
    """A configured stream.

    Attributes:
      name: of the bridge's configuration.
      channels: names of its channels, in order.
      units: theirs.
    """

    name: Name
    channels: tuple[Name, ...]
    units: tuple[Text, ...]


class SlotState(msgspec.Struct, frozen=True, array_like=True):
    """A model slot of a device.

    Attributes:
      state: `empty`, `receiving`, ... `on trial`, `confirmed`, `rejected` (FRAMING.md).
      size_bytes: of its content.
      received_bytes: how much of it is there.
      sha256: of the content.
    """

    state: Text
    size_bytes: Count
    received_bytes: Count
    sha256: Sha256


class DeviceState(msgspec.Struct, frozen=True, array_like=True):
    """How a device is.

    Attributes:
      name: of the bridge's configuration.
      line: its line's.
      address: on that line.
      state: `connected`; anything else says why not.
      id: its serial number in hexadecimal; empty while unknown, as all that follows.
      firmware: version.
      window: requests at a time.
      slot_bytes: room for a model's content; 0 where it takes none.
      arena_bytes: memory for a model that runs.
      ops: bit n: it has operator n of MODEL_IMAGE.md.
      active: the slot that runs; None for none.
      slots: A and B; empty where it has none.
      clock_error_us: standard error of its samples' times; None while they have none.
      drift_ppm: by how much its clock is fast.
      streams: what it is configured to send.
      figures: counters since the bridge started, by name.
    """

    name: Name
    line: Name
    address: Count
    state: Text
    id: Text
    firmware: Text
    window: Count
    slot_bytes: Count
    arena_bytes: Count
    ops: Count
    active: int | None
    slots: tuple[SlotState, ...]
    clock_error_us: float | None
    drift_ppm: float | None
    streams: tuple[StreamState, ...]
    figures: dict[str, int]


class Devices(Message, frozen=True, tag="devices"):
    """All devices: first of all, and whenever something about them changed."""

    devices: tuple[DeviceState, ...]


class Samples(Message, frozen=True, tag="samples"):
    """Samples of one stream, `count` of each of its channels.

    Attributes:
      device: its name.
      stream: its name.
      first_us: source timestamp of the first, microseconds since 1970 UTC; good to about 1 ms.
      period_us: from each to the next.
      count: of samples.
      channels: of each.
      values: float32, little endian, (count, channels), in the channels' units.
    """

    device: Name
    stream: Name
    first_us: Microseconds
    period_us: Period
    count: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=256)]
    values: bytes

    def __post_init__(self) -> None:
        if len(self.values) != 4 * self.count * self.channels:
            raise ValueError(f"{len(self.values)} bytes are not {self.count} x {self.channels}")

    @property
    def array(self) -> NDArray[np.float32]:
        """The values, (count, channels)."""
        return np.frombuffer(self.values, "<f4").reshape(self.count, self.channels)

    @property
    def timestamps_us(self) -> NDArray[np.int64]:
        """Source timestamps, (count,)."""
        steps = np.rint(np.arange(self.count) * self.period_us).astype(np.int64)
        return np.asarray(steps + self.first_us, np.int64)


class Gap(Message, frozen=True, tag="gap"):
    """Samples of a stream are missing, or may be.

    Attributes:
      device: its name.
      stream: its name.
      from_us: source timestamp of the last one before; microseconds since 1970 UTC.
      until_us: of the first one after.
      reason: for people.
      lost: how many; None where that is not known.
    """

    device: Name
    stream: Name
    from_us: Microseconds
    until_us: Microseconds
    reason: Text
    lost: Count | None


class Scores(Message, frozen=True, tag="scores"):
    """What the model on a device said of one row.

    Attributes:
      device: its name.
      stream: whose row.
      model: first 8 bytes of the SHA-256 of the slot's content.
      at_us: source timestamp of the row.
      on_trial: the model is not confirmed yet.
      kind: of `outputs`: `i8` and `i16` are the model's quantized output.
      outputs: in order.
      row: what the model saw, float32, little endian, sample by sample, in the stream's units;
        empty where the bridge does not know the model (nobody brought it since the bridge's
        start) or misses a sample of the row. So is what follows.
      expected: the bridge's own int8 reference for the row, as `outputs`.
      scale: of `outputs`: real = (output - zero) * scale.
      zero: as `scale`.
      is_clipped: a number of the row lies beyond what the model's int8 input can say.
    """

    device: Name
    stream: Name
    model: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    at_us: Microseconds
    on_trial: bool
    kind: Literal["i8", "i16", "f32"]
    outputs: tuple[float, ...]
    row: bytes = b""
    expected: tuple[float, ...] = ()
    scale: float = 0.0
    zero: int = 0
    is_clipped: bool = False

    @property
    def inputs(self) -> NDArray[np.float32]:
        """The row's numbers, (numbers,)."""
        return np.frombuffer(self.row[: len(self.row) // 4 * 4], "<f4")


class Deployment(Message, frozen=True, tag="deployment"):
    """How far a deployment is.

    Attributes:
      device: its name.
      sha256: of the content.
      stage: `sending`, `on trial`, ...; one of ENDED_STAGES is the last.
      received_bytes: what the device has.
      size_bytes: of the content.
      reason: why it ended, where that is not plain.
    """

    device: Name
    sha256: Sha256
    stage: StageName
    received_bytes: Count
    size_bytes: Count
    reason: Text


class Judgment(Message, frozen=True, tag="judgment"):
    """What the gate says of an offered model; a `Deployment` follows where it passed.

    Attributes:
      device: its name.
      key: of the `Offer`.
      reason: why the model is refused; empty where it passed.
      sha256: of the slot's content that was made of it; zeros where it was refused.
      judges: who computed the golden rows, for people.
      content_bytes: of a slot that it takes.
      arena_bytes: of the device's memory that it takes.
      largest: difference between the int8 and the float model over the golden rows.
      bound: that `largest` has to keep; the outputs' scale times the offer's `bound_steps`.
    """

    device: Name
    key: Sha256
    reason: Text
    sha256: Sha256
    judges: Text
    content_bytes: Count
    arena_bytes: Count
    largest: float
    bound: float


class Offer(Message, frozen=True, tag="offer"):
    """Bring a model to a device if the gate lets it pass; then as `Deploy`.

    Attributes:
      device: its name.
      key: names the offer in its `Judgment`.
      model: int8 `.tflite` file.
      vectors: golden rows.
      rows: they, float32, little endian, (vectors, numbers), sample by sample, in the stream's
        units.
      outputs: of the float model for them, float32, little endian, (vectors, numbers), as the file
        orders its output.
      bound_steps: by how many steps of the int8 output the two models may differ.
      trial_s: as `Deploy`.
    """

    device: Name
    key: Sha256
    model: Annotated[bytes, msgspec.Meta(min_length=16)]
    vectors: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    rows: bytes
    outputs: bytes
    bound_steps: Annotated[float, msgspec.Meta(gt=0, le=255)]
    trial_s: TrialSeconds

    def __post_init__(self) -> None:
        for each in (self.rows, self.outputs):
            if not each or len(each) % (4 * self.vectors):
                raise ValueError(f"{len(each)} bytes are not {self.vectors} vectors of float32")


class Deploy(Message, frozen=True, tag="deploy"):
    """Bring a model to a device and let it run on trial; it takes the place of one under way.

    Attributes:
      device: its name.
      content: of a slot (FRAMING.md).
      trial_s: without `Confirm` within so many seconds the device goes back by itself.
    """

    device: Name
    content: Annotated[bytes, msgspec.Meta(min_length=16)]
    trial_s: TrialSeconds


class Confirm(Message, frozen=True, tag="confirm"):
    """Let a model that is on trial stay."""

    device: Name
    sha256: Sha256


class Rollback(Message, frozen=True, tag="rollback"):
    """Leave a model: the other slot's runs again."""

    device: Name
    sha256: Sha256


FromBridge = Devices | Samples | Gap | Scores | Judgment | Deployment
ToBridge = Offer | Deploy | Confirm | Rollback
M = TypeVar("M")


def pack(message: FromBridge | ToBridge) -> bytes:
    """The bytes to send.

    Raises:
      TooLargeError: it is over the cap of its direction.
    """
    body = msgspec.msgpack.encode(message)
    is_order = isinstance(message, ToBridge)
    cap = MAX_TO_BRIDGE_BYTES if is_order else MAX_FROM_BRIDGE_BYTES
    if len(body) > cap:
        raise TooLargeError(f"a message of {len(body)} bytes; the bridge's cap is {cap}")
    return len(body).to_bytes(_SIZE_BYTES, "little") + body


class Stream(Generic[M]):
    """Messages out of what a socket gives; made by `from_bridge` and `to_bridge`."""

    def __init__(self, decoder: "msgspec.msgpack.Decoder[M]", cap_bytes: int) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = decoder
        self._cap_bytes = cap_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Take bytes; yield what they complete.

        Raises:
          TooLargeError: a message is over the cap.
          MalformedError: something is no message of this direction.
        """
        self._pending += data
        while len(self._pending) >= _SIZE_BYTES:
            size = int.from_bytes(self._pending[:_SIZE_BYTES], "little")
            if size > self._cap_bytes:
                raise TooLargeError(f"a message of {size} bytes; the cap is {self._cap_bytes}")
            end = _SIZE_BYTES + size
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_SIZE_BYTES:end])
            del self._pending[:end]
            yield self._decoded(body)

    def _decoded(self, body: bytes) -> M:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise MalformedError(f"not a message of the bridge: {error}") from None


def from_bridge() -> "Stream[FromBridge]":
    """For a client: what the bridge sends."""
    return Stream(msgspec.msgpack.Decoder(FromBridge), MAX_FROM_BRIDGE_BYTES)


def to_bridge() -> "Stream[ToBridge]":
    """For the bridge: what a client sends."""
    return Stream(msgspec.msgpack.Decoder(ToBridge), MAX_TO_BRIDGE_BYTES)
