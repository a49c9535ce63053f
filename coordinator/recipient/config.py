"""The recipient's configuration: one strict TOML file (`configs/recipient.toml` explains)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from coordinator.recipient.keys import OwnKeys, read_keys
from wire.charters import KeptCharter
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, WireError
from wire.files import read_small
from wire.mqtt import BrokerSettings, with_full_paths
from wire.settings import Settings, host_problem, read_settings, resolve, settings_error
from wire.signing import parse_public_key
from wire.topics import check_name
from wire.trust import read_charter

CHARTER = "charter.jm"


class RecipientTable(Settings, frozen=True, kw_only=True):
    """`[recipient]`: who it is, and where its store is.

    Attributes:
      name: as in the charter.
      state_dir: folder of its store; never put back an old copy of it.
    """

    name: str
    state_dir: str


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root, its charter, and the recipient's own keys.

    Attributes:
      root: the federation root's public key, 64 hexadecimal digits.
      charter: file signed by the root; a newer one that comes over the broker replaces it.
      signing_key: file with the key that signs answers.
      bfv_key: file with the key that decrypts.
      context: file with the public context that agents encrypt with.
    """

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    signing_key: str
    bfv_key: str
    context: str


class RecipientSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    recipient: RecipientTable
    trust: TrustTable
    broker: BrokerSettings


@dataclass(frozen=True)
class Identity:
    """What the recipient may sign with and decrypt, and whom it believes.

    Attributes:
      state: its folder.
      charter: the newest that it has seen.
    """

    state: Path
    keys: OwnKeys
    charter: KeptCharter


def read_recipient_settings(path: Path) -> RecipientSettings:
    """Read the file; unknown keys are refused.  The broker's files become full paths.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    settings = read_settings(path, RecipientSettings)
    for key, reason in problems(settings):
        raise settings_error(path, key, reason)
    return msgspec.structs.replace(settings, broker=with_full_paths(settings.broker, path))


def problems(settings: RecipientSettings) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for what can not work although all types are right."""
    try:
        check_name(settings.recipient.name, "recipient")
    except MalformedError as error:
        yield "recipient.name", str(error)
    if problem := host_problem(settings.broker.host):
        yield "broker.host", problem


def read_identity(path: Path, settings: RecipientSettings) -> Identity:
    """Read and verify the files that the configuration names.

    A charter that does not name this recipient is no error: the newest one may be on the broker.

    Raises:
      SettingsError: names file, line and key.
    """
    state, table = resolve(path, settings.recipient.state_dir), settings.trust
    own = [
        ("trust.signing_key", resolve(path, table.signing_key)),
        ("trust.bfv_key", resolve(path, table.bfv_key)),
        ("trust.context", resolve(path, table.context)),
    ]
    where = "trust.root"
    try:
        root = parse_public_key(table.root)
        where = "trust.charter"
        file = resolve(path, table.charter)
        trust = read_charter(read_small(file, MAX_BYTES["charter"], "the charter"), root)
        where = "trust.signing_key"
        keys = read_keys(settings.recipient.name, *(file for _, file in own))
    except (OSError, ValueError, WireError, SettingsError) as error:
        about = getattr(error, "file", "")
        where = next((key for key, named in own if str(named) == about), where)
        raise settings_error(path, where, str(error)) from None
    return Identity(state, keys, KeptCharter(state / CHARTER, root, trust))
