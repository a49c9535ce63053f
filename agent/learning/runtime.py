"""The seam between training and the runtime that runs derived graphs.

Training, golden vectors and the parent's half of the training process see only this Protocol,
so that none of them loads a runtime.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.losses import Loss


class BackendError(RuntimeError):
    """The runtime refused a graph or failed while running it."""


class Backend(Protocol):
    """Runs one model with one loss; parameters come with every call."""

    @property
    def loss(self) -> Loss:
        """The loss that `grads` differentiates."""

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's output, shape (N, ...), for rows x of shape (N, ...)."""

    def grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> tuple[float, Params]:
        """Return the weighted mean loss and its gradients.

        Args:
          params: the model's parameters, in its order.
          x: rows, (N, ...), N >= 1.
          y: labels, see `Loss`.
          w: weights, (N,), not negative, of positive sum.
        """
