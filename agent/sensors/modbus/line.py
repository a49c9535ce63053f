"""The line: one TCP connection or one serial port, and one request at a time on it, over pymodbus.

The only module that imports pymodbus' client.  What is ours on top of it, because a line must
never stop or lie (measured with pymodbus 3.16):

- The timeout counts to the first byte; an answer that has begun is given the time that its length
  takes at the line's speed.  So silence is noticed soon, even with slow lines and long answers.
- Answers are picked out of what arrives by `frames.answer_in`; pymodbus drops the whole buffer
  when a stray byte before a frame looks like a unit id.
- Each request is a task of its own: pymodbus awaits with asyncio.wait_for, which on Python 3.11
  can swallow a cancellation, and this agent has to stop when it is told to.
- The silence of 3.5 characters between two frames is kept.
"""

import asyncio
import errno
import logging
import os
import struct
import termios
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import serial
from pymodbus import FramerType, ModbusException
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from agent.sensors.modbus.frames import (
    ANSWER_CHARACTERS,
    REQUEST_CHARACTERS,
    Framing,
    answer_in,
    quiet_s,
)
from agent.sensors.modbus.reads import Read
from agent.sensors.modbus.registers import BIT_TABLES
from agent.sensors.modbus.settings import ModbusSettings
from agent.sensors.steady_clock import SteadyClock

# What it says there is in the source's report, where people look.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

T = TypeVar("T")
_Client = AsyncModbusTcpClient | AsyncModbusSerialClient

_CONNECT_S = 3.0
_NEVER_S = 86_400.0
"""pymodbus' own timeout, for connecting and for requests: never reached, the ones here are."""
_IN_USE = (errno.EAGAIN, errno.EBUSY)
"""Of a port that is locked, as pyserial's `exclusive` does it, or held by the kernel's TIOCEXCL."""
_SLACK_S = 0.05
"""Latency timer of USB adapters (16 ms by default) and a busy gateway, once per answer."""


@dataclass(frozen=True, slots=True)
class Data:
    """An answer: 2 bytes per register, or 1 byte, 0 or 1, per bit; and when it came."""

    raw: bytes
    stamp_us: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The device answered with an exception code."""

    code: int


@dataclass(frozen=True, slots=True)
class Silent:
    """No valid answer; `is_noisy` if something else was heard."""

    is_noisy: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended, or the port vanished."""


Answer = Data | Refused | Silent | Lost


class Line:
    """One line of these settings; closed at first, and again whenever it is lost."""

    def __init__(self, settings: ModbusSettings, clock: SteadyClock) -> None:
        self._settings, self._clock = settings, clock
        self._client: _Client | None = None
        self._framing: Framing = "rtu" if settings.is_rtu else "tcp"
        self._request = b""
        self._heard = False
        self._stamp_us = 0
        self._last_byte_s = 0.0
        pause = settings.pause_ms / 1000
        self._pause_s = max(pause, quiet_s(settings.character_s)) if settings.device else pause

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._client is not None and self._client.connected

    async def open(self) -> str:
        """Connect, or open the port for this process alone; returns why not, "" on success."""
        self.close()
        client = self._new_client()
        try:
            is_open = await _in_own_task(client.connect(), _CONNECT_S)
            if is_open is None:
                return f"no answer within {_CONNECT_S:g} s"
            if not is_open:
                return await self._why_not()
            self._client, self._request = client, b""
            return ""
        except (OSError, ValueError, termios.error, ModbusException) as error:
            return str(error)
        finally:
            if self._client is not client:
                client.close()

    def close(self) -> None:
        """Close the connection or the port."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def ask(self, read: Read, timeout_s: float) -> Answer:
        """Send one request and take its answer.

        Args:
          read: what is asked.
          timeout_s: how long the device may take before the first byte of its answer.
        """
        client = self._client
        if client is None:
            return Lost()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._last_byte_s + self._pause_s - loop.time()))
        character_s = self._settings.character_s
        length_s = (ANSWER_CHARACTERS + read.answer_bytes) * character_s
        asking = asyncio.create_task(_exchange(client, read), name="modbus request")
        try:
            self._heard = False
            first_s = timeout_s + REQUEST_CHARACTERS * character_s
            await asyncio.wait((asking,), timeout=first_s)
            if not asking.done() and self._heard:
                rest_s = 1.5 * length_s + _SLACK_S if self._settings.device else timeout_s
                await asyncio.wait((asking,), timeout=rest_s)
            if asking.done():
                return self._taken(asking.result(), read)
        except ConnectionException:
            return Lost()
        except ModbusException:
            return Silent(is_noisy=True)
        finally:
            # It must be over before the next request: pymodbus holds a lock while it waits.
            asking.cancel()
            await asyncio.wait((asking,))
        return Silent(self._heard) if self.is_open else Lost()

    def _taken(self, answer: ModbusPDU, read: Read) -> Answer:
        if isinstance(answer, ExceptionResponse):
            return Refused(answer.exception_code)
        if read.table in BIT_TABLES:
            raw = bytes(answer.bits[: read.count])
        else:
            raw = struct.pack(f">{len(answer.registers)}H", *answer.registers)
        return Data(raw, self._stamp_us)

    def _pass_on(self, is_sent: bool, data: bytes) -> bytes:  # noqa: FBT001 (pymodbus' signature)
        """What pymodbus is to see of what crosses the line (its `trace_packet`)."""
        self._last_byte_s = asyncio.get_running_loop().time()
        if is_sent:
            self._request = data
            return data
        self._heard = True
        frame = answer_in(data, self._request, self._framing) if self._request else b""
        if frame:
            self._stamp_us = self._clock.now_us()
        return frame

    def _new_client(self) -> _Client:
        settings = self._settings
        if settings.device:
            return AsyncModbusSerialClient(
                settings.device,
                framer=FramerType.RTU,
                baudrate=settings.baudrate,
                bytesize=settings.bytesize,
                parity=settings.parity,
                stopbits=settings.stopbits,
                timeout=_NEVER_S,
                retries=0,
                reconnect_delay=0,
                trace_packet=self._pass_on,
            )
        return AsyncModbusTcpClient(
            settings.host,
            port=settings.port,
            framer=FramerType.RTU if settings.is_rtu else FramerType.SOCKET,
            timeout=_NEVER_S,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._pass_on,
        )

    async def _why_not(self) -> str:
        """Learn by a second, short attempt what pymodbus does not say."""
        settings = self._settings
        try:
            if settings.device:
                serial.Serial(settings.device, exclusive=True).close()
            else:
                async with asyncio.timeout(_CONNECT_S / 6):
                    _reader, writer = await asyncio.open_connection(settings.host, settings.port)
                writer.close()
        except TimeoutError:
            return "it does not answer"
        except OSError as error:
            number = error.errno
            if number in _IN_USE:
                return "another program has it open"
            return os.strerror(number) if number and number > 0 else str(error)
        return "it was not there a moment ago"


async def _exchange(client: _Client, read: Read) -> ModbusPDU:
    call = {
        "holding": client.read_holding_registers,
        "input": client.read_input_registers,
        "coil": client.read_coils,
        "discrete": client.read_discrete_inputs,
    }[read.table]
    return await call(read.address, count=read.count, device_id=read.unit_id)


async def _in_own_task(work: Coroutine[Any, Any, T], timeout_s: float) -> T | None:
    """Await in a task of its own, so that a cancellation always gets through (see the module).

    Returns:
      None when time is up.
    """
    task = asyncio.create_task(work, name="modbus connect")
    try:
        await asyncio.wait((task,), timeout=timeout_s)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.wait((task,))
