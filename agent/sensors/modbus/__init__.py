"""Modbus over TCP and serial lines."""

from agent.sensors.modbus.registers import all_orders
from agent.sensors.modbus.settings import ModbusChannel, ModbusSettings, ModbusUnit, problems
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = [
    "ModbusChannel",
    "ModbusSettings",
    "ModbusUnit",
    "all_orders",
    "modbus_blocks",
    "problems",
    "raw_registers",
]


def modbus_blocks(settings: ModbusSettings, context: SourceContext, report: SourceReport) -> Blocks:
    """Blocks of one source, see `source.modbus_blocks`; the driver is loaded when first asked."""
    from agent.sensors.modbus.source import modbus_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)


async def raw_registers(settings: ModbusSettings, channel: ModbusChannel) -> tuple[int, ...] | str:
    """Registers of a channel, see `peek.raw_registers`; the driver is loaded when first asked."""
    from agent.sensors.modbus.peek import raw_registers as peek  # noqa: PLC0415

    return await peek(settings, channel)
