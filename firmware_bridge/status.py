"""What `journeyman-bridge status` shows: asks the running bridge through its socket."""

import socket
from collections.abc import Iterator
from typing import Final

from wire.bridge import Devices, DeviceState, from_bridge
from wire.errors import one_line

_ANSWER_S: Final = 5.0
_READ_BYTES: Final = 65_536
_SHOWN: Final = ("frames", "missing", "malformed", "resets", "samples", "gaps", "lost_samples")


def ask(path: str) -> Devices:
    """The first message of the bridge behind a socket.

    Raises:
      OSError: nobody answers.
      WireError: it is not a bridge.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(path)
        stream = from_bridge()
        while data := connection.recv(_READ_BYTES):
            for message in stream.feed(data):
                if isinstance(message, Devices):
                    return message
    raise OSError(f"{path}: the bridge closed the connection; it has too many clients")


def device_lines(device: DeviceState) -> Iterator[str]:
    """A device in a few lines for people."""
    yield f"{device.name} (line {device.line}, address {device.address}): {one_line(device.state)}"
    if device.id:
        yield f"  id {device.id}, firmware {one_line(device.firmware)}"
    if device.clock_error_us is not None and device.drift_ppm is not None:
        yield f"  clock within {device.clock_error_us:.0f} us, {device.drift_ppm:+.1f} ppm fast"
    if device.slot_bytes:
        yield f"  slots of {device.slot_bytes} bytes, arena of {device.arena_bytes}"
    for at, slot in enumerate(device.slots):
        mark = ", runs" if at == device.active else ""
        content = f" {slot.sha256.hex()[:16]}, {slot.received_bytes} of {slot.size_bytes} bytes"
        yield f"  {'AB'[at]}: {slot.state}{content if slot.size_bytes else ''}{mark}"
    counted = ", ".join(f"{name} {device.figures.get(name, 0)}" for name in _SHOWN)
    yield f"  {counted}"
