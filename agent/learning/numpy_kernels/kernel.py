"""What a kernel is, and how kernels read their nodes.

Responsible for the vocabulary of `numpy_kernels`. A maker decodes a node once, when the graph
is planned; the kernel it returns runs at every step. Refuses attributes of the wrong type and
modes that no derived graph uses.

Invariant: kernels never write to their inputs, so results may be views of them; float32 in
gives float32 out; indices and shapes are int64 on every platform, also where the C `long` of
numpy has 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agent.learning.ir import DTYPE_CODES, DTYPES, Array, GraphError, Node
from agent.learning.shapes import int_attribute

Result = Array | tuple[Array, ...]
Kernel = Callable[..., Any]
"""Runs one node: one array per input (None for an omitted one) -> the output, or a tuple of
all outputs where the node names several. A 0-d result may be a numpy scalar."""

Constants = Sequence[Array | None]
"""A node's inputs as far as they are known when the graph is planned, else None."""

Maker = Callable[[Node, Constants], Kernel]
"""(node, its constant inputs) -> kernel; raises `GraphError` for what it cannot run."""

_TYPES = {DTYPE_CODES[name]: dtype for name, dtype in DTYPES.items()}


def plain(kernel: Kernel) -> Maker:
    """Return the maker of an operator without attributes or settings."""

    def make(node: Node, constants: Constants) -> Kernel:
        del constants
        if node.attributes:
            raise GraphError(node.describe(), f"attributes {sorted(node.attributes)} are unknown")
        return kernel

    return make


def constant_at(constants: Constants, index: int) -> Array | None:
    """Return input `index` where it is given and known when planning."""
    return constants[index] if index < len(constants) else None


def to_ints(value: Array) -> tuple[int, ...]:
    """Return an integer tensor's values: axes, sizes, pads."""
    return tuple(int(item) for item in np.ravel(value))


def require(node: Node, name: str, given: object, *allowed: object) -> None:
    """Refuse a mode outside those that are supported.

    Raises:
      GraphError: `given` is none of `allowed`.
    """
    if given not in allowed:
        raise GraphError(node.describe(), f"{name} {given!r} is not supported, only {allowed}")


def dtype_of_code(node: Node, name: str) -> np.dtype[Any]:
    """Return the element type that attribute `name` holds as a TensorProto.DataType.

    Raises:
      GraphError: no such attribute, or a type outside `ir.DTYPES`.
    """
    code = int_attribute(node, name, 0)
    if code not in _TYPES:
        raise GraphError(node.describe(), f"element type {code} is not supported")
    return _TYPES[code]
