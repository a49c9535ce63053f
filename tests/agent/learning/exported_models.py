"""PyTorch models whose exports must build and train, and the ways to export them.

Every model comes with the shape of one example. Run as a program, in an environment that has
`onnxscript`, it writes the fixtures of `tests/golden/onnx`:

    python -m tests.agent.learning.exported_models tests/golden/onnx
"""

import io
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn import functional


class Mlp(nn.Module):  # type: ignore[misc]  # torch may be untyped here, see pyproject
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Sequence(nn.Module):  # type: ignore[misc]
    """Linear layers on (N, T, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.sigmoid(self.first(x))).mean(dim=1)


class Convolutional1d(nn.Module):  # type: ignore[misc]
    """Depthwise separable convolution with group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 5, padding=2)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv1d(8, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = self.norm(self.pointwise(self.depthwise(x)))
        x = functional.max_pool1d(functional.relu(x), 2)
        return self.head(functional.adaptive_avg_pool1d(x, 1).flatten(1))


class TransposedAutoencoder(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv1d(4, 6, 3, 2, 1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(6, 4, 4, 2, 1), nn.Tanh(), nn.ConvTranspose1d(4, 2, 4, 2, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


class UpsamplingAutoencoder(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoder = nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.up(functional.leaky_relu(self.encoder(x), 0.1)))


class Convolutional2d(nn.Module):  # type: ignore[misc]
    """With `view(x.size(0), -1)`, padding of its own and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 0, 1, 0))
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6 * 3 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.first(self.pad(x))), 2)
        x = functional.avg_pool2d(functional.relu6(self.second(x)), 2)
        return self.head(x.view(x.size(0), -1))


class Mixer(nn.Module):  # type: ignore[misc]
    """A transformer's feed-forward block: LayerNorm, both kinds of GELU, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.second(functional.gelu(self.first(self.norm(x))))
        return self.head(functional.gelu(x, approximate="tanh").mean(1))


class Gru(nn.Module):  # type: ignore[misc]
    """A GRU cell of Linear layers, unrolled; chunks, and a state made from `x.size(0)`."""

    def __init__(self, inputs: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.hidden = hidden
        self.of_input = nn.Linear(inputs, 3 * hidden)
        self.of_state = nn.Linear(hidden, 3 * hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.size(0), self.hidden)
        for t in range(x.shape[1]):
            a, b, c = self.of_input(x[:, t]).chunk(3, 1)
            d, e, f = self.of_state(state).chunk(3, 1)
            reset, update = torch.sigmoid(a + d), torch.sigmoid(b + e)
            state = (1 - update) * torch.tanh(c + reset * f) + update * state
        return self.head(state)


class JoinedGru(nn.Module):  # type: ignore[misc]
    """A minimal gated unit that joins input and state, and gives the state of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.candidate = nn.Linear(8, 10), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 5)
        states = []
        for t in range(4):
            gates = torch.sigmoid(self.gates(torch.cat([x[:, t, :], state.to(x.dtype)], 1)))
            reset, update = gates[:, :5], gates[:, 5:]
            new = torch.tanh(self.candidate(torch.cat([x[:, t, :], reset * state], 1)))
            state = new + update * (state - new)
            states.append(state)
        return torch.stack(states, 1)


class BatchNormalized(nn.Module):  # type: ignore[misc]
    """Batch normalisation that no exporter can merge with the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(6)
        self.conv, self.head = nn.Conv1d(4, 6, 3), nn.Linear(6, 3)
        with torch.no_grad():
            for norm in (self.first, self.second):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv(self.first(x))).mean(2)
        return torch.log_softmax(self.head(self.second(x)), 1)


class FreshNorms(nn.Module):  # type: ignore[misc]
    """Several normalisations as they begin, all ones and zeros, which exporters merge."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.instance = nn.BatchNorm1d(4), nn.InstanceNorm1d(4, affine=True)
        self.groups, self.layer = nn.GroupNorm(4, 4), nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.instance(torch.tanh(self.batch(x)))
        x = torch.tanh(self.groups(self.conv(x)))
        return self.layer(x.square().mean(2))


class Activations(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.slopes = nn.Linear(4, 6, bias=False), nn.PReLU(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slopes(self.layer(x))
        x = functional.elu(x) + functional.selu(x) * functional.hardswish(x + 0.3)
        x = functional.hardsigmoid(x) + functional.mish(x) / (x.size(-1) ** 0.5)
        x = torch.cat([x[:, :3] ** 2, functional.silu(x[:, 3:])], 1)
        x = functional.softplus(x) - torch.exp(-x) + x.clamp(min=0.1)
        x = x.reshape(-1, 2, 3).permute(0, 2, 1).clamp(-3, 3)
        x = torch.softmax(x, 1) + torch.log_softmax(x, 2)
        x = x * torch.ones(x.size(0), 1, 1) + x.new_full((x.size(0), 3, 2), 0.5)
        return x.flatten(1) + torch.arange(6.0)


class Indexing(nn.Module):  # type: ignore[misc]
    """On (N, 5, 4): every way to cut and join."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.context = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        score = (x @ self.context).unsqueeze(-1).expand(-1, -1, 4)
        turned = x.transpose(1, 2).contiguous().view(x.shape[0], -1)
        parts = [x[:, -1], x[:, :, 2], x[:, 1:4:2].reshape(x.size(0), -1), x.unbind(1)[2]]
        stacked = torch.stack([x[:, 0], x[:, 1]], 1).flatten(1)
        return torch.cat([*parts, stacked, turned, (score * x).sum(1)], 1)


@dataclass(frozen=True)
class Case:
    """A model, the shape of one example, and whether to train it to repeat its input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    repeats: bool = False

    def model(self) -> nn.Module:
        torch.manual_seed(4)
        return self.make().eval()


CASES: Mapping[str, Case] = {
    "mlp": Case(Mlp, (6,)),
    "sequence": Case(Sequence, (5, 4)),
    "cnn1d": Case(Convolutional1d, (3, 16)),
    "transposed": Case(TransposedAutoencoder, (2, 16), repeats=True),
    "upsampling": Case(UpsamplingAutoencoder, (1, 8, 8), repeats=True),
    "cnn2d": Case(Convolutional2d, (1, 15, 15)),
    "mixer": Case(Mixer, (5, 8)),
    "gru": Case(Gru, (4, 3)),
    "joined_gru": Case(JoinedGru, (4, 3)),
    "batch_norm": Case(BatchNormalized, (4, 7)),
    "fresh_norms": Case(FreshNorms, (4, 9)),
    "activations": Case(Activations, (4,)),
    "indexing": Case(Indexing, (5, 4)),
}

EXPORTERS = ("script", "dynamo", "plain")
"""The older exporter; the newer one, as it is by default; and without its own optimisations, which
keeps every parameter apart and by its name."""


def export(case: Case, exporter: str) -> bytes:
    """Export a model as ONNX; `dynamo` and `plain` need `onnxscript`."""
    model, example = case.model(), torch.randn(3, *case.shape)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "script":
            axes = {"x": {0: "batch"}, "y": {0: "batch"}}
            names = {"input_names": ["x"], "output_names": ["y"]}
            torch.onnx.export(
                *(model, (example,), buffer),
                **names,
                dynamo=False,
                opset_version=18,
                dynamic_axes=axes,
            )
            return buffer.getvalue()
        program = torch.onnx.export(
            *(model, (example,)),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=exporter == "dynamo",
            verbose=False,
        )
        program.save(buffer)
        return buffer.getvalue()


def without_notes(data: bytes) -> bytes:
    """Drop metadata, which holds the lines of source and their paths on this machine."""
    model = onnx.load_from_string(data)
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    written: bytes = model.SerializeToString()
    return written


def main(folder: Path) -> None:
    """Write the newer exporter's fixtures."""
    for name, case in CASES.items():
        for exporter in ("dynamo", "plain"):
            data = without_notes(export(case, exporter))
            (folder / f"{name}.{exporter}.onnx").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
