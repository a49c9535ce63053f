"""A ReLU network with one logit, trained with Adam, for many seeds at once, in numpy.

The seeds are the first axis of every array and never mix, so one stacked pass gives what separate
passes would.  Weights have the layout of ONNX `Gemm` with transB = 1 and of PyTorch's `Linear`:
(out, in).  The optimizer starts afresh on every call, as a Flower client's usually does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba, arXiv:1412.6980, section 2


@dataclass(frozen=True)
class Recipe:
    """How a client trains.

    Attributes:
      epochs: passes over the client's rows.
      batch: rows of a batch; the last one of an epoch may be shorter.
      learning_rate: of Adam, constant.
      proximal_mu: strength of FedProx's term (arXiv:1812.06127); 0 is FedAvg.
    """

    epochs: int
    batch: int
    learning_rate: float
    proximal_mu: float


class Network:
    """The parameters of S networks in one float32 array (S, P), with a view for each tensor."""

    def __init__(self, tensors: Tensors) -> None:
        self.names = sorted(tensors)  # dense0.bias, dense0.weight, dense1.bias, ...
        self.depth = len(self.names) // 2
        shapes = [tensors[name].shape for name in self.names]
        self.flat = np.concatenate(
            [tensors[name].reshape(shapes[0][0], -1) for name in self.names],
            axis=1,
            dtype=np.float32,
        )
        self.shapes = shapes

    def views(self, flat: Floats) -> dict[str, Floats]:
        """Views into `flat` (S, P), one a tensor."""
        views, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = int(np.prod(shape[1:]))
            views[name] = flat[:, start : start + size].reshape(shape)
            start += size
        return views

    def layers(self, x: Floats) -> list[Floats]:
        """Return the input and every layer's output; the last is the logits, (S, N, 1)."""
        tensors = self.views(self.flat)
        outputs = [x]
        for layer in range(self.depth):
            weight, bias = tensors[f"dense{layer}.weight"], tensors[f"dense{layer}.bias"]
            z = outputs[-1] @ weight.swapaxes(1, 2) + bias[:, None, :]
            outputs.append(z if layer == self.depth - 1 else np.maximum(z, 0))
        return outputs

    def gradients(self, x: Floats, y: Floats) -> Floats:
        """Gradients of the mean binary cross entropy.

        Args:
          x: shape (S, N, F).
          y: shape (S, N), 0 or 1.

        Returns:
          Shape (S, P), in the order of `flat`.
        """
        tensors = self.views(self.flat)
        outputs = self.layers(x)
        gradient = np.empty_like(self.flat)
        parts = self.views(gradient)
        with np.errstate(over="ignore"):  # exp of a large negative logit: the result, 0, is right
            delta = (1 / (1 + np.exp(-outputs[-1])) - y[:, :, None]) / np.float32(y.shape[1])
        for layer in reversed(range(self.depth)):
            parts[f"dense{layer}.weight"][...] = delta.swapaxes(1, 2) @ outputs[layer]
            parts[f"dense{layer}.bias"][...] = delta.sum(axis=1)
            if layer:
                delta = (delta @ tensors[f"dense{layer}.weight"]) * (outputs[layer] > 0)
        return gradient


def scores(tensors: Tensors, x: Floats) -> Floats:
    """Return the logits, shape (S, N), of `x`, shape (S, N, F)."""
    return Network(tensors).layers(x)[-1][:, :, 0]


def train(
    tensors: Tensors, x: Floats, y: Floats, recipe: Recipe, rngs: Sequence[np.random.Generator]
) -> dict[str, Floats]:
    """Train each seed's network on its rows; `rngs` shuffle them, one generator a seed."""
    network = Network(tensors)
    start = network.flat.copy()
    moment_1, moment_2 = np.zeros_like(start), np.zeros_like(start)
    seeds = np.arange(len(rngs))[:, None]
    step = 0
    for _ in range(recipe.epochs):
        order = np.stack([rng.permutation(y.shape[1]) for rng in rngs])
        for at in range(0, y.shape[1], recipe.batch):
            rows = order[:, at : at + recipe.batch]
            gradient = network.gradients(x[seeds, rows], y[seeds, rows])
            if recipe.proximal_mu:
                gradient += np.float32(recipe.proximal_mu) * (network.flat - start)
            step += 1
            moment_1 += np.float32(1 - _BETA_1) * (gradient - moment_1)
            moment_2 += np.float32(1 - _BETA_2) * (gradient * gradient - moment_2)
            rate = np.float32(recipe.learning_rate / (1 - _BETA_1**step))
            root = np.sqrt(moment_2 / np.float32(1 - _BETA_2**step)) + np.float32(_EPSILON)
            network.flat -= rate * moment_1 / root
    return network.views(network.flat)
