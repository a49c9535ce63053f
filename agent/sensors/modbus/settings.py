"""The `[[source.modbus]]` tables: one line each, its units and its channels.

A line is one TCP connection or one serial port; many units (slaves) may live on it, told apart by
their unit ids, and are asked one after another.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from agent.sensors.modbus.frames import (
    ANSWER_CHARACTERS,
    REQUEST_CHARACTERS,
    Framing,
    character_s,
    quiet_s,
)
from agent.sensors.modbus.reads import MAX_REGISTERS, Limits, Read, Span, merge
from agent.sensors.modbus.registers import (
    BIT_TABLES,
    Meaning,
    Order,
    Table,
    ValueType,
    pattern_of,
    registers_of,
)
from agent.sensors.source import ChannelSettings
from wire.settings import Settings, host_problem

UnitId = Annotated[int, msgspec.Meta(ge=0, le=255)]
IntervalMs = Annotated[int, msgspec.Meta(ge=10, le=86_400_000)]
TimeoutS = Annotated[float, msgspec.Meta(ge=0.01, le=60)]
Retries = Annotated[int, msgspec.Meta(ge=0, le=10)]
GapRegisters = Annotated[int, msgspec.Meta(ge=0, le=MAX_REGISTERS)]
ReadRegisters = Annotated[int, msgspec.Meta(ge=4, le=MAX_REGISTERS)]

_SERIAL_UNITS = range(1, 248)
"""Modbus over Serial Line V1.02, section 2.2: 0 is broadcast, 248 to 255 are reserved."""
_ADDRESSES = 1 << 16


class ModbusChannel(ChannelSettings, frozen=True, kw_only=True):
    """One `[[source.modbus.channel]]`.

    Attributes:
      unit_id: which device on the line.
      table: one of the four tables of the data model.
      address: as it goes over the wire, from 0; the register that manuals call 40001 is holding 0.
      type: of the value; may be left out for coils and discrete inputs, which are bool.
      bit: of a bool in a register: 0 (least significant) to 15.
      byte_order: of the bytes in each register; required for values of several registers.
      word_order: of the registers; required for values of several registers.
      scale: the value is scale * raw + offset.
      offset: in `unit`.
      invalid: raw numbers by which the device says that it has no value: those samples are Bad.
      poll_interval_ms: instead of the unit's, or the line's.
    """

    unit_id: UnitId = 1
    table: Table
    address: Annotated[int, msgspec.Meta(ge=0, lt=_ADDRESSES)]
    type: ValueType | None = None
    bit: Annotated[int, msgspec.Meta(ge=0, le=15)] | None = None
    byte_order: Order | None = None
    word_order: Order | None = None
    scale: float = 1.0
    offset: float = 0.0
    invalid: Annotated[tuple[int, ...], msgspec.Meta(max_length=16)] = ()
    poll_interval_ms: IntervalMs | None = None


class ModbusUnit(Settings, frozen=True, kw_only=True):
    """One `[[source.modbus.unit]]`: what is different for one device; each key is optional.

    Attributes:
      unit_id: which device on the line.
      name: what people call it.
      poll_interval_ms: instead of the line's, as are all below.
      timeout_s: how long it may take to begin its answer.
      retries: further attempts before it is quarantined.
      max_gap: unwanted registers that are read along to save a request.
      max_registers: of one request.
    """

    unit_id: UnitId
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    poll_interval_ms: IntervalMs | None = None
    timeout_s: TimeoutS | None = None
    retries: Retries | None = None
    max_gap: GapRegisters | None = None
    max_registers: ReadRegisters | None = None


class ModbusSettings(Settings, frozen=True, kw_only=True):
    """One `[[source.modbus]]`: a line, by `host` (TCP) or by `device` (a serial port).

    Attributes:
      host: name or address of a device or a gateway.
      port: of TCP.
      framing: `rtu` for a serial server that passes RTU frames over TCP.
      device: path of the port; one under /dev/serial/by-id names the same adapter for ever.
      baudrate: bits per second.
      parity: none, even or odd; even is the standard's.
      stopbits: 1 or 2.
      bytesize: RTU has 8 data bits.
      poll_interval_ms: how often each channel is read, unless its unit or itself says otherwise.
      timeout_s: how long a device may take to begin its answer.
      retries: further attempts before a device that does not answer is quarantined.
      quarantine_s: the longest time until a quarantined device is tried again.
      pause_ms: silence between an answer and the next request, at least what the line needs.
      max_gap: unwanted registers that are read along to save a request.
      max_registers: of one request.
      unit: what is different for single devices of the line.
      channel: what to read.
    """

    host: Annotated[str, msgspec.Meta(max_length=253)] = ""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 502
    framing: Framing = "tcp"
    device: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    baudrate: Annotated[int, msgspec.Meta(ge=300, le=4_000_000)] = 19_200
    parity: Literal["N", "E", "O"] = "E"
    stopbits: Literal[1, 2] = 1
    bytesize: Literal[8] = 8
    poll_interval_ms: IntervalMs = 1000
    timeout_s: TimeoutS = 0.25
    retries: Retries = 2
    quarantine_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30.0
    pause_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    max_gap: GapRegisters = 16
    max_registers: ReadRegisters = MAX_REGISTERS
    unit: Annotated[tuple[ModbusUnit, ...], msgspec.Meta(max_length=256)] = ()
    channel: Annotated[tuple[ModbusChannel, ...], msgspec.Meta(min_length=1, max_length=10_000)]

    @property
    def where(self) -> str:
        """The line, for people."""
        return self.device or f"{self.host}:{self.port}"

    @property
    def is_rtu(self) -> bool:
        """Whether RTU frames cross the line."""
        return bool(self.device) or self.framing == "rtu"

    @property
    def character_s(self) -> float:
        """Seconds of one character on a serial line; 0 on a network."""
        return character_s(self.baudrate, self.parity, self.stopbits) if self.device else 0.0


def unit_of(settings: ModbusSettings, unit_id: int) -> ModbusUnit:
    """Everything about one unit, with the line's values where it has none of its own."""
    given = {each.unit_id: each for each in settings.unit}
    unit = given.get(unit_id, ModbusUnit(unit_id=unit_id))
    names = ("poll_interval_ms", "timeout_s", "retries", "max_gap", "max_registers")
    inherited = {name: getattr(settings, name) for name in names if getattr(unit, name) is None}
    return msgspec.structs.replace(unit, name=unit.name or f"unit {unit_id}", **inherited)


