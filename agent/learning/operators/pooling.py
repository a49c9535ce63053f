"""MaxPool, AveragePool and GlobalAveragePool in one and two dimensions.

Of equal largest elements of a window the first one has the slope, as in PyTorch. Refuses pads
as long as the kernel, which would leave windows without any element, and rounding sizes up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agent.learning.ir import DTYPE_CODES, Array, GraphError, Node
from agent.learning.operators.rule import Operator
from agent.learning.operators.windows import (
    Sizes,
    Windows,
    read_windows,
    spatial_sizes,
)
from agent.learning.shapes import Shape, elements, int_attribute, ints_attribute
from agent.learning.tape import Tape

_ATTRIBUTES = frozenset({"auto_pad", "ceil_mode", "kernel_shape", "pads", "strides"})


def _windows(node: Node, rank: int) -> Windows:
    kernel = ints_attribute(node, "kernel_shape", ())
    if len(kernel) != rank or min(kernel) < 1:
        raise GraphError(node.describe(), f"needs a kernel_shape of {rank} sizes, has {kernel}")
    window = read_windows(node, kernel)
    if int_attribute(node, "ceil_mode", 0) or int_attribute(node, "storage_order", 0):
        raise GraphError(node.describe(), "ceil_mode and storage_order are not supported")
    if max(window.dilations) > 1:
        raise GraphError(node.describe(), "dilations are not supported")
    if any(pad >= size for pad, size in zip(window.pads, kernel * 2, strict=True)):
        raise GraphError(node.describe(), f"pads {window.pads} are as long as the kernel {kernel}")
    return window


_FAR = 1e38
"""Makes any distance between float32 values, down to the smallest normal ones, count more than the
taps of a window; where it overflows to minus infinity, the element is out of the race."""


def _infer_pool(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    sizes = spatial_sizes(node, shapes[0])
    window = _windows(node, len(sizes))
    counts = window.count(node, sizes)
    return (*shapes[0][:2], *counts)


def _pool_workspace(node: Node, shapes: Sequence[Shape], output: Shape) -> int:
    """All windows of one example, copied side by side."""
    del shapes
    return elements(output) * _windows(node, len(output) - 2).taps


def _infer_global(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    del constants
    return (*shapes[0][:2], *(1 for _ in spatial_sizes(node, shapes[0])))


def _adjoint_max(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data = node.inputs[0]
    rectified = _input_of_relu(tape, data)
    if rectified is None:
        yield data, _spread_to_largest(tape, node, gradient)
        return
    # The element that a window kept is positive exactly where the window's result is, so the slope
    # of a Relu before the pool can be taken behind it, where there are fewer elements.
    positive = tape.emit("Greater", node.outputs[0], tape.scalar(0.0))
    mask = tape.emit("Cast", positive, to=DTYPE_CODES["float32"])
    yield rectified, _spread_to_largest(tape, node, tape.emit("Mul", gradient, mask))


def _input_of_relu(tape: Tape, value: str) -> str | None:
    makers = (node for node in tape.nodes if node.outputs[0] == value and node.op == "Relu")
    return next((node.inputs[0] for node in makers), None)


def _spread_to_largest(tape: Tape, node: Node, gradient: str) -> str:
    """Put each window's gradient where its largest element stands."""
    data = node.inputs[0]
    sizes = spatial_sizes(node, tape.shapes[data])
    window = _windows(node, len(sizes))
    counts = spatial_sizes(node, tape.shapes[node.outputs[0]])
    if len(sizes) == 2 and _is_tiling(window, sizes, counts):
        return _spread_by_comparing(tape, node, gradient, window.kernel)
    _, indices = tape.more_outputs(node, 2)
    shape = tape.emit("Shape", data)
    if all(step >= taps for step, taps in zip(window.strides, window.kernel, strict=True)):
        # The indices alone say where values go. A kernel of 1 makes the shape that the runtime
        # expects no larger than the data's, whatever the pads.
        ones = (1,) * len(window.kernel)
        return tape.emit("MaxUnpool", gradient, indices, shape, kernel_shape=ones)
    flat = tape.ints(-1)
    zeros = tape.emit("Reshape", tape.emit("ConstantOfShape", shape), flat)
    places, values = (tape.emit("Reshape", value, flat) for value in (indices, gradient))
    total = tape.emit("ScatterElements", zeros, places, values, axis=0, reduction="add")
    return tape.reshape(total, tape.shapes[data])


