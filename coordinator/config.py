"""The coordinator's configuration: one strict TOML file (`configs/coordinator.toml` explains).

What a table alone can say is checked by its types; what keys, charter and bundle say about each
other is checked here, and named by file, line and key as well.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from coordinator.gate import GateSettings
from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategy import StrategySettings
from wire.bundle import Bundle, read_bundle
from wire.chunks import CHUNK_BYTES
from wire.errors import SettingsError, WireError
from wire.messages import MAX_CHUNKS, Policy
from wire.mqtt import BrokerSettings
from wire.settings import Settings, read_settings, settings_error
from wire.signing import PrivateKey, parse_public_key, read_private_key
from wire.trust import Trust, read_charter


class CoordinatorTable(Settings, frozen=True, kw_only=True):
    """`[coordinator]`: state, and the bundle that the federation learns."""

    state_dir: str
    bundle: str
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)] = CHUNK_BYTES


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root, its charter, and the coordinator's online key."""

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    key: str


class AverageTable(Settings, frozen=True, kw_only=True):
    """`[average]`: how long the memory of the served average is."""

    decay: Annotated[float, msgspec.Meta(ge=0, le=100)] = 2.0


class PolicyTable(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[policy]`: the head's training policy; fields as in `wire/messages.py`, Policy."""


class CoordinatorSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    coordinator: CoordinatorTable
    trust: TrustTable
    broker: BrokerSettings
    strategy: StrategySettings = StrategySettings()
    server_optimizer: ServerOptimizerSettings = ServerOptimizerSettings()
    average: AverageTable = AverageTable()
    gate: GateSettings = GateSettings()
    policy: PolicyTable = PolicyTable()


@dataclass(frozen=True)
class Identity:
    """What the coordinator may sign with, and what it publishes.

    Attributes:
      source: the configuration file that names all this.
    """

    source: Path
    trust: Trust
    key: PrivateKey
    bundle: Bundle
    bundle_bytes: bytes


def read_coordinator_settings(path: Path) -> CoordinatorSettings:
    """Read the file; unknown keys are refused.  The broker's files become full paths."""
    settings = read_settings(path, CoordinatorSettings)
    files = {
        name: str(resolve(path, getattr(settings.broker, name)))
        for name in ("password_file", "ca_file", "cert_file", "key_file")
        if getattr(settings.broker, name)
    }
    broker = msgspec.structs.replace(settings.broker, **files)
    return msgspec.structs.replace(settings, broker=broker)


def read_identity(path: Path, settings: CoordinatorSettings) -> Identity:
    """Read and verify the files that the configuration names; errors name file, line and key."""
    where = "trust.root"
    try:
        root = parse_public_key(settings.trust.root)
        where = "trust.charter"
        trust = read_charter(resolve(path, settings.trust.charter).read_bytes(), root)
        where = "coordinator.bundle"
        data = resolve(path, settings.coordinator.bundle).read_bytes()
        bundle = read_bundle(data, trust)
        where = "trust.key"
        key = read_private_key(resolve(path, settings.trust.key))
    except (OSError, ValueError, WireError, SettingsError) as error:
        raise settings_error(path, where, str(error)) from None
    if key.public != trust.coordinator:
        raise settings_error(path, "trust.key", "this is not the charter's coordinator key")
    identity = Identity(path, trust, key, bundle, data)
    _check_together(identity, settings)
    return identity


def _check_together(identity: Identity, settings: CoordinatorSettings) -> None:
    k_min = identity.trust.charter.k_min
    key = "clients" if settings.strategy.name == "fedavg" else "goal"
    members = getattr(settings.strategy, key)
    if members < k_min:
        reason = f"{members} updates can not come from the {k_min} sites that the charter asks for"
        raise settings_error(identity.source, f"strategy.{key}", reason)
    chunk_bytes = settings.coordinator.chunk_bytes
    largest = len(identity.bundle_bytes)  # the weights are in it
    if largest > MAX_CHUNKS * chunk_bytes:
        reason = f"{largest} bytes of bundle are more than {MAX_CHUNKS} chunks of this size"
        raise settings_error(identity.source, "coordinator.chunk_bytes", reason)


def resolve(config: Path, name: str) -> Path:
    """A path named in the file `config`; systemd's `${CREDENTIALS_DIRECTORY}` is replaced."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return config.parent / name.replace("${CREDENTIALS_DIRECTORY}", directory)
