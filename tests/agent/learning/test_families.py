"""The declared families against what PyTorch makes of the same words."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from agent.learning.families import autoencoder, cnn1d, cnn2d, mlp
from agent.learning.graph import Graph, initial_params, write_graph
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from tests.agent.learning.oracle import distance, run_in_torch, torch_losses

nn = torch.nn


def torch_cnn1d() -> torch.nn.Module:
    return nn.Sequential(
        nn.Conv1d(14, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(64, 64, 5, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7, 1),
    )


def torch_trends() -> torch.nn.Module:
    return nn.Sequential(
        nn.Conv1d(14, 16, 9, padding=4),
        nn.ReLU(),
        nn.AvgPool1d(10),
        nn.Conv1d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 3, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def torch_cnn2d() -> torch.nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 7),
    )


def torch_autoencoder() -> torch.nn.Module:
    return nn.Sequential(  # 30 samples become 15, 8, 4 and come back
        nn.Conv1d(14, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.ConvTranspose1d(16, 32, 5, stride=2, padding=2, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose1d(32, 32, 5, stride=2, padding=2, output_padding=0),
        nn.ReLU(),
        nn.ConvTranspose1d(32, 14, 5, stride=2, padding=2, output_padding=1),
    )


def torch_rows() -> torch.nn.Module:
    return nn.Sequential(
        nn.Linear(20, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
        nn.ReLU(),
        nn.Linear(4, 16),
        nn.ReLU(),
        nn.Linear(16, 20),
    )


def torch_mlp() -> torch.nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.ReLU(), nn.Linear(8, 3))


FAMILIES: dict[str, tuple[Graph, Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "mlp over windows": (mlp((6, 10), (8,), 3, seed=3), torch_mlp, (6, 10)),
    "cnn1d": (cnn1d(14, 30, 1, seed=3), torch_cnn1d, (14, 30)),
    "cnn1d of trends": (
        cnn1d(
            14,
            30,
            1,
            seed=3,
            widths=(16, 32),
            kernel=(9, 3),
            pool=10,
            pooling="average",
            hidden=(32,),
        ),
        torch_trends,
        (14, 30),
    ),
    "cnn2d": (cnn2d(2, 64, 64, 7, seed=3), torch_cnn2d, (2, 64, 64)),
    "autoencoder of windows": (autoencoder((14, 30), seed=3), torch_autoencoder, (14, 30)),
    "autoencoder of rows": (autoencoder((20,), seed=3, widths=(16, 4)), torch_rows, (20,)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_the_torch_model_of_the_same_words(family: str) -> None:
    graph, make, shape = FAMILIES[family]
    params = initial_params(graph)
    module = make()
    state = module.state_dict()
    assert [tuple(value.shape) for value in state.values()] == [
        value.shape for value in params.values()
    ]
    weights = [torch.tensor(value) for value in params.values()]
    module.load_state_dict(dict(zip(state, weights, strict=True)))
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
    expected = module(torch.tensor(x)).detach().numpy()
    got = OnnxRuntimeBackend(graph, Loss.MSE).infer(params, x)
    assert got.shape == expected.shape
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_weights_have_the_spread_of_torch_s(family: str) -> None:
    graph, make, _ = FAMILIES[family]
    torch.manual_seed(1)
    for (name, ours), theirs in zip(
        initial_params(graph).items(), make().parameters(), strict=True
    ):
        widest = float(theirs.detach().abs().max())
        if ours.size >= 200:
            assert float(np.abs(ours).max()) == pytest.approx(widest, rel=0.05), name
            assert float(ours.std()) == pytest.approx(float(theirs.std().detach()), rel=0.2), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_file_passes_the_official_checker(family: str) -> None:
    onnx.checker.check_model(write_graph(FAMILIES[family][0]), full_check=True)


def test_gradients_of_the_default_networks_are_torch_s() -> None:
    random = np.random.default_rng(1)
    for graph, shape, loss in (
        (cnn1d(14, 30, 1, seed=0), (14, 30), Loss.MSE),
        (cnn2d(2, 64, 64, 7, seed=0), (2, 64, 64), Loss.CROSS_ENTROPY),
    ):
        x = random.standard_normal((4, *shape)).astype(np.float32)
        y = random.integers(0, 7, 4) if loss is Loss.CROSS_ENTROPY else x[:, 0, :1]
        w = np.ones(4, np.float32)
        got_loss, got = OnnxRuntimeBackend(graph, loss).grads(initial_params(graph), x, y, w)
        output, params, _ = run_in_torch(graph, x, torch.float64)
        expected_loss = torch_losses(loss, output, y, w).mean()
        expected = torch.autograd.grad(expected_loss, list(params.values()))
        assert got_loss == pytest.approx(float(expected_loss.detach()), rel=1e-5)
        for one, theirs in zip(got.values(), expected, strict=True):
            # Looser than for an operator: rounding may decide at some of 100,000 Relus.
            assert distance(one, theirs.numpy()) <= 1e-3


def test_equal_seeds_give_equal_weights_and_others_give_others() -> None:
    first, again, other = (initial_params(cnn1d(3, 20, 2, seed=s)) for s in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_default_sizes_suit_a_microcontroller() -> None:
    for graph in (
        cnn1d(14, 30, 1, seed=0),
        cnn2d(2, 64, 64, 7, seed=0),
        autoencoder((14, 30), seed=0),
    ):
        count = sum(value.size for value in initial_params(graph).values())
        assert 10_000 <= count <= 60_000


def test_windows_too_short_to_halve_are_not_halved() -> None:
    for length in (1, 2, 3, 5):
        graph = cnn1d(2, length, 1, seed=0, widths=(3, 3, 3, 3), kernel=3)
        x = np.ones((2, 2, length), np.float32)
        assert OnnxRuntimeBackend(graph, Loss.MSE).infer(initial_params(graph), x).shape == (2, 1)
        back = autoencoder((2, length), seed=0, widths=(4, 3), kernel=3)
        rebuilt = OnnxRuntimeBackend(back, Loss.RECONSTRUCTION).infer(initial_params(back), x)
        assert rebuilt.shape == x.shape


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: mlp(0, (4,), 1, seed=0), "positive"),
        (lambda: mlp((3, 0), (4,), 1, seed=0), "positive"),
        (lambda: cnn1d(3, 20, 1, seed=0, widths=()), "width"),
        (lambda: cnn1d(3, 20, 1, seed=0, kernel=4), "odd"),
        (lambda: cnn1d(3, 20, 1, seed=0, kernel=(5, 3)), "2 kernels given for 3"),
        (lambda: cnn1d(3, 20, 1, seed=0, pool=0), "must be positive"),
        (lambda: cnn2d(3, 0, 8, 1, seed=0), "positive"),
        (lambda: autoencoder((2, 8, 8), seed=0), "rows or windows"),
    ],
)
def test_families_that_make_no_sense_are_refused(make: Callable[[], Graph], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()
