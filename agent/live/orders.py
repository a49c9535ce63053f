"""What the registers of Modbus channels would mean in every type and order.

For the engineer who knows the value on the device's display and looks for the row that shows it.
"""

from collections.abc import Iterator, Sequence

from agent.sensors.modbus import ModbusChannel, ModbusSettings, all_orders, raw_registers
from agent.sensors.modbus.registers import BIT_TABLES, registers_of
from agent.sources import ConfiguredSource


def channels_with_orders(
    sources: Sequence[ConfiguredSource],
) -> Iterator[tuple[ModbusSettings, ModbusChannel]]:
    """Channels of several registers, and those whose type is not known yet."""
    for source in sources:
        if not isinstance(source.settings, ModbusSettings):
            continue
        for channel in source.settings.channel:
            is_open = channel.type is None or registers_of(channel.type) > 1
            if channel.table not in BIT_TABLES and is_open:
                yield source.settings, channel


async def orders_of(settings: ModbusSettings, channel: ModbusChannel) -> tuple[list[str], bool]:
    """Read a channel's registers once.

    Returns:
      lines for people, and whether there was an answer.
    """
    found = await raw_registers(settings, channel)
    place = f"{channel.name}: {settings.where}, unit {channel.unit_id}, {channel.table} "
    place += f"{channel.address}"
    if isinstance(found, str):
        return [f"{place}: {found}"], False
    raw = " ".join(f"{register:04X}" for register in found)
    lines = [f"{place}: registers {raw}"]
    for name, value in all_orders(found):
        scaled = value * channel.scale + channel.offset
        has_scale = (channel.scale, channel.offset) != (1.0, 0.0)
        text = f"  {name:58} {value:<24.12g}"
        lines.append((text + (f" scaled {scaled:.10g}" if has_scale else "")).rstrip())
    return lines, True
