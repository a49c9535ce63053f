"""BFV ciphertexts of integer vectors: their parameters, their bytes, and sums of them.

Brakerski (arXiv / IACR ePrint 2012/078) and Fan and Vercauteren (2012/144), with batching: one
ciphertext holds 4,096 integers.  Encrypting and decrypting is Microsoft SEAL's work
(`wire/bfv_keys.py`); adding up needs no key and no library, because a ciphertext is a pair of
polynomials with coefficients modulo q, and a sum of ciphertexts times small integers is the same
sum of their coefficients.  It is exact: what decrypts is the sum of coefficient x integer.

Bytes of a vector of P integers: ceil(P / 4096) ciphertexts, each c0 modulo q0, c0 modulo q1, c1
modulo q0, c1 modulo q1, of 4,096 coefficients each; two coefficients make 9 bytes, little-endian,
the first in the lower 36 bits.  One length for each P and every coefficient below its prime, so any
bytes are a ciphertext or refused here, before C++ sees them.

Parameters are one fixed set, 128-bit secure by the Homomorphic Encryption Standard (2018, table 1:
degree 4096, log q <= 109, ternary secret).  What they hold is worst-case arithmetic, not a guess:

    noise of one ciphertext  <= (1 + 4096) / 2 + 1/2 + 1 < 2050
                             rounding when SEAL drops the key prime, rounding of q/t m, the rest
    noise of a sum           <= MOST_WEIGHT x 2050 + FLOOD < q / 4t    decrypts, with a bit to spare
    values of a sum          <= MOST_WEIGHT x 2^15 < t / 2             does not wrap

Whoever decrypts a sum also sees its noise, in which the roundings of the members' q/t m hide; the
adder floods it with noise of its own, as much as the parameters leave room for.
"""

import os
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import Policy
from wire.tensors import largest_integer

DEGREE: Final = 4096
"""Coefficients of a polynomial, and integers in a ciphertext."""
PRIMES: Final = (0xFFFFEE001, 0xFFFFC4001)
"""q0 and q1; SEAL's own choice for this degree."""
KEY_PRIME: Final = 0x1FFFFE0001
"""Only in keys."""
PLAIN_MODULUS: Final = 0x1FFFFDE001
"""t: a prime of 37 bits, none of the above, with t = 1 modulo 2 x 4096 as batching asks for."""
FRESH_NOISE: Final = 2050
MOST_WEIGHT: Final = 1 << 20
"""Largest sum of coefficients."""
FLOOD: Final = 1 << 32
CIPHERTEXT_BYTES: Final = 2 * 2 * DEGREE * 9 // 2
"""73,728: 18 bytes for each integer."""

_AT_ONCE = 16
"""Ciphertexts that are unpacked at a time, which bounds the scratch memory: 6 MB."""
_MASK = np.uint64((1 << 36) - 1)
_MODULI = np.array(PRIMES, np.uint64)[:, None]
Residues = NDArray[np.uint64]
"""Coefficients of ciphertexts, shape (C, 2, 2, DEGREE): polynomial, prime."""


