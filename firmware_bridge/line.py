"""Runs one line: opens its port, gives the link what arrives, transmits what the link wants.

A port that can not be opened, or whose device is drawn (EIO, another device behind the path), is
tried again by its path, for ever.  Whatever a line does, the others go on.

Nothing here waits for a client: events are handed on at once (`mailbox.py` bounds what waits).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from firmware_bridge.device import Device
from firmware_bridge.events import Event
from firmware_bridge.link import Link, Told
from firmware_bridge.port import Port, PortError, open_port
from firmware_bridge.settings import LineTable
from wire.errors import one_line
from wire.reconnecting import Reconnecting

logger = logging.getLogger(__name__)

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 2.0
_CHECK_S: Final = 1.0
_LONGEST_SLEEP_S: Final = 0.5
_FULL_S: Final = 0.005
"""When to look again whether the kernel takes more."""
Handle = Callable[[Device, Event], None]
Beat = Callable[[], None]


def now_us() -> int:
    """The clock that never steps, in microseconds."""
    return time.monotonic_ns() // 1000


class Line:
    """One line.

    Args:
      table: its configuration.
      link: its devices.
      handle: gets every event of a device.

    Attributes:
      problem: why the port is not open; empty while it is.
      reopened: times that it was opened after the first.
    """

    def __init__(self, table: LineTable, link: Link, handle: Handle) -> None:
        self.table, self.link, self._handle = table, link, handle
        self.problem = "not opened yet"
        self.reopened = -1
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something is to be transmitted that the link did not know of."""
        self._news.set()

    async def run(self, beat: Beat) -> None:
        """Serve the line until cancelled.

        Args:
          beat: says that this task is alive.
        """
        waits = Reconnecting(_FIRST_RETRY_S, _LONGEST_RETRY_S, random.Random())  # noqa: S311  jitter
        while True:
            began_s = time.monotonic()
            lived_s = 0.0
            try:
                port = await open_port(self.table.port, self.table.baudrate, self._take, self._lose)
            except PortError as error:
                self._say(str(error))
            else:
                with contextlib.closing(port):
                    await self._serve(port, beat)
                lived_s = time.monotonic() - began_s
            beat()
            await asyncio.sleep(waits.wait_s(lived_s))

    async def _serve(self, port: Port, beat: Beat) -> None:
        """Transmit until the port is lost."""
        self.reopened += 1
        self.problem = ""
        logger.info("line %s: %s is open", self.table.name, self.table.port)
        self.link.reopened(now_us())
        checked_s = time.monotonic()
        while not self.problem:
            self._news.clear()
            self._transmit(port)
            beat()
            sleep_s = (self.link.wake_us(now_us()) - now_us()) / 1e6
            if not port.is_writable:
                sleep_s = _FULL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(sleep_s, 0.0), _LONGEST_SLEEP_S)):
                    await self._news.wait()
            if time.monotonic() - checked_s >= _CHECK_S:
                checked_s = time.monotonic()
                port.check()
        self.link.reopened(now_us())
        self._tell(self.link.drain(now_us()))

    def _transmit(self, port: Port) -> None:
        while port.is_writable:
            data = self.link.transmit(now_us())
            if not data:
                break
            port.write(data)
        self._tell(self.link.drain(now_us()))

    def _take(self, data: bytes) -> None:
        self._tell(self.link.receive(data, now_us()))
        self._news.set()

    def _lose(self, reason: str) -> None:
        self._say(reason)
        self._news.set()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("line %s: %s", self.table.name, one_line(problem))
        self.problem = problem

    def _tell(self, told: list[Told]) -> None:
        for device, event in told:
            self._handle(device, event)
