"""Folding: exact integer sums, in any order of arrival, in constant memory."""

import tracemalloc
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregate import (
    MAX_WEIGHT_SUM,
    Buffer,
    Member,
    bucket_means,
    empty,
    fold,
    settled,
)

DELTAS = [np.random.default_rng(at).integers(-127, 128, 6).astype(np.int8) for at in range(8)]
WEIGHTS = [1, 5, 1000, 7, 1 << 20, 3, 64, 2]


def member(weight: int, agent: str = "press-1", coefficient: int = -1, bucket: int = 0) -> Member:
    return Member(
        agent=agent,
        site=agent,
        base_version=0,
        weight=weight,
        coefficient=weight if coefficient < 0 else coefficient,
        bucket=bucket,
    )


def folded(order: list[int], buckets: int = 1) -> Buffer:
    buffer = empty(6, buckets)
    for at in order:
        # Which bucket depends on who it is, not on when it came.
        one = member(WEIGHTS[at], f"agent-{at}", bucket=at % buckets)
        buffer = fold(buffer, DELTAS[at], one)
    return buffer


@given(st.permutations(range(8)), st.sampled_from([1, 3]), st.integers(0, 8))
def test_the_order_of_arrival_can_not_change_a_bit(
    order: list[int], buckets: int, settled_after: int
) -> None:
    buffer = empty(6, buckets)
    for number, at in enumerate(order):
        one = member(WEIGHTS[at], f"agent-{at}", bucket=at % buckets)
        buffer = fold(buffer, DELTAS[at], one)
        if number == settled_after:
            buffer = settled(buffer)
    means, weights = bucket_means(buffer, 1e-3)
    expected_means, expected_weights = bucket_means(folded([*range(8)], buckets), 1e-3)
    assert means.tobytes() == expected_means.tobytes()
    assert weights.tobytes() == expected_weights.tobytes()


