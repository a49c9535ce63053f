"""One-shot additive masks: a vector of integers that any two of three helpers can open, in sums.

    y = q + PRG(s0) + PRG(s1) + PRG(s2)   modulo 2**ring

Helper j is sealed the two seeds other than s_j (replicated secret sharing, two out of three), so
any two helpers hold all three and one holds too few.  The agent needs no answer from anybody: it
may be gone for ever once its report is out.  `wire/SECURE.md` is the specification.

Pure but for the operating system's random bytes.  Refuses boxes that do not open under exactly the
report they came with, and seeds that are not the ones that the report commits to: an agent that
tells two helpers different seeds is found by each of them alone.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import HELPERS, FiguresHeader, Masked, UpdateHeader

Ring = Literal[16, 32, 64]
Seeds = dict[int, bytes]
"""A helper's two of the three seeds, by their number."""

DTYPES: dict[int, np.dtype[Any]] = {16: np.dtype("<u2"), 32: np.dtype("<u4"), 64: np.dtype("<u8")}
_SIGNED: dict[int, np.dtype[Any]] = {16: np.dtype("<i2"), 32: np.dtype("<i4"), 64: np.dtype("<i8")}
_SEED_BYTES = 32
_BLOCK = 1 << 17
"""Integers masked at a time: a block and its keystream stay in the cache."""
_LABEL = b"journeyman-v1 masks"


@dataclass(frozen=True)
class Term:
    """One report's part in a sum.

    Attributes:
      coefficient: what its integers, and so its masks, are multiplied by.
      seeds: whose masks are meant.
    """

    coefficient: int
    seeds: tuple[bytes, ...]


def held_by(helper: int) -> tuple[int, int]:
    """Numbers of the two seeds that helper 0, 1 or 2 is given."""
    first, second = (seed for seed in range(HELPERS) if seed != helper)
    return first, second


def name_of(header: UpdateHeader | FiguresHeader) -> tuple[str, str]:
    """The agent of a report, and what it is among that agent's reports."""
    if isinstance(header, UpdateHeader):
        return header.agent, f"{header.incarnation}/{header.sequence}"
    return header.agent, f"{header.purpose}/{header.subject.hex()}"


def mask(integers: NDArray[np.signedinteger], ring: Ring) -> tuple[bytes, list[bytes]]:
    """Mask a vector with three new seeds.

    Args:
      integers: shape (P,); taken modulo 2**ring.
      ring: bits of an integer on the wire.

    Returns:
      The masked vector, little-endian, ring / 8 bytes for each integer; and the three seeds.
    """
    seeds = [os.urandom(_SEED_BYTES) for _ in range(HELPERS)]
    vector = integers.astype(_SIGNED[ring]).view(DTYPES[ring])
    return (vector + masks_of([Term(1, tuple(seeds))], len(vector), ring)).tobytes(), seeds


def seal_seeds(
    seeds: Sequence[bytes],
    ring: Ring,
    sealing_keys: Sequence[bytes],
    *,
    federation: str,
    name: tuple[str, str],
    digest: bytes,
) -> Masked:
    """Seal to each helper the two seeds that it may have.

    Args:
      seeds: the three.
      ring: of the masked vector.
      sealing_keys: the helpers' X25519 public keys, in the charter's order.
      federation: whose charter that is.
      name: see `name_of`.
      digest: SHA-256 of the masked vector; a box opens for no other one.
    """
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    commitments = tuple(hashlib.sha256(seed).digest() for seed in seeds)
    bound = _bound(federation, name, digest, ring, public, commitments)
    boxes = []
    for helper, key in enumerate(sealing_keys):
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(key))
        both = b"".join(seeds[number] for number in held_by(helper))
        cipher = ChaCha20Poly1305(_box_key(shared, helper, public, key))
        boxes.append(cipher.encrypt(bytes(12), both, bound))  # the key is used once
    return Masked(
        ring=ring,
        ephemeral=public,
        commitments=(commitments[0], commitments[1], commitments[2]),
        boxes=(boxes[0], boxes[1], boxes[2]),
    )


