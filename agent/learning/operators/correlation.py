"""The gradient in a convolution's weights, in several forms of which one is fast.

A convolution reads a large side (its data, or a transposed convolution's output) through windows
and meets each window with one element of a small side. With windows o and taps t of a kernel,
the gradient in the weights is the correlation of the two sides,

    W[s, c, t] = sum over n, o of small[n, s, o] big[n, c, o * stride + t * dilation - pad],

with c within the group of s. Written as ONNX nodes it may take these forms, the fastest for each
geometry chosen as measured on one core of an x86-64 with AVX-512 (ONNX Runtime 1.31, batch 32):

- one axis: a convolution over examples. The batch is its channels, the small side its weights,
  and the channels lie along a second axis with a kernel of 1, so that a single matrix product
  with all channels and taps side by side results. 1.3 to 1.8 times PyTorch's speed; the same
  with one product for each channel (the last form below) reaches 0.6 to 0.9.
- two axes: the taps, each a shifted copy of the large side, stacked until a matrix product has
  some rows, at 0.6 of PyTorch; stacking all of them is no faster and needs the memory of all.
- two axes with groups or very many taps: a convolution over examples, channel by channel.

Kept apart for each example, windows are copied side by side by Gather, one for each axis.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from agent.learning.operators.windows import Sizes, Windows
from agent.learning.tape import Tape

_MOST_TAPS = 32
"""Taps beyond which nodes for each of them would fill the graph."""

_STACKED_ROWS = 64
"""Rows of a product up to which taps are stacked."""


@dataclass(frozen=True)
class Correlation:
    """What is correlated.

    Attributes:
      windows: how the small side's elements see the large side.
      group: number of groups of channels.
      weight: the weights' shape (S, C / group, *kernel).
      big: sizes of the large side after batch and channels.
      small: sizes of the small side after batch and channels, one element for each window.
    """

    windows: Windows
    group: int
    weight: Sizes
    big: Sizes
    small: Sizes

    @property
    def is_pointwise(self) -> bool:
        """Tell whether every window is the one element under it."""
        window = self.windows
        return window.taps == 1 and max(window.strides) == 1 and not any(window.pads)


def write_correlation(tape: Tape, big: str, small: str, what: Correlation) -> str:
    """Write the gradient in the weights; on a tape `per_example`, each example's own."""
    if tape.per_example:
        return _for_each_example(tape, big, small, what)
    by_taps = len(what.big) == 2 and what.windows.taps <= _MOST_TAPS
    if what.group == 1 and (by_taps or what.is_pointwise):
        return _by_taps(tape, big, small, what)
    if len(what.big) == 1:
        return _over_examples_at_once(tape, big, small, what)
    return _over_examples(tape, big, small, what)


def _over_examples_at_once(tape: Tape, big: str, small: str, what: Correlation) -> str:
    """Convolve (1, group N, C / group, size) with weights (S, N, 1, count)."""
    window, channels = what.windows, what.weight[1]
    data = tape.emit("Unsqueeze", big, tape.ints(0))
    if what.group > 1:
        grouped = tape.emit("Reshape", big, tape.ints(-1, what.group, channels, *what.big))
        by_group = tape.emit("Transpose", grouped, perm=(1, 0, 2, 3))
        data = tape.emit("Reshape", by_group, tape.ints(1, -1, channels, *what.big))
    factors = tape.emit("Unsqueeze", _channels_first(tape, small, 1), tape.ints(2))
    taps = tape.emit(
        "Conv",
        data,
        factors,
        strides=(1, *window.dilations),
        dilations=(1, *window.strides),
        pads=(0, *window.before, 0, *window.after),
        group=what.group,
    )
    return tape.emit("Reshape", _first_taps(tape, taps, what, 3), tape.ints(*what.weight))


def _over_examples(tape: Tape, big: str, small: str, what: Correlation) -> str:
    """Convolve (C / group, group N, *sizes) with weights (S, N, *counts)."""
    window, channels, rank = what.windows, what.weight[1], len(what.big)
    data = _channels_first(tape, big, rank)
    if what.group > 1:
        grouped = tape.emit("Reshape", big, tape.ints(-1, what.group, channels, *what.big))
        turned = tape.emit("Transpose", grouped, perm=(2, 1, 0, *range(3, 3 + rank)))
        data = tape.emit("Reshape", turned, tape.ints(channels, -1, *what.big))
    taps = tape.emit(
        "Conv",
        data,
        _channels_first(tape, small, rank),
        strides=window.dilations,
        dilations=window.strides,
        pads=window.pads,
        group=what.group,
    )
    return _channels_first(tape, _first_taps(tape, taps, what, 2), rank)


