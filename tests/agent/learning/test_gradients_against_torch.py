"""Gradients of random forward graphs against PyTorch in float64, the oracle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.backend import OnnxRuntimeBackend
from agent.learning.derive import (
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
)
from agent.learning.graph import Graph, Node, Params, ValueInfo, initial_params, write_graph
from agent.learning.losses import Loss, example_losses
from agent.learning.params import flatten
from tests.agent.learning.oracle import (
    allowed,
    distance,
    run_in_torch,
    torch_example_gradients,
    torch_gradients,
    torch_losses,
)


@dataclass
class Sketch:
    """A random forward graph under construction."""

    random: np.random.Generator
    value: str
    shape: tuple[int, ...]  # without the batch axis
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)

    def tensor(self, *shape: int) -> str:
        name = f"p{len(self.initializers)}"
        scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 1
        values = self.random.standard_normal(shape) * scale
        self.initializers[name] = np.asarray(values, np.float32)
        return name

    def ints(self, *values: int) -> str:
        name = f"s{len(self.initializers)}"
        self.initializers[name] = np.array(values, np.int64)
        return name

    def apply(self, op: str, *inputs: str, shape: tuple[int, ...], **attributes: Any) -> None:
        output = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (output,), attributes, f"n{len(self.nodes)}"))
        self.value, self.shape = output, shape

    def dense(self, draw: Callable[..., Any], width: int) -> None:
        *lead, last = self.shape
        if lead or draw(st.booleans()):
            self.apply("MatMul", self.value, self.tensor(last, width), shape=(*lead, width))
            return
        transposed = draw(st.integers(0, 1))
        weight = self.tensor(*((width, last) if transposed else (last, width)))
        bias = draw(st.sampled_from(((), (1,), (width,), (1, width), None)))
        inputs = [self.value, weight] + ([] if bias is None else [self.tensor(*bias)])
        scale = {"alpha": draw(st.sampled_from((1.0, 0.5)))}
        if bias is not None:
            scale["beta"] = draw(st.sampled_from((1.0, 2.0)))
        self.apply("Gemm", *inputs, shape=(width,), transB=transposed, **scale)


def grow(draw: Callable[..., Any], sketch: Sketch, kind: str) -> None:
    shape = sketch.shape
    if kind == "dense":
        sketch.dense(draw, draw(st.integers(1, 9)))
    elif kind in ("Add", "Sub", "Mul"):
        other = draw(st.sampled_from(((), shape[-1:], (1,), (1, *shape), (1, 1, *shape[1:]))))
        if len(other) > len(shape) + 1:
            other = shape
        pair = [sketch.value, sketch.tensor(*other)]
        sketch.apply(kind, *(pair[::-1] if draw(st.booleans()) else pair), shape=shape)
    elif kind == "residual":
        before = sketch.value
        sketch.apply("Tanh", before, shape=shape)
        op = draw(st.sampled_from(("Add", "Sub", "Mul")))
        sketch.apply(op, sketch.value, before, shape=shape)
    elif kind == "square":
        sketch.apply("Mul", sketch.value, sketch.value, shape=shape)
    elif kind == "Flatten":
        sketch.apply("Flatten", sketch.value, shape=(int(np.prod(shape)),), axis=1)
    elif kind == "Reshape":
        flat = (int(np.prod(shape)),)
        target = draw(st.sampled_from(((-1, *flat), (0, -1), (-1, 1, *flat), (0, 1, *flat))))
        new = (1, *flat) if len(target) == 3 else flat
        sketch.apply("Reshape", sketch.value, sketch.ints(*target), shape=new)
    elif kind in ("Softmax", "LogSoftmax"):
        sketch.apply(kind, sketch.value, shape=shape, axis=draw(st.sampled_from((-1, len(shape)))))
    else:
        sketch.apply(kind, sketch.value, shape=shape)


KINDS = (
    *("dense", "dense", "Add", "Sub", "Mul", "residual", "square", "Flatten", "Reshape"),
    *("Softmax", "LogSoftmax", "Relu", "Relu", "Sigmoid", "Tanh", "Identity"),
)


@st.composite
def problems(draw: Callable[..., Any]) -> tuple[Graph, Loss, NDArray[Any], NDArray[Any], Any]:
    """A forward graph with a loss, rows, labels and weights."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=2)))
    sketch = Sketch(random, "x", shape)
    sketch.dense(draw, draw(st.integers(1, 9)))
    for kind in draw(st.lists(st.sampled_from(KINDS), max_size=6)):
        grow(draw, sketch, kind)
    loss = draw(st.sampled_from(list(Loss)))
    if loss not in (Loss.MSE, Loss.HUBER) and len(sketch.shape) > 1:
        grow(draw, sketch, "Flatten")
    if loss is Loss.RECONSTRUCTION:
        sketch.dense(draw, int(np.prod(shape)))
        back = sketch.ints(-1, *shape)
        sketch.apply("Reshape", sketch.value, back, shape=shape)
    else:
        sketch.dense(draw, 1 if loss is Loss.BINARY_CROSS_ENTROPY else draw(st.integers(2, 5)))
    graph = Graph(
        tuple(sketch.nodes),
        (ValueInfo("x", "float32", ("batch", *shape)),),
        (ValueInfo(sketch.value, "float32", ("batch", *sketch.shape)),),
        sketch.initializers,
    )
    rows = draw(st.integers(1, 9))
    x = random.standard_normal((rows, *shape)).astype(np.float32)
    if loss is Loss.CROSS_ENTROPY:
        y: NDArray[Any] = random.integers(0, sketch.shape[0], rows)
    elif loss is Loss.RECONSTRUCTION:
        y = np.zeros((rows, 0), np.float32)
    elif loss in (Loss.MSE, Loss.HUBER):
        y = random.standard_normal((rows, *sketch.shape)).astype(np.float32)
    else:
        y = random.integers(0, 2, (rows, 1)).astype(np.float32)
    w = random.uniform(0, 3, rows).astype(np.float32) + np.float32(0.01)
    return graph, loss, x, y, w


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_gradients_of_random_graphs_are_as_exact_as_torch_s_own(problem: Any) -> None:
    graph, loss, x, y, w = problem
    data = (x, y, w)
    expected_loss, expected = torch_gradients(graph, loss, data, torch.float64)
    _, single = torch_gradients(graph, loss, data, torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)
    params: Params = initial_params(graph)

    got_loss, got = OnnxRuntimeBackend(graph, loss).grads(params, x, y, w)

    assert distance(flatten(got), expected) <= allowed(single, expected)
    assert abs(got_loss - expected_loss) <= 1e-5 * max(1.0, abs(expected_loss))
    assert {name: value.shape for name, value in got.items()} == {
        name: value.shape for name, value in params.items()
    }


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_each_example_s_own_gradient_is_as_exact_as_torch_s_own(problem: Any) -> None:
    graph, loss, x, y, w = problem
    _, _ = torch_gradients(graph, loss, (x, y, w), torch.float64)  # gives up at kinks
    expected = torch_example_gradients(graph, loss, (x, y, w), torch.float64)
    single = torch_example_gradients(graph, loss, (x, y, w), torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)
    backend = OnnxRuntimeBackend(graph, loss)

    got = backend.per_example_grads(initial_params(graph), x, y, w)

    assert got.shape == expected.shape
    assert distance(got, expected) <= allowed(single, expected)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.floats(0.1, 3.0))
