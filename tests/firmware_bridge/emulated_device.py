"""The whole firmware in QEMU, its serial port a pair of pipes, and the gateway's end of it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from firmware_bridge.device import Device
from firmware_bridge.events import Event
from firmware_bridge.frames import Frame, encode
from firmware_bridge.link import Link
from firmware_bridge.place import Place
from shopfloor.emulated_board import FIRMWARE, board_command, build
from tests.firmware_bridge.inference_program import skip_without_tools


def now_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass
class Emulated:
    """A running board with what it said so far."""

    process: subprocess.Popen[bytes]
    device: Device
    link: Link
    events: list[Event] = field(default_factory=list)

    def say(self, frame: Frame) -> None:
        """Send a frame that the gateway's side knows nothing of."""
        assert self.process.stdin is not None
        self.process.stdin.write(encode(frame))
        self.process.stdin.flush()

    def talk_until(self, holds: Callable[[], bool], most_s: float = 30.0) -> None:
        """Carry bytes both ways until something holds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        end = now_us() + int(most_s * 1e6)
        while not holds():
            assert now_us() < end, f"not in {most_s} s; {self.link.decoder}, {self.device.state}"
            while data := self.link.transmit(now_us()):
                self.process.stdin.write(data)
                self.process.stdin.flush()
            wait_s = max(0.0, (self.link.wake_us(now_us()) - now_us()) / 1e6)
            if select.select([self.process.stdout], [], [], min(wait_s, 0.05))[0]:
                came = os.read(self.process.stdout.fileno(), 4096)
                assert came, "the emulator ended"
                self.events += [event for _, event in self.link.receive(came, now_us())]
            self.events += [event for _, event in self.link.drain(now_us())]


@contextmanager
def emulated(memory: Path) -> Iterator[Emulated]:
    """The board, with its memory of slots in a file; leaving cuts its power."""
    skip_without_tools(FIRMWARE)
    command = board_command(build(FIRMWARE), "stdio", memory=memory)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    device = Device(Place(), 1)
    link = Link({0: device}, 0.0)
    link.reopened(now_us())
    try:
        yield Emulated(process, device, link)
    finally:
        process.kill()
        process.communicate()
