"""Derivation: names, shapes and refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.learning.derive import derive_inference_graph, derive_training_graph
from agent.learning.families import mlp
from agent.learning.graph import Graph, GraphError, Node, ValueInfo, initial_params
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend


def forward(
    *nodes: Node, width: int = 2, data: tuple[int | str | None, ...] = ("N", 3), **tensors: Any
) -> Graph:
    """A forward graph whose last node's output is the model's."""
    initializers = {name: np.asarray(value) for name, value in tensors.items()}
    initializers.setdefault("weight", np.ones((3, width), np.float32))
    return Graph(
        nodes,
        (ValueInfo("x", "float32", data),),
        (ValueInfo(nodes[-1].outputs[0], "float32", ("N", width)),),
        initializers,
    )


PRODUCT = Node("MatMul", ("x", "weight"), ("out",), {}, "product")


def test_inputs_and_outputs_come_in_the_promised_order() -> None:
    graph = derive_training_graph(mlp(4, (8,), 1, seed=0), Loss.BINARY_CROSS_ENTROPY)
    parameters = ["dense0.weight", "dense0.bias", "dense1.weight", "dense1.bias"]
    assert [value.name for value in graph.inputs] == ["x", "y", "w", *parameters]
    assert [value.name for value in graph.outputs] == [
        "loss",
        *(f"grad:{name}" for name in parameters),
    ]
    assert graph.inputs[1] == ValueInfo("y", "float32", ("N", 1))
    inference = derive_inference_graph(mlp(4, (8,), 1, seed=0))
    assert [value.name for value in inference.inputs] == ["x", *parameters]
    assert not [name for name in inference.initializers if not name.startswith("%")]


def test_one_gradient_under_two_names_is_given_twice() -> None:
    graph = forward(
        PRODUCT,
        Node("Add", ("out", "a"), ("first",)),
        Node("Add", ("first", "b"), ("second",)),
        a=np.zeros(2, np.float32),
        b=np.zeros(2, np.float32),
    )
    x, y, w = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32), np.ones(4, np.float32)
    _, grads = OnnxRuntimeBackend(graph, Loss.MSE).grads(initial_params(graph), x, y, w)
    assert np.array_equal(grads["a"], grads["b"])
    assert grads["a"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (forward(replace(PRODUCT, op="LSTM")), r"node 'product' \(LSTM\): operator 'LSTM'"),
        (
            forward(replace(PRODUCT, op="Gemm", attributes={"transA": 1})),
            r"node 'product' \(Gemm\): transA=1",
        ),
        (
            forward(replace(PRODUCT, attributes={"surprise": 1})),
            r"attribute 'surprise' is not supported",
        ),
        (forward(PRODUCT, weight=np.ones((4, 2), np.float32)), r"do not multiply"),
        (forward(PRODUCT, dead=np.ones(2, np.float32)), r"parameter 'dead': does not reach"),
        (
            forward(
                replace(PRODUCT, inputs=("x", "y")), weight=np.float32(1), y=np.ones((3, 2), "f4")
            ),
            r"parameter 'y': this name is reserved",
        ),
        (forward(PRODUCT, data=(8, 3)), r"first axis must be dynamic"),
        (forward(PRODUCT, data=("N", "T")), r"fixed sizes"),
        (
            forward(
                PRODUCT,
                Node("Reshape", ("out", "shape"), ("mixed",), {}, "mix"),
                shape=np.array([-1, 4]),
            ),
            r"node 'mix' \(Reshape\)",
        ),
        (
            forward(PRODUCT, Node("Add", ("out", "tall"), ("o",)), tall=np.ones((5, 2), "f4")),
            r"do not broadcast",
        ),
        (
            forward(PRODUCT, Node("Mul", ("out", "big"), ("o",)), big=np.ones((1, 9, 1, 2), "f4")),
            r"the batch axis must stay first",
        ),
        (
            forward(PRODUCT, Node("Softmax", ("out",), ("o",), {"axis": 0}, "soft")),
            r"node 'soft' \(Softmax\): works along the batch axis",
        ),
        (
            forward(PRODUCT, Node("Add", ("out", "count"), ("o",)), count=np.array([1, 2])),
            r"computes with int64 values",
        ),
        (forward(PRODUCT, Node("Relu", ("weight",), ("o",))), r"depend on data and parameters"),
    ],
)
def test_what_cannot_be_derived_is_refused_with_its_node(graph: Graph, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        derive_training_graph(graph, Loss.MSE)


UPSAMPLING = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def step(op: str, *inputs: Any, **attributes: Any) -> Graph:
    """A graph whose last step takes x (N, 3, 4, 1) and `inputs`: numbers, arrays or names."""
    names: list[str] = []
    nodes: list[Node] = []
    tensors: dict[str, Any] = {}
    for index, value in enumerate(inputs):
        names.append(value if isinstance(value, str) else f"input{index}")
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim:
            nodes.append(Node("Constant", (), (names[-1],), {"value": value}))
        elif not isinstance(value, str):
            tensors[names[-1]] = value
    last = Node(op, ("scaled", *names), ("o",), attributes, "step")
    tensors["weight"] = np.ones((1, 3, 1, 1), np.float32)
    return forward(
        Node("Mul", ("x", "weight"), ("scaled",)), *nodes, last, data=("N", 3, 4, 1), **tensors
    )


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


TWICE = floats(1, 1, 2, 1)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (step("Pow", "weight"), r"input 1 must be a constant scalar"),
        (step("Pow", floats(2)), r"input 1 must be a constant scalar"),
        (step("Pow", np.float32(0)), r"the exponent 0.0 leaves nothing to derive"),
        (step("Clip", "weight"), r"input 1 must be a constant scalar"),
        (step("Clip", "", "weight"), r"input 2 must be a constant scalar"),
        (step("Clip", np.array(1)), r"computes with int64 values"),
        (step("Clip", "", "", "weight"), r"takes 1 to 3 inputs"),
        (step("LeakyRelu", alpha=1), r"attribute 'alpha' must be a float"),
        (step("Div", ints(1, 2)), r"computes with int64 values"),
        (step("Add", ""), r"takes 2 to 2 inputs, has 1"),
        (step("Flatten", axis=0), r"only axis 1 can be flattened from, not 0"),
        (step("Flatten", axis=4), r"only axis 1 can be flattened from, not 4"),
        (step("Flatten", axis=5), r"there is no axis 5 among 4"),
        (step("Transpose", perm=(1, 0, 2, 3)), r"the batch axis must stay first"),
        (step("Transpose"), r"the batch axis must stay first"),
        (step("Transpose", perm=(0, 1, 1, 2)), r"perm .* does not order the axes"),
        (step("Transpose", perm="0123"), r"attribute 'perm' must be a list of integers"),
        (step("Concat", "x"), r"must have the attribute 'axis'"),
        (step("Concat", "x", axis=0), r"works along the batch axis, which would mix examples"),
        (step("Concat", "weight", axis=1), r"cannot join \(1, 3, 1, 1\) to \('N', 3, 4, 1\)"),
        (step("Concat", "x", axis=4), r"there is no axis 4 among 4"),
        (step("Squeeze"), r"without axes would drop a batch of one example"),
        (step("Squeeze", ints()), r"without axes would drop a batch of one example"),
        (step("Squeeze", ints(0)), r"are not all of size 1"),
        (step("Squeeze", ints(2)), r"are not all of size 1"),
        (step("Squeeze", "weight"), r"input 1 must be a constant vector of int64"),
        (step("Unsqueeze", ints(0)), r"the batch axis must stay first"),
        (step("Unsqueeze", ints(2, -4)), r"name one axis twice"),
        (step("Unsqueeze", ints(6)), r"there is no axis 6 among 5"),
        (step("Slice", ints(0), ints(9)), r"cuts the batch axis, which would drop examples"),
        (step("Slice", ints(1), ints(2**40), ints(-4)), r"cuts the batch axis"),
        (step("Slice", ints(-1), ints(-(2**63)), ints(0), ints(-1)), r"cuts the batch axis"),
        (step("Slice", ints(0, 0), ints(2, 2), ints(1, -3)), r"cuts axis 1 twice"),
        (step("Slice", ints(0, 0), ints(2), ints(1)), r"do not fit together"),
        (step("Slice", ints(0), ints(2), ints(1), ints(0)), r"do not fit together"),
        (step("Slice", ints(2), ints(2), ints(1)), r"has an empty axis"),
        (step("Slice", "x", ints(2), ints(1)), r"input 1 must be a constant vector of int64"),
        (step("ReduceMean"), r"works along the batch axis, which would mix examples"),
        (step("ReduceSum", ints()), r"works along the batch axis"),
        (step("ReduceSum", ints(1, 0)), r"works along the batch axis"),
        (step("ReduceMean", ints(-1, 3)), r"name one axis twice"),
        (step("ReduceMean", ints(4)), r"there is no axis 4 among 4"),
        (step("ReduceMean", ints(1), keepdims=0.0), r"attribute 'keepdims' must be an integer"),
        (step("LogSoftmax", axis=-4), r"works along the batch axis"),
        (step("LayerNormalization", floats(1), axis=0), r"works along the batch axis"),
        (step("LayerNormalization", floats(1), stash_type=10), r"only stash_type 1"),
        (step("LayerNormalization", floats(1, 1)), r"scale or bias of \(2,\) does not fit"),
        (step("LayerNormalization", floats(1), "x"), r"scale or bias .* does not fit"),
        (step("LayerNormalization", floats(1), epsilon=1), r"'epsilon' must be a float"),
        (step("Resize", "", TWICE), r"coordinate_transformation_mode 'half_pixel' is not"),
        (step("Resize", "", TWICE, **UPSAMPLING | {"mode": "linear"}), r"mode 'linear' is not"),
        (step("Resize", "", TWICE, **UPSAMPLING | {"mode": 1}), r"'mode' must be a string"),
        (
            step("Resize", "", TWICE, **UPSAMPLING | {"nearest_mode": "ceil"}),
            r"nearest_mode 'ceil' is not supported",
        ),
        (step("Resize", "", TWICE, **UPSAMPLING, antialias=1), r"antialias is not supported"),
        (step("Resize", floats(1), TWICE, **UPSAMPLING), r"either scales or sizes, and no roi"),
        (step("Resize", "", TWICE, ints(1), **UPSAMPLING), r"either scales or sizes, and no roi"),
        (step("Resize", **UPSAMPLING), r"either scales or sizes, and no roi"),
        (
            step("Resize", "", "weight", **UPSAMPLING),
            r"scales must come from a Constant node, float32",
        ),
        (step("Resize", "", floats(1, 1, 1.5, 1), **UPSAMPLING), r"are not one whole number"),
        (step("Resize", "", floats(1, 1, 0.5, 1), **UPSAMPLING), r"are not one whole number"),
        (step("Resize", "", floats(1, 1, 2), **UPSAMPLING), r"are not one whole number"),
        (step("Resize", "", floats(1, 2, 1, 1), **UPSAMPLING), r"only the axes after batch and"),
        (step("Resize", "", floats(2, 1, 1, 1), **UPSAMPLING), r"only the axes after batch and"),
        (
            step("Resize", "", "", ints(8, 3, 8, 1), **UPSAMPLING),
            r"sizes would fix the size of the batch",
        ),
        (
            step("Resize", "", "", ints(8, 8), **UPSAMPLING, axes=(2, -2)),
            r"cannot resize axes \(2, -2\)",
        ),
        (
            step("Resize", "", "", ints(9), **UPSAMPLING, axes=(2,)),
            r"factors \[2.25\] are not one whole number",
        ),
    ],
)
def test_a_step_that_cannot_be_derived_exactly_is_refused(graph: Graph, words: str) -> None:
    with pytest.raises(GraphError, match=rf"node 'step' \(\w+\): .*{words}"):
        derive_training_graph(graph, Loss.MSE)


def test_the_gradients_of_neighbouring_slices_are_joined_without_padding_and_adding() -> None:
    gates = [
        Node("Slice", ("out", f"start{index}", f"end{index}", "axis"), (f"gate{index}",))
        for index in range(3)
    ]
    graph = forward(
        PRODUCT,
        *gates,
        Node("Mul", ("gate0", "gate1"), ("some",)),
        Node("Sub", ("some", "gate2"), ("o",)),
        width=6,
        axis=ints(1),
        **{f"start{index}": ints(2 * index) for index in range(3)},
        **{f"end{index}": ints(2 * index + 2) for index in range(3)},
    )
    ops = [node.op for node in derive_training_graph(graph, Loss.MSE).nodes]
    assert ops.count("Concat") == 1
    assert not {"Pad", "Add"}.intersection(ops)


def test_what_is_upsampled_must_have_channels_and_one_or_two_more_axes() -> None:
    graph = forward(
        PRODUCT,
        Node("Constant", (), ("scales",), {"value": floats(1, 2)}),
        Node("Resize", ("out", "", "scales"), ("o",), UPSAMPLING, "up"),
    )
    with pytest.raises(GraphError, match=r"node 'up' \(Resize\): cannot resize axes \(0, 1\)"):
        derive_training_graph(graph, Loss.MSE)


@pytest.mark.parametrize("loss", [Loss.BINARY_CROSS_ENTROPY, Loss.CROSS_ENTROPY])
def test_a_loss_refuses_outputs_it_cannot_judge(loss: Loss) -> None:
    width = 2 if loss is Loss.BINARY_CROSS_ENTROPY else 1
    with pytest.raises(GraphError, match=loss.value):
        derive_training_graph(mlp(3, (), width, seed=0), loss)


def test_an_intermediate_value_of_a_terabyte_is_refused() -> None:
    graph = forward(
        Node("MatMul", ("x", "row"), ("wide",), {}, "wide"),
        Node("Reshape", ("wide", "shape"), ("column",)),
        Node("Mul", ("column", "wide3"), ("out",), {}, "outer"),
        row=np.ones((3, 4096), np.float32),
        shape=np.array([-1, 4096, 1]),
        wide3=np.ones((1, 1, 4096), np.float32),
        weight=np.float32(1),
    )
    with pytest.raises(GraphError, match=r"node 'outer' \(Mul\): .* exceeds"):
        derive_training_graph(graph, Loss.MSE)


def test_a_constant_node_is_a_constant_and_no_parameter() -> None:
    graph = forward(
        Node("Constant", (), ("scale",), {"value": np.array([2, 3], np.float32)}),
        PRODUCT,
        Node("Mul", ("out", "scale"), ("scaled",)),
    )
    params = initial_params(graph)
    assert list(params) == ["weight"]
    output = OnnxRuntimeBackend(graph, Loss.MSE).infer(params, np.ones((1, 3), np.float32))
    assert output.tolist() == [[6.0, 9.0]]
