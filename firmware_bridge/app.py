"""The bridge as a service: composes lines, devices, socket and figures, and stops in order.

The only place that wires, and that starts tasks; if one fails all stop, and the service manager
starts the program again.  A line, a device or a client never is a reason for that.

The watchdog is fed while every line's task comes around; one that waits for a port that is not
there does.
"""

import asyncio
import logging
import random
import signal
import time
from contextlib import AsyncExitStack, suppress
from typing import Final

import msgspec

from firmware_bridge.device import Device
from firmware_bridge.devices import Devices, make_devices
from firmware_bridge.events import Event
from firmware_bridge.frames import SEQUENCE_MODULUS
from firmware_bridge.line import Line, now_us
from firmware_bridge.link import Link
from firmware_bridge.metrics import metric_lines
from firmware_bridge.offers import Offers
from firmware_bridge.port import byte_time_us
from firmware_bridge.server import Server
from firmware_bridge.settings import BridgeSettings
from firmware_bridge.utc import UtcDifference
from firmware_bridge.web import serving
from wire.bridge import Devices as DevicesMessage
from wire.bridge import DeviceState, FromBridge, Offer, ToBridge
from wire.errors import SettingsError, one_line
from wire.listening import own_address
from wire.notify import notify
from wire.progress import Progress
from wire.watchdog import keep_watch

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_TELL_S: Final = 5.0
"""How often clients get the devices' counters when nothing else about them changes."""
_STUCK_S: Final = 20.0
"""A line's task comes around twice a second."""


def wall_us() -> int:
    """UTC now, in microseconds since 1970."""
    return time.time_ns() // 1000


class Bridge:
    """Everything that is wired together.

    Args:
      settings: of this bridge, without problems.
    """

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._utc = UtcDifference(wall_us(), now_us())
        self.devices = Devices(self._utc)
        self.lines: list[Line] = []
        self.server = Server(settings.bridge, self._told_devices, self._order)
        self.offers = Offers(self.devices, self.server.tell, self._wake)
        self._progress = Progress()
        self._last = self._told_devices()
        for table in settings.line:
            # Another beginning than the last run's: a late answer to that must not be taken.
            number = random.randrange(SEQUENCE_MODULUS)  # noqa: S311  a beginning, no secret
            byte_us = byte_time_us(table.port, table.baudrate)
            link = Link(make_devices(table, byte_us, number), byte_us)
            line = Line(table, link, self._handle)
            self.lines.append(line)
            self.devices.add(table, link, lambda line=line: line.problem)  # type: ignore[misc]

    def _told_devices(self) -> DevicesMessage:
        return DevicesMessage(self.devices.states())

    def _handle(self, device: Device, event: Event) -> None:
        if text := self.devices.log_line(device, event):
            logger.info("%s", one_line(text))
        for message in self.devices.told(device, event):
            self.server.tell(message)

    def _order(self, order: ToBridge) -> FromBridge | None:
        logger.info("%s of %s is asked for", type(order).__name__.lower(), one_line(order.device))
        if isinstance(order, Offer):
            self.offers.take(order)
            return None
        refused = self.devices.order(order)
        self._wake()
        return refused

    def _wake(self) -> None:
        for line in self.lines:
            line.wake()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
          SettingsError: the socket, or the address for figures, can not be had.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.server.listening())
            if self._settings.bridge.metrics:
                await self._serve_figures(stack)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for line in self.lines:
                name = line.table.name
                beat = stack.enter_context(self._progress.watching(f"line {name}", _STUCK_S))
                tasks.create_task(line.run(beat), name=f"line {name}")
            tasks.create_task(self.offers.run(), name="offers")
            tasks.create_task(self._look(), name="look")
            tasks.create_task(keep_watch(self._progress, notify), name="watch")
            with suppress(OSError):
                notify("READY=1")
            await asyncio.get_running_loop().create_future()

    async def _serve_figures(self, stack: AsyncExitStack) -> None:
        host, port = own_address(self._settings.bridge.metrics)
        try:
            await stack.enter_async_context(serving(host, port, self._page))
        except OSError as error:
            listen = self._settings.bridge.metrics
            raise SettingsError(listen, None, "bridge.metrics", str(error.strerror)) from None

    async def _look(self) -> None:
        """Compare clocks, and tell what changed about devices."""
        told_s = 0.0
        while True:
            self._utc.look(wall_us(), now_us())
            states = self._told_devices()
            told_s += _LOOK_S
            if _lasting(states) != _lasting(self._last) or told_s >= _TELL_S:
                self._last, told_s = states, 0.0
                self.server.tell(states)
            await asyncio.sleep(_LOOK_S)

    def _page(self, path: str) -> tuple[int, str] | None:
        if path == "/healthz":
            stalled = ", ".join(map(str, self._progress.stalled))
            return (503, one_line(f"stuck: {stalled}")) if stalled else (200, "ok")
        if path != "/metrics":
            return None
        lines = [
            (line.table.name, line.link, not line.problem, line.reopened) for line in self.lines
        ]
        server = self.server
        text = metric_lines(lines, self.devices, server.clients, server.dropped)
        return 200, "\n".join(text)


def _lasting(message: DevicesMessage) -> list[DeviceState]:
    """The devices without what changes all the time."""
    return [
        msgspec.structs.replace(each, figures={}, clock_error_us=None, drift_ppm=None)
        for each in message.devices
    ]


async def serve(settings: BridgeSettings) -> None:
    """Run the bridge until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(Bridge(settings).run(), name="bridge")
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    with suppress(OSError):
        notify("STOPPING=1")
