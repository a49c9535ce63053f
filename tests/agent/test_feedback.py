"""Error feedback: what is not sent is remembered, what is sent is what matters most."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.feedback import Residual, make_sparse, nothing, read_residual, select
from wire.errors import MalformedError
from wire.messages import Policy
from wire.tensors import Bits

BUNDLE, OTHER = bytes(range(32)), bytes(32)
finite = st.floats(-1e3, 1e3, width=32)


def policy(share: float, bits: Bits = 8, scale: float = 0.5, clip_norm: float = 1e6) -> Policy:
    return Policy(kept_share=share, bits=bits, scale=scale, clip_norm=clip_norm)


def residual(*values: float) -> Residual:
    return Residual(np.array(values, np.float32), BUNDLE, 3)


def test_the_largest_are_chosen_and_the_first_of_equal_ones() -> None:
    wanted = np.array([1.0, -3.0, 2.0, 3.0, -2.0, 2.0])
    assert [select(wanted, most).tolist() for most in (1, 2, 3, 4, 6, 9)] == [
        [1],
        [1, 3],
        [1, 2, 3],
        [1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]


def test_zeros_are_never_chosen() -> None:
    wanted = np.array([0.0, -0.0, 5.0, 0.0])
    assert select(wanted, 3).tolist() == [2]
    assert select(wanted, 4).tolist() == [2]
    assert select(np.zeros(4), 2).tolist() == []


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30), st.integers(1, 30))
def test_the_choice_is_that_of_a_stable_sort(values: list[int], most: int) -> None:
    wanted = np.array(values, float)
    ranked = sorted(range(len(values)), key=lambda at: -abs(values[at]))[:most]
    assert select(wanted, most).tolist() == sorted(at for at in ranked if values[at])


def test_one_update_by_hand() -> None:
    # Wanted is [4, 1.25, -2.5, 0.25]; half of them are sent, in steps of a half.
    made = make_sparse(
        np.array([3.0, 1.25, -2.0, 0.25]),
        residual(1.0, 0.0, -0.5, 0.0),
        policy(0.5),
        np.random.default_rng(0),
    )
    assert made.integers.tolist() == [8, 0, -5, 0]
    assert made.saturated == 0
    assert made.residual.vector.tolist() == [0.0, 1.25, 0.0, 0.25]
    assert (made.residual.bundle, made.residual.lineage) == (BUNDLE, 3)


def test_what_saturates_is_remembered() -> None:
    made = make_sparse(
        np.array([5.0, 0.0]), residual(0.0, 0.0), policy(0.5, bits=4), np.random.default_rng(0)
    )
    assert (made.integers.tolist(), made.saturated) == ([7, 0], 1)
    assert made.residual.vector.tolist() == [1.5, 0.0]


def test_neither_a_wild_delta_nor_a_long_memory_makes_an_update_longer_than_clip_norm() -> None:
    rng = np.random.default_rng(5)
    rule = policy(0.5, bits=16, scale=1e-3, clip_norm=1.0)
    wild = make_sparse(rng.normal(0, 100, 50), nothing(50, BUNDLE, 3), rule, rng)
    remembering = make_sparse(np.zeros(50), residual(*rng.normal(0, 100, 50)), rule, rng)
    for made in (wild, remembering):
        length = np.linalg.norm(made.integers * rule.scale)
        assert 0.8 < length <= 1.0 + rule.scale * np.sqrt(50)
    # A wild delta is cut, not remembered; what is remembered is not cut.
    assert np.linalg.norm(wild.residual.vector) < 1.0
    assert np.linalg.norm(remembering.residual.vector) > 100


@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=20),
    st.sampled_from((4, 8, 16)),
    st.floats(0.01, 1.0),
    st.integers(0, 1 << 30),
)
def test_nothing_is_lost_between_what_is_sent_and_what_is_remembered(
    pairs: list[tuple[float, float]], bits: Bits, share: float, seed: int
) -> None:
    delta, remembered = np.array(pairs).T
    rule = policy(share, bits)
    made = make_sparse(delta, residual(*remembered), rule, np.random.default_rng(seed))
    both = made.integers * rule.scale + made.residual.vector
    np.testing.assert_allclose(both, delta + remembered, rtol=1e-6, atol=1e-4)
    assert np.count_nonzero(made.integers) <= np.ceil(share * len(pairs))


def sums(share: float, updates: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of what was sent and of what was wanted in `updates` updates."""
    rng = np.random.default_rng(2)
    rule = policy(share, bits=8, scale=0.01)
    mean = rng.normal(0, 0.1, 100)
    left = nothing(100, BUNDLE, 3)
    sent, wanted = np.zeros(100), np.zeros(100)
    for _ in range(updates):
        delta = mean + rng.normal(0, 0.02, 100)
        made = make_sparse(delta, left, rule, rng)
        left = made.residual
        sent += made.integers * rule.scale
        wanted += delta
    return sent, wanted


def test_in_the_long_run_everything_is_sent() -> None:
    sent, wanted = sums(0.1, 300)
    # What is left is bounded, so its share of a sum that grows goes to nothing.
    assert np.linalg.norm(sent - wanted) < 0.05 * np.linalg.norm(wanted)
    # One tenth in each: without memory the smaller half would never have been sent.
    assert np.count_nonzero(sent) > 95


def test_a_residual_comes_back_as_it_was() -> None:
    kept = residual(1.5, -2.0, 0.0, 3e-39)
    read = read_residual(kept.to_bytes(), 4)
    np.testing.assert_array_equal(read.vector, kept.vector)
    assert read.vector.dtype == np.float32
    assert (read.bundle, read.lineage) == (BUNDLE, 3)


def test_a_residual_of_another_bundle_or_lineage_counts_as_nothing() -> None:
    kept = residual(1.0, 2.0)
    assert kept.fitting(BUNDLE, 3) is kept
    for bundle, lineage in ((OTHER, 3), (BUNDLE, 4)):
        found = kept.fitting(bundle, lineage)
        assert (found.vector.tolist(), found.bundle, found.lineage) == ([0, 0], bundle, lineage)


def packed(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "can not be read"),
        (residual(1.0, 2.0).to_bytes()[:-1], "can not be read"),
        (residual(1.0, 2.0).to_bytes() + b"\0", "can not be read"),
        (packed(BUNDLE[:31], 3, bytes(8)), "can not be read"),
        (packed(BUNDLE, -1, bytes(8)), "can not be read"),
        (packed(BUNDLE, 3, bytes(8), 1), "can not be read"),
        (b"\x91" * 5000, "can not be read"),
        (packed(BUNDLE, 3, bytes(12)), "12 bytes does not fit 2"),
        (packed(BUNDLE, 3, bytes(7)), "7 bytes does not fit 2"),
        (packed(BUNDLE, 3, np.array([0, np.nan], "<f4").tobytes()), "not finite"),
        (packed(BUNDLE, 3, np.array([np.inf, 0], "<f4").tobytes()), "not finite"),
    ],
)
def test_a_stored_residual_that_is_damaged_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read_residual(data, 2)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_residual_or_refused(data: bytes) -> None:
    try:
        read = read_residual(data, 2)
    except MalformedError:
        return
    assert read.vector.shape == (2,)
