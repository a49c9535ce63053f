"""The table of operators that can be derived, one family per module.

An operator joins by a pair of functions, a shape rule and an adjoint rule, in a family's table
and by its name in `ir.FORWARD_OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.learning.operators import (
    convolution,
    dense,
    elementwise,
    layout,
    normalize,
    pooling,
    reduce,
    resize,
    slicing,
    softmax,
)
from agent.learning.operators.rule import Operator

OPERATORS: Mapping[str, Operator] = {
    **convolution.OPERATORS,
    **dense.OPERATORS,
    **elementwise.OPERATORS,
    **layout.OPERATORS,
    **normalize.OPERATORS,
    **pooling.OPERATORS,
    **reduce.OPERATORS,
    **resize.OPERATORS,
    **slicing.OPERATORS,
    **softmax.OPERATORS,
}