def test_the_clipped_sum_is_that_of_torch_s_gradients_clipped(problem: Any, share: float) -> None:
    graph, loss, x, y, w = problem
    torch_gradients(graph, loss, (x, y, w), torch.float64)
    gradients = torch_example_gradients(graph, loss, (x, y, w), torch.float64)
    norms = np.linalg.norm(gradients, axis=1)
    assume(1e-6 < norms.min() and norms.max() < 1e6)
    clip_norm = share * float(np.median(norms))
    expected = (gradients * np.minimum(1.0, clip_norm / norms)[:, None]).sum(axis=0)
    single = torch_example_gradients(graph, loss, (x, y, w), torch.float32)
    own = np.linalg.norm(single, axis=1)
    rounded = (single * np.minimum(1.0, clip_norm / own)[:, None]).sum(axis=0)
    assume(float(np.linalg.norm(expected)) > 1e-3 * clip_norm)  # they may cancel out

    backend = OnnxRuntimeBackend(graph, loss)
    got, got_norms = backend.clipped_sum(initial_params(graph), x, y, w, clip_norm)

    assert distance(got_norms, norms) <= allowed(own, norms)
    assert distance(flatten(got), expected) <= 2 * allowed(rounded, expected)
    assert np.linalg.norm(flatten(got)) <= len(x) * clip_norm * (1 + 1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_inference_of_random_graphs_agrees_with_torch(problem: Any) -> None:
    graph, loss, x, *_ = problem
    expected = run_in_torch(graph, x, torch.float64)[0].detach().numpy()
    got = OnnxRuntimeBackend(graph, loss).infer(initial_params(graph), x)
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= 1e-4 * max(1.0, float(np.linalg.norm(expected)))


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
