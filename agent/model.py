"""A bundle made ready to run on this machine.

Order of use, each step refusing what it does not like: signature, hashes and the manifest's own
logic (`wire/bundle.py`), graph read under caps and a whitelist, its input and output compared with
features and loss, its parameters with the manifest, training graph derived, golden vectors
reproduced by this machine's own runtime.  Only then is the model used.

`prepare` takes every bundle that can be trained somewhere; `check_live` is the one place that says
which of them this agent does not serve yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import BackendName, open_backend
from agent.learning.derive import output_shape
from agent.learning.golden import GoldenMismatch, check_golden, read_golden
from agent.learning.graph import Graph, GraphError, initial_params, read_graph
from agent.learning.losses import Loss, target_of
from agent.learning.runtime import Backend, BackendError
from agent.signals.features import apply_features
from wire.bundle import GOLDEN, MODEL, Bundle, OnCheck, nothing
from wire.errors import BundleError
from wire.manifest import REGRESSION, Label, Manifest, input_shape
from wire.tensors import Params, read_safetensors

MAX_GOLDEN_ROWS = 256
"""Authors write 16; with millions a bundle could keep a gateway busy for hours."""


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
        """Raw channel values (N, C) to graph inputs (N, F); for bundles that pass `check_live`."""
        return apply_features(self.manifest.features, self.channels, values)

    def score(self, params: Params, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of the label for raw channel values (N, C): float64, shape (N,)."""
        return probabilities(self.backend.infer(params, self.inputs(values)))


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic function of logits (N, 1), without overflow: float64, shape (N,)."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64).reshape(-1))))


def check_live(manifest: Manifest) -> Label:
    """Check that this agent can train and serve a bundle from the rows that it cuts.

    Returns:
      The bundle's label, which such a bundle always has.

    Raises:
      BundleError: says what this agent does not do yet.
    """
    reason = ""
    if manifest.window is not None:
        reason = "it cuts windows of rows, and this agent learns from single rows so far"
    array = next((channel for channel in manifest.channels if channel.shape), None)
    if array is not None:
        reason = f"its channel {array.name!r} is an array, and this agent reads numbers so far"
    if manifest.standardise != "given":
        reason = f"it standardises by {manifest.standardise} statistics, which this agent does "
        reason += 'not keep yet; give the features constants and standardise = "given"'
    label = manifest.label
    if label is None or manifest.loss != "binary_cross_entropy":
        reason = f"its loss is {manifest.loss}, and this agent judges binary_cross_entropy so far"
    if reason or label is None:
        raise BundleError(f"bundle {manifest.name}: not served here yet: {reason}")
    return label


def prepare(bundle: Bundle, backend: BackendName = "auto", on_check: OnCheck = nothing) -> Model:
    """Validate, derive and check a verified bundle.

    Args:
      bundle: whose parts agree with each other.
      backend: which runtime to use.
      on_check: called with the words for each check that passed.

    Raises:
      BundleError: the graph is refused or this machine does not reproduce the golden vectors.
    """
    manifest = bundle.manifest
    try:
        graph = read_graph(bundle.files[MODEL])
        on_check(f"graph of {len(graph.nodes)} nodes within whitelist and caps")
        check_graph_fits(manifest, graph)
        on_check("graph takes the features, fits the loss, has the manifest's tensors")
        loss = Loss(manifest.loss)
        runtime = open_backend(graph, loss, name=backend)
        on_check(f"training graph derived and loaded ({type(runtime).__name__})")
        golden = read_golden(read_safetensors(bundle.files[GOLDEN]))
        if golden.x.shape[:1] > (MAX_GOLDEN_ROWS,):
            reason = f"{len(golden.x)} golden rows, at most {MAX_GOLDEN_ROWS}"
            raise BundleError(f"bundle {manifest.name}: {reason}")
        check_golden(runtime, bundle.weights, golden, manifest.tolerance)
        on_check(f"golden vectors reproduced within {manifest.tolerance:g}")
    except (GraphError, GoldenMismatch, BackendError, ValueError) as error:
        reason = f"bundle {manifest.name}: {error}"
        raise BundleError(reason) from error
    return Model(manifest, bundle.files[MODEL], loss, runtime)


def check_graph_fits(manifest: Manifest, graph: Graph) -> None:
    """Check that a graph is the one that a manifest describes.

    Raises:
      GraphError: the graph cannot be derived, or its input or output fits neither features nor
        loss.
      BundleError: its parameters are not the manifest's tensors.
    """
    output = output_shape(graph)  # and exactly one input, float32, with a dynamic batch axis
    made = input_shape(manifest)
    given = graph.inputs[0]
    if given.shape[1:] != made:
        raise GraphError(
            f"input {given.name!r}",
            f"takes {given.shape[1:]} for each row, the {len(manifest.features)} features make "
            f"{made}",
        )
    target_of(Loss(manifest.loss), output, (output[0], *made))
    if manifest.loss in REGRESSION and output[1:] != (1,):
        raise GraphError("model output", f"must be (N, 1) for one label, is {output}")
    classes = len(manifest.label.classes) if manifest.label is not None else 0
    if manifest.loss == "cross_entropy" and output[1:] != (classes,):
        raise GraphError("model output", f"{output} is not one logit for each of {classes} classes")
    found = [(name, tensor.shape) for name, tensor in initial_params(graph).items()]
    if found != manifest.shapes:
        reason = f"bundle {manifest.name}: the graph's parameters are not the manifest's"
        raise BundleError(reason)
