"""Operators that move numbers: reshaping, transposing, slicing, joining."""

from __future__ import annotations

from agent.learning.export.lowering.attributes import int_attribute, refuse, settings_input
from agent.learning.export.lowering.builder import (
    Builder,
    Form,
    Shape,
    broadcast_constant,
    keeps_order,
    stored_axis,
    stored_shape,
)
from agent.learning.export.program import NO_ACTIVATION, Setting
from agent.learning.ir import Node


def lower_identity(builder: Builder, node: Node) -> None:
    """Identity is no operator."""
    if node.inputs[0] in builder.constants:
        raise refuse(node, "the output does not depend on the input")
    builder.alias(node, node.inputs[0])


def lower_reshape(builder: Builder, node: Node) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: all of them keep the numbers' order."""
    value, output = node.inputs[0], node.outputs[0]
    old, new = builder.shapes[value], builder.shapes[output]
    if new[:1] != (1,):
        raise refuse(node, f"the batch axis must stay first, shape is {new}")
    if old == new:
        builder.alias(node, value)
        return
    form = builder.preferred(value)
    if form is Form.CHANNELS_LAST and _keeps_channels(old, new):
        tensor = builder.tensor(node, value, form)
        moved = builder.reshape(node, tensor, stored_shape(new, form))
        builder.store(node, moved, form)
        return
    if form is Form.CHANNELS_LAST and not keeps_order(old):
        form = Form.PLAIN
    tensor = builder.tensor(node, value, form)
    builder.store(node, builder.reshape(node, tensor, new, name=output), Form.PLAIN)


def lower_transpose(builder: Builder, node: Node) -> None:
    """Transpose; between ONNX's and the channels-last order it is only another point of view."""
    value, output = node.inputs[0], node.outputs[0]
    shape = builder.shapes[value]
    rank = len(shape)
    given = node.attributes.get("perm")
    order = given if isinstance(given, tuple) else tuple(reversed(range(rank)))
    axes = [int(axis) for axis in order]
    if axes[0] != 0:
        raise refuse(node, "the batch axis must stay first")
    to_first, to_last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    target = builder.shapes[output]
    if axes == to_first and rank in (3, 4) and not builder.is_channels_last(value):
        tensor = builder.tensor(node, value, Form.PLAIN)
        moved = builder.reshape(node, tensor, stored_shape(target, Form.CHANNELS_LAST))
        builder.store(node, moved, Form.CHANNELS_LAST)
    elif axes == to_last and builder.is_channels_last(value):
        tensor = builder.tensor(node, value, Form.CHANNELS_LAST)
        builder.store(node, builder.reshape(node, tensor, target), Form.PLAIN)
    else:
        tensor = builder.tensor(node, value, Form.PLAIN)
        builder.result(node, "TRANSPOSE", (tensor, builder.sizes(axes)))


def lower_concat(builder: Builder, node: Node) -> None:
    """Concat along any axis but the batch."""
    rank = len(builder.shapes[node.outputs[0]])
    axis = int_attribute(node, "axis", 0) % rank
    if axis == 0:
        raise refuse(node, "the batch axis cannot be joined")
    last = any(builder.is_channels_last(name) for name in node.inputs)
    form = Form.CHANNELS_LAST if last else Form.PLAIN
    inputs = []
    for name in node.inputs:
        constant = builder.constants.get(name)
        if constant is None:
            inputs.append(builder.tensor(node, name, form))
            continue
        flat = broadcast_constant(constant, rank, form)
        inputs.append(builder.literal(flat.reshape(stored_shape(constant.shape, form))))
    options: dict[str, Setting] = {
        "axis": stored_axis(rank, axis, form),
        "fused_activation_function": NO_ACTIVATION,
    }
    builder.result(node, "CONCATENATION", inputs, form, options)


def lower_slice(builder: Builder, node: Node) -> None:
    """Slice with constant bounds and positive steps as STRIDED_SLICE."""
    shape = builder.shapes[node.inputs[0]]
    rank = len(shape)
    starts, ends = (settings_input(builder, node, index) for index in (1, 2))
    if starts is None or ends is None:
        raise refuse(node, "starts and ends must be given")
    axes = settings_input(builder, node, 3) or tuple(range(len(starts)))
    steps = settings_input(builder, node, 4) or (1,) * len(starts)
    bounds = {axis: slice(0, size, 1) for axis, size in enumerate(shape)}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise refuse(node, "steps must be positive")
        size = shape[axis % rank]
        bounds[axis % rank] = slice(*slice(start, end, step).indices(size))
    if bounds[0] != slice(0, 1, 1):
        raise refuse(node, "the batch axis cannot be cut")
    _cut(builder, node, bounds)


def _cut(builder: Builder, node: Node, bounds: dict[int, slice]) -> None:
    """Append the STRIDED_SLICE that takes `bounds`, by ONNX axis."""
    value = node.inputs[0]
    rank = len(builder.shapes[value])
    form = builder.preferred(value)
    tensor = builder.tensor(node, value, form)
    places = {stored_axis(rank, axis, form): part for axis, part in bounds.items()}
    added = slice(0, 1, 1)  # the height of one-dimensional values
    axes = len(stored_shape((1,) * rank, form))
    parts = [places.get(axis, added) for axis in range(axes)]
    inputs = (
        tensor,
        builder.sizes([part.start for part in parts]),
        builder.sizes([part.stop for part in parts]),
        builder.sizes([part.step for part in parts]),
    )
    # Bit 0 of the masks takes the batch whole, whatever its size.
    masks: dict[str, Setting] = {"begin_mask": 1, "end_mask": 1}
    builder.result(node, "STRIDED_SLICE", inputs, form, masks)


def _keeps_channels(old: Shape, new: Shape) -> bool:
    return len(new) in (3, 4) and len(old) in (3, 4) and old[1] == new[1]
