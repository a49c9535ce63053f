"""Pools, means and sums over axes, and nearest upsampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.lowering.attributes import (
    int_attribute,
    ints_attribute,
    refuse,
    settings_input,
)
from agent.learning.export.lowering.builder import Builder, Form, stored_axis, stored_shape
from agent.learning.export.lowering.window import (
    Window,
    channels_last_input,
    kernel_shape,
    pad,
    pad_explicitly,
    read_window,
    spatial,
)
from agent.learning.export.program import NO_ACTIVATION, SAME, VALID, Setting
from agent.learning.ir import Node


def lower_max_pool(builder: Builder, node: Node) -> None:
    """MaxPool as MAX_POOL_2D; what is padded can never be the largest."""
    if len(node.outputs) > 1:
        raise refuse(node, "the indices of the largest are not available")
    window = _pool_window(builder, node)
    tensor = channels_last_input(builder, node)
    padding = SAME if window.is_padded else VALID
    if window.is_padded and not window.fits_same:
        tensor, padding = pad_explicitly(builder, node, tensor, window, lowest=True), VALID
    options = _pool_options(window, padding)
    builder.result(node, "MAX_POOL_2D", (tensor,), Form.CHANNELS_LAST, options)


def lower_average_pool(builder: Builder, node: Node) -> None:
    """AveragePool as AVERAGE_POOL_2D.

    SAME does not count what it pads, an explicit PAD does; where neither is meant, a
    multiplication corrects for the counted zeros.
    """
    window = _pool_window(builder, node)
    if int_attribute(node, "ceil_mode", 0) and window.is_padded:
        raise refuse(node, "ceil_mode with padding is not supported")
    counted = bool(int_attribute(node, "count_include_pad", 0))
    tensor = channels_last_input(builder, node)
    if counted and window.is_padded:
        tensor, padding = pad_explicitly(builder, node, tensor, window), VALID
    else:
        tensor, padding = pad(builder, node, tensor, window)
    options = _pool_options(window, padding)
    if counted or padding == SAME or not window.is_padded:
        builder.result(node, "AVERAGE_POOL_2D", (tensor,), Form.CHANNELS_LAST, options)
        return
    shape = stored_shape(builder.shapes[node.outputs[0]], Form.CHANNELS_LAST)
    sums = builder.emit(node, "AVERAGE_POOL_2D", (tensor,), shape, options)
    correction = _taps_over_counted(builder, node, window)
    builder.result(
        node,
        "MUL",
        (sums, builder.literal(correction)),
        Form.CHANNELS_LAST,
        {"fused_activation_function": NO_ACTIVATION},
    )


def lower_global_average_pool(builder: Builder, node: Node) -> None:
    """GlobalAveragePool as MEAN: unlike AVERAGE_POOL_2D it may change the int8 scale."""
    tensor = channels_last_input(builder, node)
    inputs = (tensor, builder.sizes((1, 2)))
    builder.result(node, "MEAN", inputs, Form.CHANNELS_LAST, {"keep_dims": True})


def lower_reduce(builder: Builder, node: Node) -> None:
    """ReduceMean and ReduceSum as MEAN and SUM."""
    value = node.inputs[0]
    shape = builder.shapes[value]
    rank = len(shape)
    axes = settings_input(builder, node, 1) or ints_attribute(node, "axes", ())
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        builder.alias(node, value)
        return
    axes = tuple(sorted({axis % rank for axis in axes})) if axes else tuple(range(rank))
    if 0 in axes:
        raise refuse(node, "the batch axis cannot be reduced")
    form = builder.preferred(value)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    sizes = stored_shape(kept, form)
    stored = sorted(stored_axis(rank, axis, form) for axis in axes)
    inputs = (builder.tensor(node, value, form), builder.sizes(stored))
    code = "MEAN" if node.op == "ReduceMean" else "SUM"
    output = node.outputs[0]
    # LiteRT's and the microcontroller's int8 kernels of SUM disagree, and neither is right.
    exact = code == "SUM"
    tensor = builder.emit(node, code, inputs, sizes, {"keep_dims": True}, value=output, exact=exact)
    if builder.shapes[output] == kept:
        builder.store(node, tensor, form)
        return
    if form is Form.CHANNELS_LAST:
        # Axes other than the reduced ones keep their order only in the plain form.
        moved = (1, *kept[2:], kept[1])
        tensor = builder.reshape(node, tensor, moved)
        if kept[1] > 1 and max(kept[2:]) > 1:
            tensor = builder.transpose(node, tensor, (0, rank - 1, *range(1, rank - 1)))
    tensor = builder.reshape(node, tensor, builder.shapes[output], name=output)
    builder.store(node, tensor, Form.PLAIN)


def lower_resize(builder: Builder, node: Node) -> None:
    """Resize as RESIZE_NEAREST_NEIGHBOR, for whole factors."""
    given, found = builder.shapes[node.inputs[0]], builder.shapes[node.outputs[0]]
    if node.attributes.get("mode", "nearest") != "nearest":
        raise refuse(node, "only nearest resizing is supported")
    if given[:2] != found[:2]:
        raise refuse(node, "only spatial axes can be resized")
    sizes = spatial(node, given), spatial(node, found)
    for size, result in zip(*sizes, strict=True):
        expected = np.arange(result) * size // result
        if result % size or not np.array_equal(_nearest(node, size, result), expected):
            raise refuse(node, f"must repeat whole samples, turns {given[2:]} into {found[2:]}")
    inputs = (channels_last_input(builder, node), builder.sizes(sizes[1]))
    builder.result(node, "RESIZE_NEAREST_NEIGHBOR", inputs, Form.CHANNELS_LAST)


def _pool_window(builder: Builder, node: Node) -> Window:
    axes = len(builder.shapes[node.inputs[0]]) - 2
    window = read_window(builder, node, kernel_shape(node, axes))
    if window.dilations != (1, 1):
        raise refuse(node, "dilated pools are not supported")
    return window


def _pool_options(window: Window, padding: int) -> dict[str, Setting]:
    return {
        "padding": padding,
        "stride_h": window.strides[0],
        "stride_w": window.strides[1],
        "filter_height": window.kernel[0],
        "filter_width": window.kernel[1],
        "fused_activation_function": NO_ACTIVATION,
    }


def _taps_over_counted(builder: Builder, node: Node, window: Window) -> NDArray[np.float32]:
    """Return kernel size / taps inside the data, float32 (1, height, width, 1)."""
    given, found = builder.shapes[node.inputs[0]], builder.shapes[node.outputs[0]]
    inside = []
    for axis, (size, results) in enumerate(
        zip(spatial(node, given), spatial(node, found), strict=True)
    ):
        first = np.arange(results) * window.strides[axis] - window.before[axis]
        last = np.minimum(first + window.kernel[axis], size)
        inside.append(last - np.maximum(first, 0))
    taps = window.kernel[0] * window.kernel[1]
    counted = np.multiply.outer(inside[0], inside[1])
    correction: NDArray[np.float32] = (taps / counted).astype(np.float32)
    return correction[None, :, :, None]


def _nearest(node: Node, size: int, result: int) -> NDArray[np.int64]:
    """Return which sample each result repeats, by ONNX's definition of Resize."""
    index = np.arange(result, dtype=np.float64)
    mode = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        place = index * size / result
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        place = (index + 0.5) * size / result - 0.5
        if mode == "pytorch_half_pixel" and result == 1:
            place = np.zeros(1)
    elif mode == "align_corners":
        place = index * (size - 1) / max(result - 1, 1)
    else:
        raise refuse(node, f"coordinate_transformation_mode is {mode!r}")
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor")
    if rounding == "floor":
        nearest = np.floor(place)
    elif rounding == "ceil":
        nearest = np.ceil(place)
    elif rounding == "round_prefer_ceil":
        nearest = np.floor(place + 0.5)
    else:
        nearest = np.ceil(place - 0.5)
    return np.clip(nearest, 0, size - 1).astype(np.int64)
