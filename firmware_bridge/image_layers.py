"""A model as a microcontroller runs it: layers, and what they must keep to.

Responsible for the types and for the limits that `device/jm_model.c` checks; MODEL_IMAGE.md says
what they mean. Invariant: what `problem_of` has nothing against, the device opens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

MAX_ACTIVATION = 1 << 20
"""Numbers in one layer's output."""
MAX_PRODUCTS = 32768
"""Products in one sum: taps times input channels."""
MAX_BIAS = (1 << 30) - 1
"""Of an int32 sum, half is left to the products."""

_LARGEST_U16 = 65535
_SMALLEST_SCALE = 2.0**-126
_LARGEST_SCALE = 3.4028234663852886e38


class ModelImageError(ValueError):
    """A model cannot be an image, or bytes are none; the text says what does not fit."""


class Operation(IntEnum):
    """What a layer does."""

    CONV = 1
    TRANSPOSED_CONV = 2
    MAX_POOL = 3
    AVERAGE_POOL = 4
    RESCALE = 5


WEIGHTED = frozenset({Operation.CONV, Operation.TRANSPOSED_CONV})


@dataclass(frozen=True)
class Window:
    """A layer's sizes, bounds and zero points; `device/jm_int8.h` has the same.

    Attributes:
      in_length: samples that go in.
      in_channels: numbers in each of them.
      out_length: samples that come out.
      out_channels: numbers in each of them.
      taps: samples that an output sees.
      stride: samples from one output to the next.
      before: padding in front; cut off, for transposed convolutions.
      in_zero: the stored number that stands for 0 in the input.
      out_zero: as `in_zero`, of the output.
      low: outputs are kept at or above it.
      high: outputs are kept at or below it.
    """

    in_length: int
    in_channels: int
    out_length: int
    out_channels: int
    taps: int
    stride: int
    before: int
    in_zero: int
    out_zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
      operation: what it does.
      window: its sizes.
      bias: int32, (out channels,); of CONV with the input's zero point folded in; empty for
        pools and RESCALE.
      multiplier: int32, (out channels,), one for RESCALE, none for pools.
      shift: int8, as `multiplier`; the factor is multiplier * 2 ** (shift - 31).
      weights: int8, (out channels, taps, in channels); empty but for convolutions.
    """

    operation: Operation
    window: Window
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int8]
    weights: NDArray[np.int8]


@dataclass(frozen=True)
class Image:
    """A model: real = (stored - zero point) * scale at both ends."""

    input_scale: float
    output_scale: float
    layers: tuple[Layer, ...]

    @property
    def input_numbers(self) -> int:
        """How many int8 numbers go in."""
        first = self.layers[0].window
        return first.in_length * first.in_channels

    @property
    def output_numbers(self) -> int:
        """How many int8 numbers come out."""
        last = self.layers[-1].window
        return last.out_length * last.out_channels

    @property
    def arena_bytes(self) -> int:
        """What the device needs beside the input: two neighbouring layers' numbers."""
        most = 0
        for number, layer in enumerate(self.layers):
            window = layer.window
            taken = window.in_length * window.in_channels if number else 0
            in_place = bool(number) and layer.operation is Operation.RESCALE
            given = 0 if in_place else window.out_length * window.out_channels
            most = max(most, taken + given)
        return most


def problem_of(image: Image) -> str:
    """Return why a device would not open an image, empty where it would."""
    if not 1 <= len(image.layers) <= _LARGEST_U16:
        return f"{len(image.layers)} layers, must be 1 to {_LARGEST_U16}"
    for scale in (image.input_scale, image.output_scale):
        if not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
            return f"scale {scale} is no positive normal float32"
    before: Window | None = None
    for number, layer in enumerate(image.layers):
        problem = _misfit(before, layer.window) or _size_problem(layer) or _number_problem(layer)
        if problem:
            return f"layer {number} ({layer.operation.name}): {problem}"
        before = layer.window
    return ""


def _misfit(before: Window | None, window: Window) -> str:
    if before is None:
        return ""
    given, taken = before.out_length * before.out_channels, window.in_length * window.in_channels
    if given != taken:
        return f"takes {taken} numbers, the layer before gives {given}"
    if before.out_zero != window.in_zero:
        return f"its zero point is {window.in_zero}, that of the layer before {before.out_zero}"
    return ""


def _size_problem(layer: Layer) -> str:
    window = layer.window
    sizes = (window.in_length, window.in_channels, window.out_length, window.out_channels)
    for size in (*sizes, window.taps, window.stride):
        if not 1 <= size <= _LARGEST_U16:
            return f"size {size} must be 1 to {_LARGEST_U16}"
    for numbers in (math.prod(sizes[:2]), math.prod(sizes[2:])):
        if numbers > MAX_ACTIVATION:
            return f"{numbers} numbers at once, at most {MAX_ACTIVATION}"
    if layer.operation is Operation.RESCALE:
        whole = (window.taps, window.stride, window.before) == (1, 1, 0)
        fits = whole and math.prod(sizes[:2]) == math.prod(sizes[2:])
        return "" if fits else "it must have one tap and give what it takes"
    return _window_problem(layer)


def _window_problem(layer: Layer) -> str:
    window = layer.window
    if not 0 <= window.before <= _LARGEST_U16:
        return f"padding {window.before} must be 0 to {_LARGEST_U16}"
    if layer.operation is not Operation.TRANSPOSED_CONV:
        last = (window.out_length - 1) * window.stride
        if window.before >= window.taps or last >= window.in_length + window.before:
            return "a window lies on padding alone"
    if layer.operation not in WEIGHTED:
        kept = window.in_channels == window.out_channels
        return "" if kept else "a pool must keep its channels"
    products = window.taps * window.in_channels
    return "" if products <= MAX_PRODUCTS else f"{products} products a sum, most {MAX_PRODUCTS}"


def _number_problem(layer: Layer) -> str:
    window = layer.window
    stored = (window.in_zero, window.out_zero, window.low, window.high)
    if not -128 <= min(stored) <= max(stored) <= 127 or window.low > window.high:
        return f"zero points and bounds {stored} must be int8, low before high"
    if layer.operation in (Operation.MAX_POOL, Operation.AVERAGE_POOL):
        return "" if window.in_zero == window.out_zero else "a pool must keep the zero point"
    if layer.bias.size and int(np.abs(layer.bias.astype(np.int64)).max()) > MAX_BIAS:
        return f"a bias, zero point folded in, is beyond {MAX_BIAS}"
    multiplier, shift = layer.multiplier, layer.shift
    if not np.all((multiplier == 0) | (multiplier >= 1 << 30)):
        return "a multiplier is neither 0 nor 2^30 or more"
    if not np.all((shift >= -31) & (shift <= 30)):
        return "a shift is outside -31 to 30"
    return ""
