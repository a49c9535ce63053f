"""The families that `benchmarks.training` measures, as our graphs and as PyTorch modules.

The sizes are the families' own defaults; the MLP is that of the proof of concept. The GRU comes
from PyTorch: unrolled by hand, exported and simplified on our side, and on PyTorch's its own
`nn.GRU` with the same weights, which is faster there than the unrolled one.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.learning.families import autoencoder, cnn1d, cnn2d, mlp
from agent.learning.graph import read_graph, write_graph
from agent.learning.ir import Graph, initial_params
from agent.learning.losses import Loss
from agent.learning.simplify import read_exported

if TYPE_CHECKING:  # our own process of the memory measurement must not load it
    import torch


@dataclass(frozen=True)
class Family:
    """A model on both sides.

    Attributes:
      words: what it is, for the table.
      graph: makes our forward graph.
      module: makes the PyTorch module with the same parameters in the same order.
      loss: what both are trained for.
      shape: of one example.
      outputs: numbers or classes the model gives.
    """

    words: str
    graph: Callable[[], Graph]
    module: Callable[[], "torch.nn.Module"]
    loss: Loss
    shape: tuple[int, ...]
    outputs: int = 1

    def batch(self, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Random rows and labels, the same at every call."""
        random = np.random.default_rng(rows)
        x = random.standard_normal((rows, *self.shape)).astype(np.float32)
        if self.loss is Loss.RECONSTRUCTION:
            return x, np.zeros((rows, 0), np.float32)
        if self.loss is Loss.CROSS_ENTROPY:
            return x, random.integers(0, self.outputs, rows)
        return x, random.integers(0, 2, (rows, self.outputs)).astype(np.float32)

    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(value.size for value in initial_params(self.graph()).values())


def _mlp() -> "torch.nn.Module":
    from torch import nn  # noqa: PLC0415

    return nn.Sequential(
        nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def _cnn1d() -> "torch.nn.Module":
    from torch import nn  # noqa: PLC0415

    return nn.Sequential(
        nn.Conv1d(14, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(64, 64, 5, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(448, 1),
    )


def _autoencoder() -> "torch.nn.Module":
    from torch import nn  # noqa: PLC0415

    return nn.Sequential(
        nn.Conv1d(14, 32, 5, 2, 2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, 2, 2),
        nn.ReLU(),
        nn.Conv1d(32, 16, 5, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose1d(16, 32, 5, 2, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose1d(32, 32, 5, 2, 2, 0),
        nn.ReLU(),
        nn.ConvTranspose1d(32, 14, 5, 2, 2, 1),
    )


def _cnn2d() -> "torch.nn.Module":
    from torch import nn  # noqa: PLC0415

    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 7),
    )


def _gru() -> "torch.nn.Module":
    import torch  # noqa: PLC0415

    class Recurrent(torch.nn.Module):  # type: ignore[misc]  # torch may be untyped, see pyproject
        """A GRU over (N, steps, signals) whose last state one dense layer judges."""

        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(14, 32, batch_first=True)
            self.head = torch.nn.Linear(32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states, _ = self.gru(x)
            return self.head(states[:, -1])

    return Recurrent()


def _unrolled(module: "torch.nn.Module") -> "torch.nn.Module":
    """Write the same GRU, with the same weights, as the operators of its equations."""
    import torch  # noqa: PLC0415

    linear = torch.nn.functional.linear

    class Unrolled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = module.gru, module.head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gru = self.gru
            state = x.new_zeros(x.size(0), gru.hidden_size)
            for step in range(x.shape[1]):
                seen = linear(x[:, step], gru.weight_ih_l0, gru.bias_ih_l0)
                kept = linear(state, gru.weight_hh_l0, gru.bias_hh_l0)
                (a, b, c), (d, e, f) = seen.chunk(3, 1), kept.chunk(3, 1)
                reset, update = torch.sigmoid(a + d), torch.sigmoid(b + e)
                state = (1 - update) * torch.tanh(c + reset * f) + update * state
            return self.head(state)

    return Unrolled()


def export_gru(folder: Path) -> None:
    """Write `gru.onnx`, the unrolled GRU as a bundle would hold it."""
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter, which needs no further packages
        torch.onnx.export(
            *(_unrolled(_gru()), (torch.zeros(2, 30, 14),), buffer),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=18,
            dynamo=False,
        )
    (folder / "gru.onnx").write_bytes(write_graph(read_exported(buffer.getvalue())))


def families(folder: Path) -> dict[str, Family]:
    """Return the families; `folder` is where `export_gru` wrote."""
    return {
        **DECLARED,
        "gru": Family(
            "30 x 14, unrolled, 32 units; against nn.GRU",
            lambda: read_graph((folder / "gru.onnx").read_bytes()),
            _gru,
            Loss.MSE,
            (30, 14),
        ),
    }


DECLARED: dict[str, Family] = {
    "mlp": Family(
        "5-64-32-1", lambda: mlp(5, (64, 32), 1, 0), _mlp, Loss.BINARY_CROSS_ENTROPY, (5,)
    ),
    "cnn1d": Family(
        "14 x 30, convolutions 32-64-64 of 5",
        lambda: cnn1d(14, 30, 1, 0),
        _cnn1d,
        Loss.MSE,
        (14, 30),
    ),
    "autoencoder": Family(
        "14 x 30, convolutions 32-32-16 of 5 and back",
        lambda: autoencoder((14, 30), 0),
        _autoencoder,
        Loss.RECONSTRUCTION,
        (14, 30),
        14,
    ),
    "cnn2d": Family(
        "2 x 64 x 64, convolutions 16-32-32-64 of 3x3",
        lambda: cnn2d(2, 64, 64, 7, 0),
        _cnn2d,
        Loss.CROSS_ENTROPY,
        (2, 64, 64),
        7,
    ),
}
