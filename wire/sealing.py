"""Sealing: what only the holder of one X25519 key can read.

X25519 (RFC 7748) with a key made for one occasion, HKDF-SHA256 (RFC 5869) and ChaCha20-Poly1305
(RFC 8439), in the manner of HPKE's base mode (RFC 9180, section 5.1.1), of which it is a subset
with the encapsulated key and the recipient's as the salt.  Sealing says nothing about who sealed:
what is sealed stands beside a signature.

    shared = X25519(ephemeral, recipient)
    key    = HKDF-SHA256(shared, salt = ephemeral public || recipient public, info)
    box    = ChaCha20-Poly1305(key, nonce = 0, message, aad)

Each key encrypts one message, which is why the nonce may be zero: an `Ephemeral` refuses to seal
twice for the same recipient and purpose.  `info` names the purpose, so that a box for one is never
opened as another; `aad` names what the box belongs to.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wire.errors import MalformedError, SignatureError

PUBLIC_BYTES: Final = 32
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = PUBLIC_BYTES + TAG_BYTES
"""By which `seal_to` makes a message longer."""
_NONCE: Final = bytes(12)


class Ephemeral:
    """A key pair for one occasion: one message to each of some recipients."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self._used: set[tuple[bytes, bytes]] = set()

    @property
    def public(self) -> bytes:
        """The public half, 32 raw bytes, which recipients need to open."""
        return self._private.public_key().public_bytes_raw()

    def seal(self, recipient: bytes, message: bytes, *, aad: bytes, info: bytes) -> bytes:
        """Return the box: the message encrypted for the recipient, and a tag of 16 bytes.

        Args:
          recipient: X25519 public key, 32 raw bytes.
          message: what only the recipient may read.
          aad: what the box belongs to; it has to be the same to open it.
          info: the purpose.

        Raises:
          MalformedError: `recipient` is no usable key.
          ValueError: a second message for this recipient and purpose.
        """
        if (recipient, info) in self._used:
            raise ValueError("an ephemeral key seals one message for a recipient and purpose")
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(recipient))
        except ValueError as error:  # not 32 bytes, or a point of small order
            raise MalformedError(f"not a sealing key: {error}") from None
        self._used.add((recipient, info))
        key = _derived(shared, self.public + recipient, info)
        return ChaCha20Poly1305(key).encrypt(_NONCE, message, aad)


def open_box(private: bytes, ephemeral: bytes, box: bytes, *, aad: bytes, info: bytes) -> bytes:
    """Return the message of a box that `Ephemeral.seal` made.

    Args:
      private: the recipient's X25519 private key, 32 raw bytes.
      ephemeral: the public half of the key that sealed, 32 raw bytes.
      box: the encrypted message and its tag.
      aad: as it was sealed.
      info: as it was sealed.

    Raises:
      MalformedError: `ephemeral` is no usable key.
      SignatureError: altered, or sealed for another recipient, purpose or message.
    """
    own = X25519PrivateKey.from_private_bytes(private)
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    except ValueError as error:
        raise MalformedError(f"sealed with what is not a key: {error}") from None
    key = _derived(shared, ephemeral + own.public_key().public_bytes_raw(), info)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, box, aad)
    except InvalidTag:
        raise SignatureError("a sealed message was altered, or is not for this key") from None


def seal_to(recipient: bytes, message: bytes, *, aad: bytes, info: bytes) -> bytes:
    """Return a fresh ephemeral public key and the box: `message` and 48 bytes more.

    Raises:
      MalformedError: `recipient` is no usable key.
    """
    ephemeral = Ephemeral()
    return ephemeral.public + ephemeral.seal(recipient, message, aad=aad, info=info)


def open_sealed(private: bytes, sealed: bytes, *, aad: bytes, info: bytes) -> bytes:
    """Return the message that `seal_to` sealed.

    Raises:
      MalformedError: too short to be one.
      SignatureError: altered, or sealed for another recipient, purpose or message.
    """
    if len(sealed) < OVERHEAD_BYTES:
        raise MalformedError(f"{len(sealed)} bytes are too few for a sealed message")
    ephemeral, box = sealed[:PUBLIC_BYTES], sealed[PUBLIC_BYTES:]
    return open_box(private, ephemeral, box, aad=aad, info=info)


def _derived(shared: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(shared)
