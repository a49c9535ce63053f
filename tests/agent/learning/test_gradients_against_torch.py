"""Gradients of random forward graphs against PyTorch in float64, the oracle.

The conformance suite of the backends: each test judges all of them on the same problem.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.derive import (
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
)
from agent.learning.families import mlp
from agent.learning.graph import (
    Graph,
    Node,
    Params,
    ValueInfo,
    initial_params,
    write_graph,
)
from agent.learning.losses import Loss, example_losses
from agent.learning.params import flatten
from tests.agent.learning.oracle import (
    allowed,
    backends,
    distance,
    run_in_torch,
    torch_example_gradients,
    torch_gradients,
    torch_losses,
)
from tests.agent.learning.random_graphs import STEPS, problems


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_gradients_of_random_graphs_are_as_exact_as_torch_s_own(problem: Any) -> None:
    graph, loss, x, y, w = problem
    data = (x, y, w)
    expected_loss, expected = torch_gradients(graph, loss, data, torch.float64)
    single_loss, single = torch_gradients(graph, loss, data, torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)
    params: Params = initial_params(graph)

    for backend in backends(graph, loss):
        got_loss, got = backend.grads(params, x, y, w)

        assert distance(flatten(got), expected) <= allowed(single, expected)
        own = abs(single_loss - expected_loss)
        assert abs(got_loss - expected_loss) <= max(1e-5, 1e-5 * abs(expected_loss), 4 * own)
        assert {name: value.shape for name, value in got.items()} == {
            name: value.shape for name, value in params.items()
        }


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_each_example_s_own_gradient_is_as_exact_as_torch_s_own(problem: Any) -> None:
    graph, loss, x, y, w = problem
    _, _ = torch_gradients(graph, loss, (x, y, w), torch.float64)  # gives up at kinks
    expected = torch_example_gradients(graph, loss, (x, y, w), torch.float64)
    single = torch_example_gradients(graph, loss, (x, y, w), torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)

    for backend in backends(graph, loss):
        got = backend.per_example_grads(initial_params(graph), x, y, w)

        assert got.shape == expected.shape
        assert distance(got, expected) <= allowed(single, expected)


@pytest.mark.parametrize("kind", tuple(STEPS))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_kind_of_step_has_exact_gradients_on_data_and_on_weights(
    kind: str, data: st.DataObject
) -> None:
    graph, loss, x, y, w = data.draw(problems(steps=(kind, "weights"), within=kind))
    rows = (x, y, w)
    _, mean = torch_gradients(graph, loss, rows, torch.float64)
    _, single_mean = torch_gradients(graph, loss, rows, torch.float32)
    each = torch_example_gradients(graph, loss, rows, torch.float64)
    single_each = torch_example_gradients(graph, loss, rows, torch.float32)
    assume(1e-6 < float(np.linalg.norm(mean)) < 1e6)
    params = initial_params(graph)

    for backend in backends(graph, loss):
        _, got = backend.grads(params, x, y, w)
        got_each = backend.per_example_grads(params, x, y, w)

        assert distance(flatten(got), mean) <= allowed(single_mean, mean)
        assert distance(got_each, each) <= allowed(single_each, each)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.floats(0.1, 3.0))
def test_the_clipped_sum_is_that_of_torch_s_gradients_clipped(problem: Any, share: float) -> None:
    graph, loss, x, y, w = problem
    torch_gradients(graph, loss, (x, y, w), torch.float64)
    gradients = torch_example_gradients(graph, loss, (x, y, w), torch.float64)
    norms = np.linalg.norm(gradients, axis=1)
    assume(norms.min() > 1e-6 and norms.max() < 1e6)
    clip_norm = share * float(np.median(norms))
    expected = (gradients * np.minimum(1.0, clip_norm / norms)[:, None]).sum(axis=0)
    single = torch_example_gradients(graph, loss, (x, y, w), torch.float32)
    own = np.linalg.norm(single, axis=1)
    rounded = (single * np.minimum(1.0, clip_norm / own)[:, None]).sum(axis=0)
    assume(float(np.linalg.norm(expected)) > 1e-2 * clip_norm)  # they may cancel out

    for backend in backends(graph, loss):
        got, got_norms = backend.clipped_sum(initial_params(graph), x, y, w, clip_norm)

        assert distance(got_norms, norms) <= allowed(own, norms)
        assert distance(flatten(got), expected) <= 2 * allowed(rounded, expected)
        assert np.linalg.norm(flatten(got)) <= len(x) * clip_norm * (1 + 1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_derived_graphs_of_random_graphs_pass_the_official_checker(problem: Any) -> None:
    graph, loss, *_ = problem
    derived = (
        graph,
        derive_training_graph(graph, loss),
        derive_inference_graph(graph),
        derive_per_example_graph(graph, loss),
        derive_clipped_sum_graph(graph, loss),
    )
    for one in derived:
        onnx.checker.check_model(write_graph(one), full_check=True)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_inference_of_random_graphs_agrees_with_torch(problem: Any) -> None:
    graph, loss, x, *_ = problem
    expected = run_in_torch(graph, x, torch.float64)[0].detach().numpy()
    for backend in backends(graph, loss):
        got = backend.infer(initial_params(graph), x)
        assert got.shape == expected.shape
        assert np.linalg.norm(got - expected) <= 1e-4 * max(1.0, float(np.linalg.norm(expected)))


WIDE = (0.01, 0.5, 3.0, 10.0, 14.0, 20.0, 50.0, 80.0)
BOTH = (*WIDE, *(-value for value in WIDE))


@pytest.mark.parametrize(
    ("op", "places"),
    [
        # Beyond 20 the oracle's own 1 - sigmoid(x) is 0, even in float64.
        ("Sigmoid", tuple(place for place in BOTH if place <= 20)),
        ("Tanh", (0.01, 0.5, 3.0, 6.0, 8.0, -0.5, -3.0, -8.0)),
        ("Softplus", BOTH),
        ("Exp", BOTH),
        ("Erf", (0.01, 0.5, 3.0, 6.0, 8.0, -0.5, -3.0, -8.0)),
        ("Log", (1e-30, 1e-3, 1.0, 1e3, 1e30)),
        ("Sqrt", (1e-30, 1e-3, 1.0, 1e3, 1e30)),
    ],
)
def test_a_slope_keeps_its_digits_where_the_function_is_flat_or_steep(
    op: str, places: tuple[float, ...]
) -> None:
    # f(x + b) with b = 0: the gradient in b of one example is its error times the slope there.
    graph = Graph(
        (Node("Add", ("x", "b"), ("sum",)), Node(op, ("sum",), ("out",))),
        (ValueInfo("x", "float32", ("batch", 1)),),
        (ValueInfo("out", "float32", ("batch", 1)),),
        {"b": np.zeros(1, np.float32)},
    )
    x = np.array(places, np.float32)[:, None]
    output = run_in_torch(graph, x, torch.float64)[0].detach().numpy()
    y = (output - np.maximum(1, np.abs(output))).astype(np.float32)
    w = np.ones(len(x), np.float32)
    expected = torch_example_gradients(graph, Loss.MSE, (x, y, w), torch.float64)
    finite = np.abs(expected) < 1e38
    for backend in backends(graph, Loss.MSE):
        got = backend.per_example_grads(initial_params(graph), x, y, w)
        assert np.allclose(got[finite], expected[finite], rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("loss", [Loss.BINARY_CROSS_ENTROPY, Loss.CROSS_ENTROPY])
def test_what_a_confident_model_still_has_to_learn_keeps_its_digits(loss: Loss) -> None:
    # The gradient in b of one right example is minus what its share lacks of 1: exp(-place).
    width = 1 if loss is Loss.BINARY_CROSS_ENTROPY else 3
    graph = Graph(
        (Node("Add", ("x", "b"), ("out",)),),
        (ValueInfo("x", "float32", ("batch", width)),),
        (ValueInfo("out", "float32", ("batch", width)),),
        {"b": np.zeros(width, np.float32)},
    )
    places = np.array([0.5, 5.0, 10.0, 16.0, 17.0, 30.0, 80.0], np.float32)
    x = np.zeros((2 * len(places), width), np.float32)
    x[:, 0] = np.concatenate([places, -places])  # the second half is wrong
    y = np.zeros(len(x), np.int64) if width > 1 else np.ones((len(x), 1), np.float32)
    w = np.ones(len(x), np.float32)
    z = x.astype(np.float64)
    missing = 1 / (1 + np.exp(z[:, 0])) if width == 1 else 2 / (2 + np.exp(z[:, 0]))
    expected = -missing[:, None] * (np.array([1.0]) if width == 1 else np.array([1, -0.5, -0.5]))
    for backend in backends(graph, loss):
        got = backend.per_example_grads(initial_params(graph), x, y, w)
        assert np.allclose(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", list(Loss))
def test_losses_judged_in_numpy_are_torch_s(loss: Loss) -> None:
    random = np.random.default_rng(1)
    width = 1 if loss is Loss.BINARY_CROSS_ENTROPY else 4
    output = (4 * random.standard_normal((50, width))).astype(np.float32)
    target: NDArray[Any] = (4 * random.standard_normal((50, width))).astype(np.float32)
    if loss is Loss.BINARY_CROSS_ENTROPY:
        target = random.uniform(0, 1, (50, 1)).astype(np.float32)
    if loss is Loss.CROSS_ENTROPY:
        target = random.integers(0, 4, 50)
    expected = torch_losses(loss, torch.tensor(output).double(), target, np.ones(50)).numpy()
    assert np.allclose(example_losses(loss, output, target), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("turned", [2, -1, 2147483647])
def test_a_matrix_is_transposed_by_any_number_but_nought(turned: int) -> None:
    """ONNX's Gemm takes an integer; with a square matrix a wrong turn would go unnoticed."""
    plain = mlp(4, (4,), 4, seed=2)
    nodes = tuple(
        replace(node, attributes={**node.attributes, "transB": turned})
        if node.op == "Gemm"
        else node
        for node in plain.nodes
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9, 4)).astype(np.float32)
    w = np.ones(9, np.float32)
    params = initial_params(plain)
    graph = replace(plain, nodes=nodes)
    for one, other in zip(backends(graph, Loss.MSE), backends(plain, Loss.MSE), strict=True):
        assert one.grads(params, x, y, w)[0] == other.grads(params, x, y, w)[0]
        got, expected = (flatten(each.grads(params, x, y, w)[1]) for each in (one, other))
        assert np.array_equal(got, expected)
