"""Sliding windows: how ONNX's padding of convolutions and pools is written in TFLite.

TFLite knows SAME (pads as little as the output size needs, the odd one behind) and VALID (no
padding); all else needs a PAD before the operator. One-dimensional windows become
two-dimensional ones of height 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.learning.export.lowering.attributes import int_attribute, ints_attribute, refuse
from agent.learning.export.lowering.builder import Builder, Form
from agent.learning.export.program import SAME, VALID
from agent.learning.ir import GraphError, Node


@dataclass(frozen=True)
class Window:
    """A two-dimensional sliding window, height first.

    Attributes:
      kernel: taps.
      strides: steps between outputs.
      dilations: steps between taps.
      before: rows and columns padded in front.
      after: what must be padded behind so that the last output has all its taps.
      fits_same: whether TFLite's SAME pads exactly so.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    fits_same: bool

    @property
    def is_padded(self) -> bool:
        """Whether any padding is needed."""
        return any(self.before) or any(self.after)


def two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """Return (height, width) of one or two sizes."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def spatial(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) of a value of rank 3 or 4.

    Raises:
      GraphError: it has another rank.
    """
    if len(shape) not in (3, 4):
        raise refuse(node, f"only 1-D and 2-D data are supported, shape is {shape}")
    return two(shape[2:], 1)


def read_window(builder: Builder, node: Node, kernel: tuple[int, ...]) -> Window:
    """Read the window of a convolution or pool.

    Args:
      builder: knows the shapes.
      node: the operator.
      kernel: its taps along each spatial axis.

    Raises:
      GraphError: an attribute has another type, or the data are not 1-D or 2-D.
    """
    given, found = builder.shapes[node.inputs[0]], builder.shapes[node.outputs[0]]
    sizes, results = spatial(node, given), spatial(node, found)
    axes = len(given) - 2
    taps = two(kernel, 1)
    strides = two(ints_attribute(node, "strides", (1,) * axes), 1)
    dilations = two(ints_attribute(node, "dilations", (1,) * axes), 1)
    spans = [(t - 1) * d + 1 for t, d in zip(taps, dilations, strict=True)]
    needed = [
        (result - 1) * stride + span - size
        for result, stride, span, size in zip(results, strides, spans, sizes, strict=True)
    ]
    before = _pads_before(node, axes, needed)
    fits_same = all(
        begin == max(need, 0) // 2 and result == -(-size // stride)
        for begin, need, result, size, stride in zip(
            before, needed, results, sizes, strides, strict=True
        )
    )
    after = (max(0, needed[0] - before[0]), max(0, needed[1] - before[1]))
    return Window(taps, strides, dilations, before, after, fits_same)


def pad(builder: Builder, node: Node, tensor: str, window: Window) -> tuple[str, int]:
    """Prepare a window's input, padding with what the operator does not see, or zeros.

    Args:
      builder: receives the PAD operator, if one is needed.
      node: the windowed operator.
      tensor: its input, channels last.
      window: how it slides.

    Returns:
      The tensor to slide over, and the `Padding` that the operator must have.
    """
    if not window.is_padded:
        return tensor, VALID
    if window.fits_same:
        return tensor, SAME
    return pad_explicitly(builder, node, tensor, window), VALID


def pad_explicitly(
    builder: Builder, node: Node, tensor: str, window: Window, *, lowest: bool = False
) -> str:
    """Append a PAD with zeros, or a PADV2 with the lowest number there is."""
    height, width = spatial(node, builder.shapes[node.inputs[0]])
    channels = builder.shapes[node.inputs[0]][1]
    top, left = window.before
    bottom, right = window.after
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    shape = (1, top + height + bottom, left + width + right, channels)
    inputs = (tensor, builder.literal(amounts))
    if not lowest:
        return builder.emit(node, "PAD", inputs, shape)
    fill = builder.literal(np.array([np.finfo(np.float32).min], np.float32))
    return builder.emit(node, "PADV2", (*inputs, fill), shape)


def _pads_before(node: Node, axes: int, needed: list[int]) -> tuple[int, int]:
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return (0, 0)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        odd = 1 if mode == "SAME_LOWER" else 0
        return ((max(needed[0], 0) + odd) // 2, (max(needed[1], 0) + odd) // 2)
    if mode != "NOTSET":
        raise GraphError(node.describe(), f"attribute 'auto_pad' is {mode!r}")
    pads = ints_attribute(node, "pads", (0,) * 2 * axes)
    if len(pads) != 2 * axes or min(pads) < 0:
        raise refuse(node, f"pads {pads} must be {2 * axes} sizes, none negative")
    return two(pads[:axes], 0)


def channels_last_input(builder: Builder, node: Node) -> str:
    """Return a windowed operator's input tensor."""
    spatial(node, builder.shapes[node.inputs[0]])
    return builder.tensor(node, node.inputs[0], Form.CHANNELS_LAST)


def kernel_shape(node: Node, axes: int) -> tuple[int, ...]:
    """Return a pool's taps.

    Raises:
      GraphError: the attribute is missing or has the wrong length.
    """
    kernel = ints_attribute(node, "kernel_shape", ())
    if len(kernel) != axes or int_attribute(node, "storage_order", 0):
        raise refuse(node, f"kernel_shape {kernel} does not fit {axes}-D data")
    return kernel
