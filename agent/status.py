"""What the agent is doing, for people: one small JSON file in the state directory.

Written whole and renamed, so a reader never sees half of it; `journeyman-agent status` prints it.
"""

from pathlib import Path

import msgspec

from wire.errors import SettingsError

FILE_NAME = "status.json"
_MAX_BYTES = 1 << 20


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
    rows_not_kept: int = 0
    """Rows that a full or failing disk did not take, since this process started."""
    storage: str = "ok"
    """What is wrong with the disk or its files, and which damaged files were kept."""
    link: str = "down"
    coordinator: str = "unknown"
    session: int = 0
    head: int = 0
    train_version: int | None = None
    serve_version: int | None = None
    serving: str = "global"
    """Which model scores: the served version, or one of this site's own."""
    personal: str = ""
    """Why that one, or what the choice waits for."""
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
    """Replace the status file.

    Raises:
      OSError: the disk is full or can not be written; the old file stays.
    """
    temporary = directory / f".{FILE_NAME}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1))
    temporary.replace(directory / FILE_NAME)


def read_status(directory: Path) -> Status | None:
    """Read the status file, or None when there is none yet.

    It is written twice a second and not synced, to spare the card; what a power cut leaves of it
    is none.

    Raises:
      SettingsError: it can not be read, or another version of the agent wrote it.
    """
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not read: {error.strerror}") from None
    try:
        return msgspec.json.decode(data, type=Status)
    except msgspec.ValidationError as error:
        reason = f"not the status of this version of the agent: {error}"
        raise SettingsError(str(path), None, None, reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
