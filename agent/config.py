"""The agent's configuration: one strict TOML file.

`configs/agent.toml` documents every key.  Relative paths are relative to the file itself;
`${CREDENTIALS_DIRECTORY}` is replaced (systemd's LoadCredential).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.budget import BudgetTable
from agent.budget import problems as budget_problems
from agent.devices import DeviceTable
from agent.devices import problems as device_problems
from agent.health import MetricsTable
from agent.health import problems as metrics_problems
from agent.labels import LabelsTable
from agent.labels import problems as label_problems
from agent.learning.choice import BackendName
from agent.learning.personalise import PersonalTable
from agent.learning.place import PlaceName
from agent.privacy import PrivacyTable
from agent.privacy import problems as privacy_problems
from agent.samples import StoreTable
from agent.sensors.firmware import FirmwareSettings
from agent.sensors.opcua import OpcUaSettings
from agent.sensors.source import ChannelSettings
from agent.serve import ScoresTable
from agent.serve import problems as score_problems
from agent.signals.cutting import Cutting
from agent.sources import ConfiguredSource, SourceTable, sources_of
from agent.sources import problems as source_problems
from wire.bfv_keys import PUBLIC_BYTES
from wire.chunks import CHUNK_BYTES
from wire.codec import MAX_BYTES
from wire.errors import SettingsError, WireError
from wire.files import read_small
from wire.messages import Credential
from wire.mqtt import BrokerSettings, with_full_paths
from wire.settings import Settings, host_problem, read_settings, resolve, settings_error
from wire.signing import PrivateKey, parse_public_key, read_private_key
from wire.topics import Topics
from wire.trust import Trust, read_charter, read_credential

_SHORTEST_PERIOD_S = 0.001


class AgentTable(Settings, frozen=True, kw_only=True):
    """`[agent]`: where this gateway keeps its state.

    Attributes:
      state_dir: folder for samples, rows, outbox, models and status; one agent a folder.
    """

    state_dir: str


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root and the files that `journeyman keys` made.

    Attributes:
      root: the federation root's public key, 64 hexadecimal digits.
      charter: file signed by the root: whose heads, bundles and credentials count.
      credential: file with this agent's id and site, signed by the enrolment authority.
      key: file with this agent's private key.
      recipient_context: file with the public BFV context of the recipient of sums, for a federation
        whose updates are encrypted (`docs/homomorphic.md`); empty: there is none.
    """

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    credential: str
    key: str
    recipient_context: str = ""


class RowsTable(Settings, frozen=True, kw_only=True):
    """`[rows]`: how samples become rows; either by `trigger` or by `every_s`.

    Attributes:
      trigger: channel whose samples make rows: all channels as of its source timestamp.
      every_s: or a row every so many seconds of source time; 0 with a trigger.
      grace_s: a row waits so long for channels that have not reached its time; then they are held
        at their last value.
      bad: a value whose StatusCode is Bad leaves its rows out, or the last good one is held.
      uncertain: an Uncertain value is used, or leaves its rows out.
      gaps: where samples are known to be missing, rows are left out, or the last value is held.
      group: channel whose change ends a run of rows (an engine, a work order): no window reaches
        across; empty for none.
    """

    trigger: str = ""
    every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0
    bad: Literal["leave_out", "hold"] = "leave_out"
    uncertain: Literal["use", "leave_out"] = "use"
    gaps: Literal["leave_out", "hold"] = "leave_out"
    group: str = ""


class HistoryTable(Settings, frozen=True, kw_only=True):
    """`[history]`: the durable ring of rows.

    Attributes:
      capacity_rows: rows kept for training; the oldest go first.
      capacity_bytes: of their values; large rows (waveforms, images) are fewer.
      holdout_share: share of the rows that is never trained on, to judge models by.
      holdout_stretch_s: for models of windows, stretches so long are held out as a whole.
    """

    capacity_rows: Annotated[int, msgspec.Meta(ge=100, le=100_000_000)] = 200_000
    capacity_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 256 << 20
    holdout_share: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.1
    holdout_stretch_s: Annotated[float, msgspec.Meta(ge=0.001, le=366 * 86_400)] = 3600.0


