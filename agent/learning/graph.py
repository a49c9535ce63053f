"""ONNX files and graphs: the strict reader, and the door to the writer and the types.

Responsible for turning untrusted bytes into a checked `Graph`. Refuses
external data, subgraphs, functions, training information, sparse initializers, foreign
domains, operator sets other than 18, values that are not finite and everything over `Limits`.
Invariant: any bytes yield a `Graph` or a `GraphError`, and memory stays in proportion to the
caps. The `onnx` package is not needed: it costs 26 MB of memory and has no 32-bit wheels.

Source: onnx.proto of ONNX 1.23, docs/IR.md.
"""

from __future__ import annotations

from agent.learning.ir import (
    DEFAULT_LIMITS,
    FORWARD_OPERATORS,
    OPSET,
    Array,
    Attribute,
    Graph,
    GraphError,
    Limits,
    Node,
    Params,
    ValueInfo,
    check_graph,
    initial_params,
)
from agent.learning.onnx_reader import (
    collect,
    integer,
    read_node,
    read_tensor,
    read_value_info,
    text,
    view,
)
from agent.learning.onnx_writer import write_graph

__all__ = [
    "DEFAULT_LIMITS",
    "FORWARD_OPERATORS",
    "Array",
    "Attribute",
    "Graph",
    "GraphError",
    "Limits",
    "Node",
    "Params",
    "ValueInfo",
    "check_graph",
    "initial_params",
    "read_graph",
    "write_graph",
]

# From version 4 on, initializers need not be inputs; 14 is the newest of onnx 1.23.
_READABLE_IR_VERSIONS = range(4, 15)


def read_graph(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Graph:
    """Read and check an ONNX ModelProto.

    Args:
      data: the file's bytes, from anywhere.
      limits: caps and the operators allowed.

    Raises:
      GraphError: the bytes are not a model that keeps all rules; names the part and the reason.
    """
    if len(data) > limits.total_bytes:
        raise GraphError("file", f"has {len(data)} bytes, at most {limits.total_bytes} allowed")
    fields = collect(
        memoryview(data),
        "model",
        {1: 1, 4: 1, 7: 1, 8: 4},
        ignored=(2, 3, 5, 6, 14),
        refused={20: "training information", 25: "functions", 26: "a device configuration"},
    )
    version = integer(fields[1], "model")
    if version not in _READABLE_IR_VERSIONS:
        raise GraphError("model", f"IR version {version} is not supported")
    versions = [_read_opset(view(field, "operator set"), limits) for field in fields[8]]
    if versions != [OPSET]:
        raise GraphError("model", f"operator sets {versions} given, exactly [{OPSET}] is supported")
    if not fields[7]:
        raise GraphError("model", "holds no graph")
    return _read_graph_message(view(fields[7][0], "model"), limits)


def _read_opset(data: memoryview, limits: Limits) -> int:
    fields = collect(data, "operator set", {1: 1, 2: 1})
    domain = text(fields[1], "operator set", limits)
    if domain not in ("", "ai.onnx"):
        raise GraphError("operator set", f"domain {domain!r} is not accepted")
    return integer(fields[2], "operator set")


def _read_graph_message(data: memoryview, limits: Limits) -> Graph:
    most = limits.list_length
    fields = collect(
        data,
        "graph",
        {1: limits.nodes, 5: limits.tensors, 11: most, 12: most},
        ignored=(2, 10, 13, 16),
        refused={14: "quantization annotations", 15: "sparse initializers"},
    )
    size = sum(len(view(field, "node")) for field in fields[1])
    if size > limits.node_bytes:
        raise GraphError("nodes", f"take {size} bytes, at most {limits.node_bytes} allowed")
    initializers: dict[str, Array] = {}
    room = limits.tensor_bytes
    for field in fields[5]:
        name, value = read_tensor(view(field, "initializer"), "initializer", limits)
        if name in initializers:
            raise GraphError(f"initializer {name!r}", "is given twice")
        room -= value.nbytes
        if room < 0:
            raise GraphError("initializers", f"take more than {limits.tensor_bytes} bytes")
        initializers[name] = value
    graph = Graph(
        nodes=tuple(read_node(view(f, "node"), i, limits) for i, f in enumerate(fields[1])),
        inputs=tuple(read_value_info(view(f, "input"), limits) for f in fields[11]),
        outputs=tuple(read_value_info(view(f, "output"), limits) for f in fields[12]),
        initializers=initializers,
    )
    check_graph(graph, limits)
    return graph