def _spread_by_comparing(tape: Tape, node: Node, gradient: str, kernel: Sizes) -> str:
    """Spread over windows that tile the data, in whole passes without indices.

    A pool that gives indices branches at every element, and in two dimensions it takes more than
    twice the time of all of these passes together (ONNX Runtime 1.31). An element's score is the
    number of taps from its own on to the last, less its distance from the window's result times
    `_FAR`; so the best score is that of the first of equal largest ones, which has the slope, and
    every other one is lower by 1 or more. In float32 throughout: comparisons and casts of booleans
    are twice as slow.
    """
    sizes = tape.shapes[node.inputs[0]][2:]
    ranks = np.arange(math.prod(kernel), 0, -1, dtype=np.float32).reshape(kernel)
    repeats = [int(size) // taps for size, taps in zip(sizes, kernel, strict=True)]
    behind = tape.emit("Sub", node.inputs[0], _repeat(tape, node.outputs[0], kernel))
    far = tape.emit("Mul", behind, tape.scalar(_FAR))
    scores = tape.emit("Add", far, tape.constant(np.tile(ranks, repeats)))
    best = tape.emit("MaxPool", scores, kernel_shape=kernel, strides=kernel)
    passed = tape.emit("Sub", best, tape.scalar(1.0))
    mask = tape.emit("Relu", tape.emit("Sub", scores, _repeat(tape, passed, kernel)))
    return tape.emit("Mul", _repeat(tape, gradient, kernel), mask)


def _is_tiling(window: Windows, sizes: Sizes, counts: Sizes) -> bool:
    """Tell whether every element is in exactly one window, and pads in none."""
    is_close = window.strides == window.kernel and not any(window.pads)
    return is_close and window.covered(counts) == sizes


def _repeat(tape: Tape, value: str, times: Sizes) -> str:
    """Repeat each element of (N, C, ...) along the axes after channels."""
    return tape.emit(
        "Resize",
        value,
        "",
        tape.constant(np.array((1, 1, *times), np.float32)),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _adjoint_average(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data = node.inputs[0]
    sizes = spatial_sizes(node, tape.shapes[data])
    counts = spatial_sizes(node, tape.shapes[node.outputs[0]])
    window = _windows(node, len(sizes))
    shares = 1 / _elements_of(window, sizes, counts, padded=_counts_pads(node))
    scaled = tape.emit("Mul", gradient, tape.constant(shares.astype(np.float32)))
    if _is_tiling(window, sizes, counts):
        yield data, _repeat(tape, scaled, window.kernel)
        return
    # Each channel of each example is spread as an example of its own.
    spread = tape.emit(
        "ConvTranspose",
        tape.reshape(scaled, (-1, 1, *counts)),
        tape.constant(np.ones((1, 1, *window.kernel), np.float32)),
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.pads,
        output_padding=window.left_over(sizes, counts),
    )
    yield data, tape.reshape(spread, tape.shapes[data])


def _counts_pads(node: Node) -> bool:
    return bool(int_attribute(node, "count_include_pad", 0))


def _elements_of(window: Windows, sizes: Sizes, counts: Sizes, *, padded: bool) -> Array:
    """Return how many elements each window's mean is of, float64, shape `counts`.

    Args:
      window: the windows.
      sizes: of the data.
      counts: numbers of windows.
      padded: whether pads count.
    """
    total: Array = np.ones(())
    for axis, taps in enumerate(window.kernel):
        reads = np.arange(counts[axis])[:, None] * window.strides[axis] - window.before[axis]
        reads = reads + np.arange(taps)
        inside = padded | ((reads >= 0) & (reads < sizes[axis]))
        total = total[..., None] * inside.sum(axis=1)
    return total


def _adjoint_global(tape: Tape, node: Node, gradient: str) -> Iterator[tuple[str, str]]:
    data = node.inputs[0]
    sizes = spatial_sizes(node, tape.shapes[data])
    share = np.full(sizes, 1 / math.prod(sizes), np.float32)
    yield data, tape.emit("Mul", gradient, tape.constant(share))


OPERATORS: Mapping[str, Operator] = {
    "MaxPool": Operator(
        _infer_pool,
        _adjoint_max,
        (1, 1),
        _ATTRIBUTES | {"dilations", "storage_order"},
        workspace=_pool_workspace,
    ),
    "AveragePool": Operator(
        _infer_pool,
        _adjoint_average,
        (1, 1),
        _ATTRIBUTES | {"count_include_pad"},
        workspace=_pool_workspace,
    ),
    "GlobalAveragePool": Operator(_infer_global, _adjoint_global, (1, 1)),
}
