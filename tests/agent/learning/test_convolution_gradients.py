"""Gradients through random convolutions and pools against PyTorch in float64, the oracle."""

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

from agent.learning.derive import (
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
)
from agent.learning.graph import (
    Graph,
    GraphError,
    Node,
    ValueInfo,
    initial_params,
    write_graph,
)
from agent.learning.losses import Loss
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.params import flatten
from tests.agent.learning.oracle import (
    allowed,
    distance,
    run_in_torch,
    torch_example_gradients,
    torch_gradients,
)

Draw = Callable[..., Any]
CONVOLUTIONS = ("Conv", "ConvTranspose")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass
class Stack:
    """A forward graph of layers over windows, under construction."""

    random: np.random.Generator
    shape: tuple[int, ...]  # without the batch axis: channels, then one or two sizes
    value: str = "x"
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)

    def tensor(self, *shape: int) -> str:
        name = f"p{len(self.initializers)}"
        scale = float(np.prod(shape[1:])) ** -0.5
        values = self.random.standard_normal(shape) * scale
        self.initializers[name] = np.asarray(values, np.float32)
        return name

    def apply(self, op: str, *inputs: str, shape: tuple[int, ...], **attributes: Any) -> None:
        output = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (output,), attributes, f"n{len(self.nodes)}"))
        self.value, self.shape = output, shape


@dataclass(frozen=True)
class Axis:
    """A window on one axis, and what it makes of a size."""

    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]

    def counts(self, size: int) -> int:
        reach = (self.taps - 1) * self.dilation + 1
        return (size + sum(self.pads) - reach) // self.stride + 1


def attributes(draw: Draw, axes: list[Axis], *, with_defaults: bool) -> dict[str, Any]:
    """The window's attributes; those that have their default are left out at times."""
    written = {
        "kernel_shape": tuple(axis.taps for axis in axes),
        "strides": tuple(axis.stride for axis in axes),
        "dilations": tuple(axis.dilation for axis in axes),
        "pads": tuple(axis.pads[side] for side in (0, 1) for axis in axes),
    }
    plain = {"strides": 1, "dilations": 1, "pads": 0}
    for name, default in plain.items():
        if with_defaults and set(written[name]) == {default} and draw(st.booleans()):
            del written[name]
    return written


