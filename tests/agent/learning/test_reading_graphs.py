"""Reading ONNX bytes: what is accepted, what is refused, and that nothing else happens."""

import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agent.learning.derive import derive_inference_graph, derive_training_graph
from agent.learning.families import mlp
from agent.learning.graph import (
    DEFAULT_LIMITS,
    FORWARD_OPERATORS,
    Graph,
    GraphError,
    Limits,
    Node,
    initial_params,
    read_graph,
    write_graph,
)
from agent.learning.losses import Loss
from agent.learning.operators import OPERATORS

VALID = write_graph(mlp(4, (8,), 2, seed=1))


def model(
    nodes: Sequence[onnx.NodeProto] | None = None,
    tensors: Sequence[onnx.TensorProto] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A small valid model by the official package, to be broken."""
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "weight")
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "weight"], ["out"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 2])],
        tensors if tensors is not None else [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def refusal(data: bytes, limits: Limits = DEFAULT_LIMITS) -> str:
    with pytest.raises(GraphError) as caught:
        read_graph(data, limits)
    return str(caught.value)


def test_the_whitelist_is_exactly_what_can_be_derived() -> None:
    assert frozenset(OPERATORS) == FORWARD_OPERATORS


def test_a_written_graph_reads_back_the_same() -> None:
    graph = mlp(4, (8, 3), 2, seed=1)
    again = read_graph(write_graph(graph))
    assert (again.nodes, again.inputs, again.outputs) == (graph.nodes, graph.inputs, graph.outputs)
    assert list(again.initializers) == list(graph.initializers)
    for name, value in graph.initializers.items():
        assert np.array_equal(again.initializers[name], value)
    assert write_graph(again) == write_graph(graph)


@pytest.mark.parametrize("loss", [Loss.CROSS_ENTROPY, Loss.MSE])
def test_graphs_pass_the_official_checker(loss: Loss) -> None:
    forward = mlp(4, (8,), 2, seed=1)
    for graph in (forward, derive_training_graph(forward, loss), derive_inference_graph(forward)):
        onnx.checker.check_model(write_graph(graph), full_check=True)


def test_a_file_of_the_official_package_reads_with_its_values() -> None:
    typed = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], [1.0, 2, 3, 4, 5, 6])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["out"]),
    ]
    graph = read_graph(model(nodes, [typed, shape]).SerializeToString())
    assert graph.initializers["weight"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert graph.initializers["shape"].tolist() == [-1, 2]
    assert graph.inputs[0].shape == ("N", 3)
    assert list(initial_params(graph)) == ["weight"]


def _external(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def _subgraph(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("body", m.graph))


def _function(m: onnx.ModelProto) -> None:
    m.functions.append(
        helper.make_function("d", "f", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    )


def _sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.add()


def _domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.evil"


def _imported_domain(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.evil", 1))


def _infinite(m: onnx.ModelProto) -> None:
    values = np.full((3, 2), np.inf, np.float32)
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))


def _double(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 2)), "weight"))


def _short(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = 4


def _huge(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def _twice(m: onnx.ModelProto) -> None:
    m.graph.node.append(m.graph.node[0])


def _loop(m: onnx.ModelProto) -> None:
    m.graph.node[0].op_type = "Loop"


def _cycle(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "out"


def _long_name(m: onnx.ModelProto) -> None:
    m.graph.node[0].name = "n" * 1000


def _training(m: onnx.ModelProto) -> None:
    m.training_info.add()


def _lost_output(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = "nowhere"


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (_external, "external data"),
        (_subgraph, "a subgraph"),
        (_function, "functions"),
        (_sparse, "sparse initializers"),
        (_domain, "node 'product' (MatMul): domain 'com.evil'"),
        (_imported_domain, "domain 'com.evil'"),
        (_infinite, "initializer 'weight': holds values that are not finite"),
        (_double, "element type 11"),
        (_short, "24 bytes of values for 8 elements"),
        (_huge, "out of range"),
        (_twice, "defines 'out' a second time"),
        (_loop, "node 'product' (Loop): operator 'Loop' is not supported"),
        (_cycle, "not defined before it (cycle or order)"),
        (_long_name, "a name has 1000 bytes"),
        (_training, "training information"),
        (_lost_output, "'nowhere' is not computed"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_broken_rule_is_named(breaking: Callable[[Any], None], words: str) -> None:
    broken = model()
    breaking(broken)
    assert words in refusal(broken.SerializeToString())


def test_another_operator_set_is_refused() -> None:
    assert "exactly [18]" in refusal(model(opset=17).SerializeToString())


def test_every_cap_is_kept() -> None:
    for limits in (
        Limits(total_bytes=10),
        Limits(nodes=2),
        Limits(node_bytes=50),
        Limits(tensors=3),
        Limits(tensor_elements=15),
        Limits(tensor_bytes=100),
        Limits(rank=1),
        Limits(name_length=3),
        Limits(list_length=2),
    ):
        refusal(VALID, limits)


def test_memory_stays_in_proportion_for_a_file_of_tiny_fields() -> None:
    packed = b"\x01" * (4 << 20)  # one byte a value, eight bytes in memory
    tensor = b"\x08" + b"\x80\x80\x80\x02" + b"\x10\x07" + b"\x42\x01t" + b"\x3a"
    tensor += b"\x80\x80\x80\x02" + packed
    graph = b"\x2a" + _varint(len(tensor)) + tensor
    data = b"\x08\x09" + b"\x3a" + _varint(len(graph)) + graph + b"\x42\x02\x10\x12"
    tracemalloc.start()
    try:
        refusal(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_or_refuse(data: bytes) -> Graph | None:
    try:
        return read_graph(data)
    except GraphError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_graph_or_a_refusal(data: bytes) -> None:
    graph = read_or_refuse(data)
    assert graph is None or graph.outputs


@settings(max_examples=1000, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.one_of(st.none(), st.integers(0, len(VALID))),
    insert=st.binary(max_size=8),
)
def test_mutations_of_a_valid_file_give_a_graph_or_a_refusal_and_then_derive_or_refuse(
    edits: list[tuple[int, int]], cut: int | None, insert: bytes
) -> None:
    data = bytearray(VALID)
    for position, value in edits:
        data[position] = value
    data[edits[0][0] : edits[0][0]] = insert
    graph = read_or_refuse(bytes(data[:cut]))
    if graph is not None:
        with suppress(GraphError):
            assert derive_training_graph(graph, Loss.CROSS_ENTROPY).outputs[0].name == "loss"


def test_a_structural_mutation_is_refused_by_node_before_deriving() -> None:
    graph = mlp(4, (8,), 2, seed=1)
    odd = replace(graph, nodes=(*graph.nodes, Node("Relu", (), ("r",), {}, "empty")))
    odd = replace(odd, outputs=(replace(graph.outputs[0], name="r"),))
    with pytest.raises(GraphError, match=r"node 'empty' \(Relu\): takes 1 to 1 inputs"):
        derive_training_graph(odd, Loss.CROSS_ENTROPY)