def ciphertexts_of(count: int) -> int:
    """Ciphertexts that hold so many integers."""
    return -(-count // DEGREE)


def encrypted_bytes(count: int) -> int:
    """Size of a vector of so many integers."""
    return ciphertexts_of(count) * CIPHERTEXT_BYTES


def problem_with(policy: Policy, members: int) -> str:
    """Why sums of so many updates could be wrong; empty when they can not.

    Args:
      policy: of the head; whatever its protection.
      members: updates in one sum, at most.
    """
    most = most_members(policy)
    if members <= most:
        return ""
    return (
        f"{members} updates of weight up to {policy.weight_cap} exceed what one encrypted sum "
        f"holds, a weight of {MOST_WEIGHT}; at most {most}: lower policy.weight_cap "
        "(policy.weight_unit keeps proportions)"
    )


def most_members(policy: Policy) -> int:
    """Updates that one sum can hold under a policy, whatever they weigh."""
    reach = (PLAIN_MODULUS - 1) // 2 // largest_integer(policy.bits)
    return min(MOST_WEIGHT, reach) // policy.weight_cap


def pack(residues: Residues) -> bytes:
    """Bytes of ciphertexts, `CIPHERTEXT_BYTES` each."""
    pairs = residues.reshape(-1, 2)
    packed = np.empty((len(pairs), 9), np.uint8)
    low = pairs[:, 0] | (pairs[:, 1] << np.uint64(36))
    packed[:, :8] = low.astype("<u8")[:, None].view(np.uint8)
    packed[:, 8] = pairs[:, 1] >> np.uint64(28)
    return packed.tobytes()


def unpack(data: bytes | memoryview) -> Residues:
    """Coefficients of ciphertexts.

    Raises:
      MalformedError: not whole ciphertexts, or a coefficient is not below its prime.
    """
    if not data or len(data) % CIPHERTEXT_BYTES:
        raise MalformedError(f"{len(data)} bytes are no whole ciphertexts")
    packed = np.frombuffer(data, np.uint8).reshape(-1, 9)
    low = np.ascontiguousarray(packed[:, :8]).view("<u8")[:, 0].astype(np.uint64)
    pairs = np.empty((len(packed), 2), np.uint64)
    pairs[:, 0] = low & _MASK
    pairs[:, 1] = (low >> np.uint64(36)) | (packed[:, 8].astype(np.uint64) << np.uint64(28))
    residues = pairs.reshape(-1, 2, 2, DEGREE)
    if (residues >= _MODULI).any():
        raise MalformedError("a ciphertext has a coefficient that is not below its prime")
    return residues


def check(data: bytes, count: int) -> None:
    """Raise `MalformedError` unless these are ciphertexts of `count` integers."""
    expected = encrypted_bytes(count)
    if len(data) != expected:
        raise MalformedError(f"{len(data)} bytes; ciphertexts of {count} integers have {expected}")
    for start in range(0, expected, _AT_ONCE * CIPHERTEXT_BYTES):
        unpack(memoryview(data)[start : start + _AT_ONCE * CIPHERTEXT_BYTES])


def add(
    terms: Iterable[tuple[bytes, int]],
    count: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Ciphertexts of the sum of coefficient x vector.

    Memory does not grow with the number of terms, which are read one at a time.

    Args:
      terms: (ciphertexts of a vector, its coefficient, at least 0).
      count: integers in each vector.
      random_bytes: gives that many bytes from a cryptographic source; for the flood.

    Raises:
      MalformedError: what is no ciphertext of `count` integers; it names the term.
      OverflowError: the coefficients exceed `MOST_WEIGHT`; the sum would not decrypt.
    """
    total = np.zeros((ciphertexts_of(count), 2, 2, DEGREE), np.uint64)
    weight = 0
    for place, (data, coefficient) in enumerate(terms):
        weight += coefficient
        if coefficient < 0 or weight > MOST_WEIGHT:
            raise OverflowError(f"coefficients add up to {weight}, at most {MOST_WEIGHT}")
        if len(data) != total.size // 2 * 9:
            raise MalformedError(f"term {place}: {len(data)} bytes for {count} integers")
        _accumulate(total, memoryview(data), coefficient)
    total %= _MODULI
    total[:, 0] = (total[:, 0] + _flood(len(total), random_bytes)) % _MODULI
    return pack(total)


def _accumulate(total: Residues, data: memoryview, coefficient: int) -> None:
    """Add to sums that are reduced once, at the end: 2^20 of weight x 36 bits fit 64."""
    for start in range(0, len(total), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(total))
        block = unpack(data[start * CIPHERTEXT_BYTES : stop * CIPHERTEXT_BYTES])
        np.multiply(block, np.uint64(coefficient), out=block)
        total[start:stop] += block


def _flood(ciphertexts: int, random_bytes: Callable[[int], bytes]) -> Residues:
    """Uniform integers in [-FLOOD, FLOOD), modulo both primes, shape (C, 2, DEGREE)."""
    words = np.frombuffer(random_bytes(8 * ciphertexts * DEGREE), "<u8") % np.uint64(2 * FLOOD)
    words = words.astype(np.uint64).reshape(-1, 1, DEGREE)
    return (words + (_MODULI - np.uint64(FLOOD))) % _MODULI
