"""Convolutions, pooling, padding and resizing.

Responsible for one spelling of each: explicit padding, no attribute that only states a default,
upsampling by whole factors as a constant. A zero padding joins the convolution behind it; there is
no core operator for padding alone.

Source: ONNX Operators.md, operator set 18, for defaults and for auto_pad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agent.learning.ir import GraphError, Node
from agent.learning.shapes import (
    int_attribute,
    ints_attribute,
    place_axis,
    text_attribute,
)
from agent.learning.simplify.draft import Draft, Live, Value, Waiting
from agent.learning.simplify.known import SIZES, Known, constant
from agent.learning.simplify.rule import Rule, ints, number

_MERGED = "a padding is supported only with zeros and right before a convolution"


def _spatial(node: Node, value: Live) -> tuple[int, ...]:
    """Return the sizes of the axes after batch and channels."""
    sizes = tuple(size for size in value.shape[2:] if isinstance(size, int))
    if not sizes or len(sizes) != len(value.shape) - 2:
        raise GraphError(node.describe(), f"{value.shape} has no axes after batch and channels")
    return sizes


def _positive(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return an attribute with one positive integer for each spatial axis."""
    values = ints_attribute(node, name, default)
    if len(values) != len(default) or min(values) < 1:
        raise GraphError(node.describe(), f"{name} {values} must be {len(default)} positive sizes")
    return values


