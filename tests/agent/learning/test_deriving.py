"""Derivation: names, shapes and refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.learning.backend import OnnxRuntimeBackend
from agent.learning.derive import derive_inference_graph, derive_training_graph
from agent.learning.families import mlp
from agent.learning.graph import Graph, GraphError, Node, ValueInfo, initial_params
from agent.learning.losses import Loss


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
        (forward(replace(PRODUCT, op="Conv")), r"node 'product' \(Conv\): operator 'Conv'"),
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
            r"node 'soft' \(Softmax\): axis 0",
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
