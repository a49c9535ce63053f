"""Strict TOML configuration: a frozen struct out, or an error with file, line and key.

Unknown keys, wrong types and values out of range are refused with the dotted path of the key and
the line it stands on; a missing key is reported at its table.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from wire.errors import SettingsError

T = TypeVar("T")

MAX_FILE_BYTES = 1 << 20
_ASSIGNMENT = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=""")
_KEY = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_TABLE = re.compile(rf"\s*(\[{{1,2}})\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]{{1,2}}\s*(?:#.*)?$")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_PATH = re.compile(r" - at `\$(.*)`$", re.DOTALL)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a configuration file; unknown keys are refused."""


def read_settings(path: Path, what: type[T]) -> T:
    """Read a TOML file as `what`.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(str(path), None, None, f"larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(str(path), line, None, "not UTF-8, which TOML is") from None
    return parse_settings(text, what, str(path))


def parse_settings(text: str, what: type[T], file: str) -> T:
    """Parse TOML text as `what`; `file` is what errors call it."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise SettingsError(file, line, None, str(error)) from None
    try:
        return msgspec.convert(tree, type=what)
    except msgspec.ValidationError as error:
        raise _located(str(error), text, file) from None


def settings_error(path: Path, key: str, reason: str) -> SettingsError:
    """What is wrong with a key whose value has the right type, with the line that it stands on."""
    try:
        lines = key_lines(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        lines = {}
    line = lines.get(key) or lines.get(key.rpartition(".")[0])
    return SettingsError(str(path), line, key, reason)


def resolve(config: Path, name: str) -> Path:
    """A path named in the file `config`; systemd's `${CREDENTIALS_DIRECTORY}` is replaced."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return config.parent / name.replace("${CREDENTIALS_DIRECTORY}", directory)


def host_problem(host: str) -> str:
    """Say why a name or address can never be connected to; empty when it may.

    A name of another form than RFC 1123's raises `UnicodeError` far down in a connection.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        return f"{host!r} is neither an address nor the name of a host"
    return "" if host else "a host has a name or an address"


def _located(message: str, text: str, file: str) -> SettingsError:
    at = _PATH.search(message)
    path = at[1].lstrip(".") if at else ""
    reason = message[: at.start()] if at else message
    reason = reason.replace("Object ", "this table ")
    lines = key_lines(text)
    extra = _UNKNOWN.search(message)
    absent = _MISSING.search(message)
    if extra:
        path = f"{path}.{extra[1]}".lstrip(".")
        reason = "unknown key"
    elif absent:
        path_of_table = path
        path = f"{path}.{absent[1]}".lstrip(".")
        line = _line_of(path_of_table, lines) or 1
        return SettingsError(file, line, path, "this key is required")
    return SettingsError(file, _line_of(path, lines), path, reason)


def _line_of(path: str, lines: dict[str, int]) -> int | None:
    """The line of a key, else of the nearest thing around it that begins a line."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)


def key_lines(text: str) -> dict[str, int]:
    """Map each dotted key path (`source.opcua.channel[0].name`) to its 1-based line.

    Covers the TOML that people write in configuration files: tables, arrays of tables and
    assignments that begin a line.
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), start=1):
        table = _TABLE.match(line)
        assignment = _ASSIGNMENT.match(line)
        if table and not assignment:
            prefix = _resolve(table[2], counts)
            if table[1] == "[[":
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{counts[prefix]}]"
            lines.setdefault(prefix, number)
        elif assignment:
            key = assignment[1].strip("\"'")
            lines.setdefault(f"{prefix}.{key}".lstrip("."), number)
    return lines


def _resolve(name: str, counts: dict[str, int]) -> str:
    """Turn `a.b.c` into `a.b[1].c` where `a.b` is an array of tables with two entries so far."""
    parts: list[str] = []
    names = [part.strip().strip("\"'") for part in name.split(".")]
    for at, part in enumerate(names):
        parts.append(part)
        joined = ".".join(parts)
        if joined in counts and at < len(names) - 1:
            parts[-1] = f"{part}[{counts[joined]}]"
    return ".".join(parts)
