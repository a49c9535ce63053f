"""Where a device is, and what has happened with it; shared by those who talk with it."""

from dataclasses import dataclass

from firmware_bridge.cobs import encoded_bound
from firmware_bridge.frames import OVERHEAD_BYTES, Address


@dataclass(frozen=True)
class Place:
    """Where a device is, and what the line is like.

    Attributes:
      address: 0 for the only one of a line, or 1 to 126.
      id: its serial number; empty where any will do.
      byte_us: what a byte takes on the line; 0 where it has no rate of its own (USB).
      poll_us: from one POLL to the next, for a device that speaks only then.
      poll_bytes: what it may send then.
    """

    address: int = 0
    id: bytes = b""
    byte_us: float = 0.0
    poll_us: int = 20_000
    poll_bytes: int = 2048

    @property
    def is_shared(self) -> bool:
        """Whether others are on the line, which one at a time may use."""
        return self.address != Address.POINT_TO_POINT

    def line_us(self, payload_bytes: int) -> float:
        """How long a frame takes on the line, its delimiter included."""
        return self.byte_us * (encoded_bound(OVERHEAD_BYTES + payload_bytes) + 1)


@dataclass
class Figures:
    """What happened with a device since the process started; only grows.

    Attributes:
      frames: of its own accord.
      missing: frames that its numbering shows to be lost.
      malformed: payloads that are not what their type says.
      untimed: frames with samples that came before its clock was known.
      resets: of the device, as far as they were seen.
      connections: times that it was connected.
      dropped: frames that its own queue could not hold, since its reset.
      unexpected: answers to nothing.
      repeated: requests sent again.
    """

    frames: int = 0
    missing: int = 0
    malformed: int = 0
    untimed: int = 0
    resets: int = 0
    connections: int = 0
    dropped: int = 0
    unexpected: int = 0
    repeated: int = 0
