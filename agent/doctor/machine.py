"""The machine and its software: memory, heat, runtime of the models, versions."""

import importlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent.conditions import read_conditions
from agent.doctor.disk import mib
from agent.doctor.finding import Finding, ok, problem, warning
from agent.learning.choice import BackendName

PACKAGES = (
    "journeyman",
    "numpy",
    "msgspec",
    "asyncua",
    "pymodbus",
    "pyserial",
    "paho-mqtt",
    "cryptography",
    "onnxruntime",
)
_HOT_C, _TOO_HOT_C = 80.0, 90.0
"""A Raspberry Pi throttles at 80 (soft limit) and 85 degrees Celsius."""
_LITTLE_BYTES = 64 << 20
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class MachineFacts:
    """What is known about the machine.

    Attributes:
      total_bytes: of memory; None: not told.
      available_bytes: of it.
      temperature_c: the hottest zone; None: not told.
      backends: why each of the runtimes can not be imported; empty when it can.
      versions: of packages; None where one is not installed.
      python: version and machine.
    """

    total_bytes: int | None
    available_bytes: int | None
    temperature_c: float | None
    backends: Mapping[str, str]
    versions: Mapping[str, str | None]
    python: str


def judge_machine(
    facts: MachineFacts, backend: BackendName, memory_bytes: int
) -> Iterator[Finding]:
    """Judge memory, heat and software.

    Args:
      facts: about the machine.
      backend: that the configuration asks for.
      memory_bytes: that training may use.
    """
    yield from _memory(facts, memory_bytes)
    if facts.temperature_c is not None:
        yield _temperature(facts.temperature_c)
    yield _backend(facts.backends, backend)
    absent = [name for name, found in facts.versions.items() if found is None]
    needed = [name for name in absent if name not in ("journeyman", "onnxruntime")]
    shown = ", ".join(f"{name} {found}" for name, found in facts.versions.items() if found)
    shown = f"{facts.python}; {shown}"
    if needed:
        yield problem(
            "software", f"{shown}; missing: {', '.join(needed)}", "install journeyman anew"
        )
    else:
        yield ok("software", shown)


def _memory(facts: MachineFacts, memory_bytes: int) -> Iterator[Finding]:
    total, available = facts.total_bytes, facts.available_bytes
    if total is None or available is None:
        return
    shown = f"{mib(available)} of {mib(total)} available"
    if available < _LITTLE_BYTES:
        yield warning("memory", shown, "close other programs: training will be ended by the kernel")
    elif memory_bytes > total:
        yield warning(
            "memory",
            f"{shown}, but training may use {mib(memory_bytes)}",
            "lower training.memory_bytes below what this machine has",
        )
    else:
        yield ok("memory", shown)


def _temperature(degrees_c: float) -> Finding:
    shown = f"{degrees_c:.0f} degrees Celsius"
    if degrees_c >= _TOO_HOT_C:
        return problem("temperature", shown, "cool it: the kernel will slow it down or stop it")
    if degrees_c >= _HOT_C:
        return warning("temperature", shown, "let air to it, or move it out of the heat")
    return ok("temperature", shown)


def _backend(backends: Mapping[str, str], wanted: BackendName) -> Finding:
    fails = {name: reason for name, reason in backends.items() if reason}
    if wanted != "auto" and wanted in fails:
        return problem(
            "backend",
            f"training.backend = {wanted!r} can not be imported: {fails[wanted]}",
            "install it, or set training.backend = 'auto'",
        )
    if len(fails) == len(backends):
        return problem("backend", f"none can be imported: {fails}", "install journeyman anew")
    if wanted == "auto":
        wanted = "numpy" if "onnxruntime" in fails else "onnxruntime"
    return ok("backend", f"{wanted} can be imported")


def read_machine() -> MachineFacts:
    """Ask for the facts."""
    memory = _meminfo()
    return MachineFacts(
        memory.get("MemTotal"),
        memory.get("MemAvailable"),
        read_conditions().temperature_c,
        {name: _import_error(name) for name in ("onnxruntime", "numpy")},
        {name: _version(name) for name in PACKAGES},
        f"Python {platform.python_version()} on {platform.machine()}",
    )


def _meminfo() -> dict[str, int]:
    """Bytes by name (proc(5))."""
    found: dict[str, int] = {}
    try:
        text = _MEMINFO.read_text()
    except OSError:
        return found
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def _import_error(backend: str) -> str:
    try:
        importlib.import_module(f"agent.learning.{backend}_backend")
    except ImportError as error:
        return str(error)
    return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
