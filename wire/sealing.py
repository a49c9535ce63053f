"""Sealing: what only the holder of one X25519 key can read.

X25519 (RFC 7748) with a key made for this one message, HKDF-SHA256 (RFC 5869) and ChaCha20-Poly1305
(RFC 8439), in the manner of HPKE's base mode (RFC 9180, section 5.1):

    shared = X25519(ephemeral, recipient)
    key    = HKDF-SHA256(shared, salt = ephemeral public || recipient public, info)
    sealed = ephemeral public || ChaCha20-Poly1305(key, nonce = 0, message, aad)

The key encrypts one message only, which is why its nonce may be zero.  `info` names the purpose, so
that what is sealed for one is never opened as another; `aad` names what the message belongs to.
Sealing says nothing about who sealed: what is sealed stands beside a signature.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wire.errors import MalformedError, SignatureError

_PUBLIC_BYTES: Final = 32
OVERHEAD_BYTES: Final = _PUBLIC_BYTES + 16
"""By which sealing makes a message longer: the ephemeral key and the tag."""
_NONCE: Final = bytes(12)


def seal_to(recipient: bytes, message: bytes, *, aad: bytes, info: bytes) -> bytes:
    """Encrypt a message for one recipient; 48 bytes longer than the message.

    Args:
      recipient: X25519 public key, 32 raw bytes.
      message: what only the recipient may read.
      aad: what the message belongs to; opening needs the same.
      info: the purpose; opening needs the same.

    Raises:
      MalformedError: `recipient` is no usable key.
    """
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    key = _shared_key(ephemeral, recipient, public + recipient, info)
    return public + ChaCha20Poly1305(key).encrypt(_NONCE, message, aad)


def open_sealed(private: bytes, sealed: bytes, *, aad: bytes, info: bytes) -> bytes:
    """Return the message that `seal_to` sealed.

    Args:
      private: the recipient's X25519 private key, 32 raw bytes.
      sealed: what `seal_to` returned.
      aad: as it was sealed.
      info: as it was sealed.

    Raises:
      MalformedError: too short, or not sealed with a usable key.
      SignatureError: altered, or sealed for another recipient, purpose or message.
    """
    if len(sealed) < OVERHEAD_BYTES:
        raise MalformedError(f"{len(sealed)} bytes are too few for a sealed message")
    ephemeral = sealed[:_PUBLIC_BYTES]
    own = X25519PrivateKey.from_private_bytes(private)
    key = _shared_key(own, ephemeral, ephemeral + own.public_key().public_bytes_raw(), info)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed[_PUBLIC_BYTES:], aad)
    except InvalidTag:
        raise SignatureError("a sealed message was altered, or is not for this key") from None


def _shared_key(own: X25519PrivateKey, other: bytes, salt: bytes, info: bytes) -> bytes:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # not 32 bytes, or a point of small order
        raise MalformedError(f"not a sealing key: {error}") from None
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(shared)
