"""What the coordinator, with helpers on its side, makes of one masked update before any release.

It holds the signed header, the masked vector and the private keys of the helpers that collude.  It
opens every box that those keys open, takes the masks of those seeds off, and reads the rest as
steps of the public scale.  With one helper a seed is missing and the rest is a uniform vector; with
two it is the update (`wire/SECURE.md`, "What it is for").

Everything here is `wire/masking.py`'s own functions, used against it.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.victims import Vector
from wire.errors import MalformedError
from wire.masking import Ring, Seeds, Term, mask, masks_of, open_seeds, opened, seal_seeds
from wire.messages import HELPERS, Masked
from wire.sealing_keys import SealingKey

FEDERATION = "attacked"
NAME = ("agent-0", "00112233aabbccdd/1")


@dataclass(frozen=True)
class Sealed:
    """A masked report as the coordinator stores it: its vector, and what its header says of it."""

    vector: bytes
    masked: Masked

    @property
    def digest(self) -> bytes:
        """Of the vector, as the header names it."""
        return hashlib.sha256(self.vector).digest()


def helpers() -> list[SealingKey]:
    """Keys of three helpers."""
    return [SealingKey.generate() for _ in range(HELPERS)]


def sealed(integers: NDArray[np.int64], ring: Ring, keys: Sequence[SealingKey]) -> Sealed:
    """Mask and seal one site's integers as an agent does."""
    vector, seeds = mask(integers, ring)
    digest = hashlib.sha256(vector).digest()
    public = [key.public for key in keys]
    masked = seal_seeds(seeds, ring, public, federation=FEDERATION, name=NAME, digest=digest)
    return Sealed(vector, masked)


def seeds_of(report: Sealed, keys: Sequence[SealingKey]) -> Seeds:
    """All seeds that these helpers' boxes hold."""
    found: Seeds = {}
    for key in keys:
        try:
            found |= open_seeds(
                report.masked, key.raw, federation=FEDERATION, name=NAME, digest=report.digest
            )
        except MalformedError:
            continue
    return found


def read_alone(report: Sealed, colluding: Sequence[SealingKey], scale: float) -> Vector:
    """The update as the coalition sees it, float64 (P,): a missing mask stays on."""
    ring = report.masked.ring
    seeds = tuple(seeds_of(report, colluding).values())
    total = np.frombuffer(report.vector, f"<u{ring // 8}")
    masks = masks_of([Term(1, seeds)], len(total), ring) if seeds else np.zeros_like(total)
    return opened(total, [masks.tobytes()], ring) * np.float64(scale)


def random_vector(count: int, ring: Ring, scale: float) -> Vector:
    """What no update was ever in, as the coalition would read it."""
    total = np.frombuffer(os.urandom(count * ring // 8), f"<u{ring // 8}")
    return opened(total, [], ring) * np.float64(scale)
