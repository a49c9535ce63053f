"""Simplification: each rewriting against ONNX Runtime, each refusal by its node, hostile files."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agent.learning.graph import (
    FORWARD_OPERATORS,
    Graph,
    GraphError,
    Node,
    ValueInfo,
    initial_params,
    write_graph,
)
from agent.learning.ir import AUTHORING_OPERATORS
from agent.learning.silent_onnxruntime import onnxruntime
from agent.learning.simplify import read_exported, simplify
from agent.learning.simplify.folding import FOLDS, WORK_BYTES
from agent.learning.simplify.rewrite import RULES

FIXTURES = Path(__file__).parents[2] / "golden" / "onnx"
RANDOM = np.random.default_rng(3)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def floats(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def op(kind: str, inputs: str, outputs: str = "out", **attributes: Any) -> onnx.NodeProto:
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"the {kind}", **attributes)


def exported(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    tensors: dict[str, NDArray[Any]] | None = None,
) -> bytes:
    """A model out = nodes(v), with v = x times a parameter of one example's shape."""
    sizes = [size if isinstance(size, int) else 1 for size in shape[1:]]
    given: dict[str, NDArray[Any]] = {"p": np.linspace(0.5, 1.5, int(np.prod(sizes)))}
    given = {"p": given["p"].reshape(sizes).astype(np.float32), **(tensors or {})}
    for index, node in enumerate(nodes):
        if any(node.name == other.name for other in nodes[:index]):
            node.name += f" {index}"
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "p"], ["v"], name="first"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    graph.output[0].type.tensor_type.shape.Clear()  # of unknown rank here, of any in the graph
    opset = helper.make_opsetid("", 18)
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return data


