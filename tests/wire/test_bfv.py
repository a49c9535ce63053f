"""Encrypted sums are exact to the parameters' limits, and hostile bytes are refused before C++."""

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire import bfv, bfv_keys
from wire.errors import MalformedError, SettingsError
from wire.messages import Policy
from wire.tensors import Bits, largest_integer

RNG = np.random.default_rng(9)


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    """Secret and public part of one key."""
    pytest.importorskip("tenseal", reason='the extra "journeyman[he]" is not installed')
    return bfv_keys.make_keys()


def repeated(word: bytes, size: int) -> bytes:
    return word * (size // len(word))


def integers(count: int, largest: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return RNG.integers(-largest, largest, count, dtype=np.int16, endpoint=True)


# Arithmetic and bytes, which need no library


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_bytes_come_back_as_the_numbers_they_were(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limits = np.array(bfv.PRIMES, np.uint64)[:, None]
    residues = rng.integers(0, limits, (2, 2, 2, bfv.DEGREE), np.uint64)
    packed = bfv.pack(residues)
    assert len(packed) == 2 * bfv.CIPHERTEXT_BYTES
    assert np.array_equal(bfv.unpack(packed), residues)


@given(st.binary(max_size=100), st.integers(0, bfv.CIPHERTEXT_BYTES // 100))
def test_any_bytes_are_ciphertexts_or_refused(part: bytes, times: int) -> None:
    data = (part * times)[: bfv.CIPHERTEXT_BYTES]
    if len(data) < bfv.CIPHERTEXT_BYTES:
        with pytest.raises(MalformedError):
            bfv.unpack(data)
    else:
        try:
            assert bfv.pack(bfv.unpack(data)) == data
        except MalformedError as error:
            assert "not below its prime" in str(error)  # noqa: PT017 - either is right


def test_a_coefficient_as_large_as_its_prime_is_refused() -> None:
    residues = np.zeros((1, 2, 2, bfv.DEGREE), np.uint64)
    for polynomial in range(2):
        for prime, largest in enumerate(bfv.PRIMES):
            residues[0, polynomial, prime, 4095] = largest - 1
            assert np.array_equal(bfv.unpack(bfv.pack(residues)), residues)
            residues[0, polynomial, prime, 4095] = largest
            with pytest.raises(MalformedError, match="below its prime"):
                bfv.unpack(bfv.pack(residues))
            residues[0, polynomial, prime, 4095] = 0


@pytest.mark.parametrize("size", [0, 1, bfv.CIPHERTEXT_BYTES - 1, 3 * bfv.CIPHERTEXT_BYTES])
def test_another_length_than_the_vectors_is_refused(size: int) -> None:
    with pytest.raises(MalformedError, match="ciphertexts of 5000 integers have 147456"):
        bfv.check(bytes(size), 5000)
    with pytest.raises(MalformedError, match="term 1"):
        bfv.add([(bytes(2 * bfv.CIPHERTEXT_BYTES), 1), (bytes(size), 1)], 5000)


def test_the_parameters_hold_what_their_documentation_says() -> None:
    modulus = bfv.PRIMES[0] * bfv.PRIMES[1]
    assert modulus // (4 * bfv.PLAIN_MODULUS) > bfv.MOST_WEIGHT * bfv.FRESH_NOISE + bfv.FLOOD
    assert bfv.MOST_WEIGHT << 15 < bfv.PLAIN_MODULUS // 2
    assert all(prime % (2 * bfv.DEGREE) == 1 for prime in (*bfv.PRIMES, bfv.PLAIN_MODULUS))
    assert len({*bfv.PRIMES, bfv.KEY_PRIME, bfv.PLAIN_MODULUS}) == 4
    assert (modulus * bfv.KEY_PRIME).bit_length() <= 109  # the standard's bound for 128 bits


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("weight_cap", [1, 7, 10_000, 1 << 20])
def test_a_policy_whose_sum_could_be_wrong_is_refused(bits: Bits, weight_cap: int) -> None:
    policy = Policy(bits=bits, weight_cap=weight_cap)
    most = bfv.most_members(policy)
    assert most == bfv.MOST_WEIGHT // weight_cap
    assert most * weight_cap * largest_integer(bits) < bfv.PLAIN_MODULUS // 2
    assert bfv.problem_with(policy, most) == ""
    assert f"at most {most}: lower policy.weight_cap" in bfv.problem_with(policy, most + 1)


def test_weights_that_could_lose_the_sum_are_not_added() -> None:
    one = bytes(bfv.CIPHERTEXT_BYTES)
    assert bfv.add([(one, bfv.MOST_WEIGHT - 1), (one, 1)], 1)
    with pytest.raises(OverflowError, match="at most 1048576"):
        bfv.add([(one, bfv.MOST_WEIGHT), (one, 1)], 1)
    with pytest.raises(OverflowError):
        bfv.add([(one, -1)], 1)


def test_without_the_extra_the_error_names_it() -> None:
    program = "import sys; sys.modules['tenseal'] = None; from wire.bfv_keys import can_encrypt\n"
    program += "print(can_encrypt())"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert b'install journeyman with the extra "journeyman[he]"' in ran.stdout


# With TenSEAL


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 10_000])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_what_was_encrypted_is_what_decrypts(
    keys: tuple[bytes, bytes], count: int, bits: Bits
) -> None:
    secret, public = keys
    vector = integers(count, largest_integer(bits))
    data = bfv_keys.encrypt(public, vector)
    assert len(data) == bfv.encrypted_bytes(count)
    assert np.array_equal(bfv_keys.decrypt(secret, data, count), vector)


@pytest.mark.parametrize("members", [1, 5, 50])
def test_sums_of_any_members_and_weights_are_exact(keys: tuple[bytes, bytes], members: int) -> None:
    secret, public = keys
    count, cap = 5000, bfv.MOST_WEIGHT // members
    vectors = [integers(count, 127) for _ in range(members)]
    weights = RNG.integers(1, cap, members, endpoint=True).tolist()
    data = bfv.add(
        ((bfv_keys.encrypt(public, v), w) for v, w in zip(vectors, weights, strict=True)), count
    )
    expected = sum(w * v.astype(np.int64) for v, w in zip(vectors, weights, strict=True))
    assert np.array_equal(bfv_keys.decrypt(secret, data, count), expected)


@pytest.mark.parametrize("largest", [-32768, 32767])
def test_a_sum_at_every_limit_at_once_is_exact(keys: tuple[bytes, bytes], largest: int) -> None:
    secret, public = keys
    vector = np.full(bfv.DEGREE, largest, np.int16)
    once = bfv_keys.encrypt(public, vector)  # one ciphertext 50 times: noise adds up in step
    terms = [(once, bfv.MOST_WEIGHT // 50)] * 49
    terms.append((once, bfv.MOST_WEIGHT - 49 * terms[0][1]))
    for flood in (b"\x00" * 8, b"\xff\xff\xff\xff\x01\x00\x00\x00"):  # -FLOOD, FLOOD - 1
        data = bfv.add(terms, bfv.DEGREE, partial(repeated, flood))
        assert bfv_keys.noise_budgets(keys[0], data) == [1]
        found = bfv_keys.decrypt(secret, data, bfv.DEGREE)
        assert np.array_equal(found, np.full(bfv.DEGREE, largest * bfv.MOST_WEIGHT))


def test_fresh_noise_is_within_the_bound_that_the_limits_rest_on(
    keys: tuple[bytes, bytes],
) -> None:
    data = bfv_keys.encrypt(keys[1], integers(20 * bfv.DEGREE, 32767))
    modulus = bfv.PRIMES[0] * bfv.PRIMES[1]
    for budget in bfv_keys.noise_budgets(keys[0], data):
        assert modulus / (2 * bfv.PLAIN_MODULUS * 2 ** (budget + 1)) < bfv.FRESH_NOISE


def test_one_vector_encrypts_to_other_bytes_each_time(keys: tuple[bytes, bytes]) -> None:
    found = [bfv_keys.encrypt(keys[1], np.zeros(3, np.int8)) for _ in range(3)]
    assert all(a != b for a, b in pairwise(found))


def test_the_sum_hides_behind_a_flood_of_its_own(keys: tuple[bytes, bytes]) -> None:
    data = bfv_keys.encrypt(keys[1], np.zeros(3, np.int8))
    assert len({bfv.add([(data, 1)], 3) for _ in range(3)}) == 3


def test_another_key_decrypts_nothing(keys: tuple[bytes, bytes]) -> None:
    other, _ = bfv_keys.make_keys()
    data = bfv_keys.encrypt(keys[1], np.ones(3, np.int8))
    with pytest.raises(bfv_keys.BudgetError, match="no noise budget"):
        bfv_keys.decrypt(other, data, 3)


def test_well_formed_ciphertexts_of_nothing_are_refused(keys: tuple[bytes, bytes]) -> None:
    limits = np.array(bfv.PRIMES, np.uint64)[:, None]
    for shape in ((1, 2, 2, bfv.DEGREE), (3, 2, 2, bfv.DEGREE)):
        data = bfv.pack(RNG.integers(0, limits, shape, np.uint64))
        with pytest.raises(bfv_keys.BudgetError):
            bfv_keys.decrypt(keys[0], data, shape[0] * bfv.DEGREE)


@pytest.mark.parametrize("place", [0, 23, 24, 28, bfv_keys.PUBLIC_BYTES - 1])
def test_a_spoiled_context_is_refused_before_it_is_used(
    keys: tuple[bytes, bytes], place: int
) -> None:
    spoiled = bytearray(keys[1])
    spoiled[place] = 0xFF
    if place == 24:  # the lowest byte of a coefficient: another key, not a malformed one
        assert bfv_keys.encrypt(bytes(spoiled), np.ones(3, np.int8))
        return
    with pytest.raises(MalformedError, match="public BFV context"):
        bfv_keys.encrypt(bytes(spoiled), np.ones(3, np.int8))


@pytest.mark.parametrize("size", [0, 100, bfv_keys.PUBLIC_BYTES - 1, bfv_keys.PUBLIC_BYTES + 1])
def test_a_context_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(MalformedError, match="not a public BFV context"):
        bfv_keys.encrypt(os.urandom(size), np.ones(3, np.int8))


def test_a_public_context_holds_no_secret(keys: tuple[bytes, bytes]) -> None:
    secret, public = keys
    assert len(public) == bfv_keys.PUBLIC_BYTES
    data = bfv_keys.encrypt(public, np.ones(3, np.int8))
    with pytest.raises(SettingsError, match="not a secret BFV key"):
        bfv_keys.decrypt(public, data, 3)
    assert secret not in public
