"""Server optimizers: the numbers of their published rules.

Reddi et al., "Adaptive Federated Optimization", arXiv:2003.00295, algorithm 2; by hand, in plain
Python, and against PyTorch's where it has the same rule.
"""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer

ADAPTIVE = {"learning_rate": 0.5, "momentum": 0.5, "beta2": 0.75, "epsilon": 0.25}


def applied(
    deltas: list[list[float]] | NDArray[np.float64], start: list[float], **settings: Any
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """State and parameters after these mean deltas."""
    optimizer = make_server_optimizer(ServerOptimizerSettings(**settings))
    state, params = optimizer.init(len(start)), np.array(start, np.float32)
    for delta in deltas:
        state, params = optimizer.apply(np.array(delta, np.float64), state, params)
    return state, params


def reference(
    name: str, deltas: list[list[float]], start: list[float], lr: float, momentum: float
) -> list[float]:
    """The same rules in plain Python floats, which are float64; parameters round to float32."""
    beta2, epsilon = 0.99, 1e-3
    params, first, second = list(start), [0.0] * len(start), [0.0] * len(start)
    for delta in deltas:
        for at, value in enumerate(delta):
            square = value * value
            if name == "sgd":
                step = lr * value
            elif name == "momentum":
                first[at] = momentum * first[at] + value
                step = lr * first[at]
            else:
                first[at] = momentum * first[at] + (1 - momentum) * value
                if name == "adam":
                    second[at] = beta2 * second[at] + (1 - beta2) * square
                else:
                    sign = (second[at] > square) - (second[at] < square)
                    second[at] = second[at] - (1 - beta2) * square * sign
                step = lr * first[at] / (second[at] ** 0.5 + epsilon)
            params[at] = float(np.float32(params[at] + step))
    return params


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "yogi"])
def test_a_server_optimizer_gives_the_numbers_of_its_published_rule(name: str) -> None:
    rng = np.random.default_rng(3)
    deltas = rng.normal(0, 0.1, (20, 5)) * rng.choice([1.0, 0.01], (20, 1))
    start = rng.normal(0, 1, 5).astype(np.float32).tolist()
    _, params = applied(deltas, start, name=name, learning_rate=0.7, momentum=0.8)
    assert params.dtype == np.float32
    assert params.tolist() == reference(name, deltas.tolist(), start, 0.7, 0.8)


def test_sgd_at_rate_one_adds_the_mean_delta() -> None:
    _, params = applied([[0.5, -1.0], [0.25, 4.0]], [1.0, 2.0], name="sgd")
    assert params.tolist() == [1.75, 5.0]


def test_momentum_by_hand() -> None:
    # v: 1, 1/2 + 2 = 5/2, 5/4 - 1 = 1/4; params: 0 + 2 (1 + 5/2 + 1/4).
    settings = {"name": "momentum", "learning_rate": 2.0, "momentum": 0.5}
    state, params = applied([[1.0], [2.0], [-1.0]], [0.0], **settings)
    assert (state.tolist(), params.tolist()) == ([[0.25]], [7.5])


def test_adam_by_hand() -> None:
    # m: 1, 1; v: 4/4 = 1, 3/4 + 1/4 = 1; each step 1/2 * 1 / (1 + 1/4) = 0.4.
    state, params = applied([[2.0], [1.0]], [0.0], name="adam", **ADAPTIVE)
    assert state.tolist() == [[1.0], [1.0]]
    assert params.tolist() == [float(np.float32(np.float32(0.4) + 0.4))]


def test_yogi_by_hand_grows_to_a_large_square_and_shrinks_by_a_small_one() -> None:
    # v: 0 -> 0 + 16/4 = 4 (0 < 16) -> 4 - 1/4 (4 > 1) -> and stays where the square is v itself.
    state, _ = applied([[4.0]], [0.0], name="yogi", **ADAPTIVE)
    assert state[1].tolist() == [4.0]
    state, _ = applied([[4.0], [1.0]], [0.0], name="yogi", **ADAPTIVE)
    assert state[1].tolist() == [3.75]
    state, params = applied([[4.0], [2.0]], [0.0], name="yogi", **ADAPTIVE)
    assert state.tolist() == [[2.0], [4.0]]
    first, second = 0.5 * 2 / 2.25, 0.5 * 2 / 2.25
    assert params.tolist() == [float(np.float32(np.float32(first) + second))]


def test_yogi_forgets_a_burst_more_slowly_than_adam() -> None:
    deltas = [[8.0], *([[0.5]] * 6)]
    yogi, _ = applied(deltas, [0.0], name="yogi", **ADAPTIVE)
    adam, _ = applied(deltas, [0.0], name="adam", **ADAPTIVE)
    assert math.isclose(yogi[1, 0], 16.0 - 6 * 0.25 * 0.25)
    assert adam[1, 0] < yogi[1, 0] / 4


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_is_the_one_of_torch(momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="run tests/install.sh for the oracle")
    deltas = np.random.default_rng(4).normal(0, 1, (15, 3))
    oracle = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([oracle], lr=0.5, momentum=momentum)
    for delta in deltas:
        oracle.grad = torch.from_numpy(-delta)  # torch descends, a delta points where to go
        theirs.step()
    settings = {"name": "momentum", "learning_rate": 0.5, "momentum": momentum}
    _, params = applied(deltas, [0.0] * 3, **settings)
    assert params == pytest.approx(oracle.detach().numpy(), rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "yogi"])
def test_applying_changes_neither_state_nor_params_in_place(name: str) -> None:
    settings = ServerOptimizerSettings(name=name)  # type: ignore[arg-type]
    optimizer = make_server_optimizer(settings)
    state, params = optimizer.init(3), np.ones(3, np.float32)
    optimizer.apply(np.ones(3), state, params)
    assert not state.any()
    assert params.tolist() == [1, 1, 1]
