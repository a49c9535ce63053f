"""Training, optimizers and golden vectors, with the real runtime."""

import io
import math
import warnings
from dataclasses import replace
from itertools import count
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.families import mlp
from agent.learning.golden import (
    GoldenMismatch,
    check_golden,
    golden_tensors,
    make_golden,
    read_golden,
)
from agent.learning.graph import initial_params, read_graph
from agent.learning.losses import Loss
from agent.learning.noise import gaussian
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.optimizers import OptimizerName, optimizer_named
from agent.learning.params import flatten, unflatten
from agent.learning.train import TrainingDiverged, TrainingPlan, train

PLAN = TrainingPlan(epochs=5, batch_size=32, optimizer="adam", learning_rate=1e-2, seed=3)


@pytest.fixture(scope="module")
def backend() -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(mlp(2, (16,), 1, seed=0), Loss.BINARY_CROSS_ENTROPY)


START = initial_params(mlp(2, (16,), 1, seed=0))


def rows(number: int = 500) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.random.default_rng(0).standard_normal((number, 2)).astype(np.float32)
    return x, (x[:, :1] * x[:, 1:] > 0).astype(np.float32)


def test_training_learns_exclusive_or(backend: OnnxRuntimeBackend) -> None:
    x, y = rows()
    result = train(backend, START, x, y, replace(PLAN, epochs=30))
    right = (backend.infer(result.params, x) > 0) == (y > 0.5)
    assert right.mean() > 0.95
    assert result.loss_last_epoch < 0.5 * result.loss_first_epoch
    assert (result.steps, result.examples, result.stopped) == (30 * 16, 30 * 500, False)


