"""What framing, link and model slots cost on a Cortex-M3, and that nothing shakes them.

Code: the library's own objects at -Os, with everything but the kernels, which have figures of
their own (`kernels.py`): framing, requests, SHA-256, slots. What they call of the C library
(memcpy and its like) is the difference to a linked image; a firmware has these anyway.

Warnings: gcc, clang and the cross compiler, with all that the Makefile asks for, over the library,
the host model and the three example ports (against stub headers: their names and types, no more).

Fuzzing: random inputs of frames, requests, uploads, power cuts and resets under AddressSanitizer
and UndefinedBehaviorSanitizer (device/checks/many_link.c); every model that is told to the
firmware is hashed, and every rule of the flash is checked.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shopfloor.emulated_board import DEVICE, build
from shopfloor.microcontroller import LIBRARY_SOURCES, MODEL_SOURCES

MOST_CODE_BYTES = 4096
ENTRY_POINTS = ("jm_init", "jm_receive", "jm_run", "jm_sensor", "jm_score", "jm_log")
DEEPEST = ("jm_receive", "jm_slots_test", "jm_slots_verify", "is_whole", "jm_sha256")
"""The calls that need most stack, from the main loop to where flash is read."""
PORTS = ("stm32", "esp32", "rp2040")
SMALL_DEVICE = {"JM_LARGEST": 128, "JM_QUEUE_BYTES": 64, "JM_FLASH_UNIT": 8}
_CORTEX_M3 = ("-mcpu=cortex-m3", "-mthumb", "-Os", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True)
class Size:
    """Bytes on a Cortex-M3.

    Attributes:
      code: of the library, constants included, by object.
      total: of all of them.
      without_sha256: the same without the hash.
      linked: of an image of nothing else, with what it takes of the C library.
      ram: of a device with the default settings.
      smallest_ram: of one with payloads of 128 bytes, point to point.
      stack: of the deepest calls, without the port's.
    """

    code: dict[str, int]
    total: int
    without_sha256: int
    linked: int
    ram: int
    smallest_ram: int
    stack: int


def measure_size() -> Size:
    """Compile the library for a Cortex-M3 and look at it.

    Raises:
      BoardError: the cross compiler is missing, or it does not compile.
      CalledProcessError: one of its tools failed.
    """
    objects = [build(f"cortex-m3/{Path(name).stem}.o") for name in LIBRARY_SOURCES]
    code = {each.stem: _text_bytes(each) for each in objects}
    total = sum(code.values())
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.elf"
        keep = [f"-Wl,--undefined={name}" for name in ENTRY_POINTS]
        _cross(
            *_CORTEX_M3, "--specs=nano.specs", "-nostartfiles", "-Wl,--gc-sections",
            "-Wl,--unresolved-symbols=ignore-all", f"-Wl,--entry={ENTRY_POINTS[0]}", *keep,
            "-o", str(image), *map(str, objects),
        )  # fmt: skip
        linked = _text_bytes(image)
        return Size(
            code=code,
            total=total,
            without_sha256=total - code["jm_sha256"],
            linked=linked,
            ram=_device_bytes(Path(folder), {}),
            smallest_ram=_device_bytes(Path(folder), SMALL_DEVICE),
            stack=_stack_bytes(Path(folder)),
        )


def count_warnings() -> int:
    """Compile everything with every compiler there is; return the warnings and errors.

    Raises:
      BoardError: make is missing, or the Makefile says no flags.
    """
    flags = _warning_flags()
    sources = [*LIBRARY_SOURCES, *MODEL_SOURCES]
    host = ["host/host.c", "host/codec.c", "host/device.c", "checks/fuzz_link.c"]
    host.append("checks/many_link.c")
    found = 0
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler):
            found += _complaints([compiler, "-O2", *flags, *sources, *host])
    if shutil.which("arm-none-eabi-gcc"):
        cross = ["arm-none-eabi-gcc", *_CORTEX_M3, *flags]
        found += _complaints([*cross, *sources])
        found += _complaints([*cross, "-DJM_SLOTS=0", *LIBRARY_SOURCES[:4]])
        for port in PORTS:
            paths = [f"-Iports/{port}", f"-Iports/stubs/{port}", '-DJM_CONFIG="jm_config.h"']
            found += _complaints([*cross, *paths, *sources, f"ports/{port}/port_{port}.c"])
    return found


def fuzz(inputs: int, seed: int) -> int:
    """Run so many random inputs; return how many ran.

    Raises:
      BoardError: gcc or make is missing.
      RuntimeError: a sanitizer or a check of the target spoke up.
    """
    program = build("many_link")
    parts = os.cpu_count() or 1
    commands = [
        [str(program), str(inputs // parts + (part < inputs % parts)), str(seed * parts + part)]
        for part in range(parts)
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    done = 0
    for command, process in zip(commands, running, strict=True):
        output, errors = process.communicate()
        if process.returncode:
            what = f"`{shlex.join(command)}` ended with {process.returncode}"
            raise RuntimeError(f"{what}:\n{errors[-3000:]}")
        done += int(output.split()[0])
    return done


def _text_bytes(path: Path) -> int:
    """Bytes of code and constants of an object or image."""
    output = _run(["arm-none-eabi-size", str(path)])
    return int(output.splitlines()[1].split()[0])


def _cross(*arguments: str) -> None:
    _run(["arm-none-eabi-gcc", *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=DEVICE, capture_output=True, text=True, check=True)
    return done.stdout


def _device_bytes(folder: Path, settings: dict[str, int]) -> int:
    """Sizeof struct jm_device, asked of the compiler."""
    source, target = folder / "ram.c", folder / "ram.o"
    source.write_text('#include "journeyman.h"\nchar device[sizeof(struct jm_device)];\n')
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    _cross(*_CORTEX_M3, *defines, "-I.", "-c", "-o", str(target), str(source))
    symbols = _run(["arm-none-eabi-nm", "--print-size", str(target)])
    return int(symbols.split()[1], 16)


def _stack_bytes(folder: Path) -> int:
    """Frames of the deepest calls together; what the compiler inlined counts in its caller."""
    frames: dict[str, int] = {}
    for name in LIBRARY_SOURCES:
        target = folder / f"{Path(name).stem}.o"
        _cross(*_CORTEX_M3, "-fstack-usage", "-c", "-o", str(target), name)
        for line in target.with_suffix(".su").read_text().splitlines():
            place, size, _ = line.split("\t")
            frames[place.rsplit(":", 1)[1].split(".")[0]] = int(size)
    return sum(frames.get(name, 0) for name in DEEPEST)


def _warning_flags() -> list[str]:
    makefile = (DEVICE / "Makefile").read_text().replace("\\\n", " ")
    found = re.search(r"^WARNINGS := (.*)$", makefile, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{DEVICE / 'Makefile'} does not say WARNINGS any more")
    return [flag for flag in found[1].split() if flag != "-Werror"]


def _complaints(command: list[str]) -> int:
    done = subprocess.run(
        [*command, "-I.", "-fsyntax-only"], cwd=DEVICE, capture_output=True, text=True, check=False
    )
    count = len(re.findall(r"\b(?:warning|error):", done.stderr))
    if done.returncode or count:
        sys.stderr.write(done.stderr)
    return max(count, int(done.returncode != 0))


def report(inputs: int, seed: int) -> dict[str, Any]:
    """Measure, print a table, and return the verdict's figures."""
    size = measure_size()
    for name, count in size.code.items():
        print(f"{name:<12}{count:>7} B")
    print(f"{'together':<12}{size.total:>7} B  (most: {MOST_CODE_BYTES})")
    print(
        f"without SHA-256 {size.without_sha256} B; linked, with memcpy and its like {size.linked} B"
    )
    print(f"RAM {size.ram} B, at least {size.smallest_ram} B; stack {size.stack} B")
    warnings, ran = count_warnings(), fuzz(inputs, seed)
    print(f"{warnings} warnings; {ran} random inputs to the link and the slots under sanitizers")
    return {"warnings": warnings, "link_inputs": ran, **asdict(size)}
