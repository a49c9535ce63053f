"""Writing graphs as ONNX files.

Responsible for bytes that other ONNX tools accept; a graph is checked where it is made, not
here. Invariant: the same graph gives the same bytes.

Source: onnx.proto of ONNX 1.23 (field numbers), docs/IR.md.
"""

from __future__ import annotations

import struct

import numpy as np

from agent.learning.ir import (
    DTYPE_CODES,
    OPSET,
    Array,
    Attribute,
    AttributeType,
    Dimension,
    Graph,
    Node,
    ValueInfo,
)
from agent.learning.protobuf import (
    bytes_field,
    fixed32_field,
    int_field,
    packed_ints_field,
    string_field,
)

_IR_VERSION = 9


def write_graph(graph: Graph) -> bytes:
    """Write a graph as an ONNX ModelProto, IR version 9, operator set 18.

    The same graph always gives the same bytes.
    """
    body = b"".join(
        [
            *(bytes_field(1, _write_node(node)) for node in graph.nodes),
            string_field(2, "graph"),
            *(bytes_field(5, _write_tensor(k, v)) for k, v in graph.initializers.items()),
            *(bytes_field(11, _write_value_info(value)) for value in graph.inputs),
            *(bytes_field(12, _write_value_info(value)) for value in graph.outputs),
        ]
    )
    opset = string_field(1, "") + int_field(2, OPSET)
    return int_field(1, _IR_VERSION) + bytes_field(7, body) + bytes_field(8, opset)


def _write_tensor(name: str, value: Array) -> bytes:
    """Write a TensorProto with raw little-endian values."""
    raw = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).tobytes()
    return b"".join(
        [
            packed_ints_field(1, value.shape) if value.ndim else b"",
            int_field(2, DTYPE_CODES[value.dtype.name]),
            string_field(8, name),
            bytes_field(9, raw),
        ]
    )


def _write_attribute(name: str, value: Attribute) -> bytes:
    """Write an AttributeProto; an empty tuple is written as a list of ints."""
    head = string_field(1, name)
    if isinstance(value, str):
        return head + string_field(4, value) + int_field(20, AttributeType.STRING)
    if isinstance(value, int):
        return head + int_field(3, value) + int_field(20, AttributeType.INT)
    if isinstance(value, float):
        return (
            head + fixed32_field(2, struct.pack("<f", value)) + int_field(20, AttributeType.FLOAT)
        )
    if isinstance(value, np.ndarray):
        return head + bytes_field(5, _write_tensor("", value)) + int_field(20, AttributeType.TENSOR)
    if any(isinstance(item, float) for item in value):
        packed = struct.pack(f"<{len(value)}f", *value)
        return head + bytes_field(7, packed) + int_field(20, AttributeType.FLOATS)
    ints = [int(item) for item in value]
    return head + b"".join(int_field(8, item) for item in ints) + int_field(20, AttributeType.INTS)


def _write_node(node: Node) -> bytes:
    """Write a NodeProto in the default domain."""
    return b"".join(
        [
            *(string_field(1, name) for name in node.inputs),
            *(string_field(2, name) for name in node.outputs),
            string_field(3, node.name),
            string_field(4, node.op),
            *(bytes_field(5, _write_attribute(k, v)) for k, v in node.attributes.items()),
        ]
    )


def _write_value_info(value: ValueInfo) -> bytes:
    """Write a ValueInfoProto of a tensor."""
    dims = b"".join(bytes_field(1, _write_dimension(size)) for size in value.shape)
    tensor = int_field(1, DTYPE_CODES[value.dtype]) + bytes_field(2, dims)
    return string_field(1, value.name) + bytes_field(2, bytes_field(1, tensor))


def _write_dimension(size: Dimension) -> bytes:
    if size is None:
        return b""
    return int_field(1, size) if isinstance(size, int) else string_field(2, size)
