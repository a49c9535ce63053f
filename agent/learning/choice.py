"""Which backend runs a model on this machine.

ONNX Runtime where it is installed, else the numpy executor of the same graphs (there are no wheels
of ONNX Runtime for 32-bit gateways).  Each is imported when it is chosen, so that a program that
only looks at a graph loads neither.
"""

from __future__ import annotations

from typing import Literal

from agent.learning.ir import Graph
from agent.learning.losses import Loss
from agent.learning.runtime import Backend

BackendName = Literal["auto", "onnxruntime", "numpy"]


def open_backend(
    forward: Graph, loss: Loss, *, threads: int = 1, name: BackendName = "auto"
) -> Backend:
    """Derive a model's graphs and make them ready to run.

    Args:
      forward: the model.
      loss: what to train it for.
      threads: threads inside one operator; the numpy backend leaves this to numpy's own library.
      name: `auto` takes ONNX Runtime where it can be imported, else numpy.

    Raises:
      ImportError: ONNX Runtime was asked for by name and is not installed.
      GraphError: the model cannot be derived, or the backend has no kernel for it.
      BackendError: the runtime refuses the derived graphs.
    """
    if name != "numpy":
        try:
            from agent.learning.onnxruntime_backend import OnnxRuntimeBackend  # noqa: PLC0415
        except ImportError:
            if name == "onnxruntime":
                raise
        else:
            return OnnxRuntimeBackend(forward, loss, threads)
    from agent.learning.numpy_backend import NumpyBackend  # noqa: PLC0415

    return NumpyBackend(forward, loss)
