"""Sliding windows over the spatial axes of (N, C, ...) tensors, for convolutions and pools.

Responsible for strides, dilations and pads as ONNX defines them (Operators.md, Conv and
MaxPool): output o of an axis reads input o * stride + tap * dilation - pad. Refuses `auto_pad`
and `ceil_mode`, which derived graphs write out as pads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from agent.learning.ir import Array, Node
from agent.learning.numpy_kernels.kernel import require
from agent.learning.shapes import int_attribute, ints_attribute, text_attribute

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """How windows lie; an empty tuple stands for the default (1, or no pads) on every axis.

    Attributes:
      strides: elements between windows, per spatial axis.
      dilations: elements between taps.
      pads: elements added before each axis, then after each axis.
    """

    strides: Sizes
    dilations: Sizes
    pads: Sizes

    def padded(self, x: Array, value: float = 0.0) -> Array:
        """Return `x` with its spatial axes padded."""
        if not any(self.pads):
            return x
        rank = x.ndim - 2
        before, after = self.pads[:rank], self.pads[rank:]
        shape = [
            low + size + high for low, size, high in zip(before, x.shape[2:], after, strict=True)
        ]
        result = np.zeros((*x.shape[:2], *shape), x.dtype)
        if value:
            result.fill(value)
        inner = tuple(slice(low, low + size) for low, size in zip(before, x.shape[2:], strict=True))
        at(result, inner)[...] = x
        return result

    def steps(self, kernel: Sizes) -> tuple[Sizes, Sizes]:
        """Return strides and dilations, written out."""
        ones = (1,) * len(kernel)
        return self.strides or ones, self.dilations or ones

    def outputs(self, size: Sizes, kernel: Sizes) -> Sizes:
        """Return how many windows fit each axis of padded `size`.

        Raises:
          ValueError: none does.
        """
        strides, dilations = self.steps(kernel)
        area = tuple(
            (have - (taps - 1) * spread - 1) // stride + 1
            for have, taps, stride, spread in zip(size, kernel, strides, dilations, strict=True)
        )
        if min(area) < 1:
            raise ValueError(f"a window of {kernel} does not fit in {size}")
        return area

    def windows(self, x: Array, kernel: Sizes) -> Array:
        """Return a view (N, C, *outputs, *kernel) of an `x` that is padded already."""
        strides, dilations = self.steps(kernel)
        area = self.outputs(x.shape[2:], kernel)
        spatial = x.strides[2:]
        hops = [step * stride for step, stride in zip(spatial, strides, strict=True)]
        taps = [step * spread for step, spread in zip(spatial, dilations, strict=True)]
        return as_strided(
            x, (*x.shape[:2], *area, *kernel), (*x.strides[:2], *hops, *taps), writeable=False
        )

    def taps(self, kernel: Sizes, area: Sizes) -> Iterator[tuple[Sizes, tuple[slice, ...]]]:
        """Yield each tap of the kernel, and the slices that it reads for all windows.

        Args:
          kernel: taps per axis.
          area: windows per axis.
        """
        strides, dilations = self.steps(kernel)
        for tap in product(*map(range, kernel)):
            starts = [place * spread for place, spread in zip(tap, dilations, strict=True)]
            yield (
                tap,
                tuple(
                    slice(start, start + (count - 1) * stride + 1, stride)
                    for start, count, stride in zip(starts, area, strides, strict=True)
                ),
            )


def read_geometry(node: Node) -> Geometry:
    """Decode a node's window attributes.

    Raises:
      GraphError: an attribute of the wrong type, or a mode that is not supported.
    """
    require(node, "auto_pad", text_attribute(node, "auto_pad", "NOTSET"), "NOTSET")
    require(node, "ceil_mode", int_attribute(node, "ceil_mode", 0), 0)
    pads = ints_attribute(node, "pads", ())
    require(node, "a negative pad in", pads if min(pads, default=0) < 0 else None, None)
    strides = ints_attribute(node, "strides", ())
    dilations = ints_attribute(node, "dilations", ())
    smallest = min((*strides, *dilations), default=1)
    require(node, "a stride or dilation of", min(1, smallest), 1)
    return Geometry(strides, dilations, pads)


def at(x: Array, place: tuple[slice, ...]) -> Array:
    """Return a view of the last axes of `x`: one slice per spatial axis."""
    index: tuple[Any, ...] = (..., *place)
    view: Array = x[index]
    return view


def volume(sizes: Sizes) -> int:
    """Return the product of sizes."""
    return math.prod(sizes)
