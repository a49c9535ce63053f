"""A microcontroller that judges: the C library on a pseudo-terminal, in a thread of the test.

Samples, slots, self-test and protocol are the library's; the model's arithmetic is the int8
reference's, or, of a device that lies, something beside it.
"""

import math
import os
import pty
import select
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from firmware_bridge.image_format import read_image
from firmware_bridge.image_reference import quantize_rows, run_image
from firmware_bridge.slot_content import image_of
from shopfloor.microcontroller import INFER, Chip, Microcontroller, build_library

CHANNELS = ("a", "b", "c")
PERIOD_US = 10_000
STEP = 1 / 1024
CHIP = Chip(slot_bytes=16_384)
IDENTITY = bytes(range(16))
_FRAME = 5
BRIDGE = """
[bridge]
socket = "bridge.sock"
metrics = ""
[[line]]
name = "usb"
port = "{line}"
[[line.device]]
name = "board"
[[line.device.stream]]
number = 0
name = "motion"
"""
CHANNEL = '[[line.device.stream.channel]]\nname = "{}"\nscale = 0.0009765625\n'


class JudgingDevice(threading.Thread):
    """Runs until `stop`.

    Args:
      folder: for the compiled library.

    Attributes:
      line: path of its pseudo-terminal.
      lies: change one bit of the scores of models that are not `honest`.
      honest: contents that it never lies about.
      boots: resets so far.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._master, self._gateway = pty.openpty()
        tty.setraw(self._gateway)
        self.line = os.ttyname(self._gateway)
        self.lies = False
        self.honest: set[bytes] = set()
        self.boots = 0
        self._ends = threading.Event()
        self._device = Microcontroller(build_library(folder, CHIP), identity=IDENTITY, chip=CHIP)
        self._device.set_self_test(INFER)

    @property
    def content(self) -> bytes:
        """Of the slot that runs; empty for none."""
        running = self._device.model
        return b"" if running is None else running.content

    def run(self) -> None:
        """Serve the line."""
        began_ns = time.monotonic_ns()
        self.boots += 1
        self._device.boot(self.boots)
        taken, model = 0, b""
        samples: list[list[int]] = []
        row: list[list[int]] = []
        while not self._ends.is_set():
            ready, _, _ = select.select([self._master], [], [], 0.002)
            now_us = (time.monotonic_ns() - began_ns) // 1000
            self._device.set_time(now_us)
            if ready:
                self._device.receive(os.read(self._master, 4096), now_us)
            self._device.run()
            while now_us >= taken * PERIOD_US:
                time_us = taken * PERIOD_US
                values = [round(800 * math.sin(taken / (2 + at))) for at in range(3)]
                taken += 1
                samples.append(values)
                if len(samples) == _FRAME:
                    first_us = time_us - (_FRAME - 1) * PERIOD_US
                    raw = np.array(samples, "<i2").tobytes()
                    self._device.sensor(0, 3, first_us, PERIOD_US, raw)
                    samples = []
                if self.content != model:
                    model, row = self.content, []
                row = self._judged([*row, values], time_us) if model else []
            if data := self._device.take():
                os.write(self._master, data)

    def _judged(self, row: list[list[int]], time_us: int) -> list[list[int]]:
        image = read_image(image_of(self.content))
        if 3 * len(row) < image.input_numbers:
            return row
        real = (np.array(row, np.float32) * np.float32(STEP)).reshape(1, -1)
        outputs = run_image(image, quantize_rows(image, real))[0].copy()
        if self.lies and self.content not in self.honest:
            outputs[0] ^= 1
        self._device.score(0, time_us, outputs.tobytes())
        return []

    def stop(self) -> None:
        self._ends.set()
        self.join(10)
        os.close(self._master)
        os.close(self._gateway)


def write_bridge(folder: Path, device: JudgingDevice) -> Path:
    """The bridge's configuration."""
    config = folder / "bridge.toml"
    channels = "".join(map(CHANNEL.format, CHANNELS))
    config.write_text(BRIDGE.format(line=device.line) + channels)
    return config


@contextmanager
def bridge_of(folder: Path, config: Path, repository: Path) -> Iterator[None]:
    """`journeyman-bridge` as a process."""
    socket = folder / "bridge.sock"
    with (folder / "bridge.log").open("ab") as log:
        command = [sys.executable, "-m", "firmware_bridge.main", "run", str(config)]
        process = subprocess.Popen(command, cwd=repository, stderr=log, stdout=log)
    try:
        deadline_s = time.monotonic() + 30
        while not socket.exists():
            assert time.monotonic() < deadline_s, (folder / "bridge.log").read_text()
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)
