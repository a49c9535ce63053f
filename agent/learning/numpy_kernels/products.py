"""Matrix products, by numpy's BLAS: transposed operands are passed on, not copied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agent.learning.ir import Array, Node
from agent.learning.numpy_kernels.kernel import Constants, Kernel, Maker, plain
from agent.learning.shapes import float_attribute, int_attribute


def _gemm(node: Node, constants: Constants) -> Kernel:
    del constants
    first, second = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    alpha = np.float32(float_attribute(node, "alpha", 1.0))
    beta = np.float32(float_attribute(node, "beta", 1.0))

    def product(a: Array, b: Array, c: Array | None = None) -> Array:
        value: Array = np.dot(a.T if first else a, b.T if second else b)
        if alpha != 1:
            value *= alpha
        if c is not None:
            value += c if beta == 1 else c * beta
        return value

    return product


MAKERS: Mapping[str, Maker] = {
    "Gemm": _gemm,
    "MatMul": plain(np.matmul),
}