@settings(max_examples=30)
@given(
    st.integers(1, 40),
    st.sampled_from([1, 7, 65_535, 65_536, 65_537, 150_001]),
    st.sampled_from([np.int8, np.int16]),
    st.sampled_from([100, 10_000, 1 << 20, 1 << 40]),
    st.integers(0, 2**32),
)
def test_sums_are_those_of_plain_int64_arithmetic(
    count: int, parameters: int, dtype: type[np.signedinteger], heaviest: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    buffer, expected = empty(parameters), np.zeros(parameters, np.int64)
    for _ in range(count):
        delta = rng.integers(low, high, parameters, endpoint=True).astype(dtype)
        weight = int(rng.integers(1, heaviest, endpoint=True))
        buffer = fold(buffer, delta, member(weight))
        expected += delta.astype(np.int64) * weight
    assert np.array_equal(buffer.total[0], expected)


def test_folding_leaves_the_buffer_before_as_it_was() -> None:
    before = settled(folded([0, 1]))
    total = before.total.copy()
    after = fold(before, DELTAS[2], member(4, "agent-2"))
    assert np.array_equal(before.total, total)
    assert not np.array_equal(after.total, total)
    assert (before.agents, after.agents) == (
        ("agent-0", "agent-1"),
        ("agent-0", "agent-1", "agent-2"),
    )
    assert (before.weight, after.weight) == (6, 10)


def test_settling_changes_nothing_but_where_the_numbers_are() -> None:
    buffer = folded([*range(8)], 3)
    still = settled(buffer)
    assert still.waiting == ()
    assert (still.members, still.weight) == (buffer.members, buffer.weight)
    assert still.total.tobytes() == buffer.total.tobytes()
    assert settled(still) is still


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_the_extremes_of_the_integers_add_without_wrapping(dtype: type[np.signedinteger]) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    buffer = empty(2)
    for _ in range(300):
        buffer = fold(buffer, np.array([low, high], dtype), member(1 << 20))
    assert buffer.total.tolist() == [[low * 300 << 20, high * 300 << 20]]
    means, _ = bucket_means(buffer, 1.0)
    assert means[0] == pytest.approx([low, high], rel=1e-15)


def test_the_largest_weights_that_are_let_in_fit_the_accumulator() -> None:
    buffer = fold(empty(1), np.array([-(1 << 15)], np.int16), member(MAX_WEIGHT_SUM))
    assert buffer.total.tolist() == [[-(1 << 15) * MAX_WEIGHT_SUM]]


def test_weights_that_could_overflow_are_refused_before_anything_is_added() -> None:
    buffer = fold(empty(1), np.array([1], np.int8), member(MAX_WEIGHT_SUM))
    with pytest.raises(OverflowError, match="lower weight_cap"):
        fold(buffer, np.array([1], np.int8), member(1))


def test_the_mean_delta_is_the_weighted_mean_of_the_deltas() -> None:
    scale = 2**-7
    means, weights = bucket_means(folded([*range(8)]), scale)
    exact = [
        sum(Fraction(int(DELTAS[at][p])) * WEIGHTS[at] for at in range(8)) / sum(WEIGHTS)
        for p in range(6)
    ]
    assert means[0] == pytest.approx([float(value) * scale for value in exact], rel=1e-15)
    assert weights.tolist() == [sum(WEIGHTS)]


def test_buckets_have_means_of_their_own_and_empty_ones_none() -> None:
    buffer = empty(1, 4)
    buffer = fold(buffer, np.array([8], np.int8), member(3, "a", bucket=3))
    buffer = fold(buffer, np.array([16], np.int8), member(1, "b", bucket=3))
    buffer = fold(buffer, np.array([-2], np.int8), member(5, "c", bucket=1))
    means, weights = bucket_means(buffer, 0.5)
    assert means.tolist() == [[-1.0], [5.0]]
    assert weights.tolist() == [5.0, 4.0]


def test_what_clipping_took_away_is_the_centres() -> None:
    # Half of the weight of 8 is left: (4 * 6 + 8 * 2) * 0.5 / 16 + centre * (1 - 12/16).
    buffer = fold(empty(1), np.array([6], np.int8), member(8, "a", coefficient=4))
    buffer = fold(buffer, np.array([2], np.int8), member(8, "b"))
    assert bucket_means(buffer, 0.5, np.array([-3.0]))[0].tolist() == [[1.25 - 0.75]]
    assert bucket_means(buffer, 0.5)[0].tolist() == [[1.25]]


def test_a_coefficient_of_zero_counts_for_nothing() -> None:
    buffer = fold(empty(1, 2), np.array([6], np.int8), member(8, "a"))
    alone = bucket_means(buffer, 0.5, np.array([-3.0]))
    for bucket in (0, 1):
        far = fold(buffer, np.array([99], np.int8), member(1000, "far", 0, bucket))
        means, weights = bucket_means(far, 0.5, np.array([-3.0]))
        assert (means.tolist(), weights.tolist()) == (alone[0].tolist(), alone[1].tolist())


def test_where_nothing_counts_the_mean_is_zero() -> None:
    buffer = fold(empty(2, 3), np.array([6, 7], np.int8), member(8, "far", 0, 1))
    means, weights = bucket_means(buffer, 0.5, np.array([-3.0, 4.0]))
    assert (means.tolist(), weights.tolist()) == ([[0.0, 0.0]], [1.0])


def peak_bytes(members: int, parameters: int, *, settle_every: int) -> int:
    deltas = [np.full(parameters, at % 100, np.int8) for at in range(members)]
    tracemalloc.start()
    buffer = empty(parameters)
    for at, delta in enumerate(deltas):
        buffer = fold(buffer, delta, member(at + 1))
        if (at + 1) % settle_every == 0:
            buffer = settled(buffer)
    buffer = settled(buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(buffer.members) == members
    return peak


@pytest.mark.parametrize("settle_every", [16, 10**9], ids=["batches", "never asked to"])
def test_memory_does_not_grow_with_the_number_of_updates(settle_every: int) -> None:
    few = peak_bytes(100, 100_000, settle_every=settle_every)
    many = peak_bytes(400, 100_000, settle_every=settle_every)
    each = (many - few) / 300  # of 100,000 parameters; a member's own few numbers are allowed
    assert each < 1000


def test_what_waits_is_added_up_before_it_becomes_much() -> None:
    buffer = empty(1)
    for _ in range(1000):
        buffer = fold(buffer, np.array([1], np.int8), member(2))
        assert len(buffer.waiting) <= 64
    assert buffer.total.tolist() == [[2000]]
    assert replace(buffer, waiting=()).total.tolist() != [[2000]]
