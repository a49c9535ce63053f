"""A backend of derived graphs, whatever runs them: check a call, cut it in parts, join results.

Responsible for deriving each product's graph when it is first asked for, for arguments, and for
batches of any size. Knows no runtime: `onnxruntime_backend` and `numpy_backend` give it what makes
a graph runnable. Refuses arguments that do not fit the model.

Invariant: the result of a batch does not depend on where it was cut, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.derive import (
    CLIP,
    GRADIENT_PREFIX,
    LOSS,
    NORMS,
    OUTPUT,
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_input_gradient_graph,
    derive_per_example_graph,
    derive_training_graph,
    footprint,
    output_shape,
)
from agent.learning.ir import Array, Graph, Params, initial_params
from agent.learning.losses import DATA, TARGET, WEIGHTS, Loss, target_of
from agent.learning.params import Vector, check_same_layout, flatten, unflatten
from agent.learning.runtime import check_labels, check_rows, parts, rows_at_once
from agent.learning.shapes import BATCH

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs one derived graph: its inputs by name -> its outputs by name, in the graph's order. The
outputs need stay valid until the next run only."""


Load = Callable[[Graph], Run]
"""Makes a derived graph runnable; raises `GraphError` or `BackendError` for what it cannot run."""


class DerivedBackend:
    """`runtime.Backend` over the derived graphs of one model; see there for what calls return.

    All calls raise `ValueError` for arguments that do not fit the model and `BackendError` when the
    runtime fails.

    Attributes:
      loss: the loss that is differentiated.
    """

    def __init__(self, forward: Graph, loss: Loss, load: Load, load_inference: Load) -> None:
        """Derive the graphs for training and for inference, and load them.

        Args:
          forward: the model.
          loss: what to train it for.
          load: makes graphs of gradients runnable.
          load_inference: makes the graph of outputs runnable.

        Raises:
          GraphError: the model cannot be derived, or the loss cannot judge its output.
          BackendError: the runtime refuses a derived graph.
        """
        self.loss = loss
        self._forward, self._load = forward, load
        self._layout = initial_params(forward)
        self._names = list(self._layout)
        self._gradients = [GRADIENT_PREFIX + name for name in self._names]
        self._size = sum(value.size for value in self._layout.values())
        held = footprint(forward)
        self._most = rows_at_once(held.values, held.workspace)
        self._most_apart = rows_at_once(held.values + self._size, held.workspace)
        self._data = forward.inputs[0].shape
        self._output = output_shape(forward)
        fixed = (size for size in self._data[1:] if isinstance(size, int))
        self._labels = target_of(loss, self._output, (BATCH, *fixed)) is not None
        self._predict = load_inference(derive_inference_graph(forward))
        self._mean = load(derive_training_graph(forward, loss))

    @cached_property
    def _apart(self) -> Run:
        return self._load(derive_per_example_graph(self._forward, self.loss))

    @cached_property
    def _clipped(self) -> Run:
        return self._load(derive_clipped_sum_graph(self._forward, self.loss))

    @cached_property
    def _inward(self) -> Run:
        return self._load(derive_input_gradient_graph(self._forward, self.loss))

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.infer`."""
        check_same_layout(self._layout, params)
        check_rows(self._data, x)
        outputs = [
            np.array(self._predict({DATA: x[part], **params})[OUTPUT])
            for part in parts(len(x), self._most)
        ]
        if not outputs:
            return np.zeros((0, *(d for d in self._output if isinstance(d, int))), np.float32)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def input_grads(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.input_grads`."""
        check_same_layout(self._layout, params)
        check_rows(self._data, x)
        result = np.empty_like(x)
        for part in parts(len(x), self._most):
            feeds = {DATA: x[part], WEIGHTS: np.ones(len(x[part]), np.float32), **params}
            result[part] = self._inward(feeds)[GRADIENT_PREFIX + DATA]
        return result

    def grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> tuple[float, Params]:
        """See `Backend.grads`."""
        feeds = self._feeds(params, x, y, w)
        most = self._most
        whole = float(w.sum(dtype=np.float64)) if len(x) > most else 0.0
        if not whole:  # one part, or no weight at all and so no mean: the graph gives NaN
            results = self._mean(feeds if len(x) <= most else _cut(feeds, slice(0, most)))
            return float(results[LOSS]), unflatten(self._vector(results), self._layout)
        loss, total = 0.0, np.zeros(self._size, np.float64)
        for part in parts(len(x), most):
            share = float(w[part].sum(dtype=np.float64)) / whole
            if share:  # a part without weight has no mean
                results = self._mean(_cut(feeds, part))
                loss += share * float(results[LOSS])
                total += share * self._vector(results)
        return loss, unflatten(total.astype(np.float32), self._layout)

    def per_example_grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """See `Backend.per_example_grads`."""
        feeds = self._feeds(params, x, y, w)
        result = np.empty((len(x), self._size), np.float32)
        for part in parts(len(x), self._most_apart):
            outputs = self._apart(_cut(feeds, part))
            first = 0
            for name, value in self._layout.items():
                columns = outputs[GRADIENT_PREFIX + name].reshape(-1, value.size)
                result[part, first : first + value.size] = columns
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
        """See `Backend.clipped_sum`."""
        if not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, is {clip_norm}")
        feeds = {**self._feeds(params, x, y, w), CLIP: np.array(clip_norm, np.float32)}
        total = np.zeros(self._size, np.float32)
        norms = np.empty(len(x), np.float32)
        for part in parts(len(x), self._most_apart):
            outputs = self._clipped(_cut(feeds, part))
            norms[part] = outputs[NORMS]
            total += self._vector(outputs)
        return unflatten(total, self._layout), norms

    def _feeds(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> dict[str, Array]:
        if len(x) < 1 or w.shape != (len(x),) or len(y) != len(x):
            raise ValueError(f"{len(x)} rows, {len(y)} labels and weights {w.shape} do not match")
        if list(params) != self._names:
            check_same_layout(self._layout, params)
        width = self._output[-1]
        check_labels(self.loss, y, width if isinstance(width, int) else 0)
        labels = {TARGET: y} if self._labels else {}
        return {DATA: x, WEIGHTS: w, **labels, **params}

    def _vector(self, outputs: Mapping[str, Array]) -> Vector:
        """Copy the gradients into one new vector, in the parameters' order."""
        return flatten({name: outputs[name] for name in self._gradients})


def _cut(feeds: Mapping[str, Array], part: slice) -> dict[str, Array]:
    """Cut what has one entry for each row, leave the rest."""
    rows = {name: value[part] for name, value in feeds.items() if name in (DATA, TARGET, WEIGHTS)}
    return {**feeds, **rows}
