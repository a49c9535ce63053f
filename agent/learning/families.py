"""Declared model families: forward graphs made from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from agent.learning.ir import Array, Graph, Node, ValueInfo
from agent.learning.shapes import BATCH


def mlp(inputs: int, hidden: Sequence[int], outputs: int, seed: int) -> Graph:
    """Make a multilayer perceptron: Gemm layers with Relu between them.

    Args:
      inputs: features F of the input `x`, float32 (N, F).
      hidden: widths of the hidden layers; may be empty.
      outputs: size O of the output `logits`, float32 (N, O).
      seed: of the initial weights.

    Returns:
      A forward graph with parameters `dense<i>.weight` (out, in) and `dense<i>.bias` (out,).
      Both are drawn uniformly within 1 / sqrt(in), as PyTorch's Linear does: for few inputs and
      rare labels this overfits less than the larger weights of He et al., arXiv:1502.01852.

    Raises:
      ValueError: a size is not positive.
    """
    sizes = (inputs, *hidden, outputs)
    if min(sizes) < 1:
        raise ValueError(f"layer sizes must be positive, are {sizes}")
    random = np.random.default_rng(seed)
    initializers: dict[str, Array] = {}
    nodes: list[Node] = []
    value = "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight, bias = f"dense{layer}.weight", f"dense{layer}.bias"
        bound = 1 / np.sqrt(fan_in)
        for name, shape in ((weight, (fan_out, fan_in)), (bias, (fan_out,))):
            initializers[name] = random.uniform(-bound, bound, shape).astype(np.float32)
        last = layer == len(sizes) - 2
        sums = "logits" if last else f"dense{layer}"
        gemm = {"transB": 1}
        nodes.append(Node("Gemm", (value, weight, bias), (sums,), gemm, f"dense{layer}"))
        if not last:
            value = f"relu{layer}"
            nodes.append(Node("Relu", (sums,), (value,), {}, value))
    return Graph(
        nodes=tuple(nodes),
        inputs=(ValueInfo("x", "float32", (BATCH, inputs)),),
        outputs=(ValueInfo("logits", "float32", (BATCH, outputs)),),
        initializers=initializers,
    )
