"""The agent's configuration: one strict TOML file.

`configs/agent.toml` documents every key.  Relative paths are relative to the file itself;
`${CREDENTIALS_DIRECTORY}` is replaced (systemd's LoadCredential).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from agent.learning.choice import BackendName
from agent.learning.personalise import PersonalTable
from agent.sensors.opcua import OpcUaSettings, node_problem
from wire.chunks import CHUNK_BYTES
from wire.codec import MAX_BYTES
from wire.errors import SettingsError, WireError
from wire.messages import Credential
from wire.mqtt import BrokerSettings
from wire.settings import Settings, read_settings, settings_error
from wire.signing import PrivateKey, parse_public_key, read_private_key
from wire.topics import Topics
from wire.trust import Trust, read_charter, read_credential


class AgentTable(Settings, frozen=True, kw_only=True):
    """`[agent]`: where this gateway keeps its state."""

    state_dir: str


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root and the files that `journeyman keys` made."""

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    credential: str
    key: str


class SourceTable(Settings, frozen=True, kw_only=True):
    """`[source]`: where samples come from."""

    opcua: OpcUaSettings


class RowsTable(Settings, frozen=True, kw_only=True):
    """`[rows]`: how samples become rows."""

    trigger: str
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0


class HistoryTable(Settings, frozen=True, kw_only=True):
    """`[history]`: the durable ring of rows."""

    capacity_rows: Annotated[int, msgspec.Meta(ge=100, le=100_000_000)] = 200_000
    holdout_share: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.1


class TrainingTable(Settings, frozen=True, kw_only=True):
    """`[training]`: what training may take from the gateway."""

    pause_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 << 20)] = 1 << 30
    idle_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 60.0
    backend: BackendName = "auto"


class OutboxTable(Settings, frozen=True, kw_only=True):
    """`[outbox]`: how much may wait for the link."""

    quota_bytes: Annotated[int, msgspec.Meta(ge=100_000)] = 256 << 20
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)] = CHUNK_BYTES


class AgentSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    agent: AgentTable
    trust: TrustTable
    broker: BrokerSettings
    source: SourceTable
    rows: RowsTable
    history: HistoryTable = HistoryTable()
    training: TrainingTable = TrainingTable()
    outbox: OutboxTable = OutboxTable()
    personal: PersonalTable = PersonalTable()


@dataclass(frozen=True)
class Identity:
    """Who this agent is: verified credential, its key, and whom it trusts."""

    trust: Trust
    credential: Credential
    credential_envelope: bytes
    key: PrivateKey

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
    names = [channel.name for channel in settings.source.opcua.channel]
    for at, channel in enumerate(settings.source.opcua.channel):
        where = f"source.opcua.channel[{at}]"
        if names.index(channel.name) != at:
            raise settings_error(path, f"{where}.name", f"{channel.name!r} is used twice")
        problem = node_problem(channel.node)
        if problem:
            raise settings_error(path, f"{where}.node", problem)
    if settings.rows.trigger not in names:
        raise settings_error(
            path, "rows.trigger", f"{settings.rows.trigger!r} is not one of the channels {names}"
        )
    broker = settings.broker
    files = {
        name: str(resolve(path, value))
        for name in ("password_file", "ca_file", "cert_file", "key_file")
        if (value := getattr(broker, name))
    }
    return msgspec.structs.replace(settings, broker=msgspec.structs.replace(broker, **files))


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
    except OSError as error:
        reason = f"can not read {error.filename}: {error.strerror}"
        raise settings_error(path, f"trust.{where}", reason) from None
    except (ValueError, WireError, SettingsError) as error:
        raise settings_error(path, f"trust.{where}", str(error)) from None
    if key.public.raw != credential.public_key:
        raise settings_error(path, "trust.key", f"this is not the key of agent {credential.agent}")
    return Identity(trust, credential, envelope, key)


def resolve(config: Path, name: str) -> Path:
    """A path named in the file `config`."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return config.parent / name.replace("${CREDENTIALS_DIRECTORY}", directory)


def _read(path: Path) -> bytes:
    """Read a small file; one byte over every cap is enough for the decoder to refuse it."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES["charter"] + 1)
