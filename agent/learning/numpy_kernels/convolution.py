"""Convolutions in 1 and 2 dimensions as matrix products.

`Conv` copies its windows to columns (im2col; Chellapilla et al., High Performance
Convolutional Neural Networks for Document Processing, 2006) and multiplies once.
`ConvTranspose` is the convolution with a mirrored kernel where it has no strides; else it
multiplies once and adds each tap's share to a canvas (col2im). All groups go in one batched
product, so a depthwise convolution costs a copy and not a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.numpy_kernels.kernel import Constants, Kernel, Maker
from agent.learning.numpy_kernels.windows import Geometry, Sizes, at, read_geometry, volume
from agent.learning.runtime import parts
from agent.learning.shapes import int_attribute, ints_attribute

_WIDE = 24
"""Outputs of one example from which a product per example beats one over the whole batch:
it reads and writes the layout that tensors have (measured with 16 to 64 channels)."""

_COLUMNS = 128 << 10
"""Elements of columns made at once: half a MiB, so that the product finds them in the cache."""


def _conv(node: Node, constants: Constants) -> Kernel:
    del constants
    geometry = read_geometry(node)
    group = _group(node)
    return lambda x, weight, bias=None: _convolve(geometry, group, x, weight, bias)


def _convolve(geometry: Geometry, group: int, x: Array, weight: Array, bias: Array | None) -> Array:
    _check_channels(x.shape[1], weight.shape[1] * group, weight.shape[0] % group)
    kernel = weight.shape[2:]
    view = geometry.windows(geometry.padded(x), kernel)
    area = view.shape[2 : 2 + len(kernel)]
    by_example = group == 1 and volume(area) >= _WIDE and area[-1] >= kernel[-1]
    multiply = _product_per_example if by_example else _product_per_group
    result = multiply(view, weight, group)
    if bias is not None:
        result += _column(bias, len(kernel))
    return result


def _product_per_example(view: Array, weight: Array, group: int) -> Array:
    """Return (O, C K) times (C K, area) for each example."""
    del group
    rank = weight.ndim - 2
    area, kernel = view.shape[2 : 2 + rank], view.shape[2 + rank :]
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    reach, positions = view.shape[1] * volume(kernel), volume(area)
    factor, windows = weight.reshape(len(weight), reach), view.transpose(order)
    result = np.empty((len(view), len(weight), positions), view.dtype)
    for part in _parts_of(len(view), reach * positions):
        np.matmul(factor, windows[part].reshape(-1, reach, positions), out=result[part])
    return result.reshape(len(view), len(weight), *area)


def _product_per_group(view: Array, weight: Array, group: int) -> Array:
    """Return (O, C K) times (C K, N area) for each group; the result is a transposed view."""
    rank = weight.ndim - 2
    rows, channels = len(view), view.shape[1] // group
    area, kernel = view.shape[2 : 2 + rank], view.shape[2 + rank :]
    reach, positions = channels * volume(kernel), volume(area)
    factor = weight.reshape(group, len(weight) // group, reach)
    windows = view.reshape(rows, group, channels, *area, *kernel)
    outputs, taps = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    # A weight's gradient has a wide kernel: its copies run along the longer axis.
    wide = area[-1] < kernel[-1]
    order = (1, 0, *outputs, 2, *taps) if wide else (1, 2, *taps, 0, *outputs)
    result = np.empty((*factor.shape[:2], rows * positions), view.dtype)
    for part in _parts_of(rows, group * reach * positions):
        columns = windows[part].transpose(order)
        if wide:
            columns = columns.reshape(group, -1, reach).transpose(0, 2, 1)
        else:
            columns = columns.reshape(group, reach, -1)
        target = result[..., part.start * positions : part.stop * positions]
        np.matmul(factor, columns, out=target)
    return result.reshape(len(weight), rows, *area).swapaxes(0, 1)


def _parts_of(rows: int, elements: int) -> Iterator[slice]:
    """Yield slices of rows whose columns, `elements` for each row, fit the cache."""
    return parts(rows, max(1, _COLUMNS // elements))


def _conv_transpose(node: Node, constants: Constants) -> Kernel:
    del constants
    geometry = read_geometry(node)
    group = _group(node)
    extra = ints_attribute(node, "output_padding", ())
    if "output_shape" in node.attributes:
        raise GraphError(node.describe(), "attribute 'output_shape' is not supported, use pads")

    def run(x: Array, weight: Array, bias: Array | None = None) -> Array:
        _check_channels(x.shape[1], len(weight), len(weight) % group)
        mirrored = _mirrored(geometry, weight.shape[2:], extra)
        if mirrored is not None:
            return _convolve(mirrored, group, x, _mirrored_weight(weight, group), bias)
        result = _cropped_sum_of_taps(geometry, group, x, weight, extra)
        if bias is not None:
            result += _column(bias, x.ndim - 2)
        return result

    return run


def _mirrored(geometry: Geometry, kernel: Sizes, extra: Sizes) -> Geometry | None:
    """Return the geometry of the convolution that does the same, if there is one.

    Without strides, a transposed convolution is the convolution with the mirrored kernel, padded
    by what that one does not pad (Dumoulin and Visin, arXiv:1603.07285, relationship 9).
    """
    strides, dilations = geometry.steps(kernel)
    if any(stride > 1 for stride in strides):
        return None
    rank = len(kernel)
    reach = [(taps - 1) * spread for taps, spread in zip(kernel, dilations, strict=True)]
    given = geometry.pads or (0,) * (2 * rank)
    pads = [have - pad for have, pad in zip((*reach, *reach), given, strict=True)]
    pads[rank:] = [pad + more for pad, more in zip(pads[rank:], extra or (0,) * rank, strict=True)]
    return Geometry(strides, dilations, tuple(pads)) if min(pads) >= 0 else None


def _mirrored_weight(weight: Array, group: int) -> Array:
    """Turn (C, O / group, *kernel) into (O, C / group, *kernel), every kernel reversed."""
    channels, outputs, kernel = len(weight) // group, weight.shape[1], weight.shape[2:]
    turned = weight.reshape(group, channels, outputs, *kernel).swapaxes(1, 2)
    backward: tuple[Any, ...] = (..., *(slice(None, None, -1),) * len(kernel))
    mirrored: Array = turned[backward].reshape(group * outputs, channels, *kernel)
    return mirrored


def _cropped_sum_of_taps(
    geometry: Geometry, group: int, x: Array, weight: Array, extra: Sizes
) -> Array:
    kernel = weight.shape[2:]
    rank = len(kernel)
    shares = _shares(x, weight, group)  # (N, O, *kernel, *area)
    canvas = _add_taps(shares, geometry, kernel, x.shape[2:], extra)
    pads = geometry.pads or (0,) * (2 * rank)
    inner = tuple(
        slice(low, size - high)
        for low, size, high in zip(pads[:rank], canvas.shape[2:], pads[rank:], strict=True)
    )
    return at(canvas, inner)


def _shares(x: Array, weight: Array, group: int) -> Array:
    """Return what each input adds to each output through each tap, (N, O, *kernel, *area)."""
    rows, channels = len(x), len(weight) // group
    kernel, area = weight.shape[2:], x.shape[2:]
    outputs, positions = weight.shape[1], volume(area)
    taps = outputs * volume(kernel)
    if group == 1 and positions >= _WIDE:
        values: Array = x.reshape(rows, channels, positions)
        product: Array = np.matmul(weight.reshape(channels, taps).T, values)
        return product.reshape(rows, outputs, *kernel, *area)
    factor = weight.reshape(group, channels, taps).swapaxes(1, 2)
    values = x.reshape(rows, group, channels, positions).transpose(1, 2, 0, 3)
    values = values.reshape(group, channels, rows * positions)
    product = factor * values if channels == 1 else np.matmul(factor, values)
    shares = product.reshape(group * outputs, volume(kernel), rows, volume(area))
    return shares.transpose(2, 0, 1, 3).reshape(rows, group * outputs, *kernel, *area)


def _add_taps(shares: Array, geometry: Geometry, kernel: Sizes, area: Sizes, extra: Sizes) -> Array:
    strides, dilations = geometry.steps(kernel)
    size = [
        (count - 1) * stride + (taps - 1) * spread + 1 + more
        for count, stride, taps, spread, more in zip(
            area, strides, kernel, dilations, extra or (0,) * len(kernel), strict=True
        )
    ]
    canvas = np.zeros((*shares.shape[:2], *size), shares.dtype)
    for tap, place in geometry.taps(kernel, area):
        index: tuple[Any, ...] = (slice(None), slice(None), *tap)
        target = at(canvas, place)
        target += shares[index]
    return canvas


def _group(node: Node) -> int:
    group = int_attribute(node, "group", 1)
    if group < 1:
        raise GraphError(node.describe(), f"group {group} is not positive")
    return group


def _check_channels(given: int, expected: int, rest: int) -> None:
    if given != expected or rest:
        raise ValueError(f"{given} channels do not fit weights for {expected} in equal groups")


def _column(bias: Array, rank: int) -> Array:
    return bias.reshape(-1, *(1,) * rank)


MAKERS: Mapping[str, Maker] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
