"""BFV keys, encryption and decryption: the one place that uses TenSEAL (Microsoft SEAL inside).

    recipient   make_keys ──► secret (stays there), public (to every agent, pinned by the charter)
    agent       public, integers ──► `encrypt` ──► ciphertexts (`wire/bfv.py`)
    recipient   secret, ciphertexts of a sum ──► `decrypt` ──► integers

No relinearisation and no Galois keys exist: nobody multiplies or rotates ciphertexts, so whoever
adds them up could do nothing else with them.

What others made never reaches C++ as they made it: bytes are unpacked to numbers, each checked
against its prime, and a well-formed object is written from these (`_frame`), in the layout of
SEAL 4 with compression off.  SEAL reads and writes files only, so each passes through one in
memory (`memfd_create`); no key touches a disk here.
"""

import importlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wire.bfv import DEGREE, KEY_PRIME, PLAIN_MODULUS, PRIMES, check, ciphertexts_of, pack, unpack
from wire.errors import MalformedError, SettingsError

PUBLIC_MAGIC: Final = b"journeyman-bfv-public-1\n"
PUBLIC_BYTES: Final = len(PUBLIC_MAGIC) + 2 * 3 * DEGREE * 5
"""Two polynomials modulo three primes, 5 bytes a coefficient: 122,904."""
SECRET_MAGIC: Final = b"journeyman-bfv-secret-1\n"
MOST_SECRET_BYTES: Final = 1 << 18
_KEY_MODULI = np.array((*PRIMES, KEY_PRIME), np.uint64)[:, None]
_COEFFICIENTS: Final = 2 * 2 * DEGREE


class BudgetError(MalformedError):
    """A ciphertext whose noise leaves no room: what decrypts would not be the sum."""


def make_keys() -> tuple[bytes, bytes]:
    """Make a new key pair from the operating system's CSPRNG.

    Returns:
      secret and public part, in the formats that the other functions read.

    Raises:
      SettingsError: TenSEAL is not installed.
    """
    seal, context = _seal()
    generator = seal.KeyGenerator(context)
    public = seal.PublicKey()
    generator.create_public_key(public)
    numbers = _numbers(public.data(), 2 * 3 * DEGREE)
    bytes_of = numbers.astype("<u8")[:, None].view(np.uint8)[:, :5]
    return SECRET_MAGIC + _saved(generator.secret_key()), PUBLIC_MAGIC + bytes_of.tobytes()


def can_encrypt() -> str:
    """Why nothing can be encrypted here; empty when it can."""
    try:
        _seal()
    except SettingsError as error:
        return error.reason
    return ""


def encrypt(public: bytes, integers: NDArray[np.signedinteger]) -> bytes:
    """Encrypt a vector.

    Args:
      public: of `make_keys`.
      integers: shape (P,), each of at most 16 bits (`wire/bfv.py` says what sums hold).

    Returns:
      ceil(P / 4096) ciphertexts; twice the same vector gives different ones.

    Raises:
      MalformedError: `public` is no public key of this scheme.
      SettingsError: TenSEAL is not installed.
    """
    key = _public_key(public)
    seal, context = _seal()
    encryptor = seal.Encryptor(context, key)
    encoder, plain, encrypted = seal.BatchEncoder(context), seal.Plaintext(), seal.Ciphertext()
    parts = []
    for start in range(0, len(integers), DEGREE):
        slots = np.zeros(DEGREE, np.int64)
        here = integers[start : start + DEGREE]
        slots[: len(here)] = here
        encoder.encode(slots.tolist(), plain)
        encryptor.encrypt(plain, encrypted)
        parts.append(pack(_numbers(encrypted, _COEFFICIENTS)))
    return b"".join(parts)


def decrypt(secret: bytes, data: bytes, count: int) -> NDArray[np.int64]:
    """Decrypt a vector, or a sum of vectors.

    Args:
      secret: of `make_keys`; of this machine, never from the network.
      data: ciphertexts.
      count: integers in the vector.

    Returns:
      int64 (count,).

    Raises:
      BudgetError: more noise than a sum within `MOST_WEIGHT` can have, or for another key.
      MalformedError: these are no ciphertexts of `count` integers.
      SettingsError: TenSEAL is not installed, or `secret` is no secret key.
    """
    check(data, count)
    seal, context = _seal()
    decryptor, encoder = seal.Decryptor(context, _secret_key(secret)), seal.BatchEncoder(context)
    found = np.empty((ciphertexts_of(count), DEGREE), np.int64)
    plain = seal.Plaintext()
    for place, residues in enumerate(unpack(data)):
        encrypted = _ciphertext(residues)
        if decryptor.invariant_noise_budget(encrypted) < 1:
            raise BudgetError(f"ciphertext {place} has no noise budget: not a sum for this key")
        decryptor.decrypt(encrypted, plain)
        found[place] = encoder.decode_int64(plain)
    return found.reshape(-1)[:count].copy()


