"""The helper's configuration: one strict TOML file (`configs/helper.toml` explains)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from coordinator.helper.identity import OwnKeys, read_keys
from wire.charters import KeptCharter
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, WireError
from wire.files import read_small
from wire.listening import own_address
from wire.mqtt import BrokerSettings, with_full_paths
from wire.settings import Settings, host_problem, read_settings, resolve, settings_error
from wire.signing import parse_public_key
from wire.topics import check_name
from wire.trust import read_charter

CHARTER = "charter.jm"


class HelperTable(Settings, frozen=True, kw_only=True):
    """`[helper]`: who it is, and where its store is.

    Attributes:
      name: as in the charter.
      state_dir: folder of the store that was made with the keys; one helper a folder.
    """

    name: str
    state_dir: str


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root, its charter, and the helper's own keys.

    Attributes:
      root: the federation root's public key, 64 hexadecimal digits.
      charter: file signed by the root; a newer one that comes over the broker replaces it.
      signing_key: file with the key that signs this helper's answers.
      sealing_key: file with the key that opens what agents seal for it.
    """

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    signing_key: str
    sealing_key: str


class MetricsTable(Settings, frozen=True, kw_only=True):
    """`[metrics]`: figures for Prometheus.

    Attributes:
      listen: a loopback address and port for `/metrics` and `/healthz`; empty for none.
    """

    listen: str = ""


class HelperSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    helper: HelperTable
    trust: TrustTable
    broker: BrokerSettings
    metrics: MetricsTable = MetricsTable()


@dataclass(frozen=True)
class Identity:
    """What the helper may sign with and open, and whom it believes.

    Attributes:
      state: its folder.
      charter: the newest that it has seen.
    """

    state: Path
    keys: OwnKeys
    charter: KeptCharter


def read_helper_settings(path: Path) -> HelperSettings:
    """Read the file; unknown keys are refused.  The broker's files become full paths.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    settings = read_settings(path, HelperSettings)
    for key, reason in problems(settings):
        raise settings_error(path, key, reason)
    return msgspec.structs.replace(settings, broker=with_full_paths(settings.broker, path))


def problems(settings: HelperSettings) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for what can not work although all types are right."""
    try:
        check_name(settings.helper.name, "helper")
    except MalformedError as error:
        yield "helper.name", str(error)
    if problem := host_problem(settings.broker.host):
        yield "broker.host", problem
    if settings.metrics.listen:
        try:
            own_address(settings.metrics.listen)
        except ValueError as error:
            yield "metrics.listen", str(error)


def read_identity(path: Path, settings: HelperSettings) -> Identity:
    """Read and verify the files that the configuration names.

    A charter that does not list this helper is no error: the newest one may be on the broker.

    Raises:
      SettingsError: names file, line and key.
    """
    state = resolve(path, settings.helper.state_dir)
    where = "trust.root"
    try:
        root = parse_public_key(settings.trust.root)
        where = "trust.charter"
        file = resolve(path, settings.trust.charter)
        trust = read_charter(read_small(file, MAX_BYTES["charter"], "the charter"), root)
        where = "trust.signing_key"
        keys = read_keys(
            settings.helper.name,
            resolve(path, settings.trust.signing_key),
            resolve(path, settings.trust.sealing_key),
        )
    except (OSError, ValueError, WireError, SettingsError) as error:
        raise settings_error(path, where, str(error)) from None
    return Identity(state, keys, KeptCharter(state / CHARTER, root, trust))
