"""Kernels of ONNX's operators in numpy, one family per module.

An operator joins by a maker in its family's table. Semantics are those of operator set 18
(ONNX Operators.md); what a kernel does not take, its maker refuses by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.learning.numpy_kernels import (
    convolution,
    elementwise,
    indexing,
    layout,
    pooling,
    products,
    reductions,
)
from agent.learning.numpy_kernels.kernel import Maker

MAKERS: Mapping[str, Maker] = {
    **convolution.MAKERS,
    **elementwise.MAKERS,
    **indexing.MAKERS,
    **layout.MAKERS,
    **pooling.MAKERS,
    **products.MAKERS,
    **reductions.MAKERS,
}
