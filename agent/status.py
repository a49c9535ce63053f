"""What the agent is doing, for people: one small JSON file in the state directory.

Written whole and renamed, so a reader never sees half of it; `journeyman-agent status` prints it.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from agent.budget import BudgetReport
from agent.devices import DeviceReport
from agent.privacy import PrivacyReport
from agent.samples import StoreCounters
from agent.sensors.source import SourceReport
from agent.serve.inbox import OutputReport
from agent.signals.quality import ChannelQuality
from wire.errors import SettingsError

FILE_NAME = "status.json"
CHANNELS_FILE_NAME = "channels.json"
_MAX_BYTES = 16 << 20

T = TypeVar("T")


class Status(msgspec.Struct, kw_only=True):
    """A snapshot; counters are since the state directory was made unless said otherwise."""

    agent: str
    site: str
    federation: str
    pid: int
    source: str = "connecting"
    """Of all sources, in one line."""
    sources: list[SourceReport] = []
    outputs: list[OutputReport] = []
    """Where scores go."""
    samples: int = 0
    """Since this process started."""
    uncertain: int = 0
    bad: int = 0
    gaps: int = 0
    clocks: str = "ok"
    """Which sources' clocks are off, and by how much."""
    late: int = 0
    """Samples that came after their row was cut."""
    rows: int = 0
    incomplete_rows: int = 0
    lacking: list[str] = []
    """Some of the channels for want of which the newest rows were left out."""
    rows_dropped: int = 0
    """Rows that nobody could take in time."""
    rows_not_kept: int = 0
    """Rows that a full or failing disk did not take, since this process started."""
    store: StoreCounters | None = None
    """Of the local sample store."""
    storage: str = "ok"
    """What is wrong with the disk or its files, and which damaged files were kept."""
    configuration: str = ""
    """What the last reload applied, and what waits for a restart."""
    order: str = ""
    """The coordinator's last order, and what became of it."""
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
    budget: BudgetReport | None = None
    """What the gateway can spare for training, and what was seen of it last."""
    privacy: PrivacyReport | None = None
    """What is promised and what it has cost; `journeyman-agent privacy` says it in words."""
    produced: int = 0
    outcomes: dict[str, int] = {}
    scored: int = 0
    alarms: int = 0
    score: float | None = None
    drivers: str = ""
    """Which channels drove the newest score that was explained, or why none is."""
    devices: list[DeviceReport] = []
    """Microcontrollers that run, or are to run, what is served."""
    certificate: str = ""
    """Of the agent for the broker: how long it lasts."""
    certificate_ends: float | None = None
    """The same as Unix time."""
    renewed: str = ""
    """That the newest charter does not count the agent's own credential, and why."""
    revoked: str = ""
    """That the enrolment authority revoked this agent; nothing is delivered then."""
    egress: str = ""
    """How many bytes ever left this gateway; `journeyman-agent egress` has them by category."""
    refused: str = ""
    """Last message from the network that was refused, and why."""


def write_status(directory: Path, status: Status) -> None:
    """Replace the status file.

    Raises:
      OSError: the disk is full or can not be written; the old file stays.
    """
    replace_file(directory / FILE_NAME, as_json(status))


def as_json(what: Status | list[ChannelQuality]) -> bytes:
    """One of the files' content."""
    return msgspec.json.format(msgspec.json.encode(what), indent=1)


def replace_file(path: Path, data: bytes) -> None:
    """Replace one of the files, whole.

    Raises:
      OSError: the disk is full or can not be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)


def read_channels(directory: Path) -> list[ChannelQuality]:
    """Read the statistics of every channel; none when they are not there or only in part.

    Raises:
      SettingsError: they can not be read, or another version of the agent wrote them.
    """
    found = _read(directory / CHANNELS_FILE_NAME, list, list[ChannelQuality])
    return [] if found is None else found


def read_status(directory: Path) -> Status | None:
    """Read the status file, or None when there is none yet.

    It is written twice a second and not synced, to spare the card, under systemd not even on it
    (`agent/status_files.py`); what a power cut leaves of it is none.

    Raises:
      SettingsError: it can not be read, or another version of the agent wrote it.
    """
    return _read(directory / FILE_NAME, dict, Status)


def _read(path: Path, shape: type, kind: type[T]) -> T | None:
    """Read one of the files; None for what a power cut left of it, `shape` tells a whole one."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not read: {error.strerror}") from None
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(tree, shape):
        return None  # a part of the file that happens to be JSON
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        reason = f"not the status of this version of the agent: {error}"
        raise SettingsError(str(path), None, None, reason) from None
