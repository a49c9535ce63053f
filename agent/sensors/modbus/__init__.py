"""Modbus over TCP and serial lines."""

from agent.sensors.modbus.peek import raw_registers
from agent.sensors.modbus.registers import all_orders
from agent.sensors.modbus.settings import ModbusChannel, ModbusSettings, ModbusUnit, problems
from agent.sensors.modbus.source import modbus_blocks

__all__ = [
    "ModbusChannel",
    "ModbusSettings",
    "ModbusUnit",
    "all_orders",
    "modbus_blocks",
    "problems",
    "raw_registers",
]
