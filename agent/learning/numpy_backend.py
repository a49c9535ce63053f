"""`Backend` on numpy alone, for gateways that have no ONNX Runtime: 32-bit ARM.

Responsible for running the same derived graphs as `onnxruntime_backend`, in `numpy_executor`.
Nothing is kept between steps but the plans, so memory at rest is the model's and no more. Imports
no runtime. Results equal ONNX Runtime's but for rounding; see tests/agent/learning.
"""

from __future__ import annotations

from agent.learning.derived_backend import DerivedBackend, Run
from agent.learning.ir import Graph
from agent.learning.losses import Loss
from agent.learning.numpy_executor import Executor

__all__ = ["NumpyBackend"]


class NumpyBackend(DerivedBackend):
    """`Backend` on numpy.

    Threads are those of numpy's BLAS: set OMP_NUM_THREADS before the process starts.
    """

    def __init__(self, forward: Graph, loss: Loss) -> None:
        """Derive the graphs for training and for inference, and plan them.

        Raises:
          GraphError: the model cannot be derived or has no kernel in numpy.
        """
        super().__init__(forward, loss, _plan, _plan)


def _plan(graph: Graph) -> Run:
    return Executor(graph).run
