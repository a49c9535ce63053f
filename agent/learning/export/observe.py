"""What a forward graph computes, value by value, as ONNX Runtime sees it.

Responsible for the shape of every value, for folding what does not depend on the input, and for
the numbers that every value takes over given rows. Export asks the runtime instead of repeating
shape rules, so that it serves every operator that the runtime runs. Refuses graphs that the
runtime refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Array, Graph, GraphError, Node, ValueInfo
from agent.learning.onnx_writer import write_graph
from agent.learning.onnxruntime_backend import ERRORS_ONLY, ORT_ERRORS
from agent.learning.silent_onnxruntime import onnxruntime

_CHUNK_ELEMENTS = 8 << 20  # floats of all values of one chunk of rows together: 32 MiB


@dataclass(frozen=True)
class Observation:
    """What is known of a forward graph's values by name.

    Attributes:
      shapes: sizes for a batch of one row.
      constants: the values that do not depend on the input, parameters among them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]


def observe(forward: Graph) -> Observation:
    """Run a forward graph on one row of zeros.

    Raises:
      GraphError: the graph's input is not float32 with fixed sizes after the batch axis, or
        ONNX Runtime refuses the graph.
    """
    row = np.zeros((1, *row_shape(forward)), np.float32)
    fixed = dict(forward.initializers)
    moving = {forward.inputs[0].name}
    whole: list[str] = []
    for node in forward.nodes:
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, np.ndarray):
            fixed[node.outputs[0]] = value
        elif moving.intersection(node.inputs):
            moving.update(node.outputs)
        else:
            whole += [name for name in node.outputs if name]
    floats = [name for name in whole if _is_float(forward, name, fixed)]
    computed = [name for node in forward.nodes for name in node.outputs if name in moving and name]
    shapes = {name: value.shape for name, value in fixed.items()}
    shapes[forward.inputs[0].name] = row.shape
    values = _run(_probe(forward, computed + floats), row, computed + floats)
    shapes.update({name: value.shape for name, value in values.items()})
    return Observation(shapes, {**fixed, **{name: values[name] for name in floats}})


def row_shape(forward: Graph) -> tuple[int, ...]:
    """Return the sizes of one row of a forward graph's input.

    Raises:
      GraphError: it has not one float32 input with fixed sizes behind the batch, or not one
        output.
    """
    if len(forward.inputs) != 1 or len(forward.outputs) != 1:
        raise GraphError("graph", "a forward graph has exactly one input and one output")
    given = forward.inputs[0]
    sizes = tuple(size for size in given.shape[1:] if isinstance(size, int) and size > 0)
    if given.dtype != "float32" or not given.shape or sizes != given.shape[1:]:
        raise GraphError(
            f"input {given.name!r}", f"must be float32 (batch, fixed sizes...), is {given.shape}"
        )
    return sizes


def watch(
    forward: Graph, rows: NDArray[np.float32], names: Sequence[str]
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    """Run a forward graph over rows, chunk by chunk.

    Args:
      forward: the model.
      rows: float32, (N, ...).
      names: the values to return; the graph's input may be among them.

    Yields:
      For each chunk of rows, every named value.

    Raises:
      GraphError: as `observe`.
      ValueError: `rows` do not fit the model or are not finite.
    """
    expected = row_shape(forward)
    if rows.dtype != np.float32 or rows.shape[1:] != expected or not len(rows):
        raise ValueError(f"rows are {rows.dtype} {rows.shape}, expected float32 (N, {expected})")
    if not np.isfinite(rows).all():
        raise ValueError("rows hold values that are not finite")
    given = forward.inputs[0].name
    computed = [name for name in names if name != given]
    session = _probe(forward, computed)
    first = _run(session, rows[:1], computed)
    per_row = sum(value.size for value in first.values()) + rows[0].size
    chunk = max(1, _CHUNK_ELEMENTS // per_row)
    for start in range(0, len(rows), chunk):
        part = np.ascontiguousarray(rows[start : start + chunk])
        yield {given: part, **_run(session, part, computed)}


def _is_float(forward: Graph, name: str, fixed: Mapping[str, Array]) -> bool:
    """Tell whether a value computed from constants is float32: integers are settings."""
    producers = {output: node for node in forward.nodes for output in node.outputs}
    while name not in fixed:
        inputs = producers[name].inputs
        if not inputs:
            return False
        name = inputs[0]
    return fixed[name].dtype == np.float32


def _probe(forward: Graph, names: Sequence[str]) -> Any:  # noqa: ANN401 - an untyped library's
    """Load the graph that returns the shape and the flat numbers of each named float value.

    Flat, because an output's rank must be declared, and ranks are what is asked here.
    """
    flat = "export/flat"
    extra: list[Node] = []
    outputs: list[ValueInfo] = []
    for index, name in enumerate(names):
        extra.append(Node("Shape", (name,), (f"export/shape{index}",)))
        extra.append(Node("Reshape", (name, flat), (f"export/value{index}",)))
        outputs.append(ValueInfo(f"export/shape{index}", "int64", (None,)))
        outputs.append(ValueInfo(f"export/value{index}", "float32", (None,)))
    probe = replace(
        forward,
        nodes=(*forward.nodes, *extra),
        outputs=tuple(outputs),
        initializers={**forward.initializers, flat: np.array([-1], np.int64)},
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(
            write_graph(probe), options, providers=["CPUExecutionProvider"]
        )
    except ORT_ERRORS as error:
        raise GraphError("graph", f"ONNX Runtime refuses it: {error}") from error


def _run(
    session: Any,  # noqa: ANN401 - an untyped library's
    rows: NDArray[np.float32],
    names: Sequence[str],
) -> dict[str, NDArray[np.float32]]:
    if not names:
        return {}
    try:
        found = session.run(None, {session.get_inputs()[0].name: rows})
    except ORT_ERRORS as error:
        raise GraphError("graph", f"ONNX Runtime cannot run it: {error}") from error
    pairs = zip(names, found[::2], found[1::2], strict=True)
    return {name: value.reshape(shape) for name, shape, value in pairs}