def noise_budgets(secret: bytes, data: bytes) -> list[int]:
    """Bits of room that the noise of each ciphertext leaves, rounded down; 0: it is lost.

    With noise v it is log2(q / 2 t v); what decrypts has at least 1.
    """
    seal, context = _seal()
    decryptor = seal.Decryptor(context, _secret_key(secret))
    return [int(decryptor.invariant_noise_budget(_ciphertext(each))) for each in unpack(data)]


@cache
def _seal() -> tuple[Any, Any]:
    """TenSEAL's module and the context of the parameters."""
    try:
        seal: Any = importlib.import_module("tenseal.sealapi")  # an extra, and 40 MB
    except ImportError as error:
        reason = f'needs TenSEAL: install journeyman with the extra "journeyman[he]" ({error})'
        raise SettingsError("homomorphic encryption", None, None, reason) from None
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal.Modulus(prime) for prime in (*PRIMES, KEY_PRIME)])
    parameters.set_plain_modulus(PLAIN_MODULUS)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        reason = f"this TenSEAL refuses the parameters: {context.parameters_error_message()}"
        raise SettingsError("homomorphic encryption", None, None, reason)
    return seal, context


def _public_key(public: bytes) -> Any:  # noqa: ANN401 - an untyped library's
    if len(public) != PUBLIC_BYTES or not public.startswith(PUBLIC_MAGIC):
        raise MalformedError("not a public BFV context; make one: journeyman-helper recipient keys")
    raw = np.zeros((2 * 3 * DEGREE, 8), np.uint8)
    raw[:, :5] = np.frombuffer(public, np.uint8, offset=len(PUBLIC_MAGIC)).reshape(-1, 5)
    numbers = raw.view("<u8").astype(np.uint64).reshape(2, 3, DEGREE)
    if (numbers >= _KEY_MODULI).any():
        raise MalformedError("a public BFV context has a coefficient that is not below its prime")
    seal, context = _seal()
    key = seal.PublicKey()
    with _file(_frame(context.key_parms_id(), 3, numbers, is_ntt=True)) as path:
        key.load(context, path)
    return key


def _ciphertext(residues: NDArray[np.uint64]) -> Any:  # noqa: ANN401 - an untyped library's
    seal, context = _seal()
    encrypted = seal.Ciphertext()
    with _file(_frame(context.first_parms_id(), 2, residues, is_ntt=False)) as path:
        encrypted.load(context, path)
    return encrypted


def _secret_key(secret: bytes) -> Any:  # noqa: ANN401 - an untyped library's
    if not secret.startswith(SECRET_MAGIC) or len(secret) > MOST_SECRET_BYTES:
        raise _not_secret("it does not begin as one")
    seal, context = _seal()
    key = seal.SecretKey()
    try:
        with _file(secret[len(SECRET_MAGIC) :]) as path:
            key.load(context, path)
    except (RuntimeError, ValueError) as error:
        raise _not_secret(str(error)) from None
    return key


def _not_secret(reason: str) -> SettingsError:
    return SettingsError("the recipient's key", None, None, f"not a secret BFV key: {reason}")


def _numbers(source: Any, count: int) -> NDArray[np.uint64]:  # noqa: ANN401 - untyped
    """Coefficients of a ciphertext; its binding has no buffer, only one number at a time."""
    read: Callable[[int], int] = source.__getitem__
    return np.fromiter(map(read, range(count)), np.uint64, count)


def _frame(
    parameters_id: list[int], primes: int, numbers: NDArray[np.uint64], *, is_ntt: bool
) -> bytes:
    """Two polynomials as SEAL saves a `Ciphertext` without compression (SEAL 4, ciphertext.h).

    The header's version is the one that this SEAL writes.
    """
    body = struct.pack("<4Q?QQQdQ", *parameters_id, is_ntt, 2, DEGREE, primes, 1.0, 1)
    inner = struct.pack("<Q", numbers.size) + numbers.astype("<u8").tobytes()
    return _with_header(body + _with_header(inner))


def _with_header(body: bytes) -> bytes:
    """SEALHeader: magic, its size, version, no compression, reserved, size of it all."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, *_version(), 0, 0, 16 + len(body)) + body


@cache
def _version() -> tuple[int, int]:
    """Major and minor version that this SEAL writes into its headers."""
    seal, _ = _seal()
    _, _, major, minor = struct.unpack_from("<HBBB", _saved(seal.Plaintext()))
    return major, minor


def _saved(source: Any) -> bytes:  # noqa: ANN401 - untyped
    with _file(b"") as path:
        source.save(path)
        with open(path, "rb") as file:  # noqa: PTH123 - a descriptor's path
            return file.read(MOST_SECRET_BYTES)


@contextmanager
def _file(data: bytes) -> Iterator[str]:
    """Path of a file in memory that holds `data`, for as long as the block runs."""
    descriptor = os.memfd_create("journeyman-bfv")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