def test_training_is_deterministic_by_seed_and_leaves_its_start_alone(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows()
    before = flatten(START)
    first = train(backend, START, x, y, PLAN)
    again = train(
        OnnxRuntimeBackend(mlp(2, (16,), 1, seed=0), Loss.BINARY_CROSS_ENTROPY), START, x, y, PLAN
    )
    other = train(backend, START, x, y, replace(PLAN, seed=4))
    assert np.array_equal(flatten(first.params), flatten(again.params))
    assert not np.array_equal(flatten(first.params), flatten(other.params))
    assert np.array_equal(before, flatten(START))


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_optimizers_walk_the_path_of_torch(name: OptimizerName) -> None:
    random = np.random.default_rng(1)
    vector = random.standard_normal(20).astype(np.float32)
    weights = torch.tensor(vector.copy(), requires_grad=True)
    peer: torch.optim.Optimizer = torch.optim.Adam([weights], lr=0.1)
    if name != "adam":
        peer = torch.optim.SGD([weights], lr=0.1, momentum=0.9 if name == "momentum" else 0.0)
    optimizer = optimizer_named(name, 0.1)
    state = optimizer.init(vector)
    for _ in range(50):
        gradient = random.standard_normal(20).astype(np.float32)
        state, vector = optimizer.apply(gradient, state, vector)
        weights.grad = torch.tensor(gradient)
        peer.step()
    assert np.allclose(vector, weights.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_stop_is_obeyed_between_steps(backend: OnnxRuntimeBackend) -> None:
    calls = count()
    result = train(backend, START, *rows(), PLAN, should_stop=lambda: next(calls) >= 7)
    assert result.stopped
    assert result.steps == 7
    at_once = train(backend, START, *rows(), PLAN, should_stop=lambda: True)
    assert at_once.steps == 0
    assert math.isnan(at_once.loss_first_epoch)
    assert np.array_equal(flatten(at_once.params), flatten(START))


def test_a_proximal_term_keeps_parameters_near_the_start(backend: OnnxRuntimeBackend) -> None:
    def distance(proximal: float) -> float:
        plan = replace(PLAN, optimizer="sgd", learning_rate=0.1, proximal=proximal)
        moved = flatten(train(backend, START, *rows(), plan).params) - flatten(START)
        return float(np.linalg.norm(moved))

    assert distance(5.0) < 0.5 * distance(0.0)


def test_the_tail_mean_is_the_mean_of_the_last_steps(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(32)
    plan = replace(PLAN, batch_size=32, epochs=4, average_tail=0.5)
    ends = [
        flatten(train(backend, START, x, y, replace(plan, epochs=e, average_tail=0.0)).params)
        for e in (3, 4)
    ]
    got = flatten(train(backend, START, x, y, plan).params)
    assert np.allclose(got, np.mean(ends, axis=0), atol=1e-7)


def test_class_weights_weigh_rows_with_label_one(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(64)
    plan = replace(PLAN, epochs=1, batch_size=64, optimizer="sgd", class_weights=(1.0, 4.0))
    order = np.random.default_rng(plan.seed).permutation(64)
    weights = np.where(y[order, 0] > 0, 4, 1).astype(np.float32)
    _, gradient = backend.grads(START, x[order], y[order], weights)
    moved = flatten(train(backend, START, x, y, plan).params) - flatten(START)
    assert np.allclose(moved, -1e-2 * flatten(gradient), atol=1e-6)


def test_classes_and_examples_weigh_together(backend: OnnxRuntimeBackend) -> None:
    model = mlp(2, (), 3, seed=0)
    classes, start = OnnxRuntimeBackend(model, Loss.CROSS_ENTROPY), initial_params(model)
    x, _ = rows(30)
    y = np.arange(30) % 3
    plan = replace(PLAN, epochs=1, batch_size=30, optimizer="sgd", class_weights=(1.0, 2.0, 5.0))
    own = np.linspace(0.5, 2, 30, dtype=np.float32)
    order = np.random.default_rng(plan.seed).permutation(30)
    weights = np.array([1, 2, 5], np.float32)[y] * own
    _, gradient = classes.grads(start, x[order], y[order], weights[order])
    moved = flatten(train(classes, start, x, y, plan, example_weights=own).params) - flatten(start)
    assert np.allclose(moved, -1e-2 * flatten(gradient), atol=1e-6)
    with pytest.raises(ValueError, match="2 given, the model has 3 classes"):
        train(classes, start, x, y, replace(plan, class_weights=(1.0, 2.0)))
    with pytest.raises(ValueError, match="label 3"):
        train(classes, start, x, y + 1, plan)
    with pytest.raises(ValueError, match="3 given, need those of labels 0 and 1"):
        train(backend, START, *rows(30), plan)
    with pytest.raises(ValueError, match="no meaning for loss mse"):
        train(OnnxRuntimeBackend(model, Loss.MSE), start, x, np.zeros((30, 3), np.float32), plan)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, np.nan])
def test_an_example_weight_that_weighs_nothing_is_named(
    backend: OnnxRuntimeBackend, weight: float
) -> None:
    weights = np.ones(10, np.float32)
    weights[7] = weight
    with pytest.raises(ValueError, match="of row 7 is not positive"):
        train(backend, START, *rows(10), PLAN, example_weights=weights)
    with pytest.raises(ValueError, match=r"float64 \(9,\), need \(10,\)"):
        train(backend, START, *rows(10), PLAN, example_weights=np.ones(9))  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", list(Loss))
def test_the_held_out_loss_is_the_one_that_is_trained(loss: Loss) -> None:
    width = 3 if loss is Loss.CROSS_ENTROPY else 1
    model = mlp(2, (4,), 2 if loss is Loss.RECONSTRUCTION else width, seed=0)
    judge, start = OnnxRuntimeBackend(model, loss), initial_params(model)
    x, signs = rows(50)
    labels: dict[Loss, NDArray[Any]] = {
        Loss.BINARY_CROSS_ENTROPY: signs,
        Loss.CROSS_ENTROPY: signs[:, 0].astype(np.int64),
        Loss.RECONSTRUCTION: signs[:, :0],
    }
    y = labels.get(loss, 4 * signs)
    weighted = loss in (Loss.BINARY_CROSS_ENTROPY, Loss.CROSS_ENTROPY)
    weights = (1.0, 4.0, 1.0)[: 2 if width == 1 else 3] if weighted else ()
    plan = replace(PLAN, epochs=2, class_weights=weights)
    result = train(judge, start, x[:40], y[:40], plan, held_out=(x[40:], y[40:]))
    w = np.where(signs[40:, 0] > 0, 4 if weighted else 1, 1).astype(np.float32)
    before, _ = judge.grads(start, x[40:], y[40:], w)
    after, _ = judge.grads(result.params, x[40:], y[40:], w)
    assert math.isclose(result.held_out_start, before, rel_tol=1e-5)
    assert (result.epochs, result.best_epoch) == (2, 2)
    assert math.isclose(result.held_out_best, after, rel_tol=1e-5)


def test_training_ends_when_held_out_rows_stop_improving_and_gives_the_best_epoch(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows(330)
    few, judges = (
        (x[:30], np.where(np.arange(30)[:, None] < 6, 1 - y[:30], y[:30])),
        (x[30:], y[30:]),
    )
    plan = replace(PLAN, batch_size=8, learning_rate=0.05)
    ends = [train(backend, START, *few, replace(plan, epochs=at)).params for at in range(1, 25)]
    ones = np.ones(300, np.float32)
    losses = [backend.grads(START, *judges, ones)[0]]
    losses += [backend.grads(params, *judges, ones)[0] for params in ends]
    waited = [at - int(np.argmin(losses[: at + 1])) for at in range(len(losses))]
    last = waited.index(3)
    best = int(np.argmin(losses[: last + 1]))
    result = train(backend, START, *few, replace(plan, epochs=24, patience=3), held_out=judges)
    assert 0 < best < last < 24
    assert (result.best_epoch, result.epochs, result.stopped) == (best, last, False)
    assert np.array_equal(flatten(result.params), flatten(ends[best - 1]))
    assert math.isclose(result.held_out_best, losses[best], rel_tol=1e-5)


def test_a_training_that_only_gets_worse_gives_its_start_back(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows(60)
    better = train(backend, START, x, y, replace(PLAN, epochs=30)).params
    plan = replace(PLAN, patience=2, epochs=50)
    result = train(backend, better, x, 1 - y, plan, held_out=(x, y))
    assert (result.best_epoch, result.epochs) == (0, 2)
    assert np.array_equal(flatten(result.params), flatten(better))
    assert result.held_out_best == result.held_out_start


def test_held_out_rows_without_patience_only_watch(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(60)
    watched = train(backend, START, x, y, PLAN, held_out=rows(20))
    assert np.array_equal(
        flatten(watched.params), flatten(train(backend, START, x, y, PLAN).params)
    )
    assert watched.best_epoch > 0
    assert math.isnan(train(backend, START, x, y, PLAN).held_out_best)


def test_a_clipped_step_is_the_clipped_sum_over_the_planned_batch(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows(20)
    plan = replace(PLAN, epochs=1, batch_size=32, optimizer="sgd", clip_norm=0.3)
    one = np.ones(1, np.float32)
    total = np.zeros(flatten(START).shape)
    for at in range(20):
        _, gradient = backend.grads(START, x[at : at + 1], y[at : at + 1], one)
        g = flatten(gradient).astype(np.float64)
        total += g * min(1.0, 0.3 / float(np.linalg.norm(g)))
    result = train(backend, START, x, y, plan)
    moved = flatten(result.params) - flatten(START)
    assert np.allclose(moved, -1e-2 * total / 32, atol=1e-7)
    assert math.isnan(result.loss_first_epoch)
    watched = train(backend, START, x, y, plan, held_out=(x, y))
    assert watched.held_out_best < watched.held_out_start


def test_noise_of_the_planned_size_is_added_to_every_step_and_has_no_seed(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows(16)
    plan = replace(PLAN, epochs=1, batch_size=16, optimizer="sgd", learning_rate=1.0, clip_norm=0.5)
    quiet = flatten(train(backend, START, x, y, plan).params)
    loud = replace(plan, noise_multiplier=8.0)
    noise = np.concatenate(
        [flatten(train(backend, START, x, y, loud).params) - quiet for _ in range(40)]
    )
    expected = 8.0 * 0.5 / 16
    # The standard deviation of a standard deviation is its size over sqrt(2 n).
    assert abs(noise.std() / expected - 1) < 6 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 6 * expected / np.sqrt(noise.size)
    assert np.unique(noise.round(6)).size > 0.9 * noise.size


@given(st.integers(0, 999), st.floats(0, 100))
def test_noise_is_as_many_finite_values_as_asked_for(count: int, deviation: float) -> None:
    noise = gaussian(count, deviation)
    assert noise.shape == (count,)
    assert np.isfinite(noise).all()
    assert np.abs(noise).max(initial=0) <= 8.6 * deviation


def test_noise_is_normal_and_bytes_alone_decide_it() -> None:
    noise = gaussian(200_000, 2.0)
    edges = np.array([NormalDist(0, 2).inv_cdf(at / 20) for at in range(1, 20)])
    counts = np.bincount(np.searchsorted(edges, noise), minlength=20)
    chi_squared = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi_squared < 72  # 19 degrees of freedom: once in 3e7 runs
    assert abs(np.corrcoef(noise[:100_000], noise[100_000:])[0, 1]) < 6 / np.sqrt(100_000)
    assert gaussian(4, 1.0, lambda size: b"\xff" * size).max() < 1e-6
    extreme = gaussian(2, 1.0, bytes)  # zeros: the smallest uniform
    assert extreme[0] == pytest.approx(math.sqrt(2 * 53 * math.log(2)))


def test_the_learning_rate_goes_linearly_to_the_last_one_epoch_by_epoch(
    backend: OnnxRuntimeBackend,
) -> None:
    x, y = rows(32)
    falling = replace(
        PLAN, epochs=3, batch_size=32, optimizer="sgd", learning_rate=0.3, last_learning_rate=0.1
    )
    vector = flatten(START)
    params = START
    for rate in (0.3, 0.2, 0.1):  # one batch holds all rows, so their order does not matter
        _, gradient = backend.grads(params, x, y, np.ones(32, np.float32))
        vector = vector - np.float32(rate) * flatten(gradient)
        params = unflatten(vector, START)
    got = flatten(train(backend, START, x, y, falling).params)
    assert np.allclose(got, vector, atol=1e-6)


def test_divergence_is_an_error_and_not_a_result(backend: OnnxRuntimeBackend) -> None:
    x, y = rows()
    with pytest.raises(TrainingDiverged):
        train(backend, START, x, y, replace(PLAN, optimizer="sgd", learning_rate=1e30))
    x[3, 1] = np.nan
    with pytest.raises(TrainingDiverged, match="the loss is nan at step"):
        train(backend, START, x, y, PLAN)


def test_what_does_not_fit_is_refused(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(10)
    with pytest.raises(ValueError, match="10 rows and 9 labels"):
        train(backend, START, x, y[:9], PLAN)
    with pytest.raises(ValueError, match="labels must lie"):
        train(backend, START, x, y * 2, PLAN)
    with pytest.raises(ValueError, match="'x' is float64"):
        train(backend, START, x.astype(np.float64), y, PLAN)
    with pytest.raises(ValueError, match="learning_rate = nan"):
        replace(PLAN, learning_rate=math.nan)
    with pytest.raises(ValueError, match=r"class_weights = \(1.0, 0.0\)"):
        replace(PLAN, class_weights=(1.0, 0.0))
    with pytest.raises(ValueError, match="exclude each other"):
        replace(PLAN, patience=1, average_tail=0.5)
    with pytest.raises(ValueError, match="needs a clip_norm"):
        replace(PLAN, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="needs held-out rows"):
        train(backend, START, x, y, replace(PLAN, patience=1))
    with pytest.raises(ValueError, match=r"labels are \(10, 2\)"):
        train(backend, START, x, y, PLAN, held_out=(x, np.zeros((10, 2), np.float32)))
    shuffled = dict(reversed(START.items()))
    with pytest.raises(ValueError, match="expected"):
        train(backend, shuffled, x, y, PLAN)
    classes = OnnxRuntimeBackend(mlp(2, (), 3, seed=0), Loss.CROSS_ENTROPY)
    with pytest.raises(ValueError, match="label 3"):
        train(classes, initial_params(mlp(2, (), 3, seed=0)), x, np.full(10, 3), PLAN)


def exported_mlp() -> tuple[bytes, torch.nn.Sequential]:
    """Export a PyTorch MLP by the TorchScript exporter, which needs no further package."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    )
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (torch.zeros(3, 2, 2),),
            file,
            dynamo=False,
            opset_version=18,
            input_names=["input"],
            dynamic_axes={"input": {0: "batch"}},
        )
    return file.getvalue(), net


def test_a_model_exported_by_pytorch_is_read_agrees_and_trains() -> None:
    data, net = exported_mlp()
    forward = read_graph(data)
    backend = OnnxRuntimeBackend(forward, Loss.CROSS_ENTROPY)
    params = initial_params(forward)
    x = np.random.default_rng(0).standard_normal((200, 2, 2)).astype(np.float32)
    y = (x[:, 0, 0] > 0).astype(np.int64) + 2 * (x[:, 0, 1] > 0)
    assert list(params) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    expected = net(torch.tensor(x)).detach().numpy()
    assert np.allclose(backend.infer(params, x), expected, atol=1e-5)
    result = train(backend, params, x, y, replace(PLAN, epochs=30))
    assert (backend.infer(result.params, x).argmax(1) == y).mean() > 0.9


def test_golden_vectors_hold_here_and_survive_their_file(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(8)
    golden = read_golden(golden_tensors(make_golden(backend, START, x, y)))
    check_golden(backend, START, golden, 1e-5)
    assert set(golden.grad_norms) == set(START)


@pytest.mark.parametrize("what", ["output", "loss", "grad_norm:dense0.bias", "x"])
def test_a_changed_golden_vector_is_noticed(backend: OnnxRuntimeBackend, what: str) -> None:
    tensors = golden_tensors(make_golden(backend, START, *rows(8)))
    tensors[what] = tensors[what] + np.float32(0.5)
    with pytest.raises(GoldenMismatch):
        check_golden(backend, START, read_golden(tensors), 1e-3)
    tensors[what] = np.full_like(tensors[what], np.inf)
    with pytest.raises(GoldenMismatch):
        check_golden(backend, START, read_golden(tensors), 1e-3)


def test_golden_files_with_missing_or_misfitting_tensors_are_refused(
    backend: OnnxRuntimeBackend,
) -> None:
    tensors = golden_tensors(make_golden(backend, START, *rows(8)))
    with pytest.raises(GoldenMismatch, match="'loss'"):
        read_golden({name: value for name, value in tensors.items() if name != "loss"})
    tensors["x"] = np.zeros((8, 5), np.float32)
    with pytest.raises(GoldenMismatch, match="rows"):
        check_golden(backend, START, read_golden(tensors), 1e-3)
