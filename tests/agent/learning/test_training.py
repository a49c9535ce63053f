"""Training, optimizers and golden vectors, with the real runtime."""

import io
import math
import warnings
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agent.learning.backend import OnnxRuntimeBackend
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


def test_positive_weight_weighs_rows_with_label_one(backend: OnnxRuntimeBackend) -> None:
    x, y = rows(64)
    plan = replace(PLAN, epochs=1, batch_size=64, optimizer="sgd", positive_weight=4.0)
    order = np.random.default_rng(plan.seed).permutation(64)
    weights = np.where(y[order, 0] > 0, 4, 1).astype(np.float32)
    _, gradient = backend.grads(START, x[order], y[order], weights)
    moved = flatten(train(backend, START, x, y, plan).params) - flatten(START)
    assert np.allclose(moved, -1e-2 * flatten(gradient), atol=1e-6)


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