class TrainingTable(Settings, frozen=True, kw_only=True):
    """`[training]`: what training may take from the gateway.

    Attributes:
      pause_s: rest between two trainings.
      memory_bytes: what the training process may use.
      idle_s: without work for so long, what trains ends and gives all back.
      backend: what trains the models; `auto`: ONNX Runtime where it is installed, else numpy.
      process: `child`: training has a process of its own, with limits, which takes some 45 MB while
        it lives; `inside`: the agent trains itself, with numpy, for a few MB and without a limit;
        `auto`: inside for numpy, a child for ONNX Runtime.
      scoring_backend: what scores live rows in the agent itself: ONNX Runtime takes 30 MB more, all
        the time, and is faster for large convolutions alone.
      priority: of the child: `idle`: the processor time that nobody else wants; `low`: a small
        share of it where other programs are busy all the time.
      budget: when the gateway is too hot, too busy or too full to train.
    """

    pause_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 << 20)] = 1 << 30
    idle_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 60.0
    backend: BackendName = "auto"
    process: PlaceName = "auto"
    scoring_backend: BackendName = "numpy"
    priority: Literal["idle", "low"] = "idle"
    budget: BudgetTable = BudgetTable()


class OutboxTable(Settings, frozen=True, kw_only=True):
    """`[outbox]`: how much may wait for the link.

    Attributes:
      quota_bytes: that may wait; beyond, the oldest unsent update is dropped and accounted for.
      chunk_bytes: of an update's chunks: what a cut link costs at most.
    """

    quota_bytes: Annotated[int, msgspec.Meta(ge=100_000)] = 256 << 20
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)] = CHUNK_BYTES


OrderKind = Literal["pause", "train", "configure"]


class RemoteTable(Settings, frozen=True, kw_only=True):
    """`[remote]`: what the federation's operator may tell this agent; never a command of a shell.

    Attributes:
      allow: `pause`: stop training and go on; `train`: train without waiting for the rest between
        trainings; `configure`: change keys of a fixed list, none of which says what is read or
        where anything goes.
    """

    allow: Annotated[tuple[OrderKind, ...], msgspec.Meta(max_length=3)] = ("pause", "train")


