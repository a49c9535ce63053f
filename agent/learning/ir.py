"""Graphs in memory: the frozen types that reading, deriving and running share.

Responsible for what a graph is, for the caps on graphs from outside, and for the structural
rules every graph keeps: one definition per name, definition before use, no cycles, allowed
operators only. Knows nothing of files or of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET = 18
"""The only version of the ONNX operator set that is read, derived and written."""

Array = NDArray[Any]
Dimension = int | str | None
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Array
Params = dict[str, NDArray[np.float32]]
"""A model's trainable tensors by name, in the order of the graph's initializers."""

FORWARD_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "ConvTranspose",
        "Div",
        "Erf",
        "Exp",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "MatMul",
        "MaxPool",
        "Mul",
        "Neg",
        "Pow",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Softplus",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""What a forward graph may use: exactly the operators that can be derived (a test compares)."""

AUTHORING_OPERATORS = FORWARD_OPERATORS | frozenset(
    {
        "Abs",
        "And",
        "BatchNormalization",
        "Cast",
        "CastLike",
        "Ceil",
        "ConstantOfShape",
        "Dropout",
        "Elu",
        "Equal",
        "Expand",
        "Floor",
        "Gather",
        "Gelu",
        "GlobalMaxPool",
        "Greater",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "InstanceNormalization",
        "Less",
        "Max",
        "Min",
        "Mish",
        "Mod",
        "Not",
        "PRelu",
        "Pad",
        "Range",
        "Reciprocal",
        "ReduceProd",
        "Selu",
        "SequenceAt",
        "Shape",
        "Split",
        "SplitToSequence",
        "Sum",
        "Tile",
        "Where",
    }
)
"""What a file may use from which a bundle is built: `simplify` rewrites it (a test compares)."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("float32", "int32", "int64", "bool")
}
"""Element types of tensors in graphs, by name."""

DTYPE_CODES: Mapping[str, int] = {"float32": 1, "int32": 6, "int64": 7, "bool": 9}
"""The same types by their TensorProto.DataType."""


class AttributeType(IntEnum):
    """AttributeProto.AttributeType, as far as it is accepted."""

    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    FLOATS = 6
    INTS = 7


class GraphError(ValueError):
    """A graph is refused.

    Attributes:
      node: the node, tensor or part of the file that is at fault.
      reason: what is wrong with it.
    """

    def __init__(self, node: str, reason: str) -> None:
        """Name the culprit and the reason."""
        super().__init__(f"{node}: {reason}")
        self.node = node
        self.reason = reason


@dataclass(frozen=True)
class Node:
    """One operator application; an empty input name stands for an omitted optional input."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    name: str = ""

    def describe(self) -> str:
        """Return words that find this node in its graph, for errors."""
        label = self.name or (self.outputs[0] if self.outputs else "?")
        return f"node {label!r} ({self.op})"


@dataclass(frozen=True)
class ValueInfo:
    """A graph's input or output: `dtype` is a key of `DTYPES`, a dimension may be symbolic."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Graph:
    """A graph in topological order; initializers are arrays of a type in `DTYPES`."""

    nodes: tuple[Node, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    initializers: Mapping[str, Array]


@dataclass(frozen=True)
class Limits:
    """Caps on a graph that comes from outside.

    Attributes:
      total_bytes: size of the file.
      nodes: number of nodes.
      node_bytes: bytes of all nodes together, in the file.
      tensors: number of initializers.
      tensor_elements: elements in one tensor.
      tensor_bytes: bytes of all tensors together, in memory.
      rank: dimensions of one tensor.
      name_length: characters in one name.
      list_length: inputs or outputs of a node or graph, attributes of a node, values in one
        attribute.
      operators: the operators allowed.
    """

    total_bytes: int = 16 << 20
    nodes: int = 2000
    node_bytes: int = 2 << 20
    tensors: int = 1000
    tensor_elements: int = 4 << 20
    tensor_bytes: int = 16 << 20
    rank: int = 8
    name_length: int = 200
    list_length: int = 1024
    operators: frozenset[str] = FORWARD_OPERATORS


DEFAULT_LIMITS = Limits()


def initial_params(forward: Graph) -> Params:
    """Return copies of a forward graph's trainable tensors, in its order.

    Trainable are the float32 initializers of rank 1 or more; scalars, integer initializers and
    `Constant` nodes stay constants.
    """
    return {
        name: np.array(value, dtype=np.float32)
        for name, value in forward.initializers.items()
        if is_trainable(value)
    }


def is_trainable(value: Array) -> bool:
    """Tell whether an initializer is a parameter to train."""
    return value.dtype == np.float32 and value.ndim >= 1


def check_graph(graph: Graph, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check names, order and operators.

    Raises:
      GraphError: a name is defined twice, used before it is defined, or an operator is not in
        `limits.operators`.
    """
    if len(graph.nodes) > limits.nodes:
        raise GraphError("graph", f"has {len(graph.nodes)} nodes, at most {limits.nodes} allowed")
    if not graph.inputs or not graph.outputs:
        raise GraphError("graph", "must have at least one input and one output")
    defined: set[str] = set()
    _define(defined, [value.name for value in graph.inputs], "graph inputs")
    for name, value in graph.initializers.items():
        _define(defined, [name], f"initializer {name!r}")
        _check_values(name, value)
    for node in graph.nodes:
        where = node.describe()
        if node.op not in limits.operators:
            raise GraphError(where, f"operator {node.op!r} is not supported")
        for name in node.inputs:
            if name and name not in defined:
                raise GraphError(where, f"input {name!r} is not defined before it (cycle or order)")
        if not node.outputs:
            raise GraphError(where, "has no outputs")
        _define(defined, node.outputs, where)
    _check_outputs([value.name for value in graph.outputs], defined)


def _check_outputs(outputs: Sequence[str], defined: set[str]) -> None:
    _define(set(), outputs, "graph outputs")
    for name in outputs:
        if name not in defined:
            raise GraphError("graph outputs", f"{name!r} is not computed by any node")


def _define(defined: set[str], names: Sequence[str], where: str) -> None:
    for name in names:
        if not name:
            raise GraphError(where, "has an empty name")
        if name in defined:
            raise GraphError(where, f"defines {name!r} a second time")
        defined.add(name)


def _check_values(name: str, value: Array) -> None:
    if value.dtype.name not in DTYPES:
        raise GraphError(f"initializer {name!r}", f"element type {value.dtype} is not supported")
    if value.dtype == np.float32 and not np.isfinite(value).all():
        raise GraphError(f"initializer {name!r}", "holds values that are not finite")
