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

from agent.learning.batches import Batches
from agent.learning.derive import (
    OUTPUT,
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
)
from agent.learning.graph import Graph, Params, ValueInfo, write_graph
from agent.learning.ir import DTYPES
from agent.learning.losses import DATA, Loss
from agent.learning.runtime import Backend, BackendError

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
        arena: bool = True,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Derive the graphs for training and for inference, and load them.

        Args:
          forward: the model.
          loss: what to train it for.
          threads: threads inside one operator.
          arena: keep freed memory for the next step. Without it every step gives large buffers back
            to the system and gets them zeroed again, a third of the time of a small 2-D network.
          providers: execution providers in order of preference; only the CPU's is tested.

        Raises:
          GraphError: the model cannot be derived.
          BackendError: ONNX Runtime refuses the derived graphs.
        """
        self.loss = loss
        self._forward = forward
        self._batches = Batches(forward, loss)
        self._options, self._providers = _session_options(threads, arena=arena), providers
        self._predictor = self._load(derive_inference_graph(forward))
        self._training = self._resident(derive_training_graph(forward, loss))

    @cached_property
    def _per_example(self) -> _ResidentSession:
        return self._resident(derive_per_example_graph(self._forward, self.loss))

    @cached_property
    def _clipped(self) -> _ResidentSession:
        return self._resident(derive_clipped_sum_graph(self._forward, self.loss))

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.infer`.

        Raises:
          ValueError: `params` or `x` do not fit the model.
          BackendError: ONNX Runtime failed.
        """
        return self._batches.infer(self._predict, params, x)

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
        return self._batches.grads(self._training.run, params, x, y, w)

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
        return self._batches.per_example_grads(self._per_example.run, params, x, y, w)

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
        return self._batches.clipped_sum(self._clipped.run, params, x, y, w, clip_norm)

    def _predict(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            return {OUTPUT: self._predictor.run([OUTPUT], feeds)[0]}
        except _ORT_ERRORS as error:
            raise BackendError(f"inference failed: {error}") from error

    def _resident(self, graph: Graph) -> _ResidentSession:
        return _ResidentSession(self._load(graph), graph)

    def _load(self, graph: Graph) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(
                write_graph(graph), self._options, providers=list(self._providers)
            )
        except _ORT_ERRORS as error:
            raise BackendError(f"ONNX Runtime refuses the derived graph: {error}") from error


@dataclass(frozen=True)
class _Bound:
    """A session bound to buffers for one batch size."""

    io: Any
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


class _ResidentSession:
    """A session whose inputs and outputs live in buffers bound once for each batch size."""

    def __init__(self, session: onnxruntime.InferenceSession, graph: Graph) -> None:
        self._session = session
        self._graph = graph
        self._bound: OrderedDict[int, _Bound] = OrderedDict()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run on one batch; the results are valid until the next run."""
        bound = self._bind(len(feeds[DATA]))
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
        return bound.outputs

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
        self._bound[rows] = _Bound(io, inputs, outputs)
        return self._bound[rows]


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
    # Planning one block for a whole step held a third more memory than it saved time (measured).
    options.enable_mem_pattern = False
    # Beyond this level lie layouts for one machine's registers: no faster here, and larger.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = _ERRORS_ONLY
    # Waiting threads sleep: the gateway acquires and scores on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
