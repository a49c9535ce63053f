"""Microcontrollers on this machine: the C library of firmware_bridge/device over a flash model.

Responsible for building the library with its host model (host/host.c) and for calling it: what
the gateway sent goes in, what the device sent comes out, in the caller's time. The power can be
cut in the middle of any flash operation or of any frame; the flash then holds what a real one
might, and `boot` starts the device on it again.

Refuses: nothing is read or written outside the `Microcontroller`'s own memory. Needs gcc.
"""

import ctypes
import enum
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import firmware_bridge

DEVICE = Path(firmware_bridge.__file__).parent / "device"
LIBRARY_SOURCES = (
    "jm_bytes.c",
    "jm_cobs.c",
    "jm_frame.c",
    "jm_link.c",
    "jm_sha256.c",
    "jm_slots.c",
)
MODEL_SOURCES = ("jm_content.c", "jm_int8.c", "jm_model.c")

_BUILD_TIMEOUT_S = 120.0
_TAKEN_BYTES = 1 << 18  # all that the host model keeps; JM_HOST_LINE_BYTES in host.h
_NO_MODEL = 0xFFFFFFFF
LOOK_AT_HEADER = -1
"""Self-test: fine if the content's header agrees with its size. So it is at the beginning."""
INFER = -2
"""Self-test: the golden vectors must come out, as on a chip."""
_I16, _I8 = 1, 4  # formats of values, see FRAMING.md


