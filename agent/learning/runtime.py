"""The seam between training and the runtime that runs derived graphs.

Training, golden vectors and the parent's half of the training process see only this Protocol,
so that none of them loads a runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.losses import Loss


class BackendError(RuntimeError):
    """The runtime refused a graph or failed while running it."""


class Backend(Protocol):
    """Runs one model with one loss; parameters come with every call.

    A batch of any size is worked through in parts that fit `rows_at_once`; the results are those
    of the whole batch.
    """

    @property
    def loss(self) -> Loss:
        """The loss that is differentiated."""

    def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's output, shape (N, ...), for rows x of shape (N, ...)."""

    def input_grads(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the gradient of each row's margin (`losses.margins`) in that row.

        Args:
          params: the model's parameters, in its order.
          x: rows, (N, ...), N >= 1.

        Returns:
          float32, the shape of x.

        Raises:
          GraphError: the loss has no margin.
        """

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

    def per_example_grads(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return each example's own gradient, flat in the parameters' order.

        Args:
          params: the model's parameters, in its order.
          x: rows, (N, ...), N >= 1.
          y: labels, see `Loss`.
          w: weights, (N,).

        Returns:
          float32 (N, P); row n is the gradient of w_n l_n.
        """

    def clipped_sum(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        w: NDArray[np.float32],
        clip_norm: float,
    ) -> tuple[Params, NDArray[np.float32]]:
        """Return the sum of the examples' gradients, each clipped to a Euclidean norm.

        Args:
          params: the model's parameters, in its order.
          x: rows, (N, ...), N >= 1.
          y: labels, see `Loss`.
          w: weights, (N,).
          clip_norm: the largest norm C of one example's gradient, over all parameters, positive.

        Returns:
          The sum over n of g_n min(1, C / |g_n|), g_n the gradient of w_n l_n, and the norms
          |g_n|, float32 (N,). Norms are private: they are for tests and for tuning on public data.
        """


_ELEMENTS_AT_ONCE = 3 << 20
"""Elements of a forward pass that run together, 12 MiB; a training step holds some four times as
much. Larger parts are slower too, because less of them stays in the caches: a 2-D network took a
tenth longer over 32 rows at once than over 8 or 16."""


_WORKSPACE_AT_ONCE = 16 << 20
"""Elements of windows copied side by side; 64 MiB, and the most that one row may need."""


def rows_at_once(values: int, workspace: int = 0) -> int:
    """Return how many rows to run together, so that a step needs some 50 MB at most.

    Args:
      values: float32 elements of everything that one row takes part in.
      workspace: float32 elements that one node needs besides, for one row.
    """
    room = min(_ELEMENTS_AT_ONCE // max(1, values), _WORKSPACE_AT_ONCE // max(1, workspace))
    return max(1, room)


def parts(rows: int, most: int) -> Iterator[slice]:
    """Yield slices of at most `most` rows that cover `rows` rows in order, in equal shares.

    Sizes differ by one at most: a small rest would be slow for its size.
    """
    count = -(-rows // most)
    for part in range(count):
        yield slice(rows * part // count, rows * (part + 1) // count)


def check_labels(loss: Loss, y: NDArray[Any], classes: int) -> None:
    """Check class labels, which a graph would take for no class at all when out of range.

    Raises:
      ValueError: a label is outside 0 to `classes` - 1.
    """
    if loss is not Loss.CROSS_ENTROPY:
        return
    wrong = y[(y < 0) | (y >= classes)]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is outside 0 to {classes - 1}")


def check_rows(shape: tuple[Any, ...], x: NDArray[Any]) -> None:
    """Check that rows are float32 and fit a model's input of `shape`, batch axis first.

    Raises:
      ValueError: they do not.
    """
    if x.ndim == 0 or x.dtype != np.float32 or x.shape[1:] != tuple(shape)[1:]:
        raise ValueError(f"rows are {x.dtype} {x.shape}, expected float32 {tuple(shape)}")
