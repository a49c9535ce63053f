"""One open serial port: reading and writing without blocking the event loop.

Opens by the configured path, exclusively: with `flock`, which programs that use pyserial or
follow the custom respect, and with TIOCEXCL, which the kernel enforces against everybody but
root.  Bytes are taken from the kernel when they arrive, with the time, and wait here for the
source; when it does not come, the oldest are dropped and marked.

Writes only the request that the configuration holds.
"""

import asyncio
import contextlib
import fcntl
import os
import termios
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import serial

from agent.sensors.lines.settings import PortSettings
from wire.serial_ports import close_line, opening_advice

MAX_WAITING_BYTES = 1 << 20
"""Of bytes read and not yet taken: 90 s at 115,200 baud."""
_READ_BYTES = 4096
_READS_AT_ONCE = 16
_WRITE_TIMEOUT_S = 1.0
_WRITE_AGAIN_S = 0.005
_PARITY = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}


class PortError(Exception):
    """The port can not be opened, or the device is gone; says what to do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that were read together.

    Attributes:
      data: not empty.
      at_us: when, in microseconds since 1970 UTC.
      is_after_loss: bytes before it were dropped.
    """

    data: bytes
    at_us: int
    is_after_loss: bool


class Port:
    """An open port; made by `open_port`, and to be closed."""

    def __init__(self, line: serial.Serial, clock: Callable[[], int]) -> None:
        self._line, self._clock = line, clock
        self._fd: int = line.fileno()
        self._path = Path(str(line.port))
        self._identity = os.fstat(self._fd).st_rdev
        self._waiting: deque[Piece] = deque()
        self._waiting_bytes = 0
        self._has_dropped = False
        self._problem = ""
        self._news = asyncio.Event()
        self.dropped_bytes = 0
        asyncio.get_running_loop().add_reader(self._fd, self._take)

    def _take(self) -> None:
        """Empty the kernel's buffer: called by the event loop when there is something in it."""
        taken: list[bytes] = []
        try:
            for _ in range(_READS_AT_ONCE):
                data = os.read(self._fd, _READ_BYTES)
                if not data:
                    self._lose("the device hung up")
                    break
                taken.append(data)
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(f"the device is gone ({error.strerror})")
        if taken:
            self._keep(b"".join(taken))

    def _keep(self, data: bytes) -> None:
        self._waiting_bytes += len(data)
        while self._waiting and self._waiting_bytes > MAX_WAITING_BYTES:
            dropped = len(self._waiting.popleft().data)
            self._waiting_bytes -= dropped
            self.dropped_bytes += dropped
            self._has_dropped = True
        self._waiting.append(Piece(data, self._clock(), is_after_loss=False))
        self._news.set()

    def _lose(self, problem: str) -> None:
        self._problem = problem
        asyncio.get_running_loop().remove_reader(self._fd)
        self._news.set()

    async def read(self, timeout_s: float) -> list[Piece]:
        """What has arrived; waits for something at most so long.

        Raises:
          PortError: the device is gone, and all that it sent was read.
        """
        if not self._waiting and not self._problem:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, timeout_s)):
                    await self._news.wait()
        self._news.clear()
        pieces = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if pieces and self._has_dropped:
            pieces[0] = Piece(pieces[0].data, pieces[0].at_us, is_after_loss=True)
            self._has_dropped = False
        if not pieces and self._problem:
            raise PortError(self._problem)
        return pieces

    def check(self) -> None:
        """Look whether the path still leads to the device that is open.

        Raises:
          PortError: it does not; some drivers never tell an open port that the plug was drawn.
        """
        try:
            identity = self._path.stat().st_rdev
        except OSError as error:
            raise PortError(f"{self._path}: {error.strerror}") from None
        if identity != self._identity:
            raise PortError(f"{self._path} is another device now")

    async def write(self, request: bytes) -> None:
        """Send a request.

        Raises:
          PortError: the device is gone, or its flow control holds the line.
        """
        deadline = time.monotonic() + _WRITE_TIMEOUT_S
        while request and not self._problem:
            try:
                request = request[os.write(self._fd, request) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PortError("can not send: flow control holds the line") from None
                await asyncio.sleep(_WRITE_AGAIN_S)
            except OSError as error:
                raise PortError(f"the device is gone ({error.strerror})") from None
        if self._problem:
            raise PortError(self._problem)

    def discard_input(self) -> None:
        """Forget what has arrived: it answers no request that is still open."""
        if not self._problem:
            self._take()
        self._waiting.clear()
        self._waiting_bytes = 0

    def close(self) -> None:
        """Let the device go; bytes that it never took are forgotten, so that this can not hang."""
        asyncio.get_running_loop().remove_reader(self._fd)
        close_line(self._line)


async def open_port(settings: PortSettings, clock: Callable[[], int]) -> Port:
    """Open the port, in a thread: a sick USB adapter answers its set-up after seconds.

    Raises:
      PortError: it can not be opened; says why and what to do.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix="open serial port")
    opening = executor.submit(_open_line, settings)
    executor.shutdown(wait=False)
    try:
        line = await asyncio.shield(asyncio.wrap_future(opening, loop=loop))
    except asyncio.CancelledError:
        opening.add_done_callback(_forget)
        raise
    except (OSError, ValueError, termios.error) as error:
        raise PortError(opening_advice(settings.device, error)) from None
    return Port(line, clock)


def _forget(opening: "Future[serial.Serial]") -> None:
    """Close a port that nobody waits for any more."""
    if opening.exception() is None:
        close_line(opening.result())


def _open_line(settings: PortSettings) -> serial.Serial:
    line = serial.Serial(
        baudrate=settings.baudrate,
        bytesize=settings.bytesize,
        parity=_PARITY[settings.parity],
        stopbits=settings.stopbits,
        rtscts=settings.flow_control == "rts_cts",
        xonxoff=settings.flow_control == "xon_xoff",
        exclusive=True,
    )
    line.dtr, line.rts = settings.dtr, settings.rts
    line.port = settings.device
    line.open()
    try:
        fcntl.ioctl(line.fileno(), termios.TIOCEXCL)
        _set_input_checks(line.fileno(), has_parity=settings.parity != "none")
    except (OSError, termios.error):
        line.close()
        raise
    return line


def _set_input_checks(fd: int, *, has_parity: bool) -> None:
    """What pyserial does not set: parity is checked, a break is only a NUL byte, no byte is EAGAIN.

    With INPCK and without IGNPAR and PARMRK a byte with wrong parity is read as NUL (POSIX.1,
    11.2.2), which no text line may hold and no checksum lets pass.  With VMIN 0, as pyserial sets
    it, a read finds 0 bytes both when there are none and when the device is gone; with VMIN 1 only
    the latter.
    """
    attributes = termios.tcgetattr(fd)
    attributes[6][termios.VMIN] = 1
    attributes[0] &= ~(termios.BRKINT | termios.IGNPAR | termios.PARMRK | termios.INPCK)
    if has_parity:
        attributes[0] |= termios.INPCK
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
