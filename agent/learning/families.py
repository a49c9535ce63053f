"""Declared model families: forward graphs made from a few numbers.

Sized for gateways and microcontrollers: by default 10,000 to 60,000 parameters, of operators that
TensorFlow Lite's interpreters know. Initial weights and biases are drawn uniformly within
1 / sqrt(fan in), as PyTorch's layers do: for few inputs and rare labels this overfits less than
the larger weights of He et al., arXiv:1502.01852. Equal arguments give equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from agent.learning.ir import Array, Attribute, Graph, Node, ValueInfo
from agent.learning.shapes import BATCH

Pooling = Literal["max", "average"]
_POOLS: Mapping[Pooling, str] = {"max": "MaxPool", "average": "AveragePool"}


class _Layers:
    """A forward graph under construction, layer upon layer.

    Attributes:
      shape: of the newest value, without the batch axis.
    """

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self.shape = tuple(shape)
        self._given = self.shape
        self._random = np.random.default_rng(seed)
        self._value = "x"
        self._nodes: list[Node] = []
        self._initializers: dict[str, Array] = {}

    def close(self, output: str) -> Graph:
        """Name the newest value `output` and return the graph."""
        last = self._nodes[-1]
        self._nodes[-1] = Node(last.op, last.inputs, (output,), last.attributes, last.name)
        return Graph(
            nodes=tuple(self._nodes),
            inputs=(ValueInfo("x", "float32", (BATCH, *self._given)),),
            outputs=(ValueInfo(output, "float32", (BATCH, *self.shape)),),
            initializers=self._initializers,
        )

    def dense(self, name: str, width: int) -> None:
        """Add a matrix product with bias over rows of numbers."""
        fan_in = self.shape[0]
        weight = self._draw(name, (width, fan_in), width, fan_in)
        self._add("Gemm", name, (width,), *weight, transB=1)

    def convolve(self, name: str, width: int, kernel: int, stride: int = 1) -> None:
        """Add a convolution with an odd kernel, padded so that stride 1 keeps the size."""
        channels, *sizes = self.shape
        taps = (kernel,) * len(sizes)
        weight = self._draw(name, (width, channels, *taps), width, channels * math.prod(taps))
        made = tuple((size - 1) // stride + 1 for size in sizes)
        self._add("Conv", name, (width, *made), *weight, **_window(kernel, stride, len(sizes)))

    def spread(self, name: str, width: int, kernel: int, sizes: Sequence[int]) -> None:
        """Add a transposed convolution of stride 2 that restores `sizes`."""
        channels, *given = self.shape
        taps = (kernel,) * len(given)
        # PyTorch counts a transposed convolution's fan in over its outputs.
        weight = self._draw(name, (channels, width, *taps), width, width * math.prod(taps))
        extra = tuple(size - (2 * have - 1) for size, have in zip(sizes, given, strict=True))
        attributes = {**_window(kernel, 2, len(given)), "output_padding": extra}
        self._add("ConvTranspose", name, (width, *sizes), *weight, **attributes)

    def relu(self, name: str) -> None:
        """Add max(value, 0)."""
        self._add("Relu", name, self.shape)

    def pool(self, name: str, pooling: Pooling, across: int = 2) -> None:
        """Add the largest or the mean of `across` along every axis but the channels'.

        Nothing is added where an axis is shorter.
        """
        channels, *sizes = self.shape
        if min(sizes) < across:
            return
        window = (across,) * len(sizes)
        made = (channels, *(size // across for size in sizes))
        self._add(_POOLS[pooling], name, made, kernel_shape=window, strides=window)

    def flatten(self, name: str) -> None:
        """Make one row of numbers of each example."""
        self._add("Flatten", name, (math.prod(self.shape),), axis=1)

    def _draw(self, name: str, shape: tuple[int, ...], width: int, fan_in: int) -> tuple[str, str]:
        """Draw `name`.weight of `shape` and `name`.bias (width,)."""
        bound = 1 / np.sqrt(fan_in)
        names = f"{name}.weight", f"{name}.bias"
        for parameter, sizes in zip(names, (shape, (width,)), strict=True):
            values = self._random.uniform(-bound, bound, sizes)
            self._initializers[parameter] = values.astype(np.float32)
        return names

    def _add(
        self, op: str, name: str, shape: tuple[int, ...], *inputs: str, **attributes: Attribute
    ) -> None:
        self._nodes.append(Node(op, (self._value, *inputs), (name,), attributes, name))
        self._value, self.shape = name, shape


def _window(kernel: int, stride: int, axes: int) -> dict[str, Attribute]:
    return {
        "kernel_shape": (kernel,) * axes,
        "strides": (stride,) * axes,
        "pads": (kernel // 2,) * (2 * axes),
    }


def mlp(inputs: int | Sequence[int], hidden: Sequence[int], outputs: int, seed: int) -> Graph:
    """Make a multilayer perceptron: Gemm layers with Relu between them.

    Args:
      inputs: features F of the input `x`, float32 (N, F); or the sizes of one example of any
        rank, which is flattened first.
      hidden: widths of the hidden layers; may be empty.
      outputs: size O of the output `logits`, float32 (N, O).
      seed: of the initial weights.

    Returns:
      A forward graph with parameters `dense<i>.weight` (out, in) and `dense<i>.bias` (out,).

    Raises:
      ValueError: a size is not positive.
    """
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    _check_positive("layer sizes", (*shape, *hidden, outputs))
    layers = _Layers(shape, seed)
    if len(shape) != 1:
        layers.flatten("flat")
    for layer, width in enumerate(hidden):
        layers.dense(f"dense{layer}", width)
        layers.relu(f"relu{layer}")
    layers.dense(f"dense{len(hidden)}", outputs)
    return layers.close("logits")


def cnn1d(  # noqa: PLR0913 - a family is its numbers
    channels: int,
    length: int,
    outputs: int,
    seed: int,
    *,
    widths: Sequence[int] = (32, 64, 64),
    kernel: int | Sequence[int] = 5,
    pool: int = 2,
    pooling: Pooling = "max",
    hidden: Sequence[int] = (),
) -> Graph:
    """Make a convolutional network over windows of several signals.

    Convolutions with Relu, pooled between them: the largest of a few samples finds shapes, the
    mean of many finds trends under noise. Then Flatten, because in a window of the past it matters
    when something was seen, and dense layers.

    Args:
      channels: signals C of the input `x`, float32 (N, C, L).
      length: samples L in a window.
      outputs: size O of the output `logits`, float32 (N, O).
      seed: of the initial weights.
      widths: channels after each convolution.
      kernel: samples that a convolution sees, odd; one number for all or one for each.
      pool: samples that become one between two convolutions, while there are as many.
      pooling: `max` or `average`.
      hidden: widths of dense layers with Relu before the last one.

    Returns:
      A forward graph with parameters `conv<i>.weight` (out, in, kernel), `conv<i>.bias` (out,),
      `dense<i>.weight` and `dense<i>.bias`, `head.weight` (O, in) and `head.bias` (O,).

    Raises:
      ValueError: a size is not positive, no widths are given, a kernel is even, or kernels and
        widths differ in number.
    """
    kernels = (kernel,) * len(widths) if isinstance(kernel, int) else tuple(kernel)
    if len(kernels) != len(widths):
        raise ValueError(f"{len(kernels)} kernels given for {len(widths)} widths")
    for one in kernels or (1,):
        _check_convolutions((channels, length, outputs), widths, one)
    _check_positive("pool and hidden widths", (pool, *hidden))
    layers = _Layers((channels, length), seed)
    for layer, (width, taps) in enumerate(zip(widths, kernels, strict=True)):
        if layer:
            layers.pool(f"pool{layer - 1}", pooling, pool)
        layers.convolve(f"conv{layer}", width, taps)
        layers.relu(f"relu{layer}")
    layers.flatten("flat")
    for layer, width in enumerate(hidden):
        layers.dense(f"dense{layer}", width)
        layers.relu(f"relu_dense{layer}")
    layers.dense("head", outputs)
    return layers.close("logits")


def cnn2d(
    channels: int,
    height: int,
    width: int,
    outputs: int,
    seed: int,
    *,
    widths: Sequence[int] = (16, 32, 32, 64),
    kernel: int = 3,
) -> Graph:
    """Make a convolutional network over images.

    Convolutions with Relu, each followed by a MaxPool that halves both sizes; then Flatten and one
    dense layer. A mean over each channel in place of Flatten would thin a small defect out.

    Args:
      channels: channels C of the input `x`, float32 (N, C, H, W).
      height: rows H.
      width: columns W.
      outputs: size O of the output `logits`, float32 (N, O).
      seed: of the initial weights.
      widths: channels after each convolution.
      kernel: rows and columns that a convolution sees, odd.

    Returns:
      A forward graph with parameters `conv<i>.weight` (out, in, kernel, kernel), `conv<i>.bias`
      (out,), `head.weight` (O, in) and `head.bias` (O,).

    Raises:
      ValueError: a size is not positive, no widths are given, or the kernel is even.
    """
    _check_convolutions((channels, height, width, outputs), widths, kernel)
    layers = _Layers((channels, height, width), seed)
    for layer, made in enumerate(widths):
        layers.convolve(f"conv{layer}", made, kernel)
        layers.relu(f"relu{layer}")
        layers.pool(f"pool{layer}", "max")
    layers.flatten("flat")
    layers.dense("head", outputs)
    return layers.close("logits")


def autoencoder(
    shape: Sequence[int],
    seed: int,
    *,
    widths: Sequence[int] = (32, 32, 16),
    kernel: int = 5,
) -> Graph:
    """Make an autoencoder, for `Loss.RECONSTRUCTION`: what it rebuilds badly is unusual.

    Over windows of signals, convolutions of stride 2 with Relu, then as many transposed ones back;
    over rows of numbers, dense layers. The output is linear; inputs should be standardised.

    Args:
      shape: of one example: (F,) for rows, (C, L) for windows of L samples of C signals.
      seed: of the initial weights.
      widths: channels after each convolution, or numbers after each dense layer, to the narrowest.
      kernel: samples that a convolution sees, odd; without meaning for rows.

    Returns:
      A forward graph from `x` to `rebuilt`, both float32 (N, *shape), with parameters
      `encoder<i>.weight`, `encoder<i>.bias`, `decoder<i>.weight` and `decoder<i>.bias`.

    Raises:
      ValueError: a size is not positive, no widths are given, the kernel is even, or the shape has
        neither one nor two sizes.
    """
    _check_convolutions(shape, widths, kernel)
    if len(shape) not in (1, 2):
        raise ValueError(f"an autoencoder takes rows or windows of signals, not {tuple(shape)}")
    layers = _Layers(shape, seed)
    before = []
    for layer, width in enumerate(widths):
        before.append(layers.shape)
        if len(shape) == 1:
            layers.dense(f"encoder{layer}", width)
        else:
            layers.convolve(f"encoder{layer}", width, kernel, stride=2)
        layers.relu(f"relu{layer}")
    for layer, (width, *sizes) in enumerate(reversed(before)):
        if layer:
            layers.relu(f"relu{len(widths) + layer - 1}")
        if len(shape) == 1:
            layers.dense(f"decoder{layer}", width)
        else:
            layers.spread(f"decoder{layer}", width, kernel, sizes)
    return layers.close("rebuilt")


def _check_convolutions(sizes: Sequence[int], widths: Sequence[int], kernel: int) -> None:
    _check_positive("sizes", (*sizes, *widths, kernel))
    if not widths:
        raise ValueError("at least one width must be given")
    if kernel % 2 == 0:
        raise ValueError(f"the kernel must be odd, so that it has a middle, is {kernel}")


def _check_positive(what: str, sizes: Sequence[int]) -> None:
    if min(sizes) < 1:
        raise ValueError(f"{what} must be positive, are {tuple(sizes)}")
