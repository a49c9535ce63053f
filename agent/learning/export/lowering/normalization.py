"""Normalizations over an example's own values.

They stay in float32 in an int8 model: variances of different examples lie orders of magnitude
apart, which 256 levels cannot hold.
"""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.attributes import constant_input, int_attribute, refuse
from agent.learning.export.lowering.builder import (
    Builder,
    broadcast_constant,
    stored_axis,
    stored_shape,
)
from agent.learning.export.program import NO_ACTIVATION, Setting
from agent.learning.ir import Array, Node
from agent.learning.shapes import float_attribute

_PLAIN_OPTIONS: dict[str, Setting] = {"fused_activation_function": NO_ACTIVATION}


def lower_layer_normalization(builder: Builder, node: Node) -> None:
    """LayerNormalization over the last axes: (x - mean) / sqrt(variance + epsilon) scale + bias."""
    if len([name for name in node.outputs if name]) != 1:
        raise refuse(node, "mean and variance are not available as outputs")
    value = node.inputs[0]
    shape = builder.shapes[value]
    rank = len(shape)
    axes = tuple(range(int_attribute(node, "axis", -1) % rank, rank))
    scale, bias = constant_input(builder, node, 1), constant_input(builder, node, 2)
    if 0 in axes or rank > 4:
        raise refuse(node, f"normalizes axes {axes} of shape {shape}")
    form = builder.preferred(value)
    whole = stored_shape(shape, form)
    few = stored_shape(tuple(1 if k in axes else size for k, size in enumerate(shape)), form)
    places = builder.sizes(sorted(stored_axis(rank, axis, form) for axis in axes))
    epsilon = np.array([float_attribute(node, "epsilon", 1e-5)], np.float32)

    def mean(tensor: str) -> str:
        inputs = (tensor, places)
        return builder.emit(node, "MEAN", inputs, few, {"keep_dims": True}, exact=True)

    def combine(code: str, left: str, right: str, sizes: tuple[int, ...] = whole) -> str:
        return builder.emit(node, code, (left, right), sizes, _PLAIN_OPTIONS, exact=True)

    def constant(array: Array) -> str:
        return builder.literal(broadcast_constant(array, rank, form))

    given = builder.tensor(node, value, form)
    centered = combine("SUB", given, mean(given))
    variance = mean(combine("MUL", centered, centered))
    shifted = combine("ADD", variance, builder.literal(epsilon), few)
    inverse = builder.emit(node, "RSQRT", (shifted,), few, exact=True)
    last = centered, inverse
    if scale is not None:
        last = combine("MUL", *last), constant(scale)
    if bias is None:
        builder.result(node, "MUL", last, form, _PLAIN_OPTIONS, exact=True)
        return
    shift = combine("MUL", *last), constant(bias)
    builder.result(node, "ADD", shift, form, _PLAIN_OPTIONS, exact=True)
