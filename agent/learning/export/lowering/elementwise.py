"""Arithmetic, activations and softmax."""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.attributes import int_attribute, refuse
from agent.learning.export.lowering.builder import Builder, Form, broadcast_constant
from agent.learning.export.program import NO_ACTIVATION, Setting
from agent.learning.ir import Node
from agent.learning.shapes import float_attribute

_UNARY = {
    "LogSoftmax": "LOG_SOFTMAX",
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "Softmax": "SOFTMAX",
    "Tanh": "TANH",
}
_BINARY = {"Add": "ADD", "Div": "DIV", "Mul": "MUL", "Sub": "SUB"}


def lower_unary(builder: Builder, node: Node) -> None:
    """Relu, Sigmoid and Tanh, in whatever form their input has."""
    form = builder.preferred(node.inputs[0])
    tensor = builder.tensor(node, node.inputs[0], form)
    builder.result(node, _UNARY[node.op], (tensor,), form)


def lower_leaky_relu(builder: Builder, node: Node) -> None:
    """LeakyRelu as LEAKY_RELU."""
    form = builder.preferred(node.inputs[0])
    tensor = builder.tensor(node, node.inputs[0], form)
    alpha = float_attribute(node, "alpha", 0.01)
    builder.result(node, "LEAKY_RELU", (tensor,), form, {"alpha": alpha})


def lower_softmax(builder: Builder, node: Node) -> None:
    """Softmax and LogSoftmax, over the axis that is stored last."""
    rank = len(builder.shapes[node.inputs[0]])
    axis = int_attribute(node, "axis", -1) % rank
    if axis == rank - 1:
        form = Form.PLAIN
    elif axis == 1 and rank in (3, 4):
        form = Form.CHANNELS_LAST
    else:
        raise refuse(node, f"axis {axis} of {rank} is neither the last nor the channels")
    tensor = builder.tensor(node, node.inputs[0], form)
    options: dict[str, Setting] = {"beta": 1.0} if node.op == "Softmax" else {}
    builder.result(node, _UNARY[node.op], (tensor,), form, options)


def lower_binary(builder: Builder, node: Node) -> None:
    """Add, Sub, Mul and Div with broadcasting; division by a constant becomes a product."""
    rank = len(builder.shapes[node.outputs[0]])
    if rank > 4:
        raise refuse(node, "more than four axes are not supported")
    form = _common_form(builder, node, rank)
    code = _BINARY[node.op]
    inputs = []
    for index, name in enumerate(node.inputs):
        constant = builder.constants.get(name)
        if constant is None:
            inputs.append(builder.tensor(node, name, form))
            continue
        if node.op == "Div" and index == 1:
            if not constant.all():
                raise refuse(node, "divides by the constant 0")
            constant = (1.0 / constant.astype(np.float64)).astype(np.float32)
            code = "MUL"
        inputs.append(builder.literal(broadcast_constant(constant, rank, form)))
    # No TFLite runtime but the microcontroller's divides integers.
    exact = code == "DIV"
    options: dict[str, Setting] = {"fused_activation_function": NO_ACTIVATION}
    builder.result(node, code, inputs, form, options, exact=exact)


def _common_form(builder: Builder, node: Node, rank: int) -> Form:
    computed = [name for name in node.inputs if name not in builder.constants]
    if any(len(builder.shapes[name]) != rank for name in computed):
        return Form.PLAIN
    if any(builder.is_channels_last(name) for name in computed):
        return Form.CHANNELS_LAST
    return Form.PLAIN
