"""The coordinator's configuration: one strict TOML file (`configs/coordinator.toml` explains it)."""

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
from wire.messages import Policy
from wire.mqtt import BrokerSettings
from wire.settings import Settings, read_settings
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
    """What the coordinator may sign with, and what it publishes."""

    trust: Trust
    key: PrivateKey
    bundle: Bundle
    bundle_bytes: bytes


def read_coordinator_settings(path: Path) -> CoordinatorSettings:
    """Read the file; unknown keys are refused."""
    return read_settings(path, CoordinatorSettings)


def read_identity(path: Path, settings: CoordinatorSettings) -> Identity:
    """Read and verify the files that the configuration names; errors name file and key."""
    where = "trust.root"
    try:
        root = parse_public_key(settings.trust.root)
        where = "trust.charter"
        trust = read_charter((path.parent / settings.trust.charter).read_bytes(), root)
        where = "coordinator.bundle"
        data = (path.parent / settings.coordinator.bundle).read_bytes()
        bundle = read_bundle(data, trust)
    except (OSError, ValueError, WireError) as error:
        raise SettingsError(str(path), None, where, str(error)) from None
    key = read_private_key(path.parent / settings.trust.key)
    if key.public != trust.coordinator:
        raise SettingsError(str(path), None, "trust.key", "not the charter's coordinator key")
    return Identity(trust, key, bundle, data)
