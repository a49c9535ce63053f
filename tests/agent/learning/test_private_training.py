"""Training that hides examples: clipped after the weights, noised, in batches drawn in secret."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.learning.families import mlp
from agent.learning.graph import initial_params
from agent.learning.losses import Loss
from agent.learning.noise import poisson_batch
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.params import flatten
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Rows
from agent.learning.train import Training, train

GRAPH = mlp(3, (5,), 1, seed=4)
START = initial_params(GRAPH)
PLAN = TrainingPlan(
    epochs=1, batch_size=8, optimizer="sgd", learning_rate=1.0, clip_norm=0.5, noise_multiplier=1.0
)
Vector = NDArray[np.float64]


@pytest.fixture(scope="module")
def backend() -> NumpyBackend:
    return NumpyBackend(GRAPH, Loss.BINARY_CROSS_ENTROPY)


def rows(number: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, 3)).astype(np.float32)
    return x, (rng.random((number, 1)) < 0.5).astype(np.float32)


def moved(backend: NumpyBackend, plan: TrainingPlan, number: int) -> Vector:
    x, y = rows(number)
    result = train(backend, START, x, y, plan)
    return flatten(result.params).astype(np.float64) - flatten(START)


def clipped(
    backend: NumpyBackend, weights: NDArray[np.float32], number: int, norm: float
) -> Vector:
    """Each example's weighted gradient, clipped one by one, from gradients of single rows."""
    x, y = rows(number)
    found = []
    one = np.ones(1, np.float32)
    for at in range(number):
        _, gradient = backend.grads(START, x[at : at + 1], y[at : at + 1], one)
        g = flatten(gradient).astype(np.float64) * weights[at]
        found.append(g * min(1.0, norm / float(np.linalg.norm(g))))
    return np.array(found)


def test_a_gradient_is_clipped_after_its_weight_so_that_no_class_counts_more_than_the_clip(
    backend: NumpyBackend,
) -> None:
    heavy = (1.0, 50.0)
    plan = replace(PLAN, batch_size=20, class_weights=heavy, noise_multiplier=0.0)
    weights = np.where(rows(20)[1].ravel() > 0, heavy[1], heavy[0]).astype(np.float32)
    examples = clipped(backend, weights, 20, 0.5)
    assert np.linalg.norm(examples, axis=1).max() <= 0.5 + 1e-9
    assert np.allclose(moved(backend, plan, 20), -examples.sum(axis=0) / 20, atol=1e-6)


def test_a_full_batch_step_is_the_clipped_sum_and_noise_over_the_rows(
    backend: NumpyBackend,
) -> None:
    plan = replace(PLAN, batch_size=64)  # more than there are
    expected = -clipped(backend, np.ones(20, np.float32), 20, 0.5).sum(axis=0) / 20
    noise = np.array([moved(backend, plan, 20) - expected for _ in range(150)])
    deviation = 0.5 / 20
    assert abs(noise.std() / deviation - 1) < 6 / np.sqrt(2 * noise.size)
    assert np.abs(noise.mean(axis=0)).max() < 6 * deviation / np.sqrt(150)
    assert len(np.unique(noise[:, 0])) == 150


def test_a_sampled_step_is_on_average_the_clipped_sum_times_the_rate(backend: NumpyBackend) -> None:
    plan = replace(PLAN, batch_size=5, noise_multiplier=1e-6)
    examples = clipped(backend, np.ones(20, np.float32), 20, 0.5)
    taken = []
    for _ in range(600):
        training = Training(backend, START, Rows(*rows(20), np.ones(20, np.float32)), plan)
        training.step()  # one of four
        taken.append(flatten(training.result().params).astype(np.float64) - flatten(START))
    steps = np.array(taken)
    rate = 5 / 20
    mean = -rate * examples.sum(axis=0) / 5
    deviation = np.sqrt(rate * (1 - rate) * np.square(examples).sum(axis=0)) / 5
    assert (np.abs(steps.mean(axis=0) - mean) < 6 * deviation / np.sqrt(600) + 1e-6).all()
    assert np.allclose(steps.std(axis=0), deviation, rtol=0.35, atol=1e-6)


def test_a_batch_that_drew_nobody_is_a_step_of_noise_alone(
    backend: NumpyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(count: int, rate: float) -> NDArray[np.intp]:
        assert (count, rate) == (24, 8 / 24)
        return np.zeros(0, np.intp)

    monkeypatch.setattr("agent.learning.train.poisson_batch", nobody)
    steps = np.array([moved(backend, PLAN, 8 * 3) for _ in range(60)])
    expected = 0.5 / 8 * np.sqrt(3)  # of three steps
    assert abs(steps.std() / expected - 1) < 6 / np.sqrt(2 * steps.size)


def test_an_epoch_has_as_many_steps_and_its_rows_differ_each_time(backend: NumpyBackend) -> None:
    x, y = rows(100)
    results = [train(backend, START, x, y, replace(PLAN, epochs=4)) for _ in range(30)]
    assert {result.steps for result in results} == {4 * 13}
    seen = np.array([result.examples for result in results])
    assert len(set(seen)) > 5
    expected, deviation = 4 * 13 * 8, np.sqrt(4 * 13 * 8 * 0.92)
    assert abs(seen.mean() - expected) < 6 * deviation / np.sqrt(30)


def test_a_training_goes_on_from_its_checkpoint_with_new_noise(backend: NumpyBackend) -> None:
    x, y = rows(40)
    checkpoints = []
    stopped = train(
        backend,
        START,
        x,
        y,
        PLAN,
        on_step=lambda training: checkpoints.append(training.checkpoint()),
        should_stop=lambda: len(checkpoints) == 2,
    )
    assert stopped.stopped
    ends = [train(backend, START, x, y, PLAN, checkpoint=checkpoints[-1]) for _ in range(2)]
    assert [end.steps for end in ends] == [5, 5]
    assert not np.array_equal(flatten(ends[0].params), flatten(ends[1].params))


def test_noise_and_waiting_for_held_out_rows_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="noise_multiplier and patience"):
        replace(PLAN, patience=2)


@pytest.mark.parametrize(("count", "rate"), [(200, 0.05), (50, 0.6), (7, 0.999), (1000, 0.001)])
def test_a_poisson_batch_takes_each_row_by_itself_with_its_rate(count: int, rate: float) -> None:
    draws = 3000
    hits = np.zeros((draws, count), bool)
    for draw in range(draws):
        batch = poisson_batch(count, rate)
        assert (np.diff(batch) > 0).all()
        hits[draw, batch] = True
    by_row = hits.sum(axis=0)
    deviation = np.sqrt(draws * rate * (1 - rate))
    assert np.abs(by_row - draws * rate).max() < 6 * deviation
    sizes = hits.sum(axis=1)
    variance = count * rate * (1 - rate)
    kurtosis = 3 + (1 - 6 * rate * (1 - rate)) / variance  # of a binomial number
    assert abs(sizes.var() / variance - 1) < 6 * np.sqrt((kurtosis - 1) / draws)
    together = (hits[:, :-1] & hits[:, 1:]).sum()
    pairs = draws * (count - 1) * rate**2
    assert abs(together - pairs) < 8 * np.sqrt(pairs + 4 * pairs * count * rate) + 8


def test_a_poisson_batch_is_decided_by_the_random_bytes_alone() -> None:
    low = poisson_batch(9, 0.5, bytes)  # zeros: the smallest uniform, the longest gap
    assert len(low) == 0
    high = poisson_batch(9, 0.5, lambda size: b"\xff" * size)
    assert list(high) == list(range(9))
    assert len(poisson_batch(0, 0.5)) == 0
