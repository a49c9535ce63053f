"""The noised histogram: what it shows, what it hides, and how far two are apart."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from wire.messages import NOVELTY_BINS, Readiness
from wire.novelty import (
    BINS,
    EPSILON,
    PROJECTIONS,
    SENSITIVITY,
    discrete_laplace,
    distance,
    distance_by_chance,
    distances,
    histogram,
)

BUNDLE = bytes(range(32))
CLEAR = 1e9
"""An epsilon whose noise is zero, to see what is under it."""
UNIFORM = (1 / BINS,) * NOVELTY_BINS
ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 12)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def rng(seed: int = 1) -> random.Random:
    return random.Random(seed)


def rows(number: int, seed: int = 0, columns: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(number, columns))


def clear(inputs: NDArray[np.float64], bundle: bytes = BUNDLE) -> tuple[float, ...]:
    return histogram(inputs, bundle, CLEAR, rng())


@given(ROWS, st.sampled_from([1e-6, 0.3, 1.0, 1e6]), st.integers(0, 1 << 30))
@settings(max_examples=40)
def test_any_rows_make_a_histogram_that_an_ask_can_carry(
    inputs: NDArray[np.float32], epsilon: float, seed: int
) -> None:
    shares = histogram(inputs, BUNDLE, epsilon, rng(seed))
    assert len(shares) == NOVELTY_BINS == PROJECTIONS * BINS
    assert all(0 <= share <= 1 for share in shares)
    assert Readiness(base_version=0, examples=1, novelty=shares).novelty == shares


def test_each_projection_of_standard_normal_rows_fills_the_bins_alike() -> None:
    shares = np.array(clear(rows(40_000))).reshape(PROJECTIONS, BINS)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares == pytest.approx(1 / BINS, abs=0.01)


def test_the_shape_of_a_row_does_not_matter_nor_in_how_many_parts_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = rows(300, columns=24)
    whole = clear(windows)
    assert clear(windows.reshape(300, 4, 6)) == whole
    monkeypatch.setattr("wire.novelty._BLOCK", 100)
    assert clear(windows) == whole


def test_everybody_computes_the_same_histogram_and_another_for_another_bundle() -> None:
    assert clear(rows(500)) == clear(rows(500))
    assert clear(rows(500)) != clear(rows(500), bytes(32))
    one = np.array([[1.0, -2.0, 0.5, 3.0, 0.25]])
    # Worked out by hand from SHAKE-256("journeyman novelty 1" + bundle), 5 bytes.
    filled = np.flatnonzero(np.array(clear(one))) - np.arange(PROJECTIONS) * BINS
    assert filled.tolist() == [7, 5, 7, 1, 2, 5, 0, 5]


def test_rows_with_a_number_missing_are_left_out() -> None:
    some = rows(100)
    some[:50, 3] = np.nan
    some[50:60, 1] = np.inf
    left = np.array(clear(some)).reshape(PROJECTIONS, BINS)
    assert left.sum(axis=1) == pytest.approx(0.4)


def test_no_rows_make_no_histogram() -> None:
    assert histogram(np.zeros((0, 5)), BUNDLE, EPSILON, rng()) == ()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_without_noise_nothing_goes_out(epsilon: float) -> None:
    with pytest.raises(ValueError, match="a histogram without noise is not sent"):
        histogram(rows(10), BUNDLE, epsilon, rng())


@given(st.integers(0, 49), st.integers(0, 1 << 30))
@settings(max_examples=25)
def test_another_row_instead_moves_the_counts_by_no_more_than_the_sensitivity(
    at: int, seed: int
) -> None:
    before, after = rows(50), rows(50)
    after[at] = 3 * np.random.default_rng(seed).normal(size=5)
    moved = 50 * np.abs(np.array(clear(before)) - np.array(clear(after))).sum()
    assert moved <= SENSITIVITY + 1e-9


def test_the_sensitivity_is_reached_so_it_is_not_overstated() -> None:
    before = np.full((10, 1), 9.0)
    after = before.copy()
    after[0] = -9.0
    moved = 10 * np.abs(np.array(clear(before)) - np.array(clear(after))).sum()
    assert moved == pytest.approx(SENSITIVITY)


def test_the_noise_is_laplace_of_the_stated_scale() -> None:
    generator = rng(7)
    scale = 3.5
    drawn = np.array([discrete_laplace(Fraction(7, 2), generator) for _ in range(20_000)])
    q = math.exp(-1 / scale)
    for value in range(-4, 5):
        expected = (1 - q) / (1 + q) * q ** abs(value)
        assert np.mean(drawn == value) == pytest.approx(expected, abs=0.01)
    assert np.abs(drawn).mean() == pytest.approx(2 * q / (1 - q * q), rel=0.03)


def test_a_histogram_is_noised_by_the_sensitivity_over_epsilon() -> None:
    inputs = rows(4000)
    generator = rng(3)
    noised = np.array([histogram(inputs, BUNDLE, EPSILON, generator) for _ in range(40)])
    noise = 4000 * (noised - np.array(clear(inputs)))
    assert np.abs(noise).mean() == pytest.approx(SENSITIVITY / EPSILON, rel=0.05)
    assert noise.mean() == pytest.approx(0, abs=1.5)


def test_equal_histograms_are_not_apart_and_disjoint_ones_are_as_far_as_can_be() -> None:
    low, high = (1.0, *(0.0,) * 7) * 8, (*(0.0,) * 7, 1.0) * 8
    assert distance(low, low) == 0
    assert distance(low, high) == 1
    assert distance(low, UNIFORM) == pytest.approx(7 / 8)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * NOVELTY_BINS), min_size=3, max_size=3))
@settings(max_examples=20)
def test_the_distance_is_a_metric_whatever_was_clipped(
    three: list[tuple[float, ...]],
) -> None:
    a, b, c = three
    assert 0 <= distance(a, b) <= 1 + 1e-12
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


def test_a_projection_without_anything_counts_as_one_that_is_everywhere() -> None:
    assert distance((0.0,) * NOVELTY_BINS, UNIFORM) == 0


def test_the_further_the_inputs_are_shifted_the_further_the_site_stands() -> None:
    usual = clear(rows(4000, seed=1))
    apart = [
        distance(histogram(rows(4000, seed=2) + shift, BUNDLE, EPSILON, rng()), usual)
        for shift in (0.0, 0.5, 1.0, 3.0)
    ]
    assert apart == sorted(apart)
    assert apart[0] < 0.04
    assert apart[1] > 2 * apart[0]


@pytest.mark.parametrize("number", [256, 1000, 10_000])
def test_noise_alone_stands_about_as_far_as_is_taken_off(number: int) -> None:
    generator = rng(5)
    told = [histogram(rows(number, seed), BUNDLE, EPSILON, generator) for seed in range(12)]
    usual = np.array(clear(rows(40_000, seed=99)))
    by_chance = float(distance_by_chance(np.array([number]))[0])
    assert distances(np.array(told), usual).mean() == pytest.approx(by_chance, rel=0.3)


def test_below_a_few_hundred_rows_noise_is_all_there_is() -> None:
    assert distance_by_chance(np.array([0.0, 1.0, 60.0])).tolist() == [1.0, 1.0, 1.0]
    falling = distance_by_chance(np.array([100.0, 1000.0, 10_000.0, 100_000.0]))
    assert np.all(np.diff(falling) < 0)
    assert falling[-1] < 0.005
