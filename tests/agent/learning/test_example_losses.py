"""Losses of single examples, also of none: a window model that has seen too few rows yet."""

import numpy as np
import pytest

from agent.learning.losses import Loss, example_losses


@pytest.mark.parametrize("shape", [(3,), (3, 8)])
def test_a_reconstruction_is_judged_row_by_row_also_when_there_are_none(
    shape: tuple[int, ...],
) -> None:
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    found = example_losses(Loss.RECONSTRUCTION, x + np.float32(2), x)
    np.testing.assert_allclose(found, np.full(5, 4.0), rtol=1e-5)
    none = example_losses(Loss.RECONSTRUCTION, x[:0], x[:0])
    assert none.shape == (0,)