def convolve(draw: Draw, stack: Stack, op: str) -> None:
    rank = len(stack.shape) - 1
    sizes = stack.shape[1:]
    axes = []
    for size in sizes:
        taps, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        pads = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        assume(op == "ConvTranspose" or (taps - 1) * dilation + 1 <= size + sum(pads))
        axes.append(Axis(taps, draw(st.integers(1, 3)), dilation, pads))
    given = attributes(draw, axes, with_defaults=True)
    if draw(st.booleans()):
        del given["kernel_shape"]
    channels = stack.shape[0]
    group = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
    given["group"] = group
    kernel = [axis.taps for axis in axes]
    if op == "Conv":
        outputs = group * draw(st.integers(1, 3))
        weight = stack.tensor(outputs, channels // group, *kernel)
        new = tuple(axis.counts(size) for axis, size in zip(axes, sizes, strict=True))
    else:
        outputs = group * draw(st.integers(1, 3))
        weight = stack.tensor(channels, outputs // group, *kernel)
        extra = [draw(st.integers(0, axis.stride - 1)) for axis in axes]
        if any(extra) or draw(st.booleans()):
            given["output_padding"] = tuple(extra)
        new = tuple(
            (size - 1) * axis.stride + (axis.taps - 1) * axis.dilation + 1 - sum(axis.pads) + more
            for axis, size, more in zip(axes, sizes, extra, strict=True)
        )
        assume(min(new) > 0)
    if draw(st.booleans()):  # computed from a parameter, so without a batch axis too
        kept, shape, before = stack.value, stack.shape, weight
        stack.apply("Tanh", before, shape=shape)
        weight, stack.value = stack.value, kept
    bias = (stack.tensor(outputs),) if draw(st.booleans()) else ()
    stack.apply(op, stack.value, weight, *bias, shape=(outputs, *new), **given)
    assume(np.prod(stack.shape) <= 2000 and rank == len(new))


def pool(draw: Draw, stack: Stack, op: str) -> None:
    channels, *sizes = stack.shape
    if op == "GlobalAveragePool":
        stack.apply(op, stack.value, shape=(channels, *(1 for _ in sizes)))
        return
    axes = []
    for size in sizes:
        taps = draw(st.integers(1, 3))
        pads = (draw(st.integers(0, taps // 2)), draw(st.integers(0, taps // 2)))
        assume(taps <= size + sum(pads))
        stride = taps if draw(st.booleans()) else draw(st.integers(1, 3))
        axes.append(Axis(taps, stride, 1, pads))
    given = attributes(draw, axes, with_defaults=op == "MaxPool")
    if op == "AveragePool":
        del given["dilations"]
        given["count_include_pad"] = draw(st.integers(0, 1))
    new = tuple(axis.counts(size) for axis, size in zip(axes, sizes, strict=True))
    stack.apply(op, stack.value, shape=(channels, *new), **given)


def dense(stack: Stack, width: int) -> None:
    flat = int(np.prod(stack.shape))
    stack.apply("Flatten", stack.value, shape=(flat,), axis=1)
    inputs = (stack.value, stack.tensor(width, flat), stack.tensor(width))
    stack.apply("Gemm", *inputs, shape=(width,), transB=1)


@dataclass(frozen=True)
class Problem:
    """A model with rows, labels and weights."""

    graph: Graph
    loss: Loss
    x: NDArray[Any]
    y: NDArray[Any]
    w: NDArray[Any]

    @property
    def data(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        return self.x, self.y, self.w


def finish(draw: Draw, stack: Stack, shape: tuple[int, ...]) -> Problem:
    loss = draw(st.sampled_from((Loss.MSE, Loss.CROSS_ENTROPY)))
    if loss is Loss.CROSS_ENTROPY or draw(st.booleans()):
        dense(stack, 3)
    if not any(value.ndim for value in stack.initializers.values()):
        dense(stack, 3)
    graph = Graph(
        tuple(stack.nodes),
        (ValueInfo("x", "float32", ("batch", *shape)),),
        (ValueInfo(stack.value, "float32", ("batch", *stack.shape)),),
        stack.initializers,
    )
    rows = draw(st.sampled_from((1, 2, 5)))
    random = stack.random
    x = random.standard_normal((rows, *shape)).astype(np.float32)
    y: NDArray[Any] = random.integers(0, 3, (rows,))
    if loss is Loss.MSE:
        y = random.standard_normal((rows, *stack.shape)).astype(np.float32)
    return Problem(graph, loss, x, y, random.uniform(0.1, 3, (rows,)).astype(np.float32))


@st.composite
def single_operators(draw: Draw) -> Problem:
    """One convolution or pool behind a convolution that its data's gradient must reach."""
    shape = (draw(st.integers(1, 4)), *draw(st.lists(st.integers(1, 9), min_size=1, max_size=2)))
    stack = Stack(np.random.default_rng(draw(st.integers(0, 2**32))), shape)
    first = stack.tensor(shape[0], *(1 for _ in shape[1:]))
    stack.apply("Mul", "x", first, shape=shape)
    op = draw(st.sampled_from(CONVOLUTIONS * 2 + POOLS))
    (convolve if op in CONVOLUTIONS else pool)(draw, stack, op)
    return finish(draw, stack, shape)


@st.composite
def stacks(draw: Draw) -> Problem:
    """Convolutions, pools and activations in a row; the first sees the data themselves."""
    shape = (draw(st.integers(1, 4)), *draw(st.lists(st.integers(4, 12), min_size=1, max_size=2)))
    stack = Stack(np.random.default_rng(draw(st.integers(0, 2**32))), shape)
    for _ in range(draw(st.integers(1, 3))):
        convolve(draw, stack, draw(st.sampled_from(CONVOLUTIONS)))
        stack.apply(draw(st.sampled_from(("Relu", "Tanh"))), stack.value, shape=stack.shape)
        if draw(st.booleans()):
            pool(draw, stack, draw(st.sampled_from(POOLS)))
    dense(stack, 4)
    return finish(draw, stack, shape)


problems = st.one_of(single_operators(), stacks())
TOLERANT = list(HealthCheck)


@settings(max_examples=200, deadline=None, suppress_health_check=TOLERANT)
@given(problems)
def test_gradients_through_windows_are_as_exact_as_torch_s_own(problem: Problem) -> None:
    graph, loss = problem.graph, problem.loss
    expected_loss, expected = torch_gradients(graph, loss, problem.data, torch.float64)
    _, single = torch_gradients(graph, loss, problem.data, torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)

    got_loss, got = OnnxRuntimeBackend(graph, loss).grads(initial_params(graph), *problem.data)

    assert distance(flatten(got), expected) <= allowed(single, expected)
    assert abs(got_loss - expected_loss) <= 1e-5 * max(1.0, abs(expected_loss))


@settings(max_examples=200, deadline=None, suppress_health_check=TOLERANT)
@given(problems)
def test_each_example_s_gradients_through_windows_are_as_exact(problem: Problem) -> None:
    graph, loss = problem.graph, problem.loss
    torch_gradients(graph, loss, problem.data, torch.float64)  # gives up at kinks
    expected = torch_example_gradients(graph, loss, problem.data, torch.float64)
    single = torch_example_gradients(graph, loss, problem.data, torch.float32)
    assume(1e-6 < float(np.linalg.norm(expected)) < 1e6)

    backend = OnnxRuntimeBackend(graph, loss)
    got = backend.per_example_grads(initial_params(graph), *problem.data)

    assert got.shape == expected.shape
    assert distance(got, expected) <= allowed(single, expected)


@settings(max_examples=100, deadline=None, suppress_health_check=TOLERANT)
@given(problems, st.floats(0.1, 3.0))
def test_clipped_sums_through_windows_are_torch_s_clipped(problem: Problem, share: float) -> None:
    graph, loss = problem.graph, problem.loss
    torch_gradients(graph, loss, problem.data, torch.float64)
    gradients = torch_example_gradients(graph, loss, problem.data, torch.float64)
    norms = np.linalg.norm(gradients, axis=1)
    assume(norms.min() > 1e-6 and norms.max() < 1e6)
    clip_norm = share * float(np.median(norms))
    expected = (gradients * np.minimum(1.0, clip_norm / norms)[:, None]).sum(axis=0)
    single = torch_example_gradients(graph, loss, problem.data, torch.float32)
    own = np.linalg.norm(single, axis=1)
    rounded = (single * np.minimum(1.0, clip_norm / own)[:, None]).sum(axis=0)
    assume(float(np.linalg.norm(expected)) > 1e-3 * clip_norm)  # they may cancel out

    backend = OnnxRuntimeBackend(graph, loss)
    got, got_norms = backend.clipped_sum(initial_params(graph), *problem.data, clip_norm)

    assert distance(got_norms, norms) <= allowed(own, norms)
    assert distance(flatten(got), expected) <= 2 * allowed(rounded, expected)


@settings(max_examples=100, deadline=None, suppress_health_check=TOLERANT)
@given(problems)
def test_the_numpy_executor_runs_the_same_graphs_to_the_same_gradients(problem: Problem) -> None:
    graph, loss = problem.graph, problem.loss
    _, expected = torch_gradients(graph, loss, problem.data, torch.float64)  # gives up at kinks
    assume(1e-4 < float(np.linalg.norm(expected)) < 1e4)
    params = initial_params(graph)
    first, second = OnnxRuntimeBackend(graph, loss), NumpyBackend(graph, loss)

    _, gradients = first.grads(params, *problem.data)
    _, again = second.grads(params, *problem.data)
    assert distance(flatten(again), flatten(gradients).astype(np.float64)) <= 1e-4

    examples = first.per_example_grads(params, *problem.data)
    others = second.per_example_grads(params, *problem.data)
    assert distance(others, examples.astype(np.float64)) <= 1e-4


@settings(max_examples=60, deadline=None, suppress_health_check=TOLERANT)
@given(problems)
def test_derived_graphs_with_windows_pass_the_official_checker(problem: Problem) -> None:
    graph, loss = problem.graph, problem.loss
    for one in (
        graph,
        derive_training_graph(graph, loss),
        derive_inference_graph(graph),
        derive_per_example_graph(graph, loss),
        derive_clipped_sum_graph(graph, loss),
    ):
        onnx.checker.check_model(write_graph(one), full_check=True)


@settings(max_examples=60, deadline=None, suppress_health_check=TOLERANT)
@given(problems)
def test_inference_through_windows_has_the_derived_shape_and_torch_s_values(
    problem: Problem,
) -> None:
    expected = run_in_torch(problem.graph, problem.x, torch.float64)[0].detach().numpy()
    backend = OnnxRuntimeBackend(problem.graph, problem.loss)
    got = backend.infer(initial_params(problem.graph), problem.x)
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= 1e-4 * max(1.0, float(np.linalg.norm(expected)))


def model(op: str, *, data: tuple[int, ...], weight: tuple[int, ...] = (), **given: Any) -> Graph:
    """A model of one operator."""
    tensors = {"weight": np.ones(weight, np.float32)} if weight else {}
    tensors["scale"] = np.ones((1, *data), np.float32)
    nodes = (
        Node("Mul", ("x", "scale"), ("scaled",), {}, "scaling"),
        Node(op, ("scaled", *(("weight",) if weight else ())), ("out",), given, "culprit"),
    )
    return Graph(
        nodes,
        (ValueInfo("x", "float32", ("N", *data)),),
        (ValueInfo("out", "float32", ("N", *data)),),
        tensors,
    )


REFUSED: dict[str, tuple[Graph, str]] = {
    "automatic pads": (
        model("Conv", data=(2, 8), weight=(3, 2, 3), auto_pad="SAME_UPPER"),
        "auto_pad",
    ),
    "another number of channels": (model("Conv", data=(2, 8), weight=(3, 4, 3)), "channels"),
    "weights of another rank": (model("Conv", data=(2, 8), weight=(3, 2, 3, 3)), "do not fit"),
    "groups that do not divide": (model("Conv", data=(2, 8), weight=(3, 1, 3), group=2), "divide"),
    "a kernel_shape beside the weights": (
        model("Conv", data=(2, 8), weight=(3, 2, 3), kernel_shape=(5,)),
        "kernel_shape",
    ),
    "a kernel that does not fit": (model("Conv", data=(2, 8), weight=(3, 2, 9)), "fit"),
    "pads of one side": (model("Conv", data=(2, 8), weight=(3, 2, 3), pads=(1,)), "pads"),
    "negative pads": (model("Conv", data=(2, 8), weight=(3, 2, 3), pads=(-1, 0)), "pads"),
    "a stride of 0": (model("Conv", data=(2, 8), weight=(3, 2, 3), strides=(0,)), "strides"),
    "an endless stride": (
        model("Conv", data=(2, 8), weight=(3, 2, 3), strides=(2**62,)),
        "strides",
    ),
    "three axes": (model("Conv", data=(2, 4, 4, 4), weight=(3, 2, 1, 1, 1)), "one or two"),
    "an output_padding beyond the stride": (
        model("ConvTranspose", data=(2, 8), weight=(2, 3, 3), output_padding=(1,)),
        "output_padding",
    ),
    "a given output_shape": (
        model("ConvTranspose", data=(2, 8), weight=(2, 3, 3), output_shape=(10,)),
        "output_shape",
    ),
    "windows that fill the memory": (
        model("Conv", data=(64, 128, 128), weight=(1, 64, 9, 9), pads=(4, 4, 4, 4)),
        "windows hold",
    ),
    "pools that read every element thousands of times": (
        model("AveragePool", data=(1, 512, 512), kernel_shape=(256, 256)),
        "windows hold",
    ),
    "pools without a kernel": (model("MaxPool", data=(2, 8)), "kernel_shape"),
    "pools of an empty kernel": (model("MaxPool", data=(2, 8), kernel_shape=(0,)), "kernel_shape"),
    "dilated pools": (
        model("MaxPool", data=(2, 8), kernel_shape=(2,), dilations=(2,)),
        "dilations",
    ),
    "sizes rounded up": (model("MaxPool", data=(2, 8), kernel_shape=(3,), ceil_mode=1), "ceil"),
    "windows of pads alone": (
        model("MaxPool", data=(2, 8), kernel_shape=(2,), pads=(2, 2)),
        "as long as the kernel",
    ),
    "a ConvTranspose that its pads eat up": (
        model("ConvTranspose", data=(2, 1), weight=(2, 3, 3), pads=(2, 2)),
        "empty axis",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_derived_is_refused_with_its_node(case: str) -> None:
    graph, reason = REFUSED[case]
    with pytest.raises(GraphError, match=reason) as refusal:
        derive_training_graph(graph, Loss.MSE)
    assert "culprit" in refusal.value.node


def test_data_of_one_dimension_too_few_or_without_a_batch_are_refused() -> None:
    for data in ((8,), ()):
        graph = model("GlobalAveragePool", data=data)
        with pytest.raises(GraphError, match="one or two sizes"):
            derive_training_graph(graph, Loss.MSE)
    unbatched = Graph(
        (
            Node("Conv", ("signal", "weight"), ("made",), {}, "culprit"),
            Node("Add", ("x", "made"), ("out",), {}, "sum"),
        ),
        (ValueInfo("x", "float32", ("N", 3, 6)),),
        (ValueInfo("out", "float32", ("N", 3, 6)),),
        {"signal": np.ones((1, 2, 8), np.float32), "weight": np.ones((3, 2, 3), np.float32)},
    )
    with pytest.raises(GraphError, match="data must be"):
        derive_training_graph(unbatched, Loss.MSE)


def test_the_first_of_equal_largest_elements_has_the_slope() -> None:
    graph = model("MaxPool", data=(1, 6), kernel_shape=(3,), strides=(3,))
    overlapping = model("MaxPool", data=(1, 6), kernel_shape=(3,), strides=(1,))
    x = np.array([[[2, 2, 1, 5, 7, 7]]], np.float32)
    w = np.ones(1, np.float32)
    for one, windows, places in ((graph, 2, [0, 4]), (overlapping, 4, [0, 3, 4])):
        backend = OnnxRuntimeBackend(one, Loss.MSE)
        y = np.zeros((1, 1, windows), np.float32)
        _, grads = backend.grads(initial_params(one), x, y, w)
        assert np.flatnonzero(grads["scale"]).tolist() == places


def test_many_taps_do_not_multiply_the_nodes() -> None:
    few = model("Conv", data=(1, 40, 40), weight=(2, 1, 6, 6))
    many = model("Conv", data=(1, 40, 40), weight=(2, 1, 30, 30))
    for derive in (derive_training_graph, derive_per_example_graph):
        sizes = [len(derive(graph, Loss.MSE).nodes) for graph in (few, many)]
        assert sizes[0] == sizes[1] < 40
