"""What the agent is doing, for people: one small JSON file in the state directory.

Written whole and renamed, so a reader never sees half of it; `journeyman-agent status` prints it.
"""

import os
from pathlib import Path

import msgspec

FILE_NAME = "status.json"


class Status(msgspec.Struct, kw_only=True):
    """A snapshot; counters are since the state directory was made unless said otherwise."""

    agent: str
    site: str
    federation: str
    pid: int
    source: str = "connecting"
    samples: int = 0
    """Since this process started."""
    uncertain: int = 0
    bad: int = 0
    rows: int = 0
    incomplete_rows: int = 0
    link: str = "down"
    coordinator: str = "unknown"
    session: int = 0
    head: int = 0
    train_version: int | None = None
    serve_version: int | None = None
    base_version: int | None = None
    learning: str = "waiting for a head"
    produced: int = 0
    outcomes: dict[str, int] = {}
    scored: int = 0
    alarms: int = 0
    score: float | None = None
    refused: str = ""
    """Last message from the network that was refused, and why."""


def write_status(directory: Path, status: Status) -> None:
    """Replace the status file."""
    temporary = directory / f".{FILE_NAME}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1))
    os.replace(temporary, directory / FILE_NAME)


def read_status(directory: Path) -> Status | None:
    """Read the status file, or None when there is none yet."""
    try:
        data = (directory / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(data, type=Status)
