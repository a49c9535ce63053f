"""Bins of scores and errors: every value is in the bin between whose borders it lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.bins import (
    error_bins,
    error_border,
    error_place,
    log_shares,
    score_bins,
    score_border,
    score_place,
)
from wire.messages import BINS


@given(st.floats(1e-9, 1 - 1e-9))
def test_a_score_lies_between_the_borders_of_its_bin(score: float) -> None:
    for_failure, for_none = log_shares(np.array([score]))
    (number,) = score_bins(for_failure - for_none)
    assert score_border(int(number)) <= score * (1 + 1e-12)
    assert score <= score_border(int(number) + 1) * (1 + 1e-12)


@given(st.floats(0.0, 1e30))
def test_an_error_lies_between_the_borders_of_its_bin(error: float) -> None:
    (number,) = error_bins(np.array([error]))
    assert number == 0 or error_border(int(number)) <= error * (1 + 1e-12)
    assert number == BINS - 1 or error <= error_border(int(number) + 1) * (1 + 1e-12)


def test_what_is_beyond_the_bins_or_no_number_is_counted_at_their_ends() -> None:
    errors = np.array([0.0, 1e-30, 1e30, np.inf, np.nan])
    with np.errstate(all="raise"):
        assert error_bins(errors).tolist() == [0, 0, BINS - 1, BINS - 1, BINS - 1]
    assert (score_border(0), score_border(BINS)) == (0.0, 1.0)
    assert score_border(BINS // 2) == 0.5
    assert (error_border(0), error_border(BINS)) == (2.0**-20, 2.0**12)


@pytest.mark.parametrize("number", [1, 40.5, 128, 254.25])
def test_a_place_is_the_inverse_of_a_border(number: float) -> None:
    assert error_place(error_border(number)) == pytest.approx(number)
    if number == int(number):
        assert score_place(score_border(int(number))) == pytest.approx(number)


def test_the_places_of_certain_scores_and_of_no_error_are_the_ends() -> None:
    assert (score_place(0.0), score_place(1.0), error_place(0.0)) == (0.0, BINS, 0.0)
    assert error_place(1e9) == BINS
