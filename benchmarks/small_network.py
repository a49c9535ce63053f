"""A small network and its training in plain numpy, for benchmarks about what happens to updates.

The one part of them that is not the product's: hundreds of sites train thousands of times, and a
training here takes half a millisecond.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Rows x, float32 (N, F), and classes y, int64 (N,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """A perceptron with ReLU between its layers and cross entropy at its end.

    Attributes:
      widths: numbers in its input, each hidden layer and its output.
      learning_rate, batch_size, epochs: of the local training, plain SGD.
    """

    widths: tuple[int, ...]
    learning_rate: float = 0.1
    batch_size: int = 16
    epochs: int = 2

    @property
    def parameters(self) -> int:
        """P, the length of the flat vector."""
        return sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    def initial(self, seed: int) -> Vector:
        """Random weights, float32 (P,), biases zero."""
        rng = np.random.default_rng([seed, 2])
        flat = np.zeros(self.parameters, np.float32)
        for weight, _ in self._layers(flat):
            weight[:] = rng.normal(0.0, math.sqrt(2.0 / len(weight)), weight.shape)
        return flat

    def trained(self, start: Vector, rows: Rows, rng: np.random.Generator) -> Vector:
        """The flat vector after a local training from `start`, which is not changed."""
        flat = start.copy()
        layers = self._layers(flat)
        for _ in range(self.epochs):
            order = rng.permutation(len(rows.y))
            for at in range(0, len(order), self.batch_size):
                batch = order[at : at + self.batch_size]
                self._step(layers, rows.x[batch], rows.y[batch])
        return flat

    def accuracy(self, flat: NDArray[np.floating], rows: Rows) -> float:
        """Share of rows whose class is found."""
        values = rows.x
        layers = self._layers(flat.astype(np.float32))
        for weight, bias in layers[:-1]:
            values = np.maximum(values @ weight + bias, 0.0)
        weight, bias = layers[-1]
        return float(np.mean((values @ weight + bias).argmax(axis=1) == rows.y))

    def _layers(self, flat: Vector) -> list[tuple[Vector, Vector]]:
        """Views of the flat vector: weights (in, out) and biases (out,)."""
        layers, at = [], 0
        for a, b in zip(self.widths, self.widths[1:], strict=False):
            weight, at = flat[at : at + a * b].reshape(a, b), at + a * b
            layers.append((weight, flat[at : at + b]))
            at += b
        return layers

    def _step(self, layers: list[tuple[Vector, Vector]], x: Vector, y: NDArray[np.int64]) -> None:
        """One step of SGD, in place."""
        inputs = [x]
        for weight, bias in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ weight + bias, 0.0))
        logits = inputs[-1] @ layers[-1][0] + layers[-1][1]
        logits -= logits.max(axis=1, keepdims=True)
        slope = np.exp(logits)
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(y)), y] -= 1.0
        slope *= self.learning_rate / len(y)
        for (weight, bias), before in zip(reversed(layers), reversed(inputs), strict=True):
            below = (slope @ weight.T) * (before > 0)
            np.subtract(weight, before.T @ slope, out=weight)
            np.subtract(bias, slope.sum(axis=0), out=bias)
            slope = below
