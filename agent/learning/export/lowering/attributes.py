"""Reading the attributes and constant inputs of ONNX nodes for lowering."""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.builder import Builder
from agent.learning.ir import Array, GraphError, Node
from agent.learning.shapes import int_attribute, ints_attribute

__all__ = ["constant_input", "int_attribute", "ints_attribute", "refuse", "settings_input"]


def refuse(node: Node, reason: str) -> GraphError:
    """Return the error that a node cannot be written as TFLite, in float32 or int8."""
    return GraphError(node.describe(), f"cannot be exported to TFLite (float32 or int8): {reason}")


def constant_input(builder: Builder, node: Node, index: int) -> Array | None:
    """Return an input's value, None where it is omitted.

    Raises:
      GraphError: the input is computed.
    """
    if index >= len(node.inputs) or not node.inputs[index]:
        return None
    value = builder.constants.get(node.inputs[index])
    if value is None:
        raise refuse(node, f"input {index} must be constant")
    return value


def settings_input(builder: Builder, node: Node, index: int) -> tuple[int, ...] | None:
    """Return a constant integer input as a tuple, None where it is omitted.

    Raises:
      GraphError: the input is computed or no integers.
    """
    value = constant_input(builder, node, index)
    if value is None:
        return None
    if not np.issubdtype(value.dtype, np.integer):
        raise refuse(node, f"input {index} must be integers")
    return tuple(int(item) for item in value.ravel())
