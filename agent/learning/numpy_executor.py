"""Running graphs in numpy: no ONNX Runtime, no ONNX bytes, no threads but those of numpy's BLAS.

Responsible for the plan of a graph: one kernel per node, slots instead of names, and when each
value is dropped. Refuses operators without a kernel when the graph is planned, and feeds that
do not fit when it runs.

Invariant: the same feeds give the same bits on the same machine; float32 in, float32 out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from agent.learning.ir import DTYPES, Array, Graph, GraphError, Node, ValueInfo
from agent.learning.numpy_kernels import MAKERS
from agent.learning.numpy_kernels.kernel import Kernel
from agent.learning.numpy_kernels.layout import constant_value
from agent.learning.runtime import BackendError

_OMITTED, _DISCARDED = 0, 1  # slots of inputs that are not given and outputs that nobody names


class _Step(NamedTuple):
    """One node of a plan; a tuple, because reading its fields costs at every step."""

    kernel: Kernel
    read: Callable[[list[Any]], Sequence[Any]]
    write: int
    write_all: tuple[int, ...]
    """Slots of all outputs where there are several, else empty."""
    drop: tuple[int, ...]
    """Slots whose value nobody reads after this step."""
    node: Node


class Executor:
    """Runs one graph, planned once; several threads may use it at once."""

    def __init__(self, graph: Graph) -> None:
        """Plan a graph.

        Args:
          graph: in topological order, as `check_graph` demands.

        Raises:
          GraphError: an operator or attribute without a kernel, an input that nothing before
            it computes, or an output that nothing computes; names the node.
        """
        known = dict(graph.initializers)
        slots = {"": _OMITTED}
        for name in (*(value.name for value in graph.inputs), *known):
            slots[name] = len(slots) + 1
        planned = _plan(graph.nodes, known, slots)
        for value in graph.outputs:
            if value.name not in slots:
                raise GraphError("graph outputs", f"{value.name!r} is not computed by any node")
        self._outputs = [(value.name, slots[value.name]) for value in graph.outputs]
        self._inputs = [(value, slots[value.name], DTYPES[value.dtype]) for value in graph.inputs]
        self._template: list[Any] = [None] * (len(slots) + 1)
        for name, tensor in known.items():
            self._template[slots[name]] = tensor
        kept = {slots[name] for name in known} | {slot for _, slot in self._outputs}
        self._steps = _schedule(planned, slots, kept)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph.

        Args:
          feeds: one array per input of the graph, of its type; a dimension that the graph
            leaves open may have any size.

        Returns:
          The outputs by name, in the graph's order. One may share memory with a feed or a
          constant, so copy it before writing to it.

        Raises:
          ValueError: a feed is missing or does not fit.
          BackendError: a node cannot run with these sizes or values; names the node.
        """
        values = self._template.copy()
        for info, slot, dtype in self._inputs:
            value = feeds.get(info.name)
            if value is None or value.dtype != dtype or not _fits(value.shape, info):
                raise ValueError(_misfit(info, value))
            values[slot] = value
        # Division by zero and overflow give infinities and NaN, as everywhere in ONNX.
        with np.errstate(all="ignore"):
            self._run_steps(values)
        return {name: np.asarray(values[slot]) for name, slot in self._outputs}

    def _run_steps(self, values: list[Any]) -> None:
        step = None
        try:
            for step in self._steps:
                kernel, read, write, write_all, drop, _ = step
                result = kernel(*read(values))
                if write_all:
                    for slot, item in zip(write_all, result, strict=True):
                        values[slot] = item
                else:
                    values[write] = result
                for slot in drop:
                    values[slot] = None
        except (ValueError, IndexError, ZeroDivisionError) as error:
            where = step.node.describe() if step else "graph"
            raise BackendError(f"{where}: {error}") from error


def _plan(
    nodes: Iterable[Node], known: dict[str, Array], slots: dict[str, int]
) -> list[tuple[Node, Kernel]]:
    """Make every node's kernel; add constants to `known` and all outputs to `slots`."""
    planned = []
    for node in nodes:
        for name in node.inputs:
            if name not in slots:
                raise GraphError(node.describe(), f"input {name!r} is not defined before it")
        if node.op == "Constant":
            known[node.outputs[0]] = constant_value(node)
        else:
            planned.append((node, _make_kernel(node, known)))
        for name in node.outputs:
            if name:
                slots[name] = len(slots) + 1
    return planned


def _make_kernel(node: Node, known: Mapping[str, Array]) -> Kernel:
    maker = MAKERS.get(node.op)
    if maker is None:
        raise GraphError(node.describe(), f"operator {node.op!r} has no kernel in numpy")
    return maker(node, [known.get(name) for name in node.inputs])


def _schedule(
    planned: Sequence[tuple[Node, Kernel]], slots: Mapping[str, int], kept: set[int]
) -> list[_Step]:
    """Turn names into slots, and drop each value after its last reader; never those `kept`."""
    steps = []
    seen = {_OMITTED, *kept}
    for node, kernel in reversed(planned):
        read = [slots[name] for name in node.inputs]
        write = [slots[name] if name else _DISCARDED for name in node.outputs]
        drop = tuple(slot for slot in dict.fromkeys([*read, *write]) if slot not in seen)
        seen.update(read)
        several = tuple(write) if len(write) > 1 else ()
        steps.append(_Step(kernel, _reader(read), write[0], several, drop, node))
    return steps[::-1]


def _reader(slots: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """Return what picks these slots from the list of all values, as a sequence."""
    if len(slots) > 1:
        return itemgetter(*slots)
    first = slots[0] if slots else 0
    return itemgetter(slice(first, first + len(slots)))


def _fits(shape: Iterable[int], info: ValueInfo) -> bool:
    given = tuple(shape)
    return len(given) == len(info.shape) and all(
        size == expected or not isinstance(expected, int)
        for size, expected in zip(given, info.shape, strict=True)
    )


def _misfit(info: ValueInfo, value: Array | None) -> str:
    given = "missing" if value is None else f"{value.dtype} {value.shape}"
    return f"{info.name!r} is {given}, expected {info.dtype} {info.shape}"
