"""The files of the trust chain, as `journeyman keys` makes and shows them.

    root.key           the federation's root: offline, on paper or a token, never on a server
    root.pub           its public half, which everybody pins
    charter.jm         signed by the root: who may do what
    enrolment.key      signs credentials: on the machine of whoever admits sites
    ca.key, ca.crt     sign certificates for TLS: there too (`wire/certificates.py`)
    enrolment.db       which tokens were used: there too (`wire/enrolment_ledger.py`)
    coordinator.key    the coordinator's online key
    coordinator.sealing.key  what only the coordinator may read is sealed to it
    author.key         signs model bundles: on the data scientist's machine
    AGENT.key          one for each gateway, made on the gateway
    AGENT.credential   signed by the enrolment key

    NAME.pub           the public half of NAME.key, where `make_key` made it: all that travels

A key file is never overwritten and never readable by others.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from wire.certificates import read_authority
from wire.charters import sign_charter
from wire.codec import MAX_BYTES, seal
from wire.enrolment import Enroller
from wire.errors import SettingsError, WireError
from wire.files import read_small, replace_file
from wire.messages import Charter, Credential, HelperKeys
from wire.sealing_keys import SealingKey, write_sealing_key
from wire.signing import (
    PrivateKey,
    PublicKey,
    parse_public_key,
    read_private_key,
    write_private_key,
)
from wire.topics import check_name
from wire.trust import ENROLMENT, Trust, read_charter, read_credential, unlisted

ROOT_KEY = "root.key"
ROOT_PUBLIC = "root.pub"
CHARTER = "charter.jm"
ENROLMENT_KEY = "enrolment.key"
COORDINATOR_KEY = "coordinator.key"
COORDINATOR_SEALING_KEY = "coordinator.sealing.key"
AUTHOR_KEY = "author.key"


@dataclass(frozen=True)
class PublicHalves:
    """Keys that were made elsewhere; a field without one is made beside the root.

    Attributes:
      sealing: the coordinator's, X25519; none for a coordinator that brings only the other key.
    """

    enrolment: bytes = b""
    coordinator: bytes = b""
    sealing: bytes = b""
    author: bytes = b""


def make_federation(
    directory: Path,
    federation: str,
    *,
    k_min: int = 1,
    agreement: bytes = bytes(32),
    helpers: tuple[HelperKeys, ...] = (),
    given: PublicHalves = PublicHalves(),
) -> PublicKey:
    """Make root, charter and the charter's keys in `directory`; return the root's public key.

    In production each key is made where it will live and only its public half travels (`given`,
    `docs/trust.md`); in one directory is right for a trial and for the demo.

    Raises:
      SettingsError: one of the keys exists.
      MalformedError: the charter would contradict itself.
    """
    check_name(federation, "federation")
    directory.mkdir(parents=True, exist_ok=True)
    root, sealing = _new_key(directory / ROOT_KEY), given.sealing
    if not sealing and not given.coordinator:
        sealing = _new_sealing_key(directory / COORDINATOR_SEALING_KEY)
    charter = Charter(
        federation=federation,
        epoch=1,
        enrolment_key=given.enrolment or _new_key(directory / ENROLMENT_KEY).public.raw,
        coordinator_key=given.coordinator or _new_key(directory / COORDINATOR_KEY).public.raw,
        author_keys=(given.author or _new_key(directory / AUTHOR_KEY).public.raw,),
        helpers=helpers,
        k_min=k_min,
        agreement=agreement,
        coordinator_sealing_key=sealing,
    )
    (directory / CHARTER).write_bytes(sign_charter(charter, root))
    _write_public(directory / ROOT_PUBLIC, root.public.raw)
    return root.public


def make_key(directory: Path, name: str) -> Path:
    """Make `NAME.key` where it will live, and `NAME.pub`, which travels; return the latter.

    Raises:
      SettingsError: the key exists.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return _write_public(directory / f"{name}.pub", _new_key(directory / f"{name}.key").public.raw)


def make_sealing_key(directory: Path, name: str) -> Path:
    """Make `NAME.sealing.key` where it will live; return `NAME.sealing.pub`, which travels.

    Raises:
      SettingsError: the key exists.
    """
    directory.mkdir(parents=True, exist_ok=True)
    public = _new_sealing_key(directory / f"{name}.sealing.key")
    return _write_public(directory / f"{name}.sealing.pub", public)


def read_public(text: str) -> bytes:
    """A public key, given as 64 hexadecimal digits or as the file that holds them; raw bytes.

    Raises:
      SettingsError: it is neither.
    """
    try:
        return parse_public_key(text).raw
    except ValueError:
        data = read_small(Path(text), 100, "a public key")
    try:
        return parse_public_key(data.decode("ascii").strip()).raw
    except ValueError as error:
        raise SettingsError(text, 1, None, f"not a public key: {error}") from None


