"""Raw registers of a channel, once, for a person who looks for the right type and order.

Opens the line for itself: a serial port that the agent holds can not be read at the same time.
"""

from agent.sensors.modbus.line import Data, Line, Lost, Refused, Silent
from agent.sensors.modbus.reads import Read, Span
from agent.sensors.modbus.registers import BIT_TABLES, REGISTER_BYTES, registers_of
from agent.sensors.modbus.settings import ModbusChannel, ModbusSettings, unit_of
from agent.sensors.modbus.statuses import TOO_MUCH_AT_ONCE, refusal
from agent.sensors.steady_clock import SteadyClock

_WIDEST = 4
"""Registers of the widest type."""
_ADDRESSES = 1 << 16


async def raw_registers(settings: ModbusSettings, channel: ModbusChannel) -> tuple[int, ...] | str:
    """The registers from the channel's address on, for `all_orders`; or why there are none.

    Four, where the device has so many, else as many as the channel's type takes.
    """
    if channel.table in BIT_TABLES:
        return f"a {channel.table} is one bit and has no order"
    own = registers_of(channel.type or "bool")
    counts = dict.fromkeys((min(_WIDEST, _ADDRESSES - channel.address), own))
    line = Line(settings, SteadyClock())
    reason = await line.open()
    if reason:
        return f"can not open {settings.where}: {reason}"
    try:
        for count in counts:
            found = await _registers(line, settings, channel, count)
            if found is not None:
                return found
        return refusal(TOO_MUCH_AT_ONCE[0])[1]
    finally:
        line.close()


async def _registers(
    line: Line, settings: ModbusSettings, channel: ModbusChannel, count: int
) -> tuple[int, ...] | str | None:
    """One read, repeated as configured; None if a smaller one may succeed."""
    unit = unit_of(settings, channel.unit_id)
    span = Span(0, channel.unit_id, channel.table, channel.address, count, 1000)
    timeout_s = unit.timeout_s or settings.timeout_s
    for _ in range(1 + (settings.retries if unit.retries is None else unit.retries)):
        match await line.ask(Read((span,)), timeout_s):
            case Data(raw):
                words = (raw[at : at + REGISTER_BYTES] for at in range(0, len(raw), REGISTER_BYTES))
                return tuple(int.from_bytes(word, "big") for word in words)
            case Refused(code):
                return None if code in TOO_MUCH_AT_ONCE else refusal(code)[1]
            case Lost():
                return f"lost {settings.where}"
            case Silent():
                continue
    return f"{unit.name} does not answer within {timeout_s} s"
