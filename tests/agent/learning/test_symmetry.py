"""Images are turned and mirrored while they are trained on, and only then."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agent.learning.families import cnn2d
from agent.learning.graph import initial_params
from agent.learning.losses import Loss, example_losses
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.params import flatten
from agent.learning.plan import TrainingPlan
from agent.learning.symmetry import WAYS, moved, placed
from agent.learning.train import train
from wire.manifest import Symmetry

Images = NDArray[np.float32]
SIZE = 8
GRAPH = cnn2d(1, SIZE, SIZE, 2, 0, widths=(4,))
START = initial_params(GRAPH)
BACKEND = NumpyBackend(GRAPH, Loss.CROSS_ENTROPY)
PLAN = TrainingPlan(epochs=6, batch_size=8, optimizer="adam", learning_rate=0.02, seed=3)
SQUARE = replace(PLAN, symmetry="square")


def images(rows: int) -> Images:
    return np.random.default_rng(5).normal(size=(rows, 1, SIZE, SIZE)).astype(np.float32)


def bars(rows: int, *, way: int = 0) -> tuple[Images, NDArray[np.int64]]:
    """Class 1 has a bar in one corner, lying along the upper edge before it is moved."""
    y = np.arange(rows) % 2
    x = 0.3 * images(rows)
    x[y == 1, :, 0, :4] += 2.0
    return np.ascontiguousarray(placed(x, way)), y


def test_the_ways_are_the_eight_symmetries_of_the_square_as_torch_has_them() -> None:
    x = images(3)
    found = [placed(x, way) for way in WAYS["square"]]
    for way, image in enumerate(found):
        peer = torch.rot90(torch.tensor(x), way % 4, (2, 3))
        assert np.array_equal(image, (peer.flip(3) if way >= 4 else peer).numpy())
    assert len({image.tobytes() for image in found}) == 8


@pytest.mark.parametrize("symmetry", ["mirror", "square"])
def test_each_row_lies_in_one_of_its_positions_and_all_are_about_equally_likely(
    symmetry: Symmetry,
) -> None:
    x, ways = images(1600), WAYS[symmetry]
    found = moved(x, symmetry, np.random.default_rng(0))
    allowed = np.stack([placed(x, way) for way in ways])
    which = (allowed == found).all(axis=(2, 3, 4))
    assert (which.sum(axis=0) == 1).all()
    expected = len(x) / len(ways)
    assert np.abs(which.sum(axis=1) - expected).max() < 5 * np.sqrt(expected)


def test_what_is_trained_on_one_way_is_known_whichever_way_it_lies() -> None:
    x, y = bars(200)
    for plan, knows in ((PLAN, False), (replace(SQUARE, epochs=20), True)):
        params = train(BACKEND, START, x, y, plan).params
        right = [
            float((BACKEND.infer(params, bars(200, way=way)[0]).argmax(1) == y).mean())
            for way in WAYS["square"]
        ]
        assert (min(right) > 0.9) is knows


def test_an_image_that_looks_the_same_from_everywhere_trains_to_the_last_bit_as_without() -> None:
    total = np.sum([placed(images(40), way) for way in WAYS["square"]], axis=0, dtype=np.float64)
    x: Images = np.round(total, 1).astype(np.float32)
    assert all(np.array_equal(placed(x, way), x) for way in WAYS["square"])
    y = np.arange(40) % 2
    one, other = (train(BACKEND, START, x, y, plan) for plan in (PLAN, SQUARE))
    assert np.array_equal(flatten(one.params), flatten(other.params))


def test_a_training_that_was_stopped_shows_the_images_that_it_would_have_shown() -> None:
    x, y = bars(60)
    whole = train(BACKEND, START, x, y, SQUARE)
    calls = count()
    first = train(BACKEND, START, x, y, SQUARE, should_stop=lambda: next(calls) >= 13)
    rest = train(BACKEND, START, x, y, SQUARE, checkpoint=first.checkpoint)
    assert np.array_equal(flatten(rest.params), flatten(whole.params))
    assert not np.array_equal(
        flatten(train(BACKEND, START, x, y, PLAN).params), flatten(whole.params)
    )


def test_rows_that_judge_lie_as_they_are() -> None:
    x, y = bars(60)
    result = train(BACKEND, START, x, y, SQUARE, held_out=(x, y))
    losses = example_losses(Loss.CROSS_ENTROPY, BACKEND.infer(START, x), y)
    assert result.held_out_start == pytest.approx(float(losses.mean()), rel=1e-6)
