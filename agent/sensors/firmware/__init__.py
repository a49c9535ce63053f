"""Microcontrollers behind `journeyman-bridge`: their samples, by the bridge's local socket.

`client.py` is also for whoever brings models to them.
"""

from agent.sensors.firmware.settings import FirmwareSettings, problems
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = ["FirmwareSettings", "firmware_blocks", "problems"]


def firmware_blocks(
    settings: FirmwareSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """Blocks of one source, see `source.firmware_blocks`; the driver is loaded when first asked."""
    from agent.sensors.firmware.source import firmware_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)
