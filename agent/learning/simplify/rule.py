"""What simplification must know of an exported operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.simplify.draft import Draft, Value

_MOST_INTEGERS = 1024  # as many as the reader accepts in one attribute

Rewrite = Callable[[Draft, Node], Value | list[Value]]
"""(draft, exported node) -> its output, or all its outputs."""


@dataclass(frozen=True)
class Rule:
    """How one exported operator becomes core operators.

    Attributes:
      rewrite: writes them; `check` has run before it.
      arity: how many inputs it takes, fewest and most.
      attributes: names of the attributes it understands.
    """

    rewrite: Rewrite
    arity: tuple[int, int]
    attributes: frozenset[str] = frozenset()

    def check(self, node: Node) -> None:
        """Check what must hold before the rewriting may look at a node.

        Raises:
          GraphError: wrong number of inputs, or an unknown attribute.
        """
        fewest, most = self.arity
        if not fewest <= len(node.inputs) <= most or not all(node.inputs[:fewest]):
            raise GraphError(
                node.describe(), f"takes {fewest} to {most} inputs, has {len(node.inputs)}"
            )
        for name in node.attributes:
            if name not in self.attributes:
                raise GraphError(node.describe(), f"attribute {name!r} is not supported")


def number(node: Node, value: Array | None, what: str) -> float | None:
    """Return a constant's one number, however it is shaped; None for None.

    Raises:
      GraphError: it holds several.
    """
    if value is None:
        return None
    if value.size == 0 or (value != value.reshape(-1)[0]).any():
        raise GraphError(node.describe(), f"{what} must be one constant number")
    return float(np.float32(value.reshape(-1)[0]))


def ints(node: Node, value: Array | None, what: str) -> tuple[int, ...] | None:
    """Return a constant's integers; None for None.

    Raises:
      GraphError: no integers, too many, or more than one axis.
    """
    if value is None:
        return None
    if value.dtype.kind != "i" or value.ndim > 1 or value.size > _MOST_INTEGERS:
        raise GraphError(node.describe(), f"{what} must be constant integers")
    return tuple(int(item) for item in value.reshape(-1))
