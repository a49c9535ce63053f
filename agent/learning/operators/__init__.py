"""The table of operators that can be derived, one family per module.

An operator joins by a pair of functions, a shape rule and an adjoint rule, in a family's table
and by its name in `ir.FORWARD_OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.learning.operators import dense, elementwise, layout, softmax
from agent.learning.operators.rule import Operator

OPERATORS: Mapping[str, Operator] = {
    **dense.OPERATORS,
    **elementwise.OPERATORS,
    **layout.OPERATORS,
    **softmax.OPERATORS,
}
