"""Convolutions and transposed convolutions.

Weights: ONNX (out, in / group, height, width), TFLite (out, height, width, in / group), and for
depthwise convolutions (1, height, width, out).
"""

from __future__ import annotations

import numpy as np

from agent.learning.export.lowering.attributes import (
    constant_input,
    int_attribute,
    ints_attribute,
    refuse,
)
from agent.learning.export.lowering.builder import Builder, Form
from agent.learning.export.lowering.window import (
    channels_last_input,
    pad,
    read_window,
    spatial,
    two,
)
from agent.learning.export.program import NO_ACTIVATION, SAME, VALID, Setting
from agent.learning.ir import Array, Node


def lower_conv(builder: Builder, node: Node) -> None:
    """Conv as CONV_2D, or as DEPTHWISE_CONV_2D where every input channel has its own filters."""
    weight = _weight(builder, node)
    bias = _bias(builder, node, len(weight))
    group = int_attribute(node, "group", 1)
    channels = builder.shapes[node.inputs[0]][1]
    tensor = channels_last_input(builder, node)
    window = read_window(builder, node, builder.shapes[node.inputs[1]][2:])
    tensor, padding = pad(builder, node, tensor, window)
    options: dict[str, Setting] = {
        "padding": padding,
        "stride_h": window.strides[0],
        "stride_w": window.strides[1],
        "dilation_h_factor": window.dilations[0],
        "dilation_w_factor": window.dilations[1],
        "fused_activation_function": NO_ACTIVATION,
    }
    code = "CONV_2D"
    if group == channels > 1:
        code = "DEPTHWISE_CONV_2D"
        options["depth_multiplier"] = len(weight) // channels
        filters = weight.transpose(1, 2, 3, 0)
    else:
        filters = _ungrouped(weight, group).transpose(0, 2, 3, 1)
    inputs = (tensor, builder.literal(filters), builder.literal(bias))
    builder.result(node, code, inputs, Form.CHANNELS_LAST, options)


def lower_conv_transpose(builder: Builder, node: Node) -> None:
    """ConvTranspose as TRANSPOSE_CONV; padding that TFLite does not know is cut off behind it."""
    group = int_attribute(node, "group", 1)
    stored = _weight(builder, node)
    inner = len(stored) // group
    blocks = [stored[k * inner : (k + 1) * inner].swapaxes(0, 1) for k in range(group)]
    weight = _ungrouped(np.concatenate(blocks), group)
    bias = _bias(builder, node, len(weight))
    given, found = builder.shapes[node.inputs[0]], builder.shapes[node.outputs[0]]
    sizes, results = spatial(node, given), spatial(node, found)
    axes = len(given) - 2
    strides = two(ints_attribute(node, "strides", (1,) * axes), 1)
    weight = _dilated(weight, two(ints_attribute(node, "dilations", (1,) * axes), 1))
    before = _crop(node, axes)
    pairs = zip(sizes, results, strides, weight.shape[2:], before, strict=True)
    same = all(
        begin == max((size - 1) * stride + taps - result, 0) // 2 and size == -(-result // stride)
        for size, result, stride, taps, begin in pairs
    )
    tensor = channels_last_input(builder, node)
    options: dict[str, Setting] = {
        "padding": SAME if same else VALID,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "fused_activation_function": NO_ACTIVATION,
    }
    # Runtimes refuse an output smaller than the whole that VALID computes.
    size = results
    if not same:
        whole = [
            (given_size - 1) * stride + taps
            for given_size, stride, taps in zip(sizes, strides, weight.shape[2:], strict=True)
        ]
        size = (max(whole[0], before[0] + results[0]), max(whole[1], before[1] + results[1]))
    shape = (1, *size, len(weight))
    filters = builder.literal(weight.transpose(0, 2, 3, 1))
    inputs = (builder.sizes(shape), filters, tensor, builder.literal(bias))
    if size == results:
        builder.result(node, "TRANSPOSE_CONV", inputs, Form.CHANNELS_LAST, options)
        return
    uncut = builder.emit(node, "TRANSPOSE_CONV", inputs, shape, options, value=node.outputs[0])
    end = (1, before[0] + results[0], before[1] + results[1], len(weight))
    parts = ((0, *before, 0), end, (1, 1, 1, 1))
    slices = (uncut, *(builder.sizes(part) for part in parts))
    builder.result(node, "STRIDED_SLICE", slices, Form.CHANNELS_LAST)


def _crop(node: Node, axes: int) -> tuple[int, int]:
    """Return how much of the front of a full transposed convolution is cut off."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise refuse(node, "give pads and output_padding instead of auto_pad or output_shape")
    pads = ints_attribute(node, "pads", (0,) * 2 * axes) if mode == "NOTSET" else (0,) * axes
    return two(pads[:axes], 0)


def _weight(builder: Builder, node: Node) -> Array:
    """Return the constant weight with two spatial axes."""
    weight = constant_input(builder, node, 1)
    if weight is None or weight.ndim not in (3, 4):
        raise refuse(node, "the weight must be constant and of rank 3 or 4")
    return weight[:, :, None] if weight.ndim == 3 else weight


def _bias(builder: Builder, node: Node, outputs: int) -> Array:
    bias = constant_input(builder, node, 2)
    return np.zeros(outputs, np.float32) if bias is None else bias


def _ungrouped(weight: Array, group: int) -> Array:
    """Return the weight (out, in, h, w) of one group that computes the same.

    Grouped convolutions are not in every TFLite runtime, so the other groups' weights are zeros.
    """
    outputs, inner = len(weight) // group, weight.shape[1]
    whole = np.zeros((len(weight), inner * group, *weight.shape[2:]), np.float32)
    for k in range(group):
        rows = slice(k * outputs, (k + 1) * outputs)
        whole[rows, k * inner : (k + 1) * inner] = weight[rows]
    return whole


def _dilated(weight: Array, dilations: tuple[int, int]) -> Array:
    """Return the weight with zeros between its taps: TRANSPOSE_CONV knows no dilation."""
    high, wide = ((t - 1) * d + 1 for t, d in zip(weight.shape[2:], dilations, strict=True))
    spread = np.zeros((*weight.shape[:2], high, wide), np.float32)
    spread[:, :, :: dilations[0], :: dilations[1]] = weight
    return spread