def run(data: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


def refusal(data: bytes) -> str:
    with pytest.raises(GraphError) as caught:
        read_exported(data)
    return str(caught.value)


def test_the_authoring_whitelist_is_exactly_what_can_be_rewritten_or_folded() -> None:
    assert frozenset(RULES) | frozenset(FOLDS) == AUTHORING_OPERATORS
    assert FORWARD_OPERATORS < AUTHORING_OPERATORS


VECTOR, SERIES, IMAGE = ("N", 6), ("N", 4, 6), ("N", 4, 6, 6)
STATISTICS = {"s": floats(4), "b": floats(4), "m": floats(4), "q": floats(4) ** 2 + 1}
KERNEL = {"k": floats(3, 4, 3, 2), "c": floats(3)}

REWRITTEN: dict[str, tuple[list[onnx.NodeProto], Sequence[int | str], dict[str, Any]]] = {
    "split by number": ([op("Split", "v", "a out c", axis=-1, num_outputs=3)], SERIES, {}),
    "split unevenly": ([op("Split", "v", "a out", axis=1, num_outputs=2)], ("N", 5, 2), {}),
    "split by sizes": ([op("Split", "v i", "a out", axis=2)], SERIES, {"i": ints(2, 4)}),
    "sequence": (
        [op("SplitToSequence", "v i", "s", axis=1), op("SequenceAt", "s j")],
        SERIES,
        {"i": np.array(3, np.int64), "j": np.array(-1, np.int64)},
    ),
    "sequence of singles": (
        [op("SplitToSequence", "v", "s", axis=1, keepdims=0), op("SequenceAt", "s j")],
        SERIES,
        {"j": np.array(2, np.int64)},
    ),
    "gather one": ([op("Gather", "v i", axis=1)], SERIES, {"i": np.array(-1, np.int64)}),
    "gather neighbours": ([op("Gather", "v i", axis=-1)], SERIES, {"i": ints(2, 3, 4)}),
    "gather others": ([op("Gather", "v i", axis=1)], SERIES, {"i": ints(3, 0, -2)}),
    "slice": (
        [op("Slice", "v a b c d")],
        SERIES,
        {"a": ints(0, -5), "b": ints(1 << 62, 9), "c": ints(0, 2), "d": ints(1, 2)},
    ),
    "slice twice, named backwards": (
        [op("Slice", "v a b c")],
        SERIES,
        {"a": ints(1, 0), "b": ints(5, 2), "c": ints(2, 1)},
    ),
    "whole slice": ([op("Slice", "v a b")], SERIES, {"a": ints(0), "b": ints(1 << 62)}),
    "expand": ([op("Expand", "v i")], ("N", 1, 6), {"i": ints(3, 1)}),
    "tile": ([op("Tile", "v i")], ("N", 1, 6), {"i": ints(1, 3, 1)}),
    "flatten from the end": ([op("Flatten", "v", axis=-2)], SERIES, {}),
    "flatten nothing": ([op("Flatten", "v")], VECTOR, {}),
    "reshape by zero": ([op("Reshape", "v i", allowzero=0)], SERIES, {"i": ints(0, 0, 3, -1)}),
    "reshape, no zeros": ([op("Reshape", "v i", allowzero=1)], SERIES, {"i": ints(-1, 24)}),
    "squeeze all": ([op("Squeeze", "v")], ("N", 1, 6), {}),
    "unsqueeze": ([op("Unsqueeze", "v i")], VECTOR, {"i": ints(-1, 1)}),
    "transpose": ([op("Transpose", "v", perm=[0, 2, 1])], SERIES, {}),
    "identity, cast and dropout": (
        [op("Identity", "v", "a"), op("Cast", "a", "b", to=1), op("Dropout", "b")],
        VECTOR,
        {},
    ),
    "view by sizes": (
        [
            *(op("Shape", "v", "s"), op("Gather", "s i", "n"), op("Unsqueeze", "n j", "u")),
            *(op("Concat", "u k", "t", axis=0), op("Reshape", "v t")),
        ],
        SERIES,
        {"i": np.array(0, np.int64), "j": ints(0), "k": ints(-1)},
    ),
    "zeros of the batch's size, joined": (
        [
            *(op("Shape", "v", "s", end=1), op("Concat", "s k", "t", axis=0)),
            *(op("ConstantOfShape", "t", "z"), op("Exp", "z", "e")),
            op("Concat", "v e", axis=1),
        ],
        VECTOR,
        {"k": ints(5)},
    ),
    "sum": ([op("Sum", "v c v")], VECTOR, {"c": floats(6)}),
    "reciprocal": ([op("Abs", "v", "a"), op("Add", "a c", "b"), op("Reciprocal", "b")], VECTOR, {}),
    "max with a number": ([op("Max", "v c")], VECTOR, {"c": np.array(0.1, np.float32)}),
    "min with a number": ([op("Min", "c v")], VECTOR, {"c": np.array(0.1, np.float32)}),
    "clip from below": ([op("Clip", "v c")], VECTOR, {"c": np.array(0.1, np.float32)}),
    "clip from above": ([op("Clip", "v - c")], VECTOR, {"c": np.array(0.1, np.float32)}),
    "elu": ([op("Elu", "v", alpha=0.7)], VECTOR, {}),
    "selu": ([op("Selu", "v")], VECTOR, {}),
    "hard sigmoid": ([op("HardSigmoid", "v", alpha=0.3, beta=0.4)], VECTOR, {}),
    "hard swish": ([op("HardSwish", "v")], VECTOR, {}),
    "mish": ([op("Mish", "v")], VECTOR, {}),
    "prelu": ([op("PRelu", "v s")], VECTOR, {"s": floats(6)}),
    "softmax": ([op("Softmax", "v", axis=1)], SERIES, {}),
    "matrix times vector": ([op("MatMul", "v m")], SERIES, {"m": floats(6)}),
    "gemm without a bias to speak of": (
        [op("ConstantOfShape", "i", "z"), op("Gemm", "v m z", alpha=2.0)],
        VECTOR,
        {"i": ints(3), "m": floats(6, 3)},
    ),
    "mean over nothing": ([op("ReduceMean", "v", noop_with_empty_axes=1)], SERIES, {}),
    "mean": ([op("ReduceMean", "v i", keepdims=0)], SERIES, {"i": ints(-1)}),
    "sum over two": ([op("ReduceSum", "v i")], SERIES, {"i": ints(2, 1)}),
    "batch normalisation": ([op("BatchNormalization", "v s b m q")], SERIES, STATISTICS),
    "instance normalisation": ([op("InstanceNormalization", "v s b")], IMAGE, STATISTICS),
    "group normalisation": (
        [op("GroupNormalization", "v s b", num_groups=2, epsilon=1e-3)],
        IMAGE,
        {"s": floats(2), "b": floats(2)},
    ),
    "padding and convolution": (
        [op("Pad", "v i", "w"), op("Conv", "w k c", pads=[1, 0, 1, 0])],
        IMAGE,
        KERNEL | {"i": ints(0, 0, 2, 0, 0, 0, 1, 1)},
    ),
    "padding of named axes": (
        [op("Pad", "v i z a", "w"), op("Conv", "w k", auto_pad="VALID")],
        IMAGE,
        KERNEL | {"i": ints(2, 3), "z": np.array(0, np.float32), "a": ints(-1)},
    ),
    "same padding": ([op("Conv", "v k", auto_pad="SAME_UPPER", strides=[2, 1])], IMAGE, KERNEL),
    "same padding, more in front": ([op("Conv", "v k c", auto_pad="SAME_LOWER")], IMAGE, KERNEL),
    "same pool": (
        [op("MaxPool", "v", auto_pad="SAME_UPPER", kernel_shape=[3, 2], strides=[2, 2])],
        IMAGE,
        {},
    ),
    "pool that ceils nothing": (
        [op("AveragePool", "v", ceil_mode=1, kernel_shape=[2, 2], strides=[2, 2])],
        IMAGE,
        {},
    ),
    "global maximum": ([op("GlobalMaxPool", "v")], IMAGE, {}),
    "transposed convolution": (
        [op("ConvTranspose", "v k", strides=[2, 2], output_padding=[1, 0])],
        IMAGE,
        {"k": floats(4, 3, 3, 2)},
    ),
    "resize by scales": (
        [op("Resize", "v - s", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        IMAGE,
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "resize by sizes, by nearest centres": (
        [
            *(op("Shape", "v", "s", end=2), op("Concat", "s i", "t", axis=0)),
            op("Resize", "v - - t", coordinate_transformation_mode="half_pixel"),
        ],
        IMAGE,
        {"i": ints(18, 12)},
    ),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_exporters_write_is_rewritten_with_the_same_result(case: str) -> None:
    nodes, shape, tensors = REWRITTEN[case]
    if case == "reciprocal":
        tensors = {"c": np.array(1, np.float32)}
    data = exported(nodes, shape, tensors)
    graph = read_exported(data)
    assert {node.op for node in graph.nodes} <= FORWARD_OPERATORS
    # With one example, ONNX itself would squeeze the batch away; here the batch always stays.
    for count in (3,) if case == "squeeze all" else (1, 3):
        x = floats(count, *(size for size in shape[1:] if isinstance(size, int)))
        expected = run(data, x)
        got = run(write_graph(graph), x)
        assert got.shape == expected.shape
        assert np.allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_gelu_as_one_operator_is_rewritten_both_ways(kind: str) -> None:
    x = floats(3, 6)
    graph = read_exported(exported([op("Gelu", "v", approximate=kind)], VECTOR))
    v = torch.tensor(x) * torch.linspace(0.5, 1.5, 6)
    expected = torch.nn.functional.gelu(v, approximate=kind).numpy()
    assert np.allclose(run(write_graph(graph), x), expected, rtol=1e-5, atol=1e-6)


def test_neutral_steps_and_what_nobody_uses_disappear() -> None:
    nodes = [
        *(op("Mul", "v one", "a"), op("Add", "zero a", "b"), op("Expand", "b i", "c")),
        *(op("Relu", "unused", "d"), op("Tanh", "c", "out")),
    ]
    tensors: dict[str, NDArray[Any]] = {
        "one": np.ones((1, 1), np.float32),
        "i": ints(1, 6),
        "unused": floats(6),
    }
    constants = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(tensors["one"])),
    ]
    del tensors["one"]
    graph = read_exported(exported([*constants, *nodes], VECTOR, tensors))
    assert [node.op for node in graph.nodes] == ["Mul", "Tanh"]
    assert list(graph.initializers) == ["p"]


def test_float_constants_are_not_trained_and_initializers_are() -> None:
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2, 3, 4, 5, 6])
    graph = read_exported(exported([constant, op("Add", "v c")], VECTOR))
    assert list(initial_params(graph)) == ["p"]
    graph = read_exported(exported([op("Add", "v c")], VECTOR, {"c": floats(6)}))
    assert list(initial_params(graph)) == ["p", "c"]


def test_a_frozen_initializer_becomes_a_constant() -> None:
    data = exported([op("Add", "v c")], VECTOR, {"c": floats(6)})
    graph = read_exported(data, frozen=["c"])
    assert list(initial_params(graph)) == ["p"]
    x = floats(2, 6)
    assert np.allclose(run(write_graph(graph), x), run(data, x))
    with pytest.raises(GraphError, match="'d': is to be frozen, and is not in the file"):
        read_exported(data, frozen=["d"])


def test_names_of_nodes_and_values_are_kept() -> None:
    nodes = [op("HardSwish", "v", "gated"), op("Tanh", "gated", "out")]
    graph = read_exported(exported(nodes, VECTOR))
    assert graph.outputs[0].name == "out"
    assert "gated" in {name for node in graph.nodes for name in node.outputs}
    names = [node.name for node in graph.nodes]
    assert "the HardSwish" in names
    assert len(set(names)) == len(names)


def test_notes_and_types_of_values_in_between_are_ignored() -> None:
    model = onnx.load_from_string(exported([op("Tanh", "v")], VECTOR))
    for part in (*model.graph.node, *model.graph.initializer, model.graph.input[0], model.graph):
        part.doc_string = "a note"
        entry = part.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", "line\n" * 500
    model.doc_string, model.producer_name, model.ir_version = "more", "an exporter", 10
    between = helper.make_tensor_value_info("v", TensorProto.DOUBLE, ["N", "anything"])
    model.graph.value_info.append(between)
    graph = read_exported(model.SerializeToString())
    assert [node.op for node in graph.nodes] == ["Mul", "Tanh"]


TRAINING = np.array(True)

REFUSED: dict[str, tuple[list[onnx.NodeProto], Sequence[int | str], dict[str, Any], str]] = {
    "LSTM": (
        [op("LSTM", "v w r", "a out", hidden_size=2)],
        SERIES,
        {"w": floats(1, 8, 6), "r": floats(1, 8, 2)},
        "node 'the LSTM' (LSTM): operator 'LSTM' is not supported",
    ),
    "Einsum": (
        [op("Einsum", "v", equation="nct->nc")],
        SERIES,
        {},
        "node 'the Einsum' (Einsum): operator 'Einsum' is not supported",
    ),
    "ReduceL2": ([op("ReduceL2", "v i")], SERIES, {"i": ints(1)}, "node 'the ReduceL2' (ReduceL2)"),
    "a constant operator on data": (
        [op("Floor", "v")],
        VECTOR,
        {},
        "node 'the Floor' (Floor): operator 'Floor' is supported on constants only",
    ),
    "training dropout": (
        [op("Dropout", "v r t")],
        VECTOR,
        {"r": np.array(0.5, np.float32), "t": TRAINING},
        "node 'the Dropout' (Dropout): drops values; export the model in evaluation mode",
    ),
    "training batch normalisation": (
        [op("BatchNormalization", "v s b m q", "out o1 o2", training_mode=1)],
        SERIES,
        STATISTICS,
        "node 'the BatchNormalization' (BatchNormalization): would mix",
    ),
    "reflection": (
        [op("Pad", "v i", mode="reflect")],
        SERIES,
        {"i": ints(0, 0, 1, 0, 0, 1)},
        "node 'the Pad' (Pad): a padding is supported only with zeros",
    ),
    "padding before something else": (
        [op("Pad", "v i", "a"), op("Relu", "a")],
        SERIES,
        {"i": ints(0, 0, 1, 0, 0, 1)},
        "node 'the Pad' (Pad): a padding is supported only with zeros and right before",
    ),
    "comparison": (
        [op("Greater", "v z", "a"), op("Where", "a v p")],
        VECTOR,
        {"z": np.array(0, np.float32)},
        "node 'the Where' (Where): is supported only as PyTorch's softplus writes it",
    ),
    "linear resize": (
        [op("Resize", "v - s", mode="linear")],
        IMAGE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "node 'the Resize' (Resize): mode 'linear'",
    ),
    "odd resize": (
        [op("Resize", "v - s", nearest_mode="floor", coordinate_transformation_mode="asymmetric")],
        IMAGE,
        {"s": np.array([1, 1, 1.5, 2], np.float32)},
        "node 'the Resize' (Resize): factors",
    ),
    "reshape across examples": (
        [op("Reshape", "v i")],
        SERIES,
        {"i": ints(-1, 6)},
        "node 'the Reshape' (Reshape): ",
    ),
    "slice of the batch": (
        [op("Slice", "v a b")],
        VECTOR,
        {"a": ints(0), "b": ints(2)},
        "node 'the Slice' (Slice): cuts the batch",
    ),
    "an example of the batch": (
        [op("Gather", "v i")],
        VECTOR,
        {"i": np.array(0, np.int64)},
        "node 'the Gather' (Gather): picks examples",
    ),
    "mean over the batch": (
        [op("ReduceMean", "v i")],
        VECTOR,
        {"i": ints(0)},
        "node 'the ReduceMean' (ReduceMean): works along the batch axis",
    ),
    "arithmetic on the size of the batch": (
        [
            *(op("Shape", "v", "s", end=1), op("Cast", "s", "f", to=1)),
            op("Div", "v f"),
        ],
        VECTOR,
        {},
        "node 'the Div' (Div): a constant's values depend on the size of the batch",
    ),
    "integers among data": (
        [op("Add", "v i")],
        VECTOR,
        {"i": ints(1)},
        "node 'the Add' (Add): computes with int64 values",
    ),
    "halves": ([op("Cast", "v", to=10)], VECTOR, {}, "node 'the Cast' (Cast): casts data"),
    "an unknown attribute": (
        [op("Relu", "v", strength=2)],
        VECTOR,
        {},
        "node 'the Relu' (Relu): attribute 'strength' is not supported",
    ),
    "too few inputs": ([op("Conv", "v")], SERIES, {}, "node 'the Conv' (Conv): takes 2 to 3"),
    "ceiling": (
        [op("MaxPool", "v", kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1)],
        IMAGE,
        {},
        "node 'the MaxPool' (MaxPool): ceil_mode=1",
    ),
    "a fixed batch": ([op("Relu", "v")], (4, 6), {}, "input 'x': its first axis must be dynamic"),
    "a dynamic length": (
        [op("Relu", "v")],
        ("N", "T"),
        {},
        "input 'x': only the first axis may be dynamic",
    ),
    "division by zero": (
        [op("Div", "i j", "k"), op("Reshape", "v k")],
        VECTOR,
        {"i": ints(0, 6), "j": ints(1, 0)},
        "node 'the Div' (Div): cannot be computed from constants: division by zero",
    ),
    "infinity": (
        [op("Exp", "i", "k"), op("Add", "v k")],
        VECTOR,
        {"i": np.array(1e4, np.float32)},
        "node 'the Exp' (Exp): gives constants that are not finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_named_with_its_node(case: str) -> None:
    nodes, shape, tensors, words = REFUSED[case]
    assert words in refusal(exported(nodes, shape, tensors))


def _branch(model: onnx.ModelProto) -> None:
    node = model.graph.node[1]
    node.op_type = node.name = "If"
    node.attribute.append(helper.make_attribute("then_branch", model.graph))


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Loop"


def _custom(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.acme"


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]))


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (_branch, "node 'If' (If): holds a subgraph"),
        (_loop, "node 'the Relu' (Loop): operator 'Loop' is not supported"),
        (_custom, "node 'the Relu' (Relu): domain 'com.acme' is not accepted"),
        (_second_input, "exactly one input"),
    ],
    ids=["branch", "loop", "domain", "inputs"],
)
def test_control_flow_and_foreign_operators_are_named(
    breaking: Callable[[Any], None], words: str
) -> None:
    model = onnx.load_from_string(exported([op("Relu", "v")], VECTOR))
    breaking(model)
    assert words in refusal(model.SerializeToString())


