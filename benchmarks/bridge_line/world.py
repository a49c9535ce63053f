"""A serial line, a gateway and a microcontroller in virtual time: no clock of this machine counts.

The gateway runs the product's `Link`; the device is the C library in a `Microcontroller`.  Between
them lie two wires, one for each direction, that pace every byte, and may damage it.

    gateway   transmits late by up to a timer's tick and a system call, reads late by a few hundred
              microseconds, now and then by many milliseconds, and takes what has come until then
    device    one thread: what came is carried out in time for its transmitter to be free, or
              after what a handler takes; the time of arrival is taken by the interrupt; its quartz
              is off, and drifts with temperature

Times are microseconds of the true time, which the gateway's monotonic clock shows.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.bridge_line.damage import Damage
from firmware_bridge.device import Device
from firmware_bridge.link import Link, Told
from firmware_bridge.place import Place
from shopfloor.microcontroller import End, Microcontroller

_BITS_A_BYTE = 10
_TIMER_LATE_US, _SEND_LATE_US = 1200.0, 250.0
_READ_LATE_US, _BUSY_SHARE, _BUSY_LATE_US = 300.0, 0.02, 15_000.0
_HANDLER_US = (20.0, 120.0)
_OFF = 43e-6
_WANDER, _WANDER_US = 3e-6, 600e6
Act = Callable[[float], None]


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


class Agenda:
    """What happens next; `now_us` is the true time."""

    def __init__(self) -> None:
        self.now_us = 0.0
        self._due: list[tuple[float, int, Act]] = []
        self._numbers = itertools.count()

    def at(self, when_us: float, act: Act) -> None:
        """Let something happen, not before now."""
        heapq.heappush(self._due, (max(when_us, self.now_us), next(self._numbers), act))

    def run(self, until: Callable[[], bool]) -> None:
        """Let things happen until a condition holds."""
        while not until():
            self.now_us, _, act = heapq.heappop(self._due)
            act(self.now_us)


@dataclass
class Wire:
    """One direction of a line.

    Attributes:
      byte_us: what a byte takes.
      damage: what becomes of a frame.
      free_us: when the transmitter is done.
      is_cut: nothing arrives.
      sent_bytes: that were transmitted.
    """

    byte_us: float
    damage: Damage
    free_us: float = 0.0
    is_cut: bool = False
    sent_bytes: int = 0

    def send(self, now_us: float, data: bytes) -> tuple[float, bytes]:
        """Transmit behind what is under way; when the last byte arrives, and what does."""
        came = self.damage.of(data)
        # Noise that is taken for bytes takes their time, too.
        self.free_us = max(now_us, self.free_us) + max(len(data), len(came)) * self.byte_us
        self.sent_bytes += len(data)
        return self.free_us, b"" if self.is_cut else came


class Quartz:
    """The device's clock: since its last boot, off and wandering."""

    def __init__(self) -> None:
        self._booted_us = 0.0

    def boot(self, true_us: float) -> None:
        """It begins at 0."""
        self._booted_us = true_us

    def device_us(self, true_us: float) -> int:
        """Device time of a true time."""
        angle = 2 * math.pi / _WANDER_US
        wandered = _WANDER / angle * (math.cos(angle * self._booted_us) - math.cos(angle * true_us))
        return round((true_us - self._booted_us) * (1 + _OFF) + wandered)