def replace_charter(directory: Path, charter: Charter) -> Path:
    """Sign the next charter with the root's key in `directory` and put it in the place of the last.

    The one before is kept as `charter-EPOCH.jm`.

    Raises:
      SettingsError: the root's key is not here, or the file can not be written.
      MalformedError: the charter contradicts itself.
    """
    root, path = read_private_key(directory / ROOT_KEY), directory / CHARTER
    _, before, trust = read_federation(directory)
    envelope = sign_charter(charter, root)
    read_charter(envelope, root.public)
    replace_file(directory / f"charter-{trust.charter.epoch}.jm", before)
    replace_file(path, envelope)
    return path


def make_agent(directory: Path, federation: str, agent: str, site: str, *, serial: int = 1) -> None:
    """Make an agent's key and its credential, signed by the enrolment key in `directory`."""
    check_name(agent, "agent")
    check_name(site, "site")
    refused = unlisted(site, read_federation(directory)[2].charter)
    if refused:
        raise SettingsError(str(directory / CHARTER), None, None, refused)
    enrolment = read_private_key(directory / ENROLMENT_KEY)
    key = _new_key(directory / f"{agent}.key")
    credential = Credential(agent=agent, site=site, public_key=key.public.raw, serial=serial)
    (directory / f"{agent}.credential").write_bytes(
        seal(credential, federation=federation, signer=ENROLMENT, counter=serial, key=enrolment)
    )


def read_federation(directory: Path) -> tuple[PublicKey, bytes, Trust]:
    """Read what everybody may know: the root's public key, and the charter that it verifies.

    Returns:
      The root, the charter's envelope, and what it says.

    Raises:
      SettingsError: names the file that is missing or does not fit the others.
    """
    root = _read_root(directory / ROOT_PUBLIC)
    path = directory / CHARTER
    envelope = read_small(path, MAX_BYTES["charter"], "the charter")
    try:
        return root, envelope, read_charter(envelope, root)
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None


def read_enroller(directory: Path) -> Enroller:
    """Read what the enrolment authority signs with, and check that the charter names it.

    Raises:
      SettingsError: names the file that is missing or does not fit the others.
    """
    root, envelope, trust = read_federation(directory)
    key = read_private_key(directory / ENROLMENT_KEY)
    if key.public.raw != trust.charter.enrolment_key:
        reason = "this is not the key that the charter names for enrolment"
        raise SettingsError(str(directory / ENROLMENT_KEY), None, None, reason)
    return Enroller(root, envelope, trust, key, read_authority(directory))


def issued_serial(directory: Path, agent: str, trust: Trust) -> int:
    """Serial of the credential that `make_agent` left in `directory` for this agent, else 0."""
    path = directory / f"{agent}.credential"
    if not path.exists():
        return 0
    try:
        return read_credential(
            read_small(path, MAX_BYTES["credential"], "a credential"), trust
        ).serial
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None


def write_helper(path: Path, keys: HelperKeys) -> None:
    """Write a helper's public keys for the charter."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(keys)))


def read_helper(path: Path) -> HelperKeys:
    """Read the public keys that `journeyman-helper keys` wrote."""
    try:
        return msgspec.json.decode(path.read_bytes()[:4096], type=HelperKeys)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(str(path), None, None, f"not a helper's public keys: {error}") from None


def _new_key(path: Path) -> PrivateKey:
    key = PrivateKey.generate()
    try:
        write_private_key(path, key)
    except FileExistsError:
        raise SettingsError(
            str(path), None, None, "this key exists; keys are never overwritten"
        ) from None
    return key


def _new_sealing_key(path: Path) -> bytes:
    key = SealingKey.generate()
    try:
        write_sealing_key(path, key)
    except FileExistsError:
        raise SettingsError(
            str(path), None, None, "this key exists; keys are never overwritten"
        ) from None
    return key.public


def _write_public(path: Path, raw: bytes) -> Path:
    path.write_text(f"{raw.hex()}\n", encoding="ascii")
    return path


def _read_root(path: Path) -> PublicKey:
    if not path.exists():
        reason = (
            "write the root's public key into it: the 64 digits of `journeyman keys federation`"
        )
        raise SettingsError(str(path), None, None, f"missing; {reason}")
    try:
        return parse_public_key(read_small(path, 100, "the root's public key").decode().strip())
    except ValueError as error:
        raise SettingsError(str(path), 1, None, f"not the root's public key: {error}") from None