HOSTILE: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "huge fill": (
        [op("ConstantOfShape", "i", "a"), op("Add", "v a")],
        {"i": ints(1 << 40, 1 << 40)},
    ),
    "huge range": (
        [op("Range", "i j k", "a"), op("Reshape", "v a")],
        {"i": np.array(0), "j": np.array(1 << 62), "k": np.array(1)},
    ),
    "huge expansion": (
        [op("Expand", "f i", "a"), op("Add", "v a")],
        {"f": np.array(0.5, np.float32), "i": ints(1 << 31, 1 << 31, 1)},
    ),
    "huge expansion of data": ([op("Expand", "v i")], {"i": ints(1 << 20, 1 << 20, 1, 1)}),
    "doubling": (
        [
            op("Concat", f"d{i} d{i}" if i else "i i", f"d{i + 1}" if i < 60 else "a", axis=0)
            for i in range(61)
        ]
        + [op("Reshape", "v a")],
        {"i": ints(*range(1000))},
    ),
    "many neutral steps": (
        [
            op("Add", f"{'v' if i == 0 else f'n{i}'} z", f"n{i + 1}" if i < 400 else "out")
            for i in range(401)
        ],
        {"z": np.zeros((), np.float32)},
    ),
    "many axes": ([op("Unsqueeze", "v i")], {"i": ints(*range(1, 900))}),
    "many parts": ([op("SplitToSequence", "v i", "out", axis=1)], {"i": ints(*(1,) * 900)}),
    "output of numpy": (
        [op("Add", "i j k", "a"), op("Reshape", "v a")],
        dict.fromkeys("ijk", ints(0, 6)),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_constants_cost_neither_memory_nor_time(case: str) -> None:
    nodes, tensors = HOSTILE[case]
    data = exported(nodes, VECTOR, tensors)
    tracemalloc.start()
    try:
        if case == "many neutral steps":
            assert [node.op for node in read_exported(data).nodes] == ["Mul"]
        else:
            assert refusal(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * WORK_BYTES


def test_the_work_of_folding_is_limited_as_a_whole() -> None:
    nodes = [
        *(op("ConstantOfShape", "i", "d0"), op("Sqrt", "d0", "d1")),
        *(op("Sqrt", f"d{i}", f"d{i + 1}") for i in range(1, 300)),
        op("Add", "v d300"),
    ]
    reason = refusal(exported(nodes, VECTOR, {"i": ints(1 << 20)}))
    assert f"(Sqrt): constants take more than {WORK_BYTES} bytes" in reason


def test_simplifying_changes_nothing_in_the_graph_given() -> None:
    values: dict[str, NDArray[Any]] = {"p": floats(6), "c": ints(-1, 6), "d": ints(1, 1)}
    copies = {name: value.copy() for name, value in values.items()}
    nodes = (
        Node("Mul", ("x", "p"), ("v",)),
        Node("Mul", ("c", "d"), ("t",)),
        Node("Reshape", ("v", "t"), ("out",)),
    )
    graph = Graph(
        nodes,
        (ValueInfo("x", "float32", ("N", 6)),),
        (ValueInfo("out", "float32", ("N", 6)),),
        values,
    )
    assert [node.op for node in simplify(graph).nodes] == ["Mul"]
    assert graph.nodes == nodes
    assert all(np.array_equal(values[name], copy) for name, copy in copies.items())


def read_or_refuse(data: bytes) -> Graph | None:
    try:
        return read_exported(data)
    except GraphError:
        return None


SEEDS = [file.read_bytes() for file in sorted(FIXTURES.glob("*.plain.onnx"))]


@settings(max_examples=400, deadline=None)
@given(
    which=st.integers(0, len(SEEDS) - 1),
    edits=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_mutations_of_exports_give_a_graph_or_a_refusal(
    which: int, edits: list[tuple[float, int]]
) -> None:
    data = bytearray(SEEDS[which])
    for place, value in edits:
        data[int(place * len(data))] = value
    graph = read_or_refuse(bytes(data))
    assert graph is None or {node.op for node in graph.nodes} <= FORWARD_OPERATORS


SMALL = st.lists(st.integers(-3, 8), max_size=4)


@settings(max_examples=600, deadline=None)
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(sorted(AUTHORING_OPERATORS - {"Constant"})),
            st.lists(st.integers(0, 12), max_size=5),
            st.dictionaries(
                st.sampled_from(("axis", "to", "keepdims", "group", "num_outputs", "start", "end")),
                st.integers(-2, 3),
                max_size=2,
            ),
            st.dictionaries(
                st.sampled_from(("axes", "perm", "pads", "strides", "kernel_shape", "dilations")),
                SMALL.map(tuple),
                max_size=2,
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    vectors=st.lists(SMALL, min_size=3, max_size=3),
)
def test_random_graphs_give_core_operators_or_a_refusal(kinds: Any, vectors: Any) -> None:
    values: dict[str, NDArray[Any]] = {f"i{k}": ints(*vector) for k, vector in enumerate(vectors)}
    values |= {"p": floats(4), "w": floats(3, 4, 2), "f": np.array(2, np.float32), "e": floats(0)}
    names = ["x", *values, "", "x"]
    nodes = []
    for index, (kind, places, single, several) in enumerate(kinds):
        inputs = tuple(names[place % len(names)] for place in places)
        nodes.append(Node(kind, inputs, (f"o{index}",), single | several, f"n{index}"))
        names.append(f"o{index}")
    graph = Graph(
        tuple(nodes),
        (ValueInfo("x", "float32", ("N", 4, 6)),),
        (ValueInfo(nodes[-1].outputs[0], "float32", ()),),
        values,
    )
    try:
        result = simplify(graph)
    except GraphError:
        return
    assert {node.op for node in result.nodes} <= FORWARD_OPERATORS