class World:
    """A gateway, a line and a device.

    Args:
      controller: the device, not booted yet.
      baudrate: of the line.
      seed: of all chances.
      damaged_share: of the frames, in each direction.

    Attributes:
      told: called with each event of the gateway's side.
      idle: called when the device has nothing to do and its transmitter is free; sends, or not.
      arrived: called with what the gateway transmits and what arrives of it.
      boots: of the device.
      is_off: the device has no power, or has not got through its start.
    """

    def __init__(
        self, controller: Microcontroller, baudrate: int, seed: int, damaged_share: float = 0.01
    ) -> None:
        self.agenda, self.quartz = Agenda(), Quartz()
        self.controller = controller
        self.rng = random.Random(seed)
        byte_us = _BITS_A_BYTE * 1e6 / baudrate
        self.down = Wire(byte_us, Damage(damaged_share, random.Random(seed + 1)))
        self.up = Wire(byte_us, Damage(damaged_share, random.Random(seed + 2)))
        self.told: Callable[[Told], None] = _ignore
        self.idle: Act | None = None
        self.arrived: Callable[[bytes, bytes], None] = _ignore
        self.boots = 0
        self._arriving: deque[tuple[float, bytes]] = deque()
        self._received: deque[tuple[float, bytes]] = deque()
        self._handler_us = _HANDLER_US[1]
        self.is_off = True
        self._wake_us = math.inf
        self.start_gateway()

    def start_gateway(self) -> None:
        """A new run of the bridge: it knows nothing of the device."""
        place = Place(byte_us=self.down.byte_us)
        self.device = Device(place, self.rng.randrange(65_536))
        self.link = Link({0: self.device}, self.down.byte_us)
        self._wake(self.agenda.now_us)

    def boot(self, now_us: float) -> None:
        """Reset the device, or switch it on."""
        self.boots += 1
        self._received.clear()
        self.quartz.boot(now_us)
        self.controller.set_time(0)
        self.is_off = False
        end = self.controller.boot(self.boots)
        self._transmit(now_us)
        self._ended(end, now_us)
        if not self.is_off:
            self.agenda.at(self.up.free_us, self._device)

    def reset(self, now_us: float) -> None:
        """Take the device's power away for a moment; what it was sending is cut."""
        self._ended(End.RESET, now_us)
        self._arriving.clear()
        self.up.free_us = now_us

    def cut(self, now_us: float, for_us: float) -> None:
        """Let nothing arrive for a while, in either direction."""
        self.up.is_cut = self.down.is_cut = True

        def mend(at_us: float) -> None:
            del at_us
            self.up.is_cut = self.down.is_cut = False

        self.agenda.at(now_us + for_us, mend)

    def _ended(self, end: End, now_us: float) -> None:
        """After a cut of its power, or a reset, it starts again a little later."""
        if end is not End.RUNS and not self.is_off:
            self.is_off = True
            self.agenda.at(now_us + self.rng.uniform(1e3, 2e5), self.boot)

    # --- the device ---

    def _device(self, now_us: float) -> None:
        """One turn of its main loop: what is sent is ready when the transmitter is free."""
        if self.is_off or now_us < self.up.free_us - self._handler_us:
            return
        ready_us = max(now_us + self._handler_us, self.up.free_us)
        self._handler_us = self.rng.uniform(*_HANDLER_US)
        self.controller.set_time(self.quartz.device_us(ready_us))
        if self._received:
            arrived_us, data = self._received.popleft()
            end = self.controller.receive(data, self.quartz.device_us(arrived_us))
            self._transmit(ready_us)
            self._ended(end, now_us)
            self._again(ready_us)
        elif self.idle is not None:
            self.idle(ready_us)
            if self._transmit(ready_us):
                self._again(ready_us)

    def _again(self, ready_us: float) -> None:
        self.agenda.at(max(ready_us, self.up.free_us - self._handler_us), self._device)

    def _transmit(self, now_us: float) -> bool:
        """Put on the wire what the library has sent."""
        sent = self.controller.take()
        for frame in sent.split(b"\0")[:-1]:
            end_us, came = self.up.send(now_us, frame + b"\0")
            self._arriving.append((end_us, came))
            self.agenda.at(end_us + self._late_us(), self._read)
        return bool(sent)

    def send_taken(self, now_us: float) -> None:
        """Put on the wire what somebody else let the device send."""
        self._transmit(now_us)

    def _late_us(self) -> float:
        if self.rng.random() < _BUSY_SHARE:
            return self.rng.uniform(0.0, _BUSY_LATE_US)
        return 30.0 + self.rng.expovariate(1 / _READ_LATE_US)

    def _came_down(self, data: bytes) -> Act:
        def arrive(now_us: float) -> None:
            if data and not self.is_off:
                self._received.append((now_us, data))
                self.agenda.at(now_us, self._device)

        return arrive

    # --- the gateway ---

    def _read(self, now_us: float) -> None:
        taken = bytearray()
        while self._arriving and self._arriving[0][0] <= now_us:
            taken += self._arriving.popleft()[1]
        if self._arriving:  # a part of what is just coming
            end_us, data = self._arriving[0]
            here = len(data) - math.ceil((end_us - now_us) / self.up.byte_us)
            if 0 < here < len(data):
                taken += data[:here]
                self._arriving[0] = end_us, data[here:]
        if taken:
            for told in self.link.receive(bytes(taken), int(now_us)):
                self.told(told)
        self._gateway(now_us)

    def _gateway(self, now_us: float) -> None:
        """What `line.py` does when it comes around."""
        while data := self.link.transmit(int(now_us)):
            end_us, came = self.down.send(now_us + self.rng.uniform(20.0, _SEND_LATE_US), data)
            self.arrived(data, came)
            self.agenda.at(end_us, self._came_down(came))
        for told in self.link.drain(int(now_us)):
            self.told(told)
        self._wake(self.link.wake_us(int(now_us)) + self.rng.uniform(0.0, _TIMER_LATE_US))

    def _wake(self, when_us: float) -> None:
        if when_us < self._wake_us or self._wake_us <= self.agenda.now_us:
            self._wake_us = when_us
            self.agenda.at(when_us, self._woken)

    def _woken(self, now_us: float) -> None:
        if now_us >= self._wake_us:
            self._wake_us = math.inf
            self._gateway(now_us)
