"""`Backend` on plain ONNX Runtime.

Responsible for sessions and buffers. Weights stay resident: parameters, batch and gradients of
one batch size live in fixed buffers that the session is bound to once, so that a step copies
but allocates almost nothing. Refuses parameters and rows that do not fit the graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from agent.learning.derive import (
    CLIP,
    GRADIENT_PREFIX,
    LOSS,
    NORMS,
    OUTPUT,
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
    elements_per_example,
)
from agent.learning.graph import Graph, Params, ValueInfo, initial_params, write_graph
from agent.learning.ir import DTYPES
from agent.learning.losses import DATA, TARGET, WEIGHTS, Loss
from agent.learning.params import Vector, check_same_layout, flatten, unflatten
from agent.learning.runtime import (
    Backend,
    BackendError,
    check_labels,
    check_rows,
    parts,
    rows_at_once,
)

__all__ = ["Backend", "BackendError", "OnnxRuntimeBackend"]

_ERRORS_ONLY = 3  # ONNX Runtime's severity; warnings about optimizations help nobody here
_BINDINGS = 4  # batch sizes kept bound: the batch, the last batch of an epoch, and spares
_ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntimeBackend:
    """`Backend` on plain ONNX Runtime.

    Not safe for use by several threads at once: calls share buffers.

    Attributes:
      loss: the loss that is differentiated.
    """

    def __init__(
        self,
        forward: Graph,
        loss: Loss,
        threads: int = 1,
        *,
        arena: bool = False,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Derive the graphs for training and for inference, and load them.

        Args:
          forward: the model.
          loss: what to train it for.
          threads: threads inside one operator.
          arena: keep ONNX Runtime's memory arena: about a tenth faster, 12 MB larger.
          providers: execution providers in order of preference; only the CPU's is tested.

        Raises:
          GraphError: the model cannot be derived.
          BackendError: ONNX Runtime refuses the derived graphs.
        """
        self.loss = loss
        self._forward = forward
        self._layout = initial_params(forward)
        self._names = list(self._layout)
        self._size = sum(value.size for value in self._layout.values())
        self._elements = elements_per_example(forward)
        options = _session_options(threads, arena=arena)
        self._options, self._providers = options, providers
        inference = derive_inference_graph(forward)
        self._data, self._output = inference.inputs[0], inference.outputs[0]
        self._predictor = _load(inference, self._options, self._providers)
        training = derive_training_graph(forward, loss)
        self._labels = any(value.name == TARGET for value in training.inputs)
        self._training = _ResidentSession(_load(training, self._options, self._providers), training)

    @cached_property
    def _per_example(self) -> _ResidentSession:
        graph = derive_per_example_graph(self._forward, self.loss)
        return _ResidentSession(_load(graph, self._options, self._providers), graph)

    @cached_property
    def _clipped(self) -> _ResidentSession:
        graph = derive_clipped_sum_graph(self._forward, self.loss)
        return _ResidentSession(_load(graph, self._options, self._providers), graph)

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.infer`.

        Raises:
          ValueError: `params` or `x` do not fit the model.
          BackendError: ONNX Runtime failed.
        """
        check_same_layout(self._layout, params)
        check_rows(self._data.shape, x)
        most = rows_at_once(self._elements)
        outputs = [self._infer_part(params, x[part]) for part in parts(len(x), most)]
        if not outputs:
            return np.zeros((0, *_fixed(self._output)), np.float32)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _infer_part(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            outputs = self._predictor.run([OUTPUT], {DATA: x, **params})
        except _ORT_ERRORS as error:
            raise BackendError(f"inference failed: {error}") from error
        result: NDArray[np.float32] = outputs[0]
        return result

    def grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> tuple[float, Params]:
        """See `Backend.grads`.

        The gradients are views of one new vector, in the parameters' order.

        Raises:
          ValueError: an argument does not fit the model.
          BackendError: ONNX Runtime failed.
        """
        feeds = self._feeds(params, x, y, w)
        most = rows_at_once(self._elements)
        if len(x) <= most:
            results = self._training.run(feeds, len(x))
            return float(results.of(LOSS)), unflatten(results.vector(LOSS), self._layout)
        loss, total = 0.0, np.zeros(self._size, np.float64)
        whole = float(w.sum(dtype=np.float64))
        for part in parts(len(x), most):
            share = float(w[part].sum(dtype=np.float64)) / whole
            if share:  # a part without weight has no mean
                results = self._training.run(_cut(feeds, part), part.stop - part.start)
                loss += share * float(results.of(LOSS))
                total += share * results.vector(LOSS)
        return loss, unflatten(total.astype(np.float32), self._layout)

    def per_example_grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """See `Backend.per_example_grads`.

        Raises:
          ValueError: an argument does not fit the model.
          GraphError: the model has no per-example gradients.
          BackendError: ONNX Runtime failed.
        """
        feeds = self._feeds(params, x, y, w)
        result = np.empty((len(x), self._size), np.float32)
        for part in parts(len(x), rows_at_once(self._elements + self._size)):
            rows = part.stop - part.start
            outputs = self._per_example.run(_cut(feeds, part), rows)
            first = 0
            for name, value in self._layout.items():
                columns = slice(first, first + value.size)
                result[part, columns] = outputs.of(GRADIENT_PREFIX + name).reshape(rows, -1)
                first += value.size
        return result

    def clipped_sum(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
        clip_norm: float,
    ) -> tuple[Params, NDArray[np.float32]]:
        """See `Backend.clipped_sum`.

        Raises:
          ValueError: an argument does not fit the model.
          GraphError: the model has no per-example gradients.
          BackendError: ONNX Runtime failed.
        """
        if not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, is {clip_norm}")
        feeds = {**self._feeds(params, x, y, w), CLIP: np.array(clip_norm, np.float32)}
        total = np.zeros(self._size, np.float32)
        norms = np.empty(len(x), np.float32)
        for part in parts(len(x), rows_at_once(self._elements + self._size)):
            outputs = self._clipped.run(_cut(feeds, part), part.stop - part.start)
            norms[part] = outputs.of(NORMS)
            total += outputs.vector(NORMS)
        return unflatten(total, self._layout), norms

    def _feeds(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> dict[str, NDArray[Any]]:
        if len(x) < 1 or w.shape != (len(x),) or len(y) != len(x):
            raise ValueError(f"{len(x)} rows, {len(y)} labels and weights {w.shape} do not match")
        if list(params) != self._names:
            check_same_layout(self._layout, params)
        width = self._output.shape[-1]
        check_labels(self.loss, y, width if isinstance(width, int) else 0)
        labels = {TARGET: y} if self._labels else {}
        return {DATA: x, WEIGHTS: w, **labels, **params}


@dataclass(frozen=True)
class _Results:
    """Buffers of one run; valid until the session's next run."""

    outputs: Mapping[str, NDArray[Any]]

    def of(self, name: str) -> NDArray[Any]:
        return self.outputs[name]

    def vector(self, without: str) -> Vector:
        """Copy all outputs but `without` into one new vector."""
        return flatten({name: v for name, v in self.outputs.items() if name != without})


class _ResidentSession:
    """A session whose inputs and outputs live in buffers bound once for each batch size."""

    def __init__(self, session: onnxruntime.InferenceSession, graph: Graph) -> None:
        self._session = session
        self._graph = graph
        self._bound: OrderedDict[int, _Bound] = OrderedDict()

    def run(self, feeds: Mapping[str, NDArray[Any]], rows: int) -> _Results:
        bound = self._bind(rows)
        for name, buffer in bound.inputs.items():
            value = feeds[name]
            if value.shape != buffer.shape or value.dtype != buffer.dtype:
                raise ValueError(
                    f"{name!r} is {value.dtype} {value.shape}, expected {buffer.dtype} "
                    f"{buffer.shape}"
                )
            np.copyto(buffer, value)
        try:
            self._session.run_with_iobinding(bound.io)
        except _ORT_ERRORS as error:
            raise BackendError(f"training step failed: {error}") from error
        return bound.results

    def _bind(self, rows: int) -> _Bound:
        known = self._bound.get(rows)
        if known is not None:
            self._bound.move_to_end(rows)
            return known
        while len(self._bound) >= _BINDINGS:
            self._bound.popitem(last=False)
        io = self._session.io_binding()
        inputs = {value.name: _buffer(value, rows) for value in self._graph.inputs}
        outputs = {value.name: _buffer(value, rows) for value in self._graph.outputs}
        for name, buffer in inputs.items():
            _bind(io.bind_input, name, buffer)
        for name, buffer in outputs.items():
            _bind(io.bind_output, name, buffer)
        self._bound[rows] = _Bound(io, inputs, _Results(outputs))
        return self._bound[rows]


@dataclass(frozen=True)
class _Bound:
    """A session bound to buffers for one batch size."""

    io: Any
    inputs: dict[str, NDArray[Any]]
    results: _Results


def _cut(feeds: Mapping[str, NDArray[Any]], part: slice) -> dict[str, NDArray[Any]]:
    """Cut what has one entry for each row, leave the rest."""
    rows = {name: value[part] for name, value in feeds.items() if name in (DATA, TARGET, WEIGHTS)}
    return {**feeds, **rows}


def _fixed(value: ValueInfo) -> list[int]:
    return [size for size in value.shape if isinstance(size, int)]


def _buffer(value: ValueInfo, rows: int) -> NDArray[Any]:
    shape = [size if isinstance(size, int) else rows for size in value.shape]
    return np.zeros(shape, DTYPES[value.dtype])


def _bind(bind: Callable[..., None], name: str, buffer: NDArray[Any]) -> None:
    bind(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)


def _session_options(threads: int, *, arena: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads sleep: the gateway acquires and scores on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(
    graph: Graph, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(write_graph(graph), options, providers=list(providers))
    except _ORT_ERRORS as error:
        raise BackendError(f"ONNX Runtime refuses the derived graph: {error}") from error
