"""From what is served to what a device can be offered, and the float model beside it.

Responsible for what the device's model is compared with: the bundle's graph with weights that take
samples (`folding.py`), run by the agent's own runtime.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.devices.exporting import exported
from agent.devices.folding import LaterError, Scaling, folded, scaling_of
from agent.devices.kept import Kept
from agent.learning.export.representative import representative
from agent.learning.personalise import GLOBAL
from agent.model import Model, scores
from agent.own_model import Serving
from agent.signals.rows import Rows
from wire.bridge import Scores
from wire.standards import Standard, write_standard
from wire.tensors import Params, read_safetensors, write_params

_MOST_ROWS = 512
"""Representative rows at equal distances; the extremes of all come to them."""
_LEAST_ROWS = 32
_GOLDEN = 128
"""Rows that the gate computes; the device's self-test takes the first of them."""
_NEWEST = 20_000


def key_of(adopted: Adopted, serving: Serving, channels: list[str]) -> bytes:
    """Names a served model for a device: its weights, its bundle, and how inputs are scaled."""
    own = None if serving.kind == GLOBAL else serving.candidate.standard
    digest = hashlib.sha256(adopted.head.bundle.digest + serving.digest)
    for part in (str(serving.kind), *channels):
        digest.update(part.encode() + b"\0")
    for standard in (adopted.standard, own):
        digest.update(b"" if standard is None else _bytes_of(standard))
    return digest.digest()


def _bytes_of(standard: Standard) -> bytes:
    return write_standard(standard)


async def made(adopted: Adopted, serving: Serving, channels: list[str], rows: Rows) -> Kept:
    """Make what a device is offered.

    Args:
      adopted: the head in use, ready.
      serving: the model that scores.
      channels: of the device's stream, by the federation's names.
      rows: of this agent's channels, oldest first; the ranges of int8 are chosen by them.

    Raises:
      NotForDevicesError: this model can not run on a device, whatever the device.
      LaterError: not now.
    """
    head, model = adopted.head, adopted.model
    scaling = scaling_of(adopted, serving, channels)
    params = folded(model.graph, serving.params, scaling)
    inputs = adopted.live(rows.newest(_NEWEST)).inputs
    inputs = inputs if serving.kind == GLOBAL else serving.inputs(inputs)
    if len(inputs) < _LEAST_ROWS:
        raise LaterError(f"waiting for rows ({len(inputs)} of {_LEAST_ROWS})")
    samples = scaling.samples(inputs)
    chosen = representative(samples, model.outputs(params, samples), _MOST_ROWS)
    samples = samples[chosen]
    file = await exported(model.graph, params, samples)
    golden = samples[:: max(1, len(samples) // _GOLDEN)][:_GOLDEN]
    outputs = model.outputs(params, golden)
    return Kept(
        key=key_of(adopted, serving, channels),
        bundle=head.bundle.digest,
        version=head.serve.version,
        model=file,
        weights=write_params(params),
        gain=scaling.gain.astype("<f4").tobytes(),
        offset=scaling.offset.astype("<f4").tobytes(),
        vectors=len(golden),
        rows=by_sample(golden).tobytes(),
        outputs=by_sample(outputs).tobytes(),
    )


def by_sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (N, C) or (N, C, L) as devices order them: sample by sample, (N, numbers)."""
    moved = np.moveaxis(values, 1, -1) if values.ndim == 3 else values
    return np.ascontiguousarray(moved.reshape(len(values), -1), "<f4")


def _from_samples(flat: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The way back, for one row: (1, *shape)."""
    if len(shape) == 2:
        return np.ascontiguousarray(flat.reshape(1, shape[1], shape[0]).swapaxes(1, 2))
    return flat.reshape(1, *shape)


@dataclass(frozen=True, eq=False)
class Beside:
    """A device's score beside the gateway's.

    Attributes:
      difference: largest of their outputs'.
      score: the device's, as the bundle defines scores (`agent.model.scores`).
      gateway: the float model's.
    """

    difference: float
    score: float
    gateway: float


class FloatModel:
    """The float model of a device's model.

    Args:
      model: of the bundle that `kept` is of.
      kept: what the device was given.
    """

    def __init__(self, model: Model, kept: Kept) -> None:
        self._model = model
        weights = read_safetensors(kept.weights)
        self._params: Params = {name: each.astype(np.float32) for name, each in weights.items()}
        gain, offset = (np.frombuffer(each, "<f4") for each in (kept.gain, kept.offset))
        self._scaling = Scaling(gain, offset)
        self._numbers = len(kept.rows) // (4 * kept.vectors)

    def beside(self, said: Scores) -> Beside | None:
        """Compare a score with this model's; None where it is of another shape.

        Args:
          said: with its row, and with as many int8 outputs as its reference.
        """
        row = said.inputs
        channels = len(self._scaling.gain)
        if len(row) != self._numbers or len(row) % channels:
            return None
        manifest = self._model.manifest
        shape = (channels,) if manifest.window is None else (channels, len(row) // channels)
        samples = _from_samples(row, shape)
        outputs = self._model.outputs(self._params, samples)
        real = (np.array(said.outputs, np.float32) - said.zero) * np.float32(said.scale)
        if real.size != outputs.size:
            return None
        device = _from_samples(real, outputs.shape[1:])
        inputs = self._scaling.inputs(samples)
        return Beside(
            float(np.abs(device - outputs).max()),
            float(scores(manifest, device, inputs)[0]),
            float(scores(manifest, outputs, inputs)[0]),
        )