def _first_taps(tape: Tape, taps: str, what: Correlation, first: int) -> str:
    """Cut the taps beyond the kernel, which elements behind the last window give.

    Args:
      tape: to write to.
      taps: (..., *taps).
      what: is correlated.
      first: axis of the kernel's first axis in `taps`.
    """
    spare = what.windows.left_over(what.big, what.small)
    if all(left < step for left, step in zip(spare, what.windows.dilations, strict=True)):
        return taps
    axes = range(first, first + len(what.big))
    return tape.emit(
        "Slice",
        taps,
        tape.ints(*[0] * len(what.big)),
        tape.ints(*what.windows.kernel),
        tape.ints(*axes),
    )


def _by_taps(tape: Tape, big: str, small: str, what: Correlation) -> str:
    """Multiply each tap's view of the large side (C, N windows) with the small side."""
    rank = len(what.big)
    rows, channels = what.weight[:2]
    data = _channels_first(tape, _padded(tape, big, what.windows), rank)
    factors = tape.emit("Reshape", _channels_first(tape, small, rank), tape.ints(rows, -1))
    at_once = max(1, _STACKED_ROWS // channels)
    every = list(itertools.product(*map(range, what.windows.kernel)))
    products = []
    for first in range(0, len(every), at_once):
        views = [_view(tape, data, tap, what) for tap in every[first : first + at_once]]
        stack = views[0] if len(views) == 1 else tape.emit("Concat", *views, axis=0)
        flat = tape.emit("Reshape", stack, tape.ints(len(views) * channels, -1))
        products.append(tape.emit("Gemm", flat, factors, transB=1))
    joined = products[0] if len(products) == 1 else tape.emit("Concat", *products, axis=0)
    by_tap = tape.emit("Reshape", joined, tape.ints(len(every), channels, rows))
    turned = tape.emit("Transpose", by_tap, perm=(2, 1, 0))
    return tape.emit("Reshape", turned, tape.ints(*what.weight))


def _view(tape: Tape, data: str, tap: Sizes, what: Correlation) -> str:
    """Return what one tap of every window reads from padded `data`."""
    if what.is_pointwise:
        return data
    window = what.windows
    starts = [at * step for at, step in zip(tap, window.dilations, strict=True)]
    ends = [
        start + (count - 1) * stride + 1
        for start, count, stride in zip(starts, what.small, window.strides, strict=True)
    ]
    axes = range(2, 2 + len(tap))
    return tape.emit(
        "Slice",
        data,
        tape.ints(*starts),
        tape.ints(*ends),
        tape.ints(*axes),
        tape.ints(*window.strides),
    )


def _for_each_example(tape: Tape, big: str, small: str, what: Correlation) -> str:
    """Multiply (N, group, S / group, windows) with (N, group, windows, C / group * taps)."""
    rows, channels = what.weight[:2]
    counts, taps = math.prod(what.small), what.windows.taps
    columns = _columns(tape, big, what)
    shape = (-1, what.group, channels * taps, counts)
    factors = tape.emit("Reshape", columns, tape.ints(*shape))
    left = tape.emit("Reshape", small, tape.ints(-1, what.group, rows // what.group, counts))
    product = tape.emit("MatMul", left, tape.emit("Transpose", factors, perm=(0, 1, 3, 2)))
    return tape.emit("Reshape", product, tape.ints(-1, *what.weight))


def _columns(tape: Tape, big: str, what: Correlation) -> str:
    """Copy the windows side by side: (N, C, *kernel, *counts)."""
    if what.is_pointwise:
        return big
    columns = _padded(tape, big, what.windows)
    for axis in range(len(what.big)):
        stride, step = what.windows.strides[axis], what.windows.dilations[axis]
        taps, counts = what.windows.kernel[axis], what.small[axis]
        reads = np.arange(taps)[:, None] * step + np.arange(counts) * stride
        indices = tape.constant(reads.astype(np.int64))
        columns = tape.emit("Gather", columns, indices, axis=2 + 2 * axis)
    if len(what.big) == 1:
        return columns
    return tape.emit("Transpose", columns, perm=(0, 1, 2, 4, 3, 5))


def _padded(tape: Tape, big: str, window: Windows) -> str:
    if not any(window.pads):
        return big
    return tape.emit("Pad", big, tape.ints(0, 0, *window.before, 0, 0, *window.after))


def _channels_first(tape: Tape, value: str, rank: int) -> str:
    """Exchange batch and channels."""
    return tape.emit("Transpose", value, perm=(1, 0, *range(2, 2 + rank)))
