"""Gradients of random forward graphs against PyTorch in float64, the oracle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.backend import OnnxRuntimeBackend
from agent.learning.derive import derive_inference_graph, derive_training_graph
from agent.learning.graph import Graph, Node, Params, ValueInfo, initial_params, write_graph
from agent.learning.losses import Loss
from agent.learning.params import flatten

Kernel = Callable[..., torch.Tensor]


def _gemm(node: Node, a: torch.Tensor, b: torch.Tensor, *c: torch.Tensor) -> torch.Tensor:
    factor = b.T if node.attributes.get("transB") else b
    product = a @ factor * float(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    return product + c[0] * float(node.attributes.get("beta", 1.0)) if c else product  # type: ignore[arg-type]


KERNELS: Mapping[str, Kernel] = {
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, a: torch.relu(a),
    "Sigmoid": lambda _, a: torch.sigmoid(a),
    "Tanh": lambda _, a: torch.tanh(a),
    "Identity": lambda _, a: a,
    "Flatten": lambda _, a: a.flatten(1),
    "Reshape": lambda _, a, shape: a.reshape(
        [a.shape[i] if s == 0 else int(s) for i, s in enumerate(shape)]
    ),
    "Softmax": lambda _, a: torch.softmax(a, -1),
    "LogSoftmax": lambda _, a: torch.log_softmax(a, -1),
}


def run_in_torch(
    graph: Graph, x: NDArray[Any], dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """Run a graph; return output, parameters, and the smallest |input| of any Relu."""
    values: dict[str, torch.Tensor] = {"x": torch.tensor(x, dtype=dtype)}
    params = {}
    kink = np.inf
    for name, value in graph.initializers.items():
        if value.dtype != np.float32:
            values[name] = torch.tensor(value)
            continue
        values[name] = torch.tensor(value, dtype=dtype, requires_grad=value.ndim > 0)
        if value.ndim:
            params[name] = values[name]
    for node in graph.nodes:
        if node.op == "Constant":
            values[node.outputs[0]] = torch.tensor(node.attributes["value"])
            continue
        inputs = [values[name] for name in node.inputs]
        if node.op == "Relu":
            kink = min(kink, float(inputs[0].detach().abs().min()))
        values[node.outputs[0]] = KERNELS[node.op](node, *inputs)
    return values[graph.outputs[0].name], params, kink


def torch_loss(loss: Loss, output: torch.Tensor, y: NDArray[Any], w: NDArray[Any]) -> torch.Tensor:
    weights = torch.tensor(w, dtype=output.dtype)
    functional = torch.nn.functional
    if loss is Loss.CROSS_ENTROPY:
        each = functional.cross_entropy(output, torch.tensor(y), reduction="none")
    else:
        target = torch.tensor(y, dtype=output.dtype)
        if loss is Loss.MSE:
            each = ((output - target) ** 2).flatten(1).mean(1)
        else:
            each = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
            each = each[:, 0]
    return (each * weights).sum() / weights.sum()


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
    if loss is not Loss.MSE and len(sketch.shape) > 1:
        grow(draw, sketch, "Flatten")
    outputs = 1 if loss is Loss.BINARY_CROSS_ENTROPY else draw(st.integers(2, 5))
    sketch.dense(draw, outputs)
    graph = Graph(
        tuple(sketch.nodes),
        (ValueInfo("x", "float32", ("batch", *shape)),),
        (ValueInfo(sketch.value, "float32", ("batch", *sketch.shape)),),
        sketch.initializers,
    )
    rows = draw(st.integers(1, 9))
    x = random.standard_normal((rows, *shape)).astype(np.float32)
    if loss is Loss.CROSS_ENTROPY:
        y: NDArray[Any] = random.integers(0, outputs, rows)
    elif loss is Loss.MSE:
        y = random.standard_normal((rows, *sketch.shape)).astype(np.float32)
    else:
        y = random.integers(0, 2, (rows, 1)).astype(np.float32)
    w = random.uniform(0, 3, rows).astype(np.float32) + np.float32(0.01)
    return graph, loss, x, y, w


def torch_gradients(
    graph: Graph, loss: Loss, data: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], dtype: Any
) -> tuple[float, NDArray[np.float64]]:
    x, y, w = data
    output, params, kink = run_in_torch(graph, x, dtype)
    assume(kink > 1e-4)  # at a kink, rounding decides which slope is right
    value = torch_loss(loss, output, y, w)
    found = torch.autograd.grad(value, list(params.values()))
    return float(value.detach()), np.concatenate([g.double().numpy().ravel() for g in found])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_gradients_of_random_graphs_are_as_exact_as_torch_s_own(problem: Any) -> None:
    graph, loss, *data = problem
    x, y, w = data
    expected_loss, expected = torch_gradients(graph, loss, (x, y, w), torch.float64)
    _, single = torch_gradients(graph, loss, (x, y, w), torch.float32)
    size = float(np.linalg.norm(expected))
    assume(1e-6 < size < 1e6)
    params: Params = initial_params(graph)

    got_loss, got = OnnxRuntimeBackend(graph, loss).grads(params, x, y, w)

    own_error = float(np.linalg.norm(single - expected)) / size
    error = float(np.linalg.norm(flatten(got).astype(np.float64) - expected)) / size
    assert error <= max(1e-5, 4 * own_error)
    assert abs(got_loss - expected_loss) <= 1e-5 * max(1.0, abs(expected_loss))
    assert {name: value.shape for name, value in got.items()} == {
        name: value.shape for name, value in params.items()
    }


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_derived_graphs_of_random_graphs_pass_the_official_checker(problem: Any) -> None:
    graph, loss, *_ = problem
    for derived in (graph, derive_training_graph(graph, loss), derive_inference_graph(graph)):
        onnx.checker.check_model(write_graph(derived), full_check=True)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_inference_of_random_graphs_agrees_with_torch(problem: Any) -> None:
    graph, loss, x, *_ = problem
    expected = run_in_torch(graph, x, torch.float64)[0].detach().numpy()
    got = OnnxRuntimeBackend(graph, loss).infer(initial_params(graph), x)
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= 1e-4 * max(1.0, float(np.linalg.norm(expected)))
