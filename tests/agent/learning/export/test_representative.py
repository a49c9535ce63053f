"""Rows to calibrate by: few, with the extremes of all."""

import numpy as np

from agent.learning.export.representative import representative

ROWS = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)


def test_the_chosen_rows_have_every_channels_extremes_of_inputs_and_outputs() -> None:
    outputs = np.square(ROWS[:, :1]) - ROWS[:, 1:2]
    chosen = representative(ROWS, outputs, 10)
    assert len(chosen) <= 20 + 2 * (3 + 1)
    assert (np.diff(chosen) > 0).all()
    for all_of in (ROWS, outputs):
        assert np.array_equal(all_of[chosen].min(axis=0), all_of.min(axis=0))
        assert np.array_equal(all_of[chosen].max(axis=0), all_of.max(axis=0))


def test_a_window_is_chosen_for_its_most_extreme_sample() -> None:
    windows = np.zeros((500, 2, 8), np.float32)
    windows[321, 1, 5] = -7.0
    chosen = representative(windows, np.zeros((500, 1), np.float32), 5)
    assert 321 in chosen
    assert len(chosen) < 12


def test_fewer_rows_than_asked_for_are_all_chosen() -> None:
    assert np.array_equal(representative(ROWS[:4], ROWS[:4], 512), np.arange(4))
