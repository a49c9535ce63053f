"""What agents put in, from the tape: whoever has two helpers' sealing keys can open every report.

That is what secure aggregation says of two helpers and the coordinator together, and here the
sceptic has everybody's keys.  Opens the boxes in the recorded headers and takes the three key
streams off the recorded vector, with lines of its own for the arithmetic (`wire/SECURE.md`, "A
masked report").
"""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from shopfloor.ledger import UpdateId
from wire.masking import open_seeds
from wire.messages import Masked

_UNSIGNED = {16: "<u2", 32: "<u4"}
_SIGNED = {16: "<i2", 32: "<i4"}


def unmasked(
    content: bytes,
    masked: Masked,
    sealing_keys: Sequence[bytes],
    federation: str,
    update: UpdateId,
    digest: str,
) -> NDArray[np.int64]:
    """The integers of a masked update.

    Args:
      content: the masked vector.
      masked: of its header.
      sealing_keys: private ones of two helpers or more, 32 bytes each.
      federation: its name.
      update: whose boxes these are.
      digest: SHA-256 of the content, hex.

    Raises:
      MalformedError: a box does not open.
    """
    agent, incarnation, sequence = update
    seeds: dict[int, bytes] = {}
    for key in sealing_keys:
        seeds |= open_seeds(
            masked,
            key,
            federation=federation,
            name=(agent, f"{incarnation}/{sequence}"),
            digest=bytes.fromhex(digest),
        )
    vector = np.frombuffer(content, _UNSIGNED[masked.ring]).copy()
    for seed in seeds.values():
        stream = Cipher(ChaCha20(seed, bytes(16)), None).encryptor().update(bytes(len(content)))
        vector -= np.frombuffer(stream, vector.dtype)
    return vector.view(_SIGNED[masked.ring]).astype(np.int64)
