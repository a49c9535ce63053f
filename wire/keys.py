"""The files of the trust chain, as `journeyman keys` makes and shows them.

    root.key           the federation's root: offline, on paper or a token, never on a server
    charter.jm         signed by the root: who may do what
    enrolment.key      signs credentials: on the machine of whoever admits sites
    coordinator.key    the coordinator's online key
    author.key         signs model bundles: on the data scientist's machine
    AGENT.key          one for each gateway, made on the gateway
    AGENT.credential   signed by the enrolment key

A key file is never overwritten and never readable by others.
"""

from pathlib import Path

import msgspec

from wire.codec import seal
from wire.errors import SettingsError
from wire.messages import Charter, Credential, HelperKeys
from wire.signing import PrivateKey, PublicKey, read_private_key, write_private_key
from wire.topics import check_name
from wire.trust import ENROLMENT, ROOT

ROOT_KEY = "root.key"
CHARTER = "charter.jm"
ENROLMENT_KEY = "enrolment.key"
COORDINATOR_KEY = "coordinator.key"
AUTHOR_KEY = "author.key"


def make_federation(
    directory: Path,
    federation: str,
    *,
    k_min: int = 1,
    agreement: bytes = bytes(32),
    helpers: tuple[HelperKeys, ...] = (),
) -> PublicKey:
    """Make root, charter and the charter's keys in `directory`; return the root's public key.

    In production each key is made where it will live and only its public half travels
    (`docs/trust.md`); in one directory is right for a trial and for the demo.
    """
    check_name(federation, "federation")
    directory.mkdir(parents=True, exist_ok=True)
    root, enrolment, coordinator, author = (
        _new_key(directory / name)
        for name in (ROOT_KEY, ENROLMENT_KEY, COORDINATOR_KEY, AUTHOR_KEY)
    )
    charter = Charter(
        federation=federation,
        epoch=1,
        enrolment_key=enrolment.public.raw,
        coordinator_key=coordinator.public.raw,
        author_keys=(author.public.raw,),
        helpers=helpers,
        k_min=k_min,
        agreement=agreement,
    )
    (directory / CHARTER).write_bytes(
        seal(charter, federation=federation, signer=ROOT, counter=charter.epoch, key=root)
    )
    return root.public


def make_agent(directory: Path, federation: str, agent: str, site: str, *, serial: int = 1) -> None:
    """Make an agent's key and its credential, signed by the enrolment key in `directory`."""
    check_name(agent, "agent")
    check_name(site, "site")
    enrolment = read_private_key(directory / ENROLMENT_KEY)
    key = _new_key(directory / f"{agent}.key")
    credential = Credential(agent=agent, site=site, public_key=key.public.raw, serial=serial)
    (directory / f"{agent}.credential").write_bytes(
        seal(credential, federation=federation, signer=ENROLMENT, counter=serial, key=enrolment)
    )


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
