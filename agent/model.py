"""A bundle made ready to run on this machine.

Order of use, each step refusing what it does not like: signature, hashes and the manifest's own
logic (`wire/bundle.py`), graph read under caps and a whitelist, its input and output compared with
features and loss, its parameters with the manifest, training graph derived, golden vectors
reproduced by this machine's own runtime.  Only then is the model used.

A tensor is shared, then versions and updates hold it, or local, then each site keeps its own
(`agent/local_tensors.py`).  `Params` are always all of a model's tensors in the manifest's order,
but where `shared_of` made them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import BackendName, open_backend
from agent.learning.derive import output_shape
from agent.learning.golden import Golden, GoldenMismatch, check_golden, read_golden
from agent.learning.graph import Graph, GraphError, initial_params, read_graph
from agent.learning.losses import Loss, example_losses, target_of
from agent.learning.runtime import Backend, BackendError
from agent.signals.features import apply_features, apply_standard
from agent.signals.labels import in_unit
from wire.bundle import GOLDEN, MODEL, Bundle, OnCheck, nothing
from wire.errors import BundleError
from wire.manifest import REGRESSION, Manifest, input_shape
from wire.standards import Standard
from wire.tensors import Params, read_safetensors

MAX_GOLDEN_ROWS = 256
"""Authors write 16; with millions a bundle could keep a gateway busy for hours."""


@dataclass(frozen=True)
class Model:
    """A checked model; weights are passed in, so one model serves all its versions.

    Attributes:
      manifest: of its bundle.
      graph: its ONNX bytes.
      loss: what it is trained for.
      backend: runs it here.
      golden: the author's vectors, the parameters they hold for and the tolerance, for what else
        runs it.
    """

    manifest: Manifest
    graph: bytes
    loss: Loss
    backend: Backend
    golden: tuple[Golden, Params, float] | None = None

    @property
    def channels(self) -> list[str]:
        """Names of the input channels, in order."""
        return [channel.name for channel in self.manifest.channels]

    def inputs(
        self, values: NDArray[np.float64], standard: Standard | None = None
    ) -> NDArray[np.float32]:
        """Turn numbers of rows that stand for themselves into the graph's inputs.

        Args:
          values: float64 (N, C), in the channels' units.
          standard: what to standardise by; None leaves it at the features' own constants.

        Returns:
          float32 (N, F).
        """
        features = self.manifest.features
        inputs = apply_features(features, self.channels, values)
        return inputs if standard is None else apply_standard(features, inputs, standard)

    def outputs(self, params: Params, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph gives for its inputs: logits, scaled numbers or inputs again, (N, ...)."""
        return self.backend.infer(params, inputs)

    def score(
        self, params: Params, values: NDArray[np.float64], standard: Standard | None = None
    ) -> NDArray[np.float64]:
        """Score raw channel values (N, C), see `scores`: float64, shape (N,)."""
        inputs = self.inputs(values, standard)
        return scores(self.manifest, self.outputs(params, inputs), inputs)

    def alarms(self, scored: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which scores raise an alarm by the bundle alone, bool (N,); a predicted number never."""
        if self.manifest.loss in REGRESSION:
            return np.zeros(scored.shape, np.bool_)
        return scored >= self.manifest.threshold


def scores(
    manifest: Manifest, outputs: NDArray[np.float32], inputs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The one number for each row that a live signal is scored with.

    Args:
      manifest: of the bundle.
      outputs: the model's, float32 (N, ...).
      inputs: that they are for, float32 (N, ...).

    Returns:
      float64 (N,).  Two classes: the probability of the label.  More: the probability that it is
      not class 0, so class 0 should be the normal one.  Regression: the predicted number in the
      label's unit.  Reconstruction: the mean squared error of the standardised input.
    """
    if manifest.loss == "cross_entropy":
        return _not_first(outputs)
    if manifest.loss == "reconstruction":
        return example_losses(Loss.RECONSTRUCTION, outputs, inputs)
    if manifest.loss in REGRESSION and manifest.label is not None:
        return in_unit(manifest.label, outputs)
    return probabilities(outputs)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic function of logits (N, 1), without overflow: float64, shape (N,)."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64).reshape(-1))))


def _not_first(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of the softmax shares of all classes but the first, from logits (N, C): (N,)."""
    shifted = logits.astype(np.float64)
    shares = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shares[:, 1:].sum(axis=1) / shares.sum(axis=1))


def shared_of(manifest: Manifest, params: Params) -> Params:
    """The tensors of a model that versions and updates hold, in the manifest's order."""
    return {name: params[name] for name, _ in manifest.shared_shapes}


def local_of(manifest: Manifest, params: Params) -> Params:
    """The tensors of a model that each site keeps for itself, in the manifest's order."""
    return {tensor.name: params[tensor.name] for tensor in manifest.tensors if tensor.local}


def with_local(manifest: Manifest, params: Params, local: Params) -> Params:
    """All tensors of a model, in the manifest's order: the local ones from `local`."""
    return {
        tensor.name: (local if tensor.local else params)[tensor.name] for tensor in manifest.tensors
    }


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
    vectors = (golden, bundle.weights, manifest.tolerance)
    return Model(manifest, bundle.files[MODEL], loss, runtime, vectors)


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
