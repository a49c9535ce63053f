"""Whether a device's new firmware still talks with the bridge: CONNECT, as FRAMING.md has it.

The port is opened for this alone.  A device whose answer says that it is another one than is
configured somewhere is not looked for: the cable has not moved since the update began.
"""

import asyncio
import contextlib
import random
from typing import Final

from firmware_bridge.device import CONNECTED, Device
from firmware_bridge.frames import SEQUENCE_MODULUS
from firmware_bridge.line import now_us
from firmware_bridge.link import Link
from firmware_bridge.messages import Connected
from firmware_bridge.place import Place
from firmware_bridge.port import byte_time_us, open_port

_STEP_S: Final = 0.02


async def connected_device(port: str, baudrate: int, within_s: float) -> Connected | None:
    """What the device on a line says of itself when it is connected; None if it does not.

    Args:
      port: with one device, address 0.
      baudrate: of the line.
      within_s: how long to ask.

    Raises:
      PortError: the port can not be opened; says why and what to do.
    """
    byte_us = byte_time_us(port, baudrate)
    device = Device(Place(byte_us=byte_us), random.randrange(SEQUENCE_MODULUS))  # noqa: S311
    link = Link({0: device}, byte_us)
    lost: list[str] = []
    line = await open_port(
        port, baudrate, lambda data: _ignore(link.receive(data, now_us())), lost.append
    )
    with contextlib.closing(line):
        end_us = now_us() + int(within_s * 1e6)
        while device.state != CONNECTED and not lost and now_us() < end_us:
            if line.is_writable and (data := link.transmit(now_us())):
                line.write(data)
            await asyncio.sleep(_STEP_S)
    return device.known if device.state == CONNECTED else None


def _ignore(events: object) -> None:
    """What the device tells beside is nobody's now."""
    del events