def _pads(
    node: Node,
    sizes: Sequence[int],
    window: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> tuple[int, ...]:
    """Return the padding before each axis, then after each, as auto_pad or pads say.

    Args:
      node: with the attributes.
      sizes: of the spatial axes.
      window: kernel sizes, strides, dilations.
    """
    mode = text_attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = ints_attribute(node, "pads", (0,) * (2 * len(sizes)))
        if len(pads) != 2 * len(sizes) or min(pads) < 0:
            raise GraphError(node.describe(), f"pads {pads} must be two for each axis, 0 or more")
        return pads
    if mode == "VALID":
        return (0,) * (2 * len(sizes))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise GraphError(node.describe(), f"auto_pad {mode!r} is not supported")
    less, more = [], []
    for size, kernel, stride, dilation in zip(sizes, *window, strict=True):
        reach = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1
        total = max(reach - size, 0)
        less.append(total // 2)
        more.append(total - total // 2)
    return (*less, *more) if mode == "SAME_UPPER" else (*more, *less)


def _weights(draft: Draft, node: Node) -> list[Live]:
    """Return a convolution's kernel, and its bias unless that is all 0."""
    bias = draft.value(node, 2)
    known = bias.settled() if isinstance(bias, Known) else None
    if bias is None or (known is not None and not known.any()):
        return [draft.data(node, 1)]
    return [draft.data(node, 1), draft.data(node, 2)]


def _conv(draft: Draft, node: Node) -> Value:
    value = draft.value(node, 0)
    padded = isinstance(value, Waiting) and value.node.op == "Pad"
    data = value.source if isinstance(value, Waiting) and padded else draft.data(node, 0)
    extra = [int(pad) for pad in value.detail] if isinstance(value, Waiting) else None
    weights = _weights(draft, node)
    sizes, kernel = _spatial(node, data), _spatial(node, weights[0])
    if len(sizes) != len(kernel):
        raise GraphError(node.describe(), f"a kernel of {kernel} does not fit axes of {sizes}")
    ones = (1,) * len(kernel)
    strides = _positive(node, "strides", ones)
    dilations = _positive(node, "dilations", ones)
    if ints_attribute(node, "kernel_shape", kernel) != kernel:
        raise GraphError(node.describe(), f"kernel_shape is not that of the weights, {kernel}")
    if extra is not None:
        before, after = extra[: len(sizes)], extra[len(sizes) :]
        sizes = tuple(a + size + b for a, size, b in zip(before, sizes, after, strict=True))
    pads = _pads(node, sizes, (kernel, strides, dilations))
    if extra is not None:
        pads = tuple(a + b for a, b in zip(pads, extra, strict=True))
    return draft.emit(
        node,
        "Conv",
        data,
        *weights,
        dilations=dilations,
        group=int_attribute(node, "group", 1),
        kernel_shape=kernel,
        pads=pads,
        strides=strides,
    )


def _conv_transpose(draft: Draft, node: Node) -> Value:
    data, weights = draft.data(node, 0), _weights(draft, node)
    kernel = _spatial(node, weights[0])
    ones = (1,) * len(kernel)
    mode = text_attribute(node, "auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise GraphError(node.describe(), "padding must be given by pads, not by a target size")
    if ints_attribute(node, "kernel_shape", kernel) != kernel:
        raise GraphError(node.describe(), f"kernel_shape is not that of the weights, {kernel}")
    strides = _positive(node, "strides", ones)
    dilations = _positive(node, "dilations", ones)
    pads = _pads(node, _spatial(node, data), (kernel, strides, dilations))
    more = ints_attribute(node, "output_padding", (0,) * len(kernel))
    return draft.emit(
        node,
        "ConvTranspose",
        data,
        *weights,
        dilations=dilations,
        group=int_attribute(node, "group", 1),
        kernel_shape=kernel,
        pads=pads,
        strides=strides,
        **({"output_padding": more} if any(more) else {}),
    )


def _pool(draft: Draft, node: Node) -> Value:
    if len(node.outputs) > 1:
        raise GraphError(node.describe(), "the indices of the greatest values are not supported")
    data = draft.data(node, 0)
    sizes = _spatial(node, data)
    ones = (1,) * len(sizes)
    kernel = _positive(node, "kernel_shape", ones)
    strides = _positive(node, "strides", ones)
    dilations = _positive(node, "dilations", ones)
    pads = _pads(node, sizes, (kernel, strides, dilations))
    attributes: dict[str, int | tuple[int, ...]] = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": strides,
    }
    if dilations != ones:
        attributes["dilations"] = dilations
    if node.op == "AveragePool" and any(pads):
        attributes["count_include_pad"] = int_attribute(node, "count_include_pad", 0)
    if int_attribute(node, "ceil_mode", 0) and _leftover(sizes, pads, (kernel, strides, dilations)):
        raise GraphError(node.describe(), "ceil_mode=1 is supported only where it changes nothing")
    return draft.emit(node, node.op, data, **attributes)


def _leftover(
    sizes: Sequence[int],
    pads: Sequence[int],
    window: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> bool:
    """Tell whether a window would not fit into what is left at the end of an axis."""
    rank = len(sizes)
    for axis, (kernel, stride, dilation) in enumerate(zip(*window, strict=True)):
        room = sizes[axis] + pads[axis] + pads[rank + axis] - (kernel - 1) * dilation - 1
        if room % stride:
            return True
    return False


def _global_max(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    return draft.emit(node, "MaxPool", data, kernel_shape=_spatial(node, data))


def _global_average(draft: Draft, node: Node) -> Value:
    return draft.emit(node, node.op, draft.data(node, 0))


def _pad(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    rank = len(data.shape)
    given = ints(node, draft.fixed(node, 1), "the padding") or ()
    fill = number(node, draft.fixed(node, 2), "the padding's value") or 0.0
    axes = ints(node, draft.fixed(node, 3), "the axes") or tuple(range(rank))
    if len(given) != 2 * len(axes):
        raise GraphError(node.describe(), f"pads {given} must be two for each axis")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(place_axis(node, axis, rank) for axis in axes):
        before[axis], after[axis] = given[index], given[index + len(axes)]
    if not any(before) and not any(after):
        return data
    mode = text_attribute(node, "mode", "constant")
    if mode != "constant" or fill or min(before + after) < 0 or any(before[:2] + after[:2]):
        raise GraphError(node.describe(), f"{_MERGED}; mode {mode!r}, value {fill}, pads {given}")
    return Waiting(node, data, (*before[2:], *after[2:]), _MERGED)


_SAME_AS_COPYING = {
    ("asymmetric", "floor"),
    *(
        (place, rounding)
        for place in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
        for rounding in ("round_prefer_floor", "round_prefer_ceil")
    ),
}
"""For whole factors f, output i of these is input i // f: the centre of a copy is nearest to it."""


def _resize(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    place = text_attribute(node, "coordinate_transformation_mode", "half_pixel")
    rounding = text_attribute(node, "nearest_mode", "round_prefer_floor")
    mode = text_attribute(node, "mode", "nearest")
    if mode != "nearest" or (place, rounding) not in _SAME_AS_COPYING:
        raise GraphError(
            node.describe(), f"mode {mode!r} with {place!r} and {rounding!r} is not supported"
        )
    if int_attribute(node, "antialias", 0) or "axes" in node.attributes:
        raise GraphError(node.describe(), "antialias and axes are not supported")
    factors = _factors(draft, node, data)
    if set(factors) == {1.0}:
        return data
    scales = draft.tensor(node, constant(np.array(factors, np.float32)))
    return draft.emit(
        node,
        "Resize",
        data,
        None,
        scales,
        coordinate_transformation_mode="asymmetric",
        mode="nearest",
        nearest_mode="floor",
    )


def _factors(draft: Draft, node: Node, data: Live) -> list[float]:
    """Return how many times each axis grows, from the scales or from the sizes wanted."""
    scales, sizes = draft.fixed(node, 2), draft.value(node, 3)
    if scales is not None and scales.size:
        return [float(scale) for scale in scales.reshape(-1)]
    if not isinstance(sizes, Known) or sizes.first.shape != (len(data.shape),):
        raise GraphError(node.describe(), "needs constant scales, or a size for each axis")
    if sizes.second.shape != sizes.first.shape:
        raise GraphError(node.describe(), "its sizes depend on the batch")
    factors = []
    for axis, size in enumerate(data.shape):
        old = SIZES if isinstance(size, str) else (size, size)
        new = (int(sizes.first[axis]), int(sizes.second[axis]))
        if new[0] * old[1] != new[1] * old[0]:
            raise GraphError(node.describe(), "its sizes depend on the batch")
        factors.append(new[0] / old[0])
    return factors


_WINDOW = frozenset({"auto_pad", "kernel_shape", "pads", "strides", "dilations"})

RULES: Mapping[str, Rule] = {
    "AveragePool": Rule(_pool, (1, 1), _WINDOW | {"ceil_mode", "count_include_pad"}),
    "Conv": Rule(_conv, (2, 3), _WINDOW | {"group"}),
    "ConvTranspose": Rule(
        _conv_transpose, (2, 3), _WINDOW | {"group", "output_padding", "output_shape"}
    ),
    "GlobalAveragePool": Rule(_global_average, (1, 1)),
    "GlobalMaxPool": Rule(_global_max, (1, 1)),
    "MaxPool": Rule(_pool, (1, 1), _WINDOW | {"ceil_mode", "storage_order"}),
    "Pad": Rule(_pad, (2, 4), frozenset({"mode"})),
    "Resize": Rule(
        _resize,
        (1, 4),
        frozenset(
            {
                "antialias",
                "axes",
                "coordinate_transformation_mode",
                "cubic_coeff_a",
                "exclude_outside",
                "extrapolation_value",
                "keep_aspect_ratio_policy",
                "mode",
                "nearest_mode",
            }
        ),
    ),
}
"""Operators on axes after batch and channels."""