class AgentSettings(Settings, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
      device: microcontrollers that are to run what is served.
    """

    agent: AgentTable
    trust: TrustTable
    broker: BrokerSettings
    source: SourceTable
    rows: RowsTable
    store: StoreTable = StoreTable()
    history: HistoryTable = HistoryTable()
    labels: LabelsTable = LabelsTable()
    training: TrainingTable = TrainingTable()
    outbox: OutboxTable = OutboxTable()
    personal: PersonalTable = PersonalTable()
    scores: ScoresTable = ScoresTable()
    metrics: MetricsTable = MetricsTable()
    remote: RemoteTable = RemoteTable()
    privacy: PrivacyTable = PrivacyTable()
    device: Annotated[tuple[DeviceTable, ...], msgspec.Meta(max_length=100)] = ()

    @property
    def sources(self) -> list[ConfiguredSource]:
        """The sources, in the order of their channels."""
        return sources_of(self.source)

    @property
    def opcua_sources(self) -> list[OpcUaSettings]:
        """Those of them that are OPC UA servers."""
        return [each.settings for each in self.sources if isinstance(each.settings, OpcUaSettings)]

    @property
    def firmware_sources(self) -> list[FirmwareSettings]:
        """Those of them that are microcontrollers."""
        settings = [each.settings for each in self.sources]
        return [each for each in settings if isinstance(each, FirmwareSettings)]

    @property
    def channels(self) -> list[ChannelSettings]:
        """All channels of this agent: the sources', then those that are only labels."""
        fed: list[ChannelSettings] = [
            channel for source in self.sources for channel in source.channels
        ]
        names = {channel.name for channel in fed}
        return fed + [label for label in self.labels.channel if label.name not in names]

    @property
    def cutting(self) -> Cutting:
        """How rows are cut out of these channels."""
        names = [channel.name for channel in self.channels]
        fed = {channel.name for source in self.sources for channel in source.channels}
        rows = self.rows
        return Cutting(
            channels=len(names),
            trigger=names.index(rows.trigger) if rows.trigger else None,
            period_us=round(rows.every_s * 1e6),
            grace_s=rows.grace_s,
            optional=frozenset(at for at, name in enumerate(names) if name not in fed),
            hold_bad=rows.bad == "hold",
            uncertain_is_bad=rows.uncertain == "leave_out",
            hold_gaps=rows.gaps == "hold",
            group=names.index(rows.group) if rows.group else None,
            shapes={at: channel.shape for at, channel in enumerate(self.channels) if channel.shape},
        )


@dataclass(frozen=True)
class Identity:
    """Who this agent is: verified credential, its key, and whom it trusts."""

    trust: Trust
    credential: Credential
    credential_envelope: bytes
    key: PrivateKey
    recipient_context: bytes = b""

    @property
    def agent(self) -> str:
        """The agent's id."""
        return self.credential.agent

    @property
    def topics(self) -> Topics:
        """Topics of the federation."""
        return Topics(self.trust.federation)


def read_agent_settings(path: Path) -> AgentSettings:
    """Read the file and check what its parts say about each other.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    settings = read_settings(path, AgentSettings)
    for key, reason in problems(settings):
        raise settings_error(path, key, reason)
    return msgspec.structs.replace(settings, broker=with_full_paths(settings.broker, path))


def problems(settings: AgentSettings) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for everything that is wrong with settings of the right types."""
    if not settings.sources:
        yield "source", "needs at least one of " + ", ".join(SourceTable.__struct_fields__)
    if problem := host_problem(settings.broker.host):
        yield "broker.host", problem
    if settings.scores.mqtt is not None and (problem := host_problem(settings.scores.mqtt.host)):
        yield "scores.mqtt.host", problem
    yield from source_problems(settings.source)
    yield from _channel_problems(settings)
    yield from _row_problems(settings)
    yield from label_problems(settings.labels)
    yield from metrics_problems(settings.metrics)
    budget = budget_problems(settings.training.budget)
    yield from ((f"training.budget.{key}", reason) for key, reason in budget)
    private = privacy_problems(settings.privacy)
    yield from ((f"privacy.{key}", reason) for key, reason in private)
    yield from device_problems(settings.device, settings.firmware_sources)
    for at, label in enumerate(settings.labels.channel):
        if label.event and label.event not in {each.name for each in settings.channels}:
            yield f"labels.channel[{at}].event", f"{label.event!r} is not one of the channels"
    found = score_problems(settings.scores, settings.opcua_sources)
    yield from ((f"scores.{key}", reason) for key, reason in found)


def _channel_problems(settings: AgentSettings) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for source in settings.sources:
        for at, channel in enumerate(source.channels):
            if channel.name in seen:
                yield f"{source.key}.channel[{at}].name", f"{channel.name!r} is used twice"
            seen.add(channel.name)


def _row_problems(settings: AgentSettings) -> Iterator[tuple[str, str]]:
    rows = settings.rows
    names = [channel.name for source in settings.sources for channel in source.channels]
    if bool(rows.trigger) == bool(rows.every_s):
        yield "rows.trigger", 'give either trigger = "CHANNEL" or every_s = SECONDS'
    if 0 < rows.every_s < _SHORTEST_PERIOD_S:
        yield "rows.every_s", f"at least {_SHORTEST_PERIOD_S} s"
    for key in ("trigger", "group"):
        name = getattr(rows, key)
        if name and name not in names:
            yield f"rows.{key}", f"{name!r} is not one of the channels {names}"


def read_identity(path: Path, table: TrustTable) -> Identity:
    """Read and verify the files named by `[trust]`.

    Raises:
      SettingsError: names the configuration file, line and key, and what is wrong with the file.
    """
    where = "root"
    try:
        root = parse_public_key(table.root)
        where = "charter"
        trust = read_charter(_read(resolve(path, table.charter)), root)
        where = "credential"
        envelope = _read(resolve(path, table.credential))
        credential = read_credential(envelope, trust)
        where = "key"
        key = read_private_key(resolve(path, table.key))
        where = "recipient_context"
        context = _context(path, table)
    except OSError as error:
        reason = f"can not read {error.filename}: {error.strerror}"
        raise settings_error(path, f"trust.{where}", reason) from None
    except (ValueError, WireError, SettingsError) as error:
        raise settings_error(path, f"trust.{where}", str(error)) from None
    if key.public.raw != credential.public_key:
        raise settings_error(path, "trust.key", f"this is not the key of agent {credential.agent}")
    return Identity(trust, credential, envelope, key, context)


def _context(path: Path, table: TrustTable) -> bytes:
    """The recipient's public BFV context; empty where none is configured."""
    if not table.recipient_context:
        return b""
    file = resolve(path, table.recipient_context)
    return read_small(file, PUBLIC_BYTES, "the recipient's public context")


def _read(path: Path) -> bytes:
    """Read a small file; one byte over every cap is enough for the decoder to refuse it."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES["charter"] + 1)
