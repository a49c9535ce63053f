"""What the pure part of the bridge tells the rest: samples, scores, and how devices are."""

from dataclasses import dataclass

from firmware_bridge.messages import Score, Sensor
from firmware_bridge.upload import Stage


@dataclass(frozen=True, eq=False, slots=True)
class Sampled:
    """Samples of one stream came.

    Attributes:
      sensor: as the device sent them.
      first_us: gateway time of the first, on the clock that never steps.
      period_us: from each to the next, in the gateway's microseconds.
      is_after_loss: frames of this device, perhaps of this stream, are missing before.
      is_after_reset: the device was reset since this stream's last ones.
    """

    sensor: Sensor
    first_us: float
    period_us: float
    is_after_loss: bool
    is_after_reset: bool


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """A device's model said something; `at_us` is the row's time on the gateway's clock."""

    score: Score
    at_us: float


@dataclass(frozen=True, slots=True)
class Said:
    """A device's LOG text."""

    text: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The device's state is another one, see `Device.state`."""

    state: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment came to another stage, or further in sending.

    Attributes:
      sha256: of the content.
      stage: where it is.
      received_bytes: what the device has.
      size_bytes: of the content.
      reason: why it ended.
    """

    sha256: bytes
    stage: Stage
    received_bytes: int
    size_bytes: int
    reason: str


Event = Sampled | Scored | Said | StateChanged | Deployed
