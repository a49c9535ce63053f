"""`Backend` on numpy alone, for gateways that have no ONNX Runtime: 32-bit ARM.

Responsible for running the same derived graphs as `backend` does, in `numpy_executor`. Nothing
is kept between steps but the plans, so memory at rest is the model's and no more. Imports no
runtime. Results equal ONNX Runtime's but for rounding; see tests/agent/learning.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.batches import Batches
from agent.learning.derive import (
    derive_clipped_sum_graph,
    derive_inference_graph,
    derive_per_example_graph,
    derive_training_graph,
)
from agent.learning.ir import Graph, Params
from agent.learning.losses import Loss
from agent.learning.numpy_executor import Executor

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """`Backend` on numpy.

    Threads are those of numpy's BLAS: set OMP_NUM_THREADS before the process starts.

    Attributes:
      loss: the loss that is differentiated.
    """

    def __init__(self, forward: Graph, loss: Loss) -> None:
        """Derive the graphs for training and for inference, and plan them.

        Args:
          forward: the model.
          loss: what to train it for.

        Raises:
          GraphError: the model cannot be derived or has no kernel in numpy.
        """
        self.loss = loss
        self._forward = forward
        self._batches = Batches(forward, loss)
        self._predictor = Executor(derive_inference_graph(forward))
        self._trainer = Executor(derive_training_graph(forward, loss))

    @cached_property
    def _per_example(self) -> Executor:
        return Executor(derive_per_example_graph(self._forward, self.loss))

    @cached_property
    def _clipped(self) -> Executor:
        return Executor(derive_clipped_sum_graph(self._forward, self.loss))

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Backend.infer`.

        Raises:
          ValueError: `params` or `x` do not fit the model.
          BackendError: a node failed.
        """
        return self._batches.infer(self._predictor.run, params, x)

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
          BackendError: a node failed.
        """
        return self._batches.grads(self._trainer.run, params, x, y, w)

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
          BackendError: a node failed.
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
          BackendError: a node failed.
        """
        return self._batches.clipped_sum(self._clipped.run, params, x, y, w, clip_norm)
