"""A graph under construction: what operator rules and losses write to.

Responsible for fresh names, shared constants, known shapes and summed gradients. Knows no
operator. Every generated name starts with `%`, which no parameter's name may, so nothing can
collide.

Only `sum_to` and `contract` remove the batch axis from a gradient; per-example gradients are
the same rules over other versions of these two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Array, Attribute, Node
from agent.learning.shapes import BATCH, Shape

GENERATED = "%"
"""First character of every generated name."""


class Tape:
    """Nodes in order, with what is known of their values.

    Attributes:
      nodes: the nodes so far, in topological order.
      initializers: constants of the graph by name.
      constants: values known while deriving, by name.
      shapes: shapes of the forward pass's values, by name.
      needed: names of forward values that depend on a parameter.
      gradients: value name -> name of the loss's gradient in it, so far.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.initializers: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {}
        self.needed: set[str] = set()
        self.gradients: dict[str, str] = {}
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

    def add_gradient(self, name: str, gradient: str) -> None:
        """Add one use's contribution to the gradient in value `name`."""
        known = self.gradients.get(name)
        self.gradients[name] = gradient if known is None else self.emit("Add", known, gradient)

    def reshape(self, value: str, shape: Shape) -> str:
        """Give `value` another shape with the same elements."""
        return self.emit(
            "Reshape", value, self.ints(*(-1 if d == BATCH else int(d) for d in shape))
        )

    def sum_to(self, gradient: str, shape: Shape, target: Shape) -> str:
        """Undo broadcasting: sum a gradient of `shape` over the axes `target` was stretched in."""
        extra = len(shape) - len(target)
        stretched = [
            extra + axis
            for axis, size in enumerate(target)
            if size == 1 and shape[extra + axis] != 1
        ]
        axes = [*range(extra), *stretched]
        if not axes:
            return gradient
        summed = self.emit("ReduceSum", gradient, self.ints(*axes), keepdims=1 if stretched else 0)
        return self.reshape(summed, target) if stretched and extra else summed

    def contract(self, first: str, second: str, shapes: tuple[Shape, Shape]) -> str:
        """Return first^T second, summed over every axis but the last of each.

        Args:
          first: (..., k).
          second: (..., n), with the same leading axes.
          shapes: the two shapes.

        Returns:
          The name of the (k, n) product: a weight matrix's gradient.
        """
        flat = [
            name if len(shape) == 2 else self.emit("Reshape", name, self.ints(-1, int(shape[-1])))
            for name, shape in zip((first, second), shapes, strict=True)
        ]
        return self.emit("Gemm", *flat, transA=1)