def meaning_of(channel: ModbusChannel) -> Meaning:
    """How the channel's registers are read."""
    kind = channel.type or "bool"
    patterns = (pattern_of(number, kind) for number in channel.invalid)
    return Meaning(
        kind,
        channel.bit,
        channel.byte_order or "big",
        channel.word_order or "big",
        channel.scale,
        channel.offset,
        frozenset(pattern for pattern in patterns if pattern is not None),
    )


def plan(settings: ModbusSettings) -> tuple[Read, ...]:
    """The reads that fetch all channels."""
    units = {each.unit_id: unit_of(settings, each.unit_id) for each in settings.channel}
    spans: list[Span] = []
    for at, channel in enumerate(settings.channel):
        interval = channel.poll_interval_ms or units[channel.unit_id].poll_interval_ms
        spans.append(
            Span(
                at,
                channel.unit_id,
                channel.table,
                channel.address,
                registers_of(channel.type or "bool"),
                interval or settings.poll_interval_ms,
            )
        )
    limits = {
        unit_id: Limits(
            settings.max_gap if unit.max_gap is None else unit.max_gap,
            unit.max_registers or settings.max_registers,
        )
        for unit_id, unit in units.items()
    }
    return merge(spans, limits)


def problems(settings: ModbusSettings) -> Iterator[tuple[str, str]]:
    """Yield what is wrong beyond types: key path within the source's table, and reason."""
    if bool(settings.host) == bool(settings.device):
        yield "host", "give either 'host' (TCP) or 'device' (a serial port)"
    elif settings.host and (problem := host_problem(settings.host)):
        yield "host", problem
    known = [each.unit_id for each in settings.unit]
    used = {each.unit_id for each in settings.channel}
    for at, unit in enumerate(settings.unit):
        if known.index(unit.unit_id) != at:
            yield f"unit[{at}].unit_id", f"unit {unit.unit_id} is described twice"
        elif unit.unit_id not in used:
            yield f"unit[{at}].unit_id", f"no channel is of unit {unit.unit_id}"
    sound = True
    for at, channel in enumerate(settings.channel):
        if settings.is_rtu and channel.unit_id not in _SERIAL_UNITS:
            reason = f"{channel.unit_id} is no unit on a serial line: they are 1 to 247"
            yield f"channel[{at}].unit_id", reason
        for key, reason in _channel_problems(channel):
            sound = False
            yield f"channel[{at}].{key}", reason
    if sound and settings.device:
        yield from _load_problem(settings)


