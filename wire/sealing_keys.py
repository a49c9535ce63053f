"""X25519 keys (RFC 7748) to which others seal what only their holder may read, and their files.

A private key file holds one line, `journeyman-sealing-key:` and 64 hexadecimal digits, mode 0600;
it is never overwritten, and one that others can read is refused.  Which messages are sealed, and
how, is said where they are made; here is only the key.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wire.signing import read_secret, write_secret

_PREFIX = "journeyman-sealing-key:"
_KEY_BYTES = 32


@dataclass(frozen=True)
class SealingKey:
    """An X25519 private key, 32 raw bytes; never shown."""

    raw: bytes

    @staticmethod
    def generate() -> "SealingKey":
        """Make a new key from the operating system's CSPRNG."""
        return SealingKey(os.urandom(_KEY_BYTES))

    @property
    def public(self) -> bytes:
        """The public half, 32 raw bytes."""
        return X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SealingKey(public={self.public.hex()[:16]}…)"


def write_sealing_key(path: Path, key: SealingKey) -> None:
    """Write a new key file with mode 0600.

    Raises:
      FileExistsError: a key is never overwritten.
    """
    write_secret(path, _PREFIX, key.raw)


def read_sealing_key(path: Path, hint: str) -> SealingKey:
    """Read what `write_sealing_key` wrote.

    Args:
      path: the file.
      hint: what the error says of a file of another kind.

    Raises:
      SettingsError: missing, readable by others, or of another kind.
    """
    return SealingKey(read_secret(path, _PREFIX, hint))
