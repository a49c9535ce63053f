"""One open serial port of the bridge, for its event loop.

Opens by the configured path, exclusively: with `flock`, which other programs that use pyserial
respect, and with TIOCEXCL, which the kernel enforces against everybody but root.  8 data bits, no
parity, 1 stop bit, no flow control; framing and CRC-32 do the rest.  A USB adapter is asked to
deliver at once (ASYNC_LOW_LATENCY): an FTDI chip else keeps bytes for up to 16 ms, which the clock
fit would have to see through.

Bytes are taken when they arrive, with the time.  What does not go out stays here: one frame.
"""

import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import serial

from wire.serial_ports import close_line, opening_advice

_READ_BYTES: Final = 4096
_READS_AT_ONCE: Final = 16
_BITS_A_BYTE: Final = 10  # start, 8 data, stop
Take = Callable[[bytes], None]
Lost = Callable[[str], None]


class PortError(Exception):
    """The port can not be opened, or the device is gone; says what to do."""


def byte_time_us(path: str, baudrate: int) -> float:
    """What a byte takes on the line; 0 for ports that have no line: USB devices, pseudo-terminals.

    Args:
      path: of the port; a link is followed.
      baudrate: as configured.
    """
    name = os.path.realpath(path)
    has_no_rate = name.startswith(("/dev/ttyACM", "/dev/pts/", "/dev/ttyGS"))
    return 0.0 if has_no_rate else _BITS_A_BYTE * 1e6 / baudrate


class Port:
    """An open port; made by `open_port`, and to be closed.

    Args:
      line: open.
      take: called with what arrived.
      lost: called once with the reason when the device is gone.
    """

    def __init__(self, line: serial.Serial, take: Take, lost: Lost) -> None:
        self._line, self._take, self._lost = line, take, lost
        self._fd: int = line.fileno()
        self._path = Path(str(line.port))
        self._identity = os.fstat(self._fd).st_rdev
        self._rest = b""
        self._is_gone = False
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        """Empty the kernel's buffer: called by the event loop when there is something in it."""
        taken: list[bytes] = []
        reason = ""
        try:
            for _ in range(_READS_AT_ONCE):
                data = os.read(self._fd, _READ_BYTES)
                if not data:
                    reason = "the device hung up"
                    break
                taken.append(data)
        except BlockingIOError:
            pass
        except OSError as error:
            reason = f"the device is gone ({error.strerror})"
        if taken:
            self._take(b"".join(taken))
        if reason:
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._is_gone:
            self._is_gone = True
            asyncio.get_running_loop().remove_reader(self._fd)
            self._lost(reason)

    @property
    def is_writable(self) -> bool:
        """Whether what was written before has left this program."""
        if self._rest:
            self.write(b"")
        return not self._rest and not self._is_gone

    def write(self, data: bytes) -> None:
        """Give bytes to the kernel; what it does not take waits for `is_writable`."""
        self._rest += data
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._rest = b""
            self._lose(f"the device is gone ({error.strerror})")

    def check(self) -> None:
        """Look whether the path still leads to the device that is open; it is lost if not.

        Some drivers never tell an open port that the plug was drawn.
        """
        try:
            identity = self._path.stat().st_rdev
        except OSError as error:
            self._lose(f"{self._path}: {error.strerror}")
            return
        if identity != self._identity:
            self._lose(f"{self._path} is another device now")

    def close(self) -> None:
        """Let the device go; bytes that it never took are forgotten, so that this can not hang."""
        if not self._is_gone:
            self._is_gone = True
            asyncio.get_running_loop().remove_reader(self._fd)
        close_line(self._line)


async def open_port(path: str, baudrate: int, take: Take, lost: Lost) -> Port:
    """Open a port, in a thread: a sick USB adapter answers its set-up after seconds.

    Raises:
      PortError: it can not be opened; says why and what to do.
    """
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix="open serial port")
    opening = executor.submit(_open, path, baudrate)
    executor.shutdown(wait=False)
    try:
        line = await asyncio.shield(asyncio.wrap_future(opening, loop=loop))
    except asyncio.CancelledError:
        opening.add_done_callback(_forget)
        raise
    except (OSError, ValueError, termios.error) as error:
        raise PortError(opening_advice(path, error)) from None
    return Port(line, take, lost)


def _forget(opening: "Future[serial.Serial]") -> None:
    """Close a port that nobody waits for any more."""
    if opening.exception() is None:
        close_line(opening.result())


def _open(path: str, baudrate: int) -> serial.Serial:
    line = serial.Serial(path, baudrate, exclusive=True)
    try:
        fcntl.ioctl(line.fileno(), termios.TIOCEXCL)
        attributes = termios.tcgetattr(line.fileno())
        # With VMIN 0, as pyserial sets it, a read finds 0 bytes both when there are none and when
        # the device is gone; with VMIN 1 only the latter.
        attributes[6][termios.VMIN] = 1
        termios.tcsetattr(line.fileno(), termios.TCSANOW, attributes)
    except (OSError, termios.error):
        line.close()
        raise
    # Most drivers do not know it, and need not.
    with contextlib.suppress(OSError, ValueError):
        line.set_low_latency_mode(True)
    return line
