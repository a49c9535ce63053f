"""`Backend` on plain ONNX Runtime.

Responsible for sessions and buffers. Weights stay resident: parameters, batch and gradients of
one batch size live in fixed buffers that the session is bound to once, so that a step copies
but allocates almost nothing. Refuses parameters and rows that do not fit the graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.derived_backend import DerivedBackend, Run
from agent.learning.graph import Graph, ValueInfo, write_graph
from agent.learning.ir import DTYPES
from agent.learning.losses import DATA, Loss
from agent.learning.runtime import Backend, BackendError
from agent.learning.silent_onnxruntime import onnxruntime, ort_errors

__all__ = ["Backend", "BackendError", "OnnxRuntimeBackend"]

ERRORS_ONLY = 3  # ONNX Runtime's severity; warnings about optimizations help nobody here
_BINDINGS = 4  # batch sizes kept bound: the batch, the last batch of an epoch, and spares
ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""What ONNX Runtime raises; its errors share no class of their own."""
_RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, RuntimeError)
"""A result of another shape than its buffer's is a plain RuntimeError."""


class OnnxRuntimeBackend(DerivedBackend):
    """`Backend` on plain ONNX Runtime.

    Not safe for use by several threads at once: calls share buffers.
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
        self._options, self._providers = _session_options(threads, arena=arena), providers
        super().__init__(forward, loss, self._resident, self._plain)

    def _resident(self, graph: Graph) -> Run:
        return _ResidentSession(self._session(graph), graph).run

    def _plain(self, graph: Graph) -> Run:
        """Load a graph that is run with batches of any size, so that buffers would not last."""
        session = self._session(graph)
        names = [value.name for value in graph.outputs]

        def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            try:
                return dict(zip(names, session.run(names, feeds), strict=True))
            except ORT_ERRORS as error:
                raise BackendError(f"inference failed: {error}") from error

        return run

    def _session(self, graph: Graph) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(
                write_graph(graph), self._options, providers=list(self._providers)
            )
        except ORT_ERRORS as error:
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
        except _RUN_ERRORS as error:
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
    options.log_severity_level = ERRORS_ONLY
    # Waiting threads sleep: the gateway acquires and scores on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
