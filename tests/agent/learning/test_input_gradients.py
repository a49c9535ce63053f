"""Gradients in the input of random forward graphs against PyTorch in float64, the oracle."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from agent.learning.derive import derive_input_gradient_graph
from agent.learning.families import cnn1d, cnn2d, mlp
from agent.learning.graph import Graph, GraphError, initial_params
from agent.learning.losses import Loss, margins
from tests.agent.learning.oracle import allowed, backends, distance, torch_input_gradients
from tests.agent.learning.random_graphs import problems


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_gradients_in_the_input_are_torch_s(problem: Any) -> None:
    graph, loss, x, _, _ = problem
    assume(loss is not Loss.RECONSTRUCTION)
    expected = torch_input_gradients(graph, loss, x, torch.float64)
    single = torch_input_gradients(graph, loss, x, torch.float32)
    assume(1e-2 < float(np.linalg.norm(expected)) < 1e4)

    for backend in backends(graph, loss):
        got = backend.input_grads(initial_params(graph), x)

        assert got.shape == x.shape
        # Where functions are saturated, little is left of a gradient but their roundings.
        assert distance(got, expected) <= max(1e-3, allowed(single, expected))


@pytest.mark.parametrize(
    ("graph", "loss"),
    [
        (mlp(6, (8, 4), 1, 1), Loss.BINARY_CROSS_ENTROPY),
        (mlp(6, (8,), 4, 1), Loss.CROSS_ENTROPY),
        (cnn1d(3, 16, 1, 2, widths=(4, 6), kernel=3, hidden=(5,)), Loss.MSE),
        (cnn2d(1, 8, 8, 3, 2, widths=(4,)), Loss.CROSS_ENTROPY),
    ],
)
def test_a_small_step_along_the_gradient_changes_the_margin_as_it_says(
    graph: Graph, loss: Loss
) -> None:
    random, sizes = np.random.default_rng(4), graph.inputs[0].shape[1:]
    whole = (size for size in sizes if isinstance(size, int))
    x = random.standard_normal([5, *whole]).astype(np.float32)
    params = initial_params(graph)
    for backend in backends(graph, loss):
        slopes = backend.input_grads(params, x)
        step = 1e-3 * random.standard_normal(x.shape).astype(np.float32)
        change = margins(loss, backend.infer(params, x + step)) - margins(
            loss, backend.infer(params, x - step)
        )
        said = 2 * (slopes * step).reshape(5, -1).sum(axis=1)
        assert change == pytest.approx(said, abs=5e-2 * float(np.abs(said).max()))


def test_a_batch_in_parts_has_the_gradients_of_each_of_its_rows() -> None:
    graph = mlp(6, (8, 4), 1, 1)
    x = np.random.default_rng(4).standard_normal((7, 6)).astype(np.float32)
    for backend in backends(graph, Loss.BINARY_CROSS_ENTROPY):
        alone = [backend.input_grads(initial_params(graph), row[np.newaxis]) for row in x]
        assert np.concatenate(alone) == pytest.approx(
            backend.input_grads(initial_params(graph), x), rel=1e-5, abs=1e-6
        )


def test_a_reconstruction_has_no_margin() -> None:
    with pytest.raises(GraphError, match="no margin"):
        derive_input_gradient_graph(mlp(6, (3,), 6, 1), Loss.RECONSTRUCTION)
    with pytest.raises(ValueError, match="no margin"):
        margins(Loss.RECONSTRUCTION, np.zeros((2, 6), np.float32))
