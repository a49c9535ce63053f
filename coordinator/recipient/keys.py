"""A recipient's keys, and their files.

    NAME.signing.key    Ed25519 (RFC 8032): signs its answers
    NAME.bfv.key        the BFV key that decrypts; it and nothing else can
    NAME.context        the public BFV context: a copy for every agent
    NAME.recipient      name, public signing key and the context's SHA-256: for the charter

Private files are mode 0600 and never overwritten.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wire.bfv_keys import MOST_SECRET_BYTES, PUBLIC_BYTES, make_keys
from wire.chunks import sha256
from wire.errors import SettingsError
from wire.files import create_secret, read_secret_file, read_small
from wire.messages import Charter, Recipient
from wire.signing import PrivateKey, read_private_key, write_private_key
from wire.topics import check_name


@dataclass(frozen=True)
class OwnKeys:
    """Both private keys of this recipient, and what the charter says of it."""

    signing: PrivateKey
    bfv: bytes = field(repr=False)
    public: Recipient


def make_recipient(directory: Path, name: str) -> Recipient:
    """Make all files of a new recipient.

    Raises:
      MalformedError: the name is not a legal one.
      SettingsError: a file exists, then none is written; or TenSEAL is not installed.
    """
    check_name(name, "recipient")
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{name}.{end}" for end in ("signing.key", "bfv.key", "context")]
    public_file = directory / f"{name}.recipient"
    for path in (*files, public_file):
        if path.exists():
            raise SettingsError(str(path), None, None, "this exists; keys are never overwritten")
    secret, context = make_keys()
    signing = PrivateKey.generate()
    write_private_key(files[0], signing)
    create_secret(files[1], secret)
    files[2].write_bytes(context)
    recipient = Recipient(name=name, signing=signing.public.raw, context=sha256(context))
    public_file.write_bytes(msgspec.json.format(msgspec.json.encode(recipient)))
    return recipient


def read_recipient(path: Path) -> Recipient:
    """Read the public file that `make_recipient` wrote."""
    try:
        return msgspec.json.decode(read_small(path, 4096, "a recipient's file"), type=Recipient)
    except msgspec.MsgspecError as error:
        reason = f"not a recipient's public file: {error}"
        raise SettingsError(str(path), None, None, reason) from None


def read_keys(name: str, signing_file: Path, bfv_file: Path, context_file: Path) -> OwnKeys:
    """Read both private keys, and the context that goes with them.

    Raises:
      SettingsError: one is missing, readable by others, or of another kind.
    """
    signing = read_private_key(signing_file)
    secret = read_secret_file(bfv_file, MOST_SECRET_BYTES, "the recipient's BFV key")
    context = read_small(context_file, PUBLIC_BYTES, "the recipient's public context")
    public = Recipient(name=name, signing=signing.public.raw, context=sha256(context))
    return OwnKeys(signing, secret, public)


def difference(charter: Charter, own: Recipient) -> str:
    """Why this is not the recipient that the charter names; empty when it is."""
    named = charter.recipient
    if named is None:
        return "the charter names no recipient"
    if named.name != own.name:
        return f"the charter's recipient is {named.name}, not {own.name}"
    for what in ("signing", "context"):
        if getattr(named, what) != getattr(own, what):
            theirs, ours = getattr(named, what).hex(), getattr(own, what).hex()
            return f"the charter's {what} is {theirs}, this recipient's {ours}"
    return ""
