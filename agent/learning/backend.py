"""`Backend` on plain ONNX Runtime.

Responsible for sessions and buffers. Weights stay resident: parameters, batch and gradients of
one batch size live in fixed buffers that the session is bound to once, so that a step copies
but allocates almost nothing. Refuses parameters and rows that do not fit the graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from agent.learning.derive import (
    DATA,
    GRADIENT_PREFIX,
    LOSS,
    OUTPUT,
    derive_inference_graph,
    derive_training_graph,
)
from agent.learning.graph import Graph, Params, ValueInfo, initial_params, write_graph
from agent.learning.ir import DTYPES
from agent.learning.losses import TARGET, WEIGHTS, Loss
from agent.learning.params import Vector, check_same_layout, unflatten
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


@dataclass(frozen=True)
class _Binding:
    """A session bound to buffers for one batch size."""

    io: Any
    inputs: dict[str, NDArray[Any]]
    loss: NDArray[np.float32]
    gradients: Vector


class OnnxRuntimeBackend:
    """`Backend` on plain ONNX Runtime.

    Not safe for use by several threads at once: calls share buffers.

    Attributes:
      loss: the loss that `grads` differentiates.
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
        """Derive both graphs and load them.

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
        self._layout = initial_params(forward)
        self._names = list(self._layout)
        training = derive_training_graph(forward, loss)
        inference = derive_inference_graph(forward)
        width = inference.outputs[0].shape[-1]
        self._classes = width if loss is Loss.CROSS_ENTROPY and isinstance(width, int) else 0
        self._inputs = {value.name: value for value in training.inputs}
        options = _session_options(threads, arena=arena)
        self._trainer = _load(training, options, providers)
        self._predictor = _load(inference, options, providers)
        self._bindings: OrderedDict[int, _Binding] = OrderedDict()

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.infer`.

        Raises:
          ValueError: `params` or `x` do not fit the model.
          BackendError: ONNX Runtime failed.
        """
        check_same_layout(self._layout, params)
        _check_rows(self._inputs[DATA], x)
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
        binding = self._bind(len(x))
        if list(params) != self._names:
            check_same_layout(self._layout, params)
        feeds = {DATA: x, TARGET: y, WEIGHTS: w, **params}
        for name, buffer in binding.inputs.items():
            value = feeds[name]
            if value.shape != buffer.shape or value.dtype != buffer.dtype:
                raise ValueError(
                    f"{name!r} is {value.dtype} {value.shape}, expected {buffer.dtype} "
                    f"{buffer.shape}"
                )
            np.copyto(buffer, value)
        if self._classes:
            _check_labels(y, self._classes)
        try:
            self._trainer.run_with_iobinding(binding.io)
        except _ORT_ERRORS as error:
            raise BackendError(f"training step failed: {error}") from error
        return float(binding.loss[0]), unflatten(binding.gradients.copy(), self._layout)

    def _bind(self, rows: int) -> _Binding:
        if rows < 1:
            raise ValueError("a batch must have at least one row")
        known = self._bindings.get(rows)
        if known is not None:
            self._bindings.move_to_end(rows)
            return known
        while len(self._bindings) >= _BINDINGS:
            self._bindings.popitem(last=False)
        io = self._trainer.io_binding()
        inputs = {name: _buffer(value, rows) for name, value in self._inputs.items()}
        for name, buffer in inputs.items():
            _bind(io.bind_input, name, buffer)
        loss = np.zeros(1, np.float32)
        io.bind_output(LOSS, "cpu", 0, np.float32, (), loss.ctypes.data)
        gradients = np.zeros(sum(p.size for p in self._layout.values()), np.float32)
        for name, view in unflatten(gradients, self._layout).items():
            _bind(io.bind_output, GRADIENT_PREFIX + name, view)
        self._bindings[rows] = _Binding(io, inputs, loss, gradients)
        return self._bindings[rows]


def _buffer(value: ValueInfo, rows: int) -> NDArray[Any]:
    shape = [size if isinstance(size, int) else rows for size in value.shape]
    return np.zeros(shape, DTYPES[value.dtype])


def _bind(bind: Callable[..., None], name: str, buffer: NDArray[Any]) -> None:
    bind(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)


def _check_labels(y: NDArray[Any], classes: int) -> None:
    # The graph's OneHot would take a label out of range for no class at all.
    wrong = y[(y < 0) | (y >= classes)]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is outside 0 to {classes - 1}")


def _check_rows(expected: ValueInfo, x: NDArray[Any]) -> None:
    if x.dtype != np.float32 or x.shape[1:] != expected.shape[1:] or x.ndim == 0:
        raise ValueError(f"rows are {x.dtype} {x.shape}, expected float32 {expected.shape}")


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
