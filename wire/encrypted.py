"""The content of an encrypted update: BFV ciphertexts, sealed to the coordinator as well.

The recipient holds the key that decrypts, so he must never see the ciphertexts of one agent, and
the broker hands messages on to whoever may read it.  So each update's ciphertexts are sealed to the
coordinator (`wire/sealing.py`), which can not decrypt them, bound to the update's id, base and BFV
key: as another agent's or another update's content they do not open.  The coordinator adds them up
and shows the recipient the sum.
"""

import hashlib
from dataclasses import dataclass

from wire.bfv import check, encrypted_bytes
from wire.messages import UpdateHeader
from wire.sealing import OVERHEAD_BYTES, open_sealed, seal_to

_INFO = b"journeyman-v1 encrypted update"


@dataclass(frozen=True)
class Belonging:
    """What an update's ciphertexts belong to.

    Attributes:
      agent, incarnation, sequence: the update's id.
      base_digest: SHA-256 of the weights that it was trained from.
      context: SHA-256 of the BFV context that it is encrypted with.
    """

    federation: str
    agent: str
    incarnation: str
    sequence: int
    base_digest: bytes
    context: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of it all."""
        names = (self.federation, self.agent, self.incarnation, str(self.sequence))
        words = b"\0".join(name.encode() for name in names)
        return hashlib.sha256(words + b"\0" + self.base_digest + self.context).digest()


def belonging_of(header: UpdateHeader, federation: str) -> Belonging:
    """What an update's signed header says."""
    return Belonging(
        federation,
        header.agent,
        header.incarnation,
        header.sequence,
        header.base_digest,
        header.encrypted,
    )


def sealed_bytes(count: int) -> int:
    """Size of the content of an encrypted update of so many integers."""
    return encrypted_bytes(count) + OVERHEAD_BYTES


def seal_ciphertexts(ciphertexts: bytes, coordinator: bytes, belonging: Belonging) -> bytes:
    """Seal an update's ciphertexts.

    Args:
      ciphertexts: of `wire/bfv.py`.
      coordinator: the charter's `coordinator_sealing_key`.
      belonging: which update they are of.

    Raises:
      MalformedError: the charter's key is no usable one.
    """
    return seal_to(coordinator, ciphertexts, aad=belonging.digest, info=_INFO)


def open_ciphertexts(private: bytes, sealed: bytes, belonging: Belonging, count: int) -> bytes:
    """Open what `seal_ciphertexts` sealed, and check that it is ciphertexts of `count` integers.

    Args:
      private: the coordinator's X25519 private key, 32 raw bytes.
      sealed: the update's content.
      belonging: by the update's signed header.
      count: parameters.

    Raises:
      MalformedError: it is not that.
      SignatureError: sealed for another key or another update, or altered.
    """
    ciphertexts = open_sealed(private, sealed, aad=belonging.digest, info=_INFO)
    check(ciphertexts, count)
    return ciphertexts
