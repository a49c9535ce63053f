"""A bundle made ready to run on this gateway.

Order of use, each step refusing what it does not like: signature and hashes (`wire/bundle.py`),
graph read under caps and a whitelist, training graph derived, golden vectors reproduced by this
gateway's own runtime.  Only then is the model used.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.backend import Backend, BackendError, OnnxRuntimeBackend
from agent.learning.golden import GoldenMismatch, check_golden, read_golden
from agent.learning.graph import GraphError, initial_params, read_graph
from agent.learning.losses import Loss
from agent.signals.features import apply_features
from wire.bundle import GOLDEN, MODEL, Bundle, Manifest
from wire.errors import BundleError
from wire.tensors import Params, read_safetensors


@dataclass(frozen=True)
class Model:
    """A checked model; weights are passed in, so one model serves all its versions."""

    manifest: Manifest
    graph: bytes
    loss: Loss
    backend: Backend

    @property
    def channels(self) -> list[str]:
        """Names of the input channels, in order."""
        return [channel.name for channel in self.manifest.channels]

    def inputs(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Raw channel values (N, C) to graph inputs (N, F)."""
        return apply_features(self.manifest.features, self.channels, values)

    def score(self, params: Params, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of the label for raw channel values (N, C): float64, shape (N,)."""
        logits = self.backend.infer(params, self.inputs(values)).astype(np.float64).reshape(-1)
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the logistic function without overflow


def prepare(bundle: Bundle) -> Model:
    """Validate, derive and check a verified bundle.

    Raises:
      BundleError: the graph is refused or this gateway does not reproduce the golden vectors.
    """
    manifest = bundle.manifest
    try:
        graph = read_graph(bundle.files[MODEL])
        found = [(name, tensor.shape) for name, tensor in initial_params(graph).items()]
        if found != manifest.shapes:
            reason = f"bundle {manifest.name}: the graph's parameters are not the manifest's"
            raise BundleError(reason)
        loss = Loss(manifest.loss)
        backend = OnnxRuntimeBackend(graph, loss)
        golden = read_golden(read_safetensors(bundle.files[GOLDEN]))
        check_golden(backend, bundle.weights, golden, manifest.tolerance)
    except (GraphError, GoldenMismatch, BackendError, ValueError) as error:
        reason = f"bundle {manifest.name}: {error}"
        raise BundleError(reason) from error
    return Model(manifest, bundle.files[MODEL], loss, backend)
