"""A model that takes the device's samples as they are.

A bundle's model takes standardised inputs; a microcontroller has samples in their units.  What lies
between is `input = gain * sample + offset` for each channel, so it goes into the first layer's
weights: nothing is left to compute on the device, and no constant to send beside the model.

Refuses a model whose inputs are not the stream's channels, one by one and in its order, and one
whose first layer can not take them: an offset behind a convolution that pads, whose border would be
wrong.  Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.learning.graph import read_graph
from agent.learning.ir import Graph
from agent.learning.personalise import GLOBAL
from agent.own_model import Serving
from agent.signals.features import apply_standard
from agent.signals.windows import example_inputs
from wire.tensors import Params

_CLOSE = 1e-4
"""Of float32 inputs that were computed in two ways."""


class NotForDevicesError(Exception):
    """This model can not take the device's samples; says why."""


class LaterError(Exception):
    """It can not be made now; says what is lacking."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """From samples to inputs: input = gain * sample + offset, float32 (C,) each."""

    gain: NDArray[np.float32]
    offset: NDArray[np.float32]

    def inputs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs, (N, C) or (N, C, L), of samples in the same shape."""
        shape = (-1, *(1,) * (samples.ndim - 2))
        scaled = samples * self.gain.reshape(shape) + self.offset.reshape(shape)
        return np.asarray(scaled, np.float32)

    def samples(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back."""
        shape = (-1, *(1,) * (inputs.ndim - 2))
        exact = (inputs - self.offset.reshape(shape)) / self.gain.reshape(shape)
        return np.asarray(exact, np.float32)


def scaling_of(adopted: Adopted, serving: Serving, channels: list[str]) -> Scaling:
    """How a served model's inputs come from samples.

    Args:
      adopted: the head in use, ready.
      serving: the model that scores.
      channels: the stream's, by the federation's names.

    Raises:
      NotForDevicesError: they are no such function of these channels.
    """
    manifest = adopted.model.manifest
    taken = [channel.name for channel in manifest.channels]
    if set(taken) != set(channels):
        raise NotForDevicesError(
            f"the model takes {', '.join(taken)}; the device's stream is {', '.join(channels)}"
        )
    if any(channel.shape for channel in manifest.channels):
        raise NotForDevicesError("the model takes waveforms or images, a device single samples")
    length = adopted.rows_needed

    def made(samples: NDArray[np.float64]) -> NDArray[np.float32]:
        """Inputs (C, ...) of samples (C, L)."""
        values = dict(zip(channels, samples, strict=True))
        inputs = example_inputs(manifest, values, np.zeros(1, np.int64))
        if adopted.standard is not None:
            inputs = apply_standard(manifest.features, inputs, adopted.standard)
        taken = inputs if serving.kind == GLOBAL else serving.inputs(inputs)
        return np.asarray(taken[0], np.float32)

    shape = (len(channels), length)
    zeros, ones = made(np.zeros(shape)), made(np.ones(shape))
    probe = np.random.default_rng(0).normal(size=shape)
    if zeros.shape[0] != len(channels) or zeros.size != probe.size:
        raise NotForDevicesError("the model's features are not the channels themselves")
    flat = zeros.reshape(shape), ones.reshape(shape)
    scaling = Scaling((flat[1] - flat[0])[:, 0], flat[0][:, 0])
    rebuilt = scaling.inputs(probe[None].astype(np.float32))[0]
    if not np.allclose(rebuilt, made(probe).reshape(shape), _CLOSE, _CLOSE * np.abs(rebuilt).max()):
        raise NotForDevicesError(
            "the model's features are not the stream's channels one by one, in its order"
        )
    if not (scaling.gain != 0).all():
        raise NotForDevicesError("a channel does not reach the model")
    return scaling


def folded(graph: bytes, params: Params, scaling: Scaling) -> Params:
    """Parameters with which the graph takes samples instead of inputs.

    Raises:
      NotForDevicesError: the first layer can not take the scaling in.
    """
    read = read_graph(graph)
    weight, bias, is_padded = _first_layer(read)
    if is_padded and scaling.offset.any():
        raise NotForDevicesError(
            "its first convolution pads, so every feature's mean must be 0 for a device"
        )
    numbers = params[weight].astype(np.float64)  # (out, in, ...)
    shape = (1, -1, *(1,) * (numbers.ndim - 2))
    shift = (numbers * scaling.offset.reshape(shape)).reshape(len(numbers), -1).sum(axis=1)
    changed = {weight: numbers * scaling.gain.reshape(shape), bias: params[bias] + shift}
    return {name: changed.get(name, value).astype("<f4") for name, value in params.items()}


def _first_layer(graph: Graph) -> tuple[str, str, bool]:
    """Names of its weight (out, in, ...) and bias, and whether it pads."""
    users = [node for node in graph.nodes if graph.inputs[0].name in node.inputs]
    first = users[0] if len(users) == 1 else None
    if first is None or len(first.inputs) != 3:
        raise NotForDevicesError("its input does not go into one layer with a bias")
    if first.op == "Gemm" and first.attributes.get("transB") == 1 and _plain(first.attributes):
        return first.inputs[1], first.inputs[2], False
    if first.op == "Conv" and len(graph.inputs[0].shape) == 3:
        pads = first.attributes.get("pads", ())
        is_padded = isinstance(pads, tuple) and any(pads)
        return first.inputs[1], first.inputs[2], is_padded or "auto_pad" in first.attributes
    raise NotForDevicesError(
        f"its first layer is {first.op}; a device takes rows of numbers into a dense layer, or "
        "windows into a 1-D convolution"
    )


def _plain(attributes: object) -> bool:
    """Whether a Gemm is nothing but a dense layer."""
    known = attributes if isinstance(attributes, dict) else {}
    return not known.get("transA", 0) and all(
        float(known.get(name, 1.0)) == 1.0 for name in ("alpha", "beta")
    )
