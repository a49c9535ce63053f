"""Matrix products: dense layers as FULLY_CONNECTED, products of activations as BATCH_MATMUL."""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.attributes import constant_input, int_attribute, refuse
from agent.learning.export.lowering.builder import Builder, Form
from agent.learning.export.program import NO_ACTIVATION, Setting
from agent.learning.ir import Array, Node
from agent.learning.shapes import float_attribute


def lower_gemm(builder: Builder, node: Node) -> None:
    """Gemm with a constant weight; alpha and beta go into the constants."""
    weight, bias = constant_input(builder, node, 1), constant_input(builder, node, 2)
    if weight is None or int_attribute(node, "transA", 0):
        raise refuse(node, "needs a constant weight and a first input that is not transposed")
    if not int_attribute(node, "transB", 0):
        weight = weight.T
    weight = weight * np.float32(float_attribute(node, "alpha", 1.0))
    width = len(weight)
    if bias is None:
        bias = np.zeros(width, np.float32)
    elif bias.size not in (1, width) or bias.ndim > 2 or (bias.ndim == 2 and len(bias) != 1):
        raise refuse(node, f"the bias has shape {bias.shape}, must be one number per output")
    bias = bias.ravel() * np.float32(float_attribute(node, "beta", 1.0))
    _fully_connected(builder, node, weight, np.broadcast_to(bias, (width,)))


def lower_matmul(builder: Builder, node: Node) -> None:
    """MatMul with a constant matrix on the right, or of two computed values."""
    left, right = node.inputs
    if left in builder.constants:
        raise refuse(node, "a constant on the left is not supported")
    weight = builder.constants.get(right)
    if weight is not None:
        while weight.ndim > 2 and len(weight) == 1:
            weight = weight[0]
        if weight.ndim != 2:
            raise refuse(node, f"a constant of shape {weight.shape} must be a matrix")
        _fully_connected(builder, node, weight.T, np.zeros(weight.shape[1], np.float32))
        return
    if len(builder.shapes[left]) != len(builder.shapes[right]):
        raise refuse(node, "two computed values must have the same rank")
    inputs = [builder.tensor(node, name, Form.PLAIN) for name in (left, right)]
    builder.result(node, "BATCH_MATMUL", inputs)


def _fully_connected(builder: Builder, node: Node, weight: Array, bias: Array) -> None:
    """Append a dense layer with weight (out, in) and bias (out,)."""
    rank = len(builder.shapes[node.outputs[0]])
    tensor = builder.tensor(node, node.inputs[0], Form.PLAIN)
    inputs = (tensor, builder.literal(weight), builder.literal(bias))
    options: dict[str, Setting] = {
        "fused_activation_function": NO_ACTIVATION,
        "keep_num_dims": rank > 2,
    }
    builder.result(node, "FULLY_CONNECTED", inputs, Form.PLAIN, options)
