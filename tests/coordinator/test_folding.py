"""Folding, server optimizers and the average: exact numbers, in any order of arrival."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregate import MAX_WEIGHT_SUM, Buffer, empty, fold, mean_delta
from coordinator.average import add_version
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer

DELTAS = [np.random.default_rng(at).integers(-127, 128, 6).astype(np.int8) for at in range(8)]
WEIGHTS = [1, 5, 1000, 7, 1 << 20, 3, 64, 2]


def folded(order: list[int]) -> Buffer:
    buffer = empty(6)
    for at in order:
        buffer = fold(buffer, DELTAS[at], WEIGHTS[at], f"agent-{at}")
    return buffer


@given(st.permutations(range(8)))
def test_the_order_of_arrival_can_not_change_the_mean_delta(order: list[int]) -> None:
    assert (
        mean_delta(folded(order), 1e-3).tobytes() == mean_delta(folded([*range(8)]), 1e-3).tobytes()
    )


def test_folding_leaves_the_buffer_before_as_it_was() -> None:
    before = folded([0, 1])
    total = before.total.copy()
    after = fold(before, DELTAS[2], 4, "agent-2")
    assert np.array_equal(before.total, total)
    assert (before.members, after.members, after.agents[-1]) == (2, 3, "agent-2")


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_the_extremes_of_the_integers_add_without_wrapping(dtype: type[np.signedinteger]) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    weight = 1 << 20
    buffer = empty(2)
    for _ in range(300):
        buffer = fold(buffer, np.array([low, high], dtype), weight, "press-1")
    assert buffer.total.tolist() == [low * weight * 300, high * weight * 300]
    assert mean_delta(buffer, 1.0) == pytest.approx([low, high], rel=1e-15)


def test_the_largest_weights_that_are_let_in_fit_the_accumulator() -> None:
    buffer = fold(empty(1), np.array([-(1 << 15)], np.int16), MAX_WEIGHT_SUM, "press-1")
    assert buffer.total.tolist() == [-(1 << 15) * MAX_WEIGHT_SUM]


def test_weights_that_could_overflow_are_refused_before_anything_is_added() -> None:
    buffer = fold(empty(1), np.array([1], np.int8), MAX_WEIGHT_SUM, "press-1")
    with pytest.raises(OverflowError, match="lower weight_cap"):
        fold(buffer, np.array([1], np.int8), 1, "press-2")


def test_the_mean_delta_is_the_weighted_mean_of_the_deltas() -> None:
    scale = 2**-7
    mean = mean_delta(folded([*range(8)]), scale)
    exact = [
        sum(Fraction(int(DELTAS[at][p])) * WEIGHTS[at] for at in range(8)) / sum(WEIGHTS)
        for p in range(6)
    ]
    assert mean == pytest.approx([float(value) * scale for value in exact], rel=1e-15)


# Server optimizers


def reference(
    name: str, deltas: list[list[float]], start: list[float], lr: float, momentum: float
) -> list[float]:
    """The same rules in plain Python floats, which are float64; parameters round to float32."""
    beta2, epsilon = 0.99, 1e-3
    params, first, second = list(start), [0.0] * len(start), [0.0] * len(start)
    for delta in deltas:
        for at, value in enumerate(delta):
            if name == "sgd":
                step = lr * value
            elif name == "momentum":
                first[at] = momentum * first[at] + value
                step = lr * first[at]
            else:
                first[at] = momentum * first[at] + (1 - momentum) * value
                second[at] = beta2 * second[at] + (1 - beta2) * value * value
                step = lr * first[at] / (second[at] ** 0.5 + epsilon)
            params[at] = float(np.float32(params[at] + step))
    return params


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_a_server_optimizer_gives_the_numbers_of_its_published_rule(name: str) -> None:
    rng = np.random.default_rng(3)
    deltas = rng.normal(0, 0.1, (20, 5))
    params = rng.normal(0, 1, 5).astype(np.float32)
    start = params.tolist()
    optimizer = make_server_optimizer(
        ServerOptimizerSettings(name=name, learning_rate=0.7, momentum=0.8)  # type: ignore[arg-type]
    )
    state = optimizer.init(5)
    for delta in deltas:
        state, params = optimizer.apply(delta, state, params)
    assert params.dtype == np.float32
    assert params.tolist() == reference(name, deltas.tolist(), start, 0.7, 0.8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_is_the_one_of_torch(momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="run tests/install.sh for the oracle")
    deltas = np.random.default_rng(4).normal(0, 1, (15, 3))
    oracle = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([oracle], lr=0.5, momentum=momentum)
    optimizer = make_server_optimizer(
        ServerOptimizerSettings(name="momentum", learning_rate=0.5, momentum=momentum)
    )
    state, params = optimizer.init(3), np.zeros(3, np.float32)
    for delta in deltas:
        oracle.grad = torch.from_numpy(-delta)  # torch descends, a delta points where to go
        theirs.step()
        state, params = optimizer.apply(delta, state, params)
    assert params == pytest.approx(oracle.detach().numpy(), rel=1e-5)


def test_applying_changes_neither_state_nor_params_in_place() -> None:
    optimizer = make_server_optimizer(ServerOptimizerSettings(name="adam"))
    state, params = optimizer.init(3), np.ones(3, np.float32)
    optimizer.apply(np.ones(3), state, params)
    assert not state.any()
    assert params.tolist() == [1, 1, 1]


# The average


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
