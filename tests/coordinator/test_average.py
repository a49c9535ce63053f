"""The average of the versions, against its definition."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.average import add_version


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30))
def test_without_decay_the_average_is_the_plain_mean(values: list[float]) -> None:
    average = np.zeros(1)
    for count, value in enumerate(values, start=1):
        average = add_version(average, np.array([value], np.float32), count, 0.0)
    assert average[0] == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("decay", [1, 2, 8])
def test_the_average_weighs_versions_as_the_paper_does(decay: int) -> None:
    # Shamir and Zhang 2013, section 4: the weight of version t after T is
    # (decay+1)/(decay+t) x product over s in t+1..T of (1 - (decay+1)/(decay+s)).
    versions = np.random.default_rng(decay).normal(0, 1, (12, 4)).astype(np.float32)
    average = np.full(4, 1e9)  # must be forgotten by the first version
    for count, params in enumerate(versions, start=1):
        average = add_version(average, params, count, float(decay))
    weights = []
    for t in range(1, 13):
        weight = Fraction(decay + 1, decay + t)
        for later in range(t + 1, 13):
            weight *= 1 - Fraction(decay + 1, decay + later)
        weights.append(weight)
    assert sum(weights) == 1
    expected = sum(float(w) * v.astype(np.float64) for w, v in zip(weights, versions, strict=True))
    assert average == pytest.approx(expected, rel=1e-12)
    assert weights == sorted(weights)  # early versions fade
