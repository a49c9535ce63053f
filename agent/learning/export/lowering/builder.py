"""The TFLite program under construction, and where each ONNX value is stored in it.

Responsible for layouts: TFLite's convolutions want the channels last, ONNX has them second. A
value of rank 3 or 4 is stored PLAIN (ONNX's axes) or CHANNELS_LAST (N, C, H, W as N, H, W, C;
N, C, W as N, 1, W, C), and is converted when an operator wants the other form, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.observe import Observation
from agent.learning.export.program import Op, Program, Setting, Tensor
from agent.learning.ir import Array, GraphError, Node

Shape = tuple[int, ...]


class Form(Enum):
    """How a value's axes are stored."""

    PLAIN = "plain"
    CHANNELS_LAST = "channels last"


class Builder:
    """Collects tensors and operators.

    Attributes:
      shapes: every ONNX value's shape for one row.
      constants: the ONNX values that do not depend on the input.
    """

    def __init__(self, observation: Observation) -> None:
        self.shapes = observation.shapes
        self.constants = observation.constants
        self._tensors: dict[str, Tensor] = {}
        self._ops: list[Op] = []
        self._stored: dict[str, dict[Form, str]] = {}
        self._literals: dict[tuple[str, Shape, bytes], str] = {}

    def finish(self, input_tensor: str, output_tensor: str) -> Program:
        """Return what was built."""
        return Program(self._tensors, tuple(self._ops), input_tensor, output_tensor)

    def add_input(self, value: str, form: Form) -> str:
        """Store the graph's input in one form."""
        name = self._named(value, form)
        self._tensors[name] = Tensor(name, stored_shape(self.shapes[value], form), None, value)
        self._stored[value] = {form: name}
        return name

    def emit(
        self,
        node: Node,
        code: str,
        inputs: Sequence[str],
        shape: Shape,
        options: Mapping[str, Setting] | None = None,
        *,
        name: str = "",
        value: str = "",
        exact: bool = False,
    ) -> str:
        """Append an operator and return its output tensor.

        Args:
          node: the ONNX node it comes from.
          code: the TFLite operator.
          inputs: tensors.
          shape: of the output, as stored.
          options: the operator's options.
          name: of the output; numbered when not given.
          value: the ONNX value that the output holds the numbers of.
          exact: see `Op`.
        """
        output = self._unused(name or f"step{len(self._ops)}")
        self._tensors[output] = Tensor(output, shape, None, value)
        where = node.describe()
        self._ops.append(Op(code, tuple(inputs), (output,), options or {}, where, exact))
        return output

    def result(
        self,
        node: Node,
        code: str,
        inputs: Sequence[str],
        form: Form = Form.PLAIN,
        options: Mapping[str, Setting] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        """Append the operator that computes a node's output, stored in one form."""
        value = node.outputs[0]
        shape = stored_shape(self.shapes[value], form)
        name = self._named(value, form)
        tensor = self.emit(node, code, inputs, shape, options, name=name, value=value, exact=exact)
        self._stored[value] = {form: tensor}

    def alias(self, node: Node, value: str) -> None:
        """Let a node's output be stored where another value is; their ranges are the same."""
        self._stored[node.outputs[0]] = self._stored[value]

    def literal(self, array: NDArray[Any]) -> str:
        """Return the constant tensor with these values; equal ones are one tensor."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._literals:
            name = self._unused(f"constant{len(self._literals)}")
            self._tensors[name] = Tensor(name, array.shape, array, dtype=array.dtype.name)
            self._literals[key] = name
        return self._literals[key]

    def stored_sizes(self, tensor: str) -> Shape:
        """Return a tensor's shape."""
        return self._tensors[tensor].shape

    def sizes(self, values: Sequence[int]) -> str:
        """Return the constant tensor of int32 settings."""
        return self.literal(np.array(values, np.int32))

    def is_channels_last(self, value: str) -> bool:
        """Tell whether a computed value is stored channels last already."""
        return Form.CHANNELS_LAST in self._stored.get(value, {})

    def preferred(self, value: str) -> Form:
        """Return the form in which a computed value costs no conversion."""
        return Form.CHANNELS_LAST if self.is_channels_last(value) else Form.PLAIN

    def tensor(self, node: Node, value: str, form: Form) -> str:
        """Return the tensor of a computed value in one form, converting it if need be.

        Raises:
          GraphError: the value is a constant where `node` needs a computed one.
        """
        forms = self._stored.get(value)
        if forms is None:
            raise GraphError(
                node.describe(), f"cannot be exported to TFLite with the constant {value!r} there"
            )
        if form not in forms:
            forms[form] = self._convert(node, value, form)
        return forms[form]

    def reshape(self, node: Node, tensor: str, shape: Shape, *, name: str = "") -> str:
        """Return a tensor with the same numbers in the same order; free of work if possible."""
        if self._tensors[tensor].shape == shape:
            return tensor
        value = self._tensors[tensor].value
        sizes = self.sizes((-1, *shape[1:]))  # the batch stays free
        return self.emit(node, "RESHAPE", (tensor, sizes), shape, name=name, value=value)

    def store(self, node: Node, tensor: str, form: Form) -> None:
        """Let a node's output be an existing tensor."""
        self._stored[node.outputs[0]] = {form: tensor}

    def transpose(self, node: Node, tensor: str, order: Sequence[int]) -> str:
        """Append a TRANSPOSE."""
        shape = self._tensors[tensor].shape
        moved = tuple(shape[axis] for axis in order)
        value = self._tensors[tensor].value
        return self.emit(node, "TRANSPOSE", (tensor, self.sizes(order)), moved, value=value)

    def _convert(self, node: Node, value: str, form: Form) -> str:
        shape = self.shapes[value]
        target = stored_shape(shape, form)
        source = next(iter(self._stored[value].values()))
        if keeps_order(shape):
            return self.reshape(node, source, target)
        if form is Form.PLAIN:
            flat = self.reshape(node, source, (1, *shape[2:], shape[1]))
            return self.transpose(node, flat, (0, len(shape) - 1, *range(1, len(shape) - 1)))
        moved = self.transpose(node, source, (0, *range(2, len(shape)), 1))
        return self.reshape(node, moved, target)

    def _named(self, value: str, form: Form) -> str:
        """Return a value's tensor name: readers of the file learn the axes' order from it."""
        rank = len(self.shapes[value])
        return f"{value}{axes_suffix(rank)}" if form is Form.CHANNELS_LAST else value

    def _unused(self, name: str) -> str:
        while name in self._tensors:
            name += "_"
        return name


def axes_suffix(rank: int) -> str:
    """Return the end of a channels-last tensor's name: the ONNX order of its axes."""
    return "@NCW" if rank == 3 else "@NCHW"


def stored_shape(shape: Shape, form: Form) -> Shape:
    """Return the stored sizes of a value of `shape`."""
    if form is Form.PLAIN:
        return shape
    height = (1,) if len(shape) == 3 else ()
    return (shape[0], *height, *shape[2:], shape[1])


def stored_axis(rank: int, axis: int, form: Form) -> int:
    """Return where an ONNX axis (not negative) lies in the stored value."""
    if form is Form.PLAIN or axis == 0:
        return axis
    if axis == 1:
        return 3
    return axis if rank == 3 else axis - 1


def keeps_order(shape: Shape) -> bool:
    """Tell whether both forms of a value have their numbers in the same order."""
    return shape[1] == 1 or math.prod(shape[2:]) == 1


def broadcast_constant(array: Array, rank: int, form: Form) -> Array:
    """Return a constant operand laid out for values of `rank` stored in `form`.

    Leading axes of size 1 are dropped: a vector along the last axis stays a vector.
    """
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if form is Form.CHANNELS_LAST:
        full = np.moveaxis(full, 1, -1)
        if rank == 3:
            full = full[:, None]
    while full.ndim > 1 and full.shape[0] == 1:
        full = full[0]
    return np.ascontiguousarray(full)
