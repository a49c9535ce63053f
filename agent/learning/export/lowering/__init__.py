"""Lowering: a forward graph as a TFLite program in float32, one family of operators per module.

Refuses what TFLite cannot say, naming the node. An operator joins by its function in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.learning.export.lowering import (
    convolution,
    dense,
    elementwise,
    functions,
    layout,
    normalization,
    pooling,
)
from agent.learning.export.lowering.attributes import refuse
from agent.learning.export.lowering.builder import Builder, Form
from agent.learning.export.observe import Observation
from agent.learning.export.program import Program
from agent.learning.ir import Graph, GraphError, Node

Rule = Callable[[Builder, Node], None]

RULES: Mapping[str, Rule] = {
    "Add": elementwise.lower_binary,
    "AveragePool": pooling.lower_average_pool,
    "Clip": functions.lower_clip,
    "Concat": layout.lower_concat,
    "Conv": convolution.lower_conv,
    "ConvTranspose": convolution.lower_conv_transpose,
    "Div": elementwise.lower_binary,
    "Erf": functions.lower_erf,
    "Exp": functions.lower_function,
    "Flatten": layout.lower_reshape,
    "Gemm": dense.lower_gemm,
    "GlobalAveragePool": pooling.lower_global_average_pool,
    "Identity": layout.lower_identity,
    "LayerNormalization": normalization.lower_layer_normalization,
    "LeakyRelu": elementwise.lower_leaky_relu,
    "Log": functions.lower_function,
    "LogSoftmax": elementwise.lower_softmax,
    "MatMul": dense.lower_matmul,
    "MaxPool": pooling.lower_max_pool,
    "Mul": elementwise.lower_binary,
    "Neg": functions.lower_neg,
    "Pow": functions.lower_pow,
    "ReduceMean": pooling.lower_reduce,
    "ReduceSum": pooling.lower_reduce,
    "Relu": elementwise.lower_unary,
    "Reshape": layout.lower_reshape,
    "Resize": pooling.lower_resize,
    "Sigmoid": elementwise.lower_unary,
    "Slice": layout.lower_slice,
    "Softmax": elementwise.lower_softmax,
    "Softplus": functions.lower_softplus,
    "Sqrt": functions.lower_function,
    "Squeeze": layout.lower_reshape,
    "Sub": elementwise.lower_binary,
    "Tanh": elementwise.lower_unary,
    "Transpose": layout.lower_transpose,
    "Unsqueeze": layout.lower_reshape,
}
"""What can be exported to TFLite."""

_WANT_CHANNELS_LAST = frozenset(
    {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool", "Resize"}
)
_KEEP_FORM = frozenset(
    {"Add", "Clip", "Div", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Tanh"}
)


def lower(forward: Graph, observation: Observation) -> Program:
    """Write a forward graph as TFLite operators.

    Args:
      forward: the model with its trained parameters.
      observation: what `observe` found of it.

    Raises:
      GraphError: an operator, attribute or shape has no counterpart in TFLite.
    """
    builder = Builder(observation)
    value, output = forward.inputs[0].name, forward.outputs[0].name
    form = Form.CHANNELS_LAST if _wants_channels_last(forward, value) else Form.PLAIN
    source = builder.add_input(value, form)
    for node in forward.nodes:
        if all(name in builder.constants for name in node.outputs if name):
            continue
        rule = RULES.get(node.op)
        if rule is None:
            raise refuse(node, f"operator {node.op!r} has no counterpart")
        rule(builder, node)
    if output in builder.constants or output == value:
        raise GraphError("graph outputs", f"{output!r} is not computed from the input")
    last = forward.nodes[-1]
    result = builder.tensor(last, output, builder.preferred(output))
    if result == source:
        raise GraphError("graph outputs", f"{output!r} is the input, nothing to export")
    return builder.finish(source, result)


def _wants_channels_last(forward: Graph, value: str) -> bool:
    """Tell whether the input's first user, behind elementwise operators, is a windowed one.

    Then the file's input has the channels last, as a microcontroller samples them, and nothing
    has to be transposed there.
    """
    if len(forward.inputs[0].shape) not in (3, 4):
        return False
    reached = {value}
    for node in forward.nodes:
        if not reached.intersection(node.inputs):
            continue
        if node.op in _WANT_CHANNELS_LAST:
            return True
        if node.op in _KEEP_FORM:
            reached.update(node.outputs)
    return False
