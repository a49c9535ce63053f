"""A graph under construction: what operator rules and losses write to.

Responsible for fresh names, shared constants, known shapes and summed gradients. Knows no
operator. Every generated name starts with `%`, which no parameter's name may, so nothing can
collide.

Theory. A value either has a batch axis, always axis 0, or has none: parameters and what is
computed from parameters alone. The gradient in a value with a batch axis has the value's shape.
The gradient in a value without one is summed over the batch on an ordinary tape; on a tape
`per_example` it is kept apart for each example and has one more axis, the batch, in front. Rules
reach values without a batch axis through `sum_to` and `contract` only, and change a gradient's
layout through `reshape_gradient` and `transpose_gradient`, or by axes counted from the end; so the
same rules write both kinds of graph.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Array, Attribute, Node
from agent.learning.shapes import BATCH, Shape, has_batch

GENERATED = "%"
"""First character of every generated name."""


class Tape:
    """Nodes in order, with what is known of their values.

    Attributes:
      per_example: whether gradients in values without a batch axis keep the examples apart.
      nodes: the nodes so far, in topological order.
      initializers: constants of the graph by name.
      constants: values known while deriving, by name.
      shapes: shapes of the forward pass's values, by name.
      needed: names of forward values that depend on what gradients are wanted in: the parameters,
        or the input.
      gradients: value name -> name of the loss's gradient in it, so far.
      workspace: elements that the neediest forward node so far takes for one example.
    """

    def __init__(self, *, per_example: bool = False) -> None:
        self.per_example = per_example
        self.nodes: list[Node] = []
        self.initializers: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {}
        self.needed: set[str] = set()
        self.gradients: dict[str, str] = {}
        self.workspace = 0
        self._interned: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names = 0

    def fresh(self) -> str:
        """Return a name nobody uses."""
        self._names += 1
        return f"{GENERATED}{self._names}"

    def emit(self, op: str, *inputs: str, **attributes: Attribute) -> str:
        """Append a node with one output and return the output's name."""
        output = self.fresh()
        self.nodes.append(Node(op, inputs, (output,), attributes, name=f"{op}{output}"))
        return output

    def more_outputs(self, node: Node, total: int) -> tuple[str, ...]:
        """Let a forward node give its optional outputs too; return all `total` of them."""
        place = next(i for i, known in enumerate(self.nodes) if known.outputs[0] == node.outputs[0])
        known = self.nodes[place].outputs
        outputs = (*known, *(self.fresh() for _ in range(total - len(known))))
        self.nodes[place] = replace(self.nodes[place], outputs=outputs)
        return outputs

    def constant(self, value: Array) -> str:
        """Return the name of a constant; equal constants share one."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._interned:
            name = self.fresh()
            self._interned[key] = name
            self.initializers[name] = value
        return self._interned[key]

    def scalar(self, value: float) -> str:
        """Return the name of a float32 scalar constant."""
        return self.constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        """Return the name of an int64 vector constant."""
        vector: NDArray[Any] = np.array(values, np.int64)
        return self.constant(vector)

    def reshape(self, value: str, shape: Shape) -> str:
        """Give `value` another shape with the same elements."""
        return self.emit(
            "Reshape", value, self.ints(*(-1 if d == BATCH else int(d) for d in shape))
        )

    def add_gradient(self, name: str, gradient: str) -> None:
        """Add one use's contribution to the gradient in value `name`."""
        known = self.gradients.get(name)
        self.gradients[name] = gradient if known is None else self.emit("Add", known, gradient)

    def gradient_shape(self, shape: Shape) -> Shape:
        """Return the shape of the gradient in a value of `shape`."""
        return shape if has_batch(shape) or not self.per_example else (BATCH, *shape)

    def reshape_gradient(self, gradient: str, shape: Shape) -> str:
        """Give a gradient the layout of a value of `shape`, with the same elements."""
        return self.reshape(gradient, self.gradient_shape(shape))

    def transpose_gradient(self, gradient: str, perm: tuple[int, ...], shape: Shape) -> str:
        """Permute the axes of a gradient in a value of `shape`."""
        if self.gradient_shape(shape) != shape:
            perm = (0, *(axis + 1 for axis in perm))
        return self.emit("Transpose", gradient, perm=perm)

    def sum_to(self, gradient: str, shape: Shape, target: Shape) -> str:
        """Undo broadcasting: sum over the axes in which `target` was stretched to `shape`.

        Args:
          gradient: in a value of `shape`.
          shape: result of broadcasting `target` with something.
          target: an operand's shape.

        Returns:
          The name of the gradient in the operand.
        """
        given, wanted = self.gradient_shape(shape), self.gradient_shape(target)
        # With the examples kept apart, the first axis of both is the batch: it is not summed.
        kept = 1 if self.per_example else 0
        sizes = given[kept:]
        operand = target if not has_batch(target) else target[kept:]
        if len(operand) > len(sizes):  # one example's 1 in the place of the batch
            operand = operand[1:]
        extra = len(sizes) - len(operand)
        axes = [
            kept + axis
            for axis, size in enumerate(sizes)
            if axis < extra or (operand[axis - extra] == 1 and size != 1)
        ]
        left = tuple(1 if axis in axes else size for axis, size in enumerate(given))
        if not axes:
            return gradient if left == wanted else self.reshape(gradient, wanted)
        if left == wanted:
            return self.emit("ReduceSum", gradient, self.ints(*axes), keepdims=1)
        summed = self.emit("ReduceSum", gradient, self.ints(*axes), keepdims=0)
        dropped = tuple(size for axis, size in enumerate(given) if axis not in axes)
        return summed if dropped == wanted else self.reshape(summed, wanted)

    def contract(self, data: str, gradient: str, shapes: tuple[Shape, Shape], *, swap: bool) -> str:
        """Return data^T gradient, summed over every axis but the last of each.

        Args:
          data: forward value (..., k).
          gradient: in a value (..., n) with the same leading axes.
          shapes: the shapes of the two values.
          swap: return gradient^T data instead.

        Returns:
          The name of the gradient in a matrix (k, n), or (n, k) when swapped.
        """
        if not self.per_example:
            flat = [
                name if len(shape) == 2 else self.reshape(name, (-1, int(shape[-1])))
                for name, shape in zip((data, gradient), shapes, strict=True)
            ]
            return self.emit("Gemm", *(flat[::-1] if swap else flat), transA=1)
        if has_batch(shapes[0]) and len(shapes[0]) == 2:  # one row an example: an outer product
            column, row = (gradient, data) if swap else (data, gradient)
            return self.emit(
                "Mul",
                self.emit("Unsqueeze", column, self.ints(2)),
                self.emit("Unsqueeze", row, self.ints(1)),
            )
        width, height = int(shapes[0][-1]), int(shapes[1][-1])
        examples = self.emit("Reshape", gradient, self.ints(0, -1, height))
        if has_batch(shapes[0]):
            rows = self.emit("Reshape", data, self.ints(0, -1, width))
            turned: tuple[int, ...] = (0, 2, 1)
        else:
            rows, turned = self.reshape(data, (-1, width)), (1, 0)
        if swap:
            return self.emit("MatMul", self.emit("Transpose", examples, perm=(0, 2, 1)), rows)
        return self.emit("MatMul", self.emit("Transpose", rows, perm=turned), examples)
