"""What the derivation must know of an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.learning.ir import Array, GraphError, Node
from agent.learning.shapes import Shape
from agent.learning.tape import Tape

ShapeRule = Callable[[Node, Sequence[Shape], Mapping[str, Array]], Shape]
"""(node, input shapes, constants by name) -> output shape; raises `GraphError`. The shape of an
omitted input is given as ()."""

AdjointRule = Callable[[Tape, Node, str], Iterator[tuple[str, str]]]
"""(tape, node, gradient in the output) -> (input, contribution to its gradient), for each
input in `tape.needed`. Nodes for inputs that nobody needs should not be written."""


WorkspaceRule = Callable[[Node, Sequence[Shape], Shape], int]
"""(node, input shapes, output shape) -> elements that one example needs besides its values, while
the node or its adjoint runs."""


def no_workspace(node: Node, shapes: Sequence[Shape], output: Shape) -> int:
    """Workspace rule of operators that need none to speak of."""
    del node, shapes, output
    return 0


@dataclass(frozen=True)
class Operator:
    """One operator's rules.

    Attributes:
      infer: the shape rule; `check` has run before it.
      adjoint: the adjoint rule.
      arity: how many inputs it takes, fewest and most.
      attributes: names of the attributes it may carry.
      settings: indices of inputs that are constant integers (shapes, axes), not data.
      optional: indices of inputs that may be omitted although later ones are given.
      workspace: the workspace rule.
    """

    infer: ShapeRule
    adjoint: AdjointRule
    arity: tuple[int, int]
    attributes: frozenset[str] = frozenset()
    settings: frozenset[int] = frozenset()
    optional: frozenset[int] = frozenset()
    workspace: WorkspaceRule = no_workspace

    def check(self, node: Node) -> None:
        """Check what must hold before the rules may look at a node.

        Raises:
          GraphError: wrong number of inputs or outputs, or an attribute outside the table.
        """
        fewest, most = self.arity
        omitted = {index for index, name in enumerate(node.inputs) if not name}
        if not fewest <= len(node.inputs) <= most or not omitted <= self.optional:
            given = len(node.inputs) - len(omitted)
            raise GraphError(node.describe(), f"takes {fewest} to {most} inputs, has {given}")
        if len(node.outputs) != 1:
            raise GraphError(node.describe(), "must have exactly one output")
        for name in node.attributes:
            if name not in self.attributes:
                raise GraphError(node.describe(), f"attribute {name!r} is not supported")


def same_shape(node: Node, shapes: Sequence[Shape], constants: Mapping[str, Array]) -> Shape:
    """Shape rule of operators that change values only."""
    del node, constants
    return shapes[0]
