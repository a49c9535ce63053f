"""Ed25519 keys (RFC 8032) and their files.

A private key file holds one line, `journeyman-private-key:` and 64 hexadecimal digits, mode 0600;
one that others can read is refused.  A public key is shown as 64 hexadecimal digits.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wire.errors import SettingsError, SignatureError
from wire.files import is_open_to_others

_PREFIX = "journeyman-private-key:"
_KEY_BYTES = 32


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key, 32 raw bytes."""

    raw: bytes

    def verify(self, signature: bytes, data: bytes, what: str) -> None:
        """Raise `SignatureError` naming `what` unless the signature is valid."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            reason = f"{what}: the signature does not verify under key {self.raw.hex()[:16]}…"
            raise SignatureError(reason) from None


@dataclass(frozen=True)
class PrivateKey:
    """An Ed25519 private key, 32 raw bytes; never shown."""

    raw: bytes

    @staticmethod
    def generate() -> "PrivateKey":
        """Make a new key from the operating system's CSPRNG."""
        return PrivateKey(os.urandom(_KEY_BYTES))

    @property
    def public(self) -> PublicKey:
        """The public half."""
        key = Ed25519PrivateKey.from_private_bytes(self.raw)
        return PublicKey(key.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature of `data`."""
        return Ed25519PrivateKey.from_private_bytes(self.raw).sign(data)

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.raw.hex()[:16]}…)"


def write_private_key(path: Path, key: PrivateKey) -> None:
    """Write a new key file with mode 0600; an existing file is never overwritten."""
    write_secret(path, _PREFIX, key.raw)


def read_private_key(path: Path) -> PrivateKey:
    """Read a key file; `SettingsError` when it is missing, malformed or readable by others."""
    hint = "not a Journeyman private key; make one with: journeyman keys agent"
    return PrivateKey(read_secret(path, _PREFIX, hint))


def write_secret(path: Path, prefix: str, raw: bytes) -> None:
    """Write 32 secret bytes as one line, mode 0600.

    Raises:
      FileExistsError: a key is never overwritten.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{prefix}{raw.hex()}\n")
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path, prefix: str, hint: str) -> bytes:
    """Read what `write_secret` wrote.

    Args:
      path: the file.
      prefix: says which kind of key it has to be.
      hint: what the error says of a file of another kind.

    Raises:
      SettingsError: missing, readable by others, or of another kind.
    """
    try:
        is_open = is_open_to_others(path)
        with path.open(encoding="ascii") as file:
            text = file.read(200).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"can not read the private key: {error}"
        raise SettingsError(str(path), None, None, reason) from None
    if is_open:
        reason = f"others can read this private key; run: chmod 600 {path}"
        raise SettingsError(str(path), None, None, reason)
    try:
        raw = bytes.fromhex(text.removeprefix(prefix))
    except ValueError:
        raw = b""
    if not text.startswith(prefix) or len(raw) != _KEY_BYTES:
        raise SettingsError(str(path), 1, None, hint)
    return raw


def parse_public_key(text: str) -> PublicKey:
    """Parse 64 hexadecimal digits; `ValueError` otherwise."""
    raw = bytes.fromhex(text)
    if len(raw) != _KEY_BYTES:
        reason = f"a public key has {2 * _KEY_BYTES} hexadecimal digits, got {len(text)}"
        raise ValueError(reason)
    return PublicKey(raw)
