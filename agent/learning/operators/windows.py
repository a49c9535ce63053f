"""Sliding windows over the axes after batch and channels, shared by convolutions and pools.

Responsible for reading the attributes that place windows and for the sizes that follow from them
(ONNX Operators.md, Conv and MaxPool, opset 18: output o of an axis reads input
o * stride + tap * dilation - pad). Refuses automatic and negative pads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.learning.ir import GraphError, Node
from agent.learning.shapes import Shape, has_batch, ints_attribute, text_attribute

Sizes = tuple[int, ...]
"""One number for each axis after batch and channels."""

_LARGEST_STEP = 1 << 16
"""Cap on strides, dilations and pads: longer than any axis that windows would be laid on."""


@dataclass(frozen=True)
class Windows:
    """Where windows lie.

    Attributes:
      kernel: taps of a window.
      strides: elements from window to window.
      dilations: elements from tap to tap.
      before: elements added before each axis.
      after: elements added after each axis.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    after: Sizes

    @property
    def pads(self) -> Sizes:
        """The attribute `pads`: all befores, then all afters."""
        return self.before + self.after

    @property
    def taps(self) -> int:
        """Taps of one window."""
        return math.prod(self.kernel)

    def padded(self, sizes: Sizes) -> Sizes:
        """Return `sizes` with the pads added."""
        return tuple(
            low + size + high
            for low, size, high in zip(self.before, sizes, self.after, strict=True)
        )

    def reach(self) -> Sizes:
        """Return how many elements a window spans from its first to its last tap."""
        return tuple(
            (taps - 1) * step + 1 for taps, step in zip(self.kernel, self.dilations, strict=True)
        )

    def count(self, node: Node, sizes: Sizes) -> Sizes:
        """Return how many windows fit on axes of `sizes`.

        Raises:
          GraphError: none does.
        """
        counts = tuple(
            (size - reach) // stride + 1
            for size, reach, stride in zip(
                self.padded(sizes), self.reach(), self.strides, strict=True
            )
        )
        if min(counts) < 1:
            raise GraphError(node.describe(), f"a window of {self.kernel} does not fit in {sizes}")
        return counts

    def covered(self, counts: Sizes) -> Sizes:
        """Return the smallest sizes, without pads, on which `counts` windows fit.

        An axis that the pads alone would cover comes out as 0 or less.
        """
        return tuple(
            (count - 1) * stride + reach - low - high
            for count, stride, reach, low, high in zip(
                counts, self.strides, self.reach(), self.before, self.after, strict=True
            )
        )

    def left_over(self, sizes: Sizes, counts: Sizes) -> Sizes:
        """Return how many elements lie behind the last of `counts` windows."""
        return tuple(size - used for size, used in zip(sizes, self.covered(counts), strict=True))


def read_windows(node: Node, kernel: Sizes) -> Windows:
    """Read a node's window attributes.

    Args:
      node: a convolution or pool.
      kernel: taps per axis; an attribute `kernel_shape` must agree.

    Raises:
      GraphError: an attribute of the wrong type, number or size, or an automatic pad.
    """
    rank = len(kernel)
    if text_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        raise GraphError(node.describe(), "auto_pad is not supported, write the pads out")
    if ints_attribute(node, "kernel_shape", kernel) != kernel:
        raise GraphError(node.describe(), f"kernel_shape does not agree with weights of {kernel}")
    strides = _steps(node, "strides", (1,) * rank, 1)
    dilations = _steps(node, "dilations", (1,) * rank, 1)
    pads = _steps(node, "pads", (0,) * (2 * rank), 0)
    return Windows(kernel, strides, dilations, pads[:rank], pads[rank:])


def spatial_sizes(node: Node, shape: Shape) -> Sizes:
    """Return the sizes after batch and channels of data that windows slide over.

    Raises:
      GraphError: the data have no batch axis, or not 1 or 2 axes to slide over.
    """
    if not has_batch(shape) or len(shape) not in (3, 4):
        raise GraphError(
            node.describe(), f"data must be (batch, channels, one or two sizes), is {shape}"
        )
    return tuple(int(size) for size in shape[2:])


def _steps(node: Node, name: str, default: Sizes, smallest: int) -> Sizes:
    values = ints_attribute(node, name, default)
    if len(values) != len(default):
        raise GraphError(node.describe(), f"{name} must have {len(default)} values, has {values}")
    if min(values) < smallest or max(values) > _LARGEST_STEP:
        raise GraphError(
            node.describe(), f"{name} must lie in {smallest} to {_LARGEST_STEP}, are {values}"
        )
    return values