def _channel_problems(channel: ModbusChannel) -> Iterator[tuple[str, str]]:
    if channel.shape:
        yield "shape", "a Modbus channel is one number"
    if channel.states:
        yield "states", "these are for texts, and Modbus has none; use 'scale' and 'offset'"
    for key, number in (("scale", channel.scale), ("offset", channel.offset)):
        if not math.isfinite(number) or (key == "scale" and number == 0):
            yield key, f"{number} makes every value the same, or none"
    if channel.table in BIT_TABLES:
        yield from _bit_table_problems(channel)
    elif channel.type is None:
        yield "type", "a register needs one, such as 'int16' or 'float32'"
    elif channel.type == "bool":
        if channel.bit is None:
            yield "bit", "a bool in a register needs its bit, 0 (least significant) to 15"
        if channel.invalid:
            yield "invalid", "a bool has no invalid values"
    else:
        yield from _number_problems(channel, channel.type)


def _bit_table_problems(channel: ModbusChannel) -> Iterator[tuple[str, str]]:
    if channel.type not in (None, "bool"):
        yield "type", f"a {channel.table} is a bool"
    for key in ("bit", "byte_order", "word_order"):
        if getattr(channel, key) is not None:
            yield key, f"a {channel.table} is one bit and has none"
    if channel.invalid:
        yield "invalid", "a bool has no invalid values"


def _number_problems(channel: ModbusChannel, kind: ValueType) -> Iterator[tuple[str, str]]:
    count = registers_of(kind)
    if channel.bit is not None:
        yield "bit", f"only a bool has one, and this is {kind}"
    for key in ("byte_order", "word_order"):
        if count > 1 and getattr(channel, key) is None:
            reason = f"a {kind} is {count} registers, whose order devices do not agree on: say "
            yield key, reason + "'big' or 'little' (`test --orders` shows all)"
    if channel.address + count > _ADDRESSES:
        yield "address", f"a {kind} at {channel.address} ends beyond the last register, 65535"
    for number in channel.invalid:
        if pattern_of(number, kind) is None:
            yield "invalid", f"{number} is no {kind}"


def busy_s(read: Read, settings: ModbusSettings) -> float:
    """Seconds that a read takes of a serial line at least; the device's own delay comes on top."""
    characters = REQUEST_CHARACTERS + ANSWER_CHARACTERS + read.answer_bytes
    pauses = quiet_s(settings.character_s) + max(
        quiet_s(settings.character_s), settings.pause_ms / 1000
    )
    return characters * settings.character_s + pauses


def _load_problem(settings: ModbusSettings) -> Iterator[tuple[str, str]]:
    load = sum(busy_s(read, settings) / read.interval_s for read in plan(settings))
    if load > 1:
        reason = (
            f"the line would be busy {100 * load:.0f} % of the time at {settings.baudrate} baud"
        )
        yield "poll_interval_ms", reason + ": raise poll intervals, or split the line"