def open_seeds(
    masked: Masked, sealing_key: bytes, *, federation: str, name: tuple[str, str], digest: bytes
) -> Seeds:
    """Open the box that is for this helper, whichever of the three it is.

    Args:
      masked: of the report.
      sealing_key: the helper's X25519 private key, 32 bytes.
      federation: whose charter the helper stands in.
      name: see `name_of`; of the report's own header.
      digest: SHA-256 of the masked vector, as that header says.

    Raises:
      MalformedError: no box opens with this key, or the seeds are not the committed ones.
    """
    private = X25519PrivateKey.from_private_bytes(sealing_key)
    own = private.public_key().public_bytes_raw()
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(masked.ephemeral))
    except ValueError:
        raise MalformedError("the report's ephemeral key is none") from None
    bound = _bound(federation, name, digest, masked.ring, masked.ephemeral, masked.commitments)
    for helper, box in enumerate(masked.boxes):
        key = _box_key(shared, helper, masked.ephemeral, own)
        try:
            both = ChaCha20Poly1305(key).decrypt(bytes(12), box, bound)
        except InvalidTag:
            continue
        seeds = {
            number: both[at * _SEED_BYTES : (at + 1) * _SEED_BYTES]
            for at, number in enumerate(held_by(helper))
        }
        for number, seed in seeds.items():
            if hashlib.sha256(seed).digest() != masked.commitments[number]:
                raise MalformedError(f"seed {number} is not the one that the report commits to")
        return seeds
    raise MalformedError("no box of the report opens with this helper's key")


def masks_of(terms: Iterable[Term], count: int, ring: Ring) -> NDArray[np.unsignedinteger]:
    """Sum of coefficient x PRG(seed), modulo 2**ring.

    The PRG is ChaCha20 (RFC 8439, section 2.4) with the seed as key, counter 0 and nonce 0; its
    keystream is read as little-endian integers.

    Returns:
      Unsigned, shape (count,).
    """
    dtype = DTYPES[ring]
    total = np.zeros(count, dtype)
    scratch = np.empty(min(_BLOCK, count), dtype)
    zeros = memoryview(bytes(scratch.nbytes))
    for term in terms:
        coefficient = dtype.type(term.coefficient % (1 << ring))
        for seed in term.seeds:
            stream: CipherContext = Cipher(ChaCha20(seed, bytes(16)), None).encryptor()
            for start in range(0, count, _BLOCK):
                part = total[start : start + _BLOCK]
                keystream = stream.update(zeros[: part.nbytes])
                product = scratch[: len(part)]
                np.multiply(np.frombuffer(keystream, dtype), coefficient, out=product)
                np.add(part, product, out=part)
    return total


def add_masked(
    total: NDArray[np.unsignedinteger], vector: bytes, coefficient: int, ring: Ring
) -> None:
    """Add coefficient x a masked vector to a sum, in place, modulo 2**ring.

    Raises:
      MalformedError: the vector has another length than the sum.
    """
    dtype = DTYPES[ring]
    if len(vector) != total.nbytes:
        raise MalformedError(f"a masked vector of {len(vector)} bytes, expected {total.nbytes}")
    product = np.frombuffer(vector, dtype) * dtype.type(coefficient % (1 << ring))
    np.add(total, product, out=total)


def opened(
    total: NDArray[np.unsignedinteger], masks: Iterable[bytes], ring: Ring
) -> NDArray[np.int64]:
    """Take summed masks off a sum.

    Args:
      total: sum of masked vectors, shape (P,).
      masks: what the helpers gave, which together are the masks of all three seeds, once.
      ring: of all of them.

    Returns:
      int64 (P,), each in [-2**(ring - 1), 2**(ring - 1)).

    Raises:
      MalformedError: masks of another length.
    """
    left = total.copy()
    for data in masks:
        if len(data) != left.nbytes:
            raise MalformedError(f"masks of {len(data)} bytes, expected {left.nbytes}")
        np.subtract(left, np.frombuffer(data, DTYPES[ring]), out=left)
    return left.view(_SIGNED[ring]).astype(np.int64)


def _bound(
    federation: str,
    name: tuple[str, str],
    digest: bytes,
    ring: int,
    ephemeral: bytes,
    commitments: Sequence[bytes],
) -> bytes:
    """Associated data of the boxes: they open for this report and no other."""
    words = b"\0".join(text.encode() for text in (federation, *name, str(ring)))
    whole = b"\0".join([_LABEL, words]) + b"\0" + digest + ephemeral + b"".join(commitments)
    return hashlib.sha256(whole).digest()


def _box_key(shared: bytes, helper: int, ephemeral: bytes, sealing_key: bytes) -> bytes:
    """HKDF (RFC 5869) of the X25519 secret, bound to both public keys and the box's place."""
    info = b"%b box\0%b%b%b" % (_LABEL, bytes([helper]), ephemeral, sealing_key)
    return HKDF(SHA256(), 32, None, info).derive(shared)