class End(enum.IntEnum):
    """How a call ended; after the last two only `boot` does anything."""

    RUNS = 0
    CUT = 1
    RESET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What the library is compiled for; journeyman.h explains the values.

    Attributes:
      unit_bytes: programmed at once: 8 as on an STM32L4, 32 as on an STM32H7.
      sector_bytes: cleared by one erase.
      slot_bytes: of each of the two slots.
      queue_bytes: room for frames of an addressed device that waits to be polled.
      ecc: a unit that a cut left half programmed cannot be read any more.
    """

    unit_bytes: int = 8
    sector_bytes: int = 2048
    slot_bytes: int = 65_536
    queue_bytes: int = 1024
    ecc: bool = False

    @property
    def defines(self) -> list[str]:
        """The same for a compiler."""
        values = {
            "JM_FLASH_UNIT": self.unit_bytes,
            "JM_SECTOR_BYTES": self.sector_bytes,
            "JM_SLOT_BYTES": self.slot_bytes,
            "JM_QUEUE_BYTES": self.queue_bytes,
        }
        return [f"-D{name}={value}" for name, value in values.items()] + (
            ["-DJM_HOST_ECC"] if self.ecc else []
        )


DEFAULT_CHIP = Chip()


def build_library(folder: Path, chip: Chip = DEFAULT_CHIP) -> Path:
    """Compile the device into a shared library in `folder`, for `Microcontroller`.

    Raises:
      subprocess.CalledProcessError: it does not compile.
      FileNotFoundError: gcc is not installed.
    """
    library = folder / "libjm_host.so"
    _compile(library, chip, ["-shared", "-fPIC", "-O1"])
    return library


def build_program(folder: Path, chip: Chip = DEFAULT_CHIP) -> Path:
    """Compile the device into a program, `jm_host_device`, with sanitizers; see host/device.c.

    Raises:
      subprocess.CalledProcessError: it does not compile.
      FileNotFoundError: gcc is not installed.
    """
    program = folder / "jm_host_device"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    _compile(program, chip, ["-g", "-O1", *sanitizers, str(DEVICE / "host" / "device.c"), "-lutil"])
    return program


def _compile(output: Path, chip: Chip, options: list[str]) -> None:
    sources = [
        str(DEVICE / name)
        for name in (*LIBRARY_SOURCES, *MODEL_SOURCES, "host/host.c", "host/codec.c")
    ]
    subprocess.run(
        ["gcc", "-std=c99", *chip.defines, "-o", str(output), *sources, *options],
        check=True,
        timeout=_BUILD_TIMEOUT_S,
    )


@dataclass(frozen=True, slots=True)
class RunningModel:
    """The model that the device runs: `content` is read from its flash."""

    slot: int
    content: bytes


class Microcontroller:
    """One device. Its flash outlives cuts and boots; everything else does not.

    Args:
      library: from `build_library`; several devices can share one.
      address: 0, or 1 to 126 for a device on RS-485 that speaks when polled.
      identity: 16 bytes, what CONNECT calls `id`.
      chip: what `library` was built for.
    """

    def __init__(
        self,
        library: Path,
        *,
        address: int = 0,
        identity: bytes = bytes(16),
        chip: Chip = DEFAULT_CHIP,
    ) -> None:
        self.chip = chip
        self._code = _Code(library)
        size = self._code.call("host_memory_bytes")
        self._memory = ctypes.create_string_buffer(size)
        self._code.call("host_erase_memory", self._memory)
        self._host = ctypes.c_void_p(self._code.new(self._memory, address, identity))
        self._taken = ctypes.create_string_buffer(_TAKEN_BYTES)

    def __del__(self) -> None:
        self._code.call("host_free", self._host)

    @cached_property
    def slot_addresses(self) -> tuple[int, int]:
        """Where in `flash` the slots begin."""
        first = 2 * self.chip.sector_bytes
        return first, first + self.chip.slot_bytes

    @property
    def flash(self) -> bytes:
        """All of the flash: two sectors of records, slot A, slot B."""
        return self._memory.raw[: self.slot_addresses[1] + self.chip.slot_bytes]

    @property
    def memory(self) -> bytes:
        """The flash with what the model knows of it; set it to go back to an earlier state."""
        return self._memory.raw

    @memory.setter
    def memory(self, earlier: bytes) -> None:
        ctypes.memmove(self._memory, earlier, len(earlier))

    def boot(self, number: int) -> End:
        """Reset the device; `number` is what it calls `boot` to the gateway."""
        return self._end("host_boot", ctypes.c_uint32(number))

    def set_time(self, now_us: int) -> None:
        """Say what time it is on the device's clock, in microseconds."""
        self._code.call("host_set_time", self._host, ctypes.c_uint64(now_us))

    def receive(self, data: bytes, arrived_us: int) -> End:
        """Give it bytes of the line, the last of which came at device time `arrived_us`."""
        return self._end(
            "host_receive", data, ctypes.c_size_t(len(data)), ctypes.c_uint64(arrived_us)
        )

    def run(self) -> End:
        """One turn of the firmware's main loop, without anything received."""
        return self._end("host_run")

    def sensor(self, stream: int, channels: int, time_us: int, period_us: int, raw: bytes) -> End:
        """Send samples of 16 bits; `raw` holds them, little endian."""
        count = len(raw) // (2 * channels)
        rows = _Rows(stream, _I16, channels, count, time_us, period_us, raw)
        return self._end("host_sensor", ctypes.byref(rows))

    def score(self, stream: int, time_us: int, outputs: bytes) -> End:
        """Send the model's outputs, of 8 bits each."""
        rows = _Rows(stream, _I8, len(outputs), 1, time_us, 0, outputs)
        return self._end("host_score", ctypes.byref(rows))

    def log(self, text: str) -> End:
        """Send text."""
        return self._end("host_log", text.encode())

    def take(self) -> bytes:
        """Return what the device has sent since the last call, and forget it."""
        room = ctypes.c_size_t(_TAKEN_BYTES)
        count = self._code.call("host_take", self._host, self._taken, room)
        return ctypes.string_at(self._taken, count)

    def cut_at(self, operations: int, seed: int) -> None:
        """Cut the power in that operation from now (1: the next); 0: never.

        An operation is the erase of a sector, the programming of a unit, or the sending of a
        frame. `seed` decides what it leaves behind.
        """
        self._code.call("host_cut_at", self._host, operations, ctypes.c_uint32(seed))

    @property
    def operations(self) -> int:
        """Operations so far."""
        return self._code.call("host_operations", self._host)

    @property
    def violations(self) -> int:
        """Rules of the flash that the library broke: must be 0."""
        return self._code.call("host_violations", self._host)

    def set_self_test(self, reason: int) -> None:
        """Let TEST come out so: 0 is good; LOOK_AT_HEADER and INFER let the device decide."""
        self._code.call("host_set_self_test", self._host, reason)

    def wear_out(self, address: int, size_bytes: int) -> None:
        """Let these bytes of flash neither be erased nor programmed any more."""
        self._code.call("host_wear_out", self._host, address, size_bytes)

    def flip(self, address: int, mask: int) -> None:
        """Let bits of a byte of flash decay."""
        self._memory[address] = bytes([self._memory.raw[address] ^ mask])

    @property
    def model(self) -> RunningModel | None:
        """The model that the firmware was told to run."""
        size = ctypes.c_uint32()
        address = self._code.call("host_model", self._host, ctypes.byref(size)) & _NO_MODEL
        if address == _NO_MODEL:
            return None
        content = self._memory.raw[address : address + size.value]
        return RunningModel(self.slot_addresses.index(address), content)

    def _end(self, name: str, *arguments: object) -> End:
        return End(self._code.call(name, self._host, *arguments))


class _Rows(ctypes.Structure):
    """struct jm_rows of journeyman.h."""

    _fields_ = (
        ("stream", ctypes.c_uint8),
        ("format", ctypes.c_uint8),
        ("channels", ctypes.c_uint8),
        ("count", ctypes.c_uint8),
        ("time_us", ctypes.c_uint64),
        ("period_us", ctypes.c_uint32),
        ("values", ctypes.c_char_p),
    )


class _Code:
    """The functions of the shared library; all but host_new() return an int or nothing."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.host_new.restype = ctypes.c_void_p
        for name in ("host_memory_bytes", "host_take"):
            getattr(self._library, name).restype = ctypes.c_size_t

    def call(self, name: str, *arguments: object) -> int:
        return int(getattr(self._library, name)(*arguments) or 0)

    def new(self, memory: ctypes.Array[ctypes.c_char], address: int, identity: bytes) -> int:
        host = self._library.host_new(memory, ctypes.c_uint8(address), identity)
        if not host:
            raise MemoryError
        return int(host)
