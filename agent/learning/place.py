"""Where models are trained: in a child of the agent, or inside it.

The seam between who wants a training (learner, personal models) and who does it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import BackendName
from agent.learning.golden import Golden
from agent.learning.inside import TrainingThread
from agent.learning.ir import Params
from agent.learning.losses import Loss
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.train import TrainingResult
from agent.learning.worker import INTERRUPT_GRACE_S, TrainingProcess

PlaceName = Literal["auto", "child", "inside"]


class TrainingPlace(Protocol):
    """Trains one model at a time; see `TrainingProcess`, and `TrainingThread` for differences."""

    @property
    def pid(self) -> int | None:
        """Id of the process or thread that trains; None while there is none."""

    def limit(self, *, memory_bytes: int, idle_s: float) -> None:
        """Limits from now on."""

    async def prepare(
        self,
        graph: bytes,
        loss: Loss,
        golden: tuple[Golden, Params, float] | None = None,
    ) -> None:
        """Load a model."""

    async def train(  # noqa: PLR0913 - as `train.train`
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
        example_weights: NDArray[np.float32] | None = None,
        checkpoint: bytes | None = None,
        checkpoint_s: float = 0.0,
        on_checkpoint: Callable[[bytes], None] | None = None,
    ) -> TrainingResult:
        """Train the model that is prepared."""

    def interrupt(self, grace_s: float = INTERRUPT_GRACE_S) -> None:
        """Make the training that is going on return within a second, or `grace_s`."""

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model that is prepared."""

    async def close(self) -> None:
        """End it."""


def training_place(
    name: PlaceName, backend: BackendName, *, memory_bytes: int, idle_s: float, nice: int
) -> TrainingPlace:
    """Make the place that a configuration asks for.

    Args:
      name: `auto` takes the inside for the numpy backend, a child for ONNX Runtime.
      backend: what runs the models; inside it is always numpy.
      memory_bytes: see `ProcessLimits`.
      idle_s: see `ProcessLimits`.
      nice: see `ProcessLimits`; the inside gives way a little, whatever it is.
    """
    if name == "inside" or (name == "auto" and not _is_onnxruntime(backend)):
        return TrainingThread(idle_s=idle_s)
    return TrainingProcess(memory_bytes=memory_bytes, idle_s=idle_s, backend=backend, nice=nice)


def _is_onnxruntime(backend: BackendName) -> bool:
    """Whether a backend's name means ONNX Runtime on this machine; does not load it."""
    if backend == "auto":
        return importlib.util.find_spec("onnxruntime") is not None
    return backend == "onnxruntime"
