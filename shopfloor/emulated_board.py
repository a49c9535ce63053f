"""A Cortex-M3 on this machine: firmware of firmware_bridge/device in QEMU's `mps2-an385`.

Responsible for building it, for starting it so that its model slots outlive it, and for talking
to the check program (`device/checks/inference.c`), which runs kernels alone, on the board or on
the host under sanitizers. The real firmware speaks FRAMING.md; whoever starts it carries the
bytes. Needs gcc, for the board arm-none-eabi-gcc and qemu-system-arm.
"""

from __future__ import annotations

import fcntl
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import firmware_bridge

DEVICE = Path(firmware_bridge.__file__).parent / "device"
BUILD = DEVICE.parents[1] / "build" / "firmware"
FIRMWARE, CHECK_ON_BOARD, CHECK_ON_HOST = "mps2_an385.elf", "inference.elf", "inference"
"""The whole firmware; the check program for the board, and for the host."""
COUNTING = ("-icount", "shift=6")
"""Lets QEMU take 64 ns of virtual time for each instruction, whatever it is."""
TICKS_PER_INSTRUCTION = 1.6
"""Of the board's 25 MHz timer, 40 ns each, under `COUNTING`."""

_MEMORY_BYTES = 16 << 20  # of the board's PSRAM, where the slots are
_TOOLS = {
    FIRMWARE: ("make", "arm-none-eabi-gcc", "qemu-system-arm"),
    CHECK_ON_BOARD: ("make", "arm-none-eabi-gcc", "qemu-system-arm"),
    CHECK_ON_HOST: ("make", "gcc"),
}


class BoardError(RuntimeError):
    """A tool is missing, the firmware does not build, or a program ended."""


def missing_tools(target: str) -> list[str]:
    """Return what is not installed of that which a target needs."""
    return [tool for tool in _TOOLS.get(target, ("make",)) if shutil.which(tool) is None]


def build(target: str) -> Path:
    """Bring a target of the device's Makefile up to date and return it.

    Raises:
      BoardError: a tool is missing, or it does not compile.
    """
    missing = missing_tools(target)
    if missing:
        raise BoardError(f"{', '.join(missing)} not found: apt install {_packages(missing)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / target
    with (BUILD / ".lock").open("w") as lock:  # others may want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "--silent", "-C", DEVICE, f"BUILD={BUILD}", program],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BoardError(f"make {target}: {done.stderr[-2000:]}")
    return program


def board_command(program: Path, serial: str, *, memory: Path | None = None) -> list[str]:
    """Return the command that runs a firmware.

    Args:
      program: the ELF file.
      serial: what its UART is connected to, as QEMU says it: `stdio`, `pty`, `unix:PATH`.
      memory: keeps the model slots when the emulator ends, as flash does; made if need be.
    """
    command = ["qemu-system-arm", "-M", "mps2-an385", "-display", "none", "-monitor", "none"]
    if memory is not None:
        with memory.open("ab") as file:
            file.truncate(_MEMORY_BYTES)
        backend = f"memory-backend-file,id=ram,size={_MEMORY_BYTES},mem-path={memory},share=on"
        command += ["-machine", "memory-backend=ram", "-object", backend]
    return [*command, "-serial", serial, "-kernel", str(program)]


@dataclass(frozen=True)
class Opened:
    """What the device says of an image.

    Attributes:
      code: 0 where it opened, else one of jm_model.h; 99: too large for the check program.
      input_numbers: int8 numbers that go in.
      output_numbers: as `input_numbers`, out.
      arena_bytes: that it needs to run.
      products: multiply-accumulates of one inference.
      model_bytes: of RAM for the opened model itself.
    """

    code: int
    input_numbers: int
    output_numbers: int
    arena_bytes: int
    products: int
    model_bytes: int


class Kernels:
    """A running check program; not safe for use by several threads at once."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take a process with pipes; use `kernels_on_host` or `kernels_on_board`."""
        self._process = process
        self._opened = Opened(1, 0, 0, 0, 0, 0)

    def open(self, image: bytes) -> Opened:
        """Give it an image, for all later calls."""
        self._send(b"L" + struct.pack("<I", len(image)) + image)
        self._opened = Opened(*struct.unpack("<6I", self._receive(24)))
        return self._opened

    def run(self, rows: NDArray[np.int8]) -> NDArray[np.int8]:
        """Return the outputs, int8 (N, numbers), for stored rows, int8 (N, ...)."""
        return self.run_counted(rows)[0]

    def run_counted(self, rows: NDArray[np.int8]) -> tuple[NDArray[np.int8], list[int]]:
        """As `run`, with the ticks that the board's timer counted for each row."""
        outputs, ticks = [], []
        for row in rows:
            self._send(b"R" + row.tobytes())
            ticks.append(int(struct.unpack("<I", self._receive(4))[0]))
            outputs.append(np.frombuffer(self._receive(self._opened.output_numbers), np.int8))
        return np.array(outputs), ticks

    def quantize(self, row: NDArray[np.float32]) -> tuple[int, NDArray[np.int8]]:
        """Return what jm_model_quantize returns and makes of one real row."""
        self._send(b"Q" + row.astype("<f4").tobytes())
        code = int(struct.unpack("<I", self._receive(4))[0])
        return code, np.frombuffer(self._receive(self._opened.input_numbers), np.int8)

    def dequantize(self, stored: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return what jm_model_dequantize makes of one stored output."""
        self._send(b"D" + stored.tobytes())
        raw = self._receive(4 * self._opened.output_numbers)
        return np.frombuffer(raw, "<f4").astype(np.float32)

    def _send(self, data: bytes) -> None:
        if self._process.stdin is None:
            raise BoardError("the check program was started without pipes")
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _receive(self, size: int) -> bytes:
        if self._process.stdout is None:
            raise BoardError("the check program was started without pipes")
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise BoardError(f"the check program ended with {self._process.wait()}")
        return data


@contextmanager
def kernels_on_host() -> Iterator[Kernels]:
    """Run the kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

    Raises:
      BoardError: the program cannot be built.
    """
    with _started([str(build(CHECK_ON_HOST))]) as kernels:
        yield kernels


@contextmanager
def kernels_on_board(options: Sequence[str] = ()) -> Iterator[Kernels]:
    """Run the kernels as firmware; `options` of QEMU, such as `COUNTING`.

    Raises:
      BoardError: the firmware cannot be built.
    """
    command = board_command(build(CHECK_ON_BOARD), "stdio")
    with _started([*command, *options]) as kernels:
        yield kernels


@contextmanager
def _started(command: list[str]) -> Iterator[Kernels]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Kernels(process)
    finally:
        process.kill()
        process.communicate()


def _packages(tools: Sequence[str]) -> str:
    """Return the Debian packages that have these tools."""
    names = {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi"}
    return " ".join(names.get(tool, tool) for tool in tools)
