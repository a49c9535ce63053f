"""Normalisations: of layers, instances, groups and, with frozen statistics, of batches.

Responsible for expressing all of them by LayerNormalization and elementwise operators. Normalising
over the running batch would mix examples; exported for evaluation, batch normalisation is an affine
map whose scale and bias are trained and whose statistics are constants.

Sources: Ioffe and Szegedy, arXiv:1502.03167; Ulyanov et al., arXiv:1607.08022; Wu and He,
arXiv:1803.08494; ONNX Operators.md, operator set 18.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from agent.learning.ir import Array, GraphError, Node
from agent.learning.shapes import float_attribute, int_attribute
from agent.learning.simplify.draft import Draft, Live, Value
from agent.learning.simplify.known import Known, constant
from agent.learning.simplify.rule import Rule


def _layer(draft: Draft, node: Node) -> Value:
    if len(node.outputs) > 1:
        raise GraphError(node.describe(), "mean and deviation as outputs are not supported")
    terms = [draft.data(node, index) for index in range(1, len(node.inputs))]
    return draft.emit(
        node,
        "LayerNormalization",
        draft.data(node, 0),
        *terms,
        axis=int_attribute(node, "axis", -1),
        epsilon=float_attribute(node, "epsilon", 1e-5),
    )


def _channels(node: Node, data: Live) -> tuple[int, int]:
    """Return the number of channels, and of elements in each."""
    sizes = [size for size in data.shape[1:] if isinstance(size, int)]
    if len(sizes) != len(data.shape) - 1 or len(sizes) < 2:
        raise GraphError(node.describe(), f"{data.shape} has no batch, channels and positions")
    return sizes[0], math.prod(sizes[1:])


def _normal(draft: Draft, node: Node, data: Live, groups: int) -> Live:
    """Normalise each group of neighbouring channels of each example; shape (N, groups, -1)."""
    channels, width = _channels(node, data)
    if groups < 1 or channels % groups:
        raise GraphError(node.describe(), f"{channels} channels do not form {groups} groups")
    if len(data.shape) != 3 or channels != groups:
        data = draft.emit(node, "Reshape", data, draft.ints(0, groups, -1))
    ones = np.ones(channels // groups * width, np.float32)
    scale = draft.tensor(node, constant(ones))
    epsilon = float_attribute(node, "epsilon", 1e-5)
    return draft.emit(node, "LayerNormalization", data, scale, axis=-1, epsilon=epsilon)


def _restored(draft: Draft, node: Node, data: Live, like: Live) -> Live:
    """Give a value the shape of another with as many elements."""
    if data.shape == like.shape:
        return data
    sizes = (0, *(int(size) for size in like.shape[1:]))
    return draft.emit(node, "Reshape", data, draft.ints(*sizes))


def _per_channel(draft: Draft, node: Node, index: int, rank: int) -> Live:
    """Return a vector input, one element for each channel, so that it stretches over `rank`."""
    vector = draft.data(node, index)
    if len(vector.shape) != 1:
        raise GraphError(node.describe(), f"input {index} must be a vector, is {vector.shape}")
    if rank == 2:
        return vector
    return draft.emit(node, "Reshape", vector, draft.ints(-1, *(1,) * (rank - 2)))


def _all(draft: Draft, node: Node, index: int, number: float) -> bool:
    value = draft.value(node, index)
    settled = value.settled() if isinstance(value, Known) else None
    return settled is not None and bool((settled == number).all())


def _begins_as(draft: Draft, node: Node, index: int, number: float) -> bool:
    """Tell whether an input is a constant or a parameter whose elements all are this number."""
    value = draft.value(node, index)
    if isinstance(value, Live) and value.name in draft.source.initializers:
        fixed = draft.fixed(node, index)
        return fixed is not None and bool((fixed == number).all())
    return _all(draft, node, index, number)


def _affine(draft: Draft, node: Node, data: Live) -> Live:
    """Scale by input 1 and add input 2."""
    rank = len(data.shape)
    if not _all(draft, node, 1, 1.0):
        data = draft.emit(node, "Mul", data, _per_channel(draft, node, 1, rank))
    if not _all(draft, node, 2, 0.0):
        data = draft.emit(node, "Add", data, _per_channel(draft, node, 2, rank))
    return data


def _instance(draft: Draft, node: Node) -> Value:
    data = draft.data(node, 0)
    channels, _ = _channels(node, data)
    result = _restored(draft, node, _normal(draft, node, data, channels), data)
    return result if _within_group(draft, node) else _affine(draft, node, result)


def _within_group(draft: Draft, node: Node) -> bool:
    """Tell whether an instance normalisation is the inside of an exported group normalisation.

    Exporters write the latter as Reshape, InstanceNormalization with ones and zeros, Reshape,
    Mul, Add. An exporter that merges equal tensors may name the model's own fresh parameters as
    those ones and zeros (PyTorch 2.13 with `dynamo=True` does); they are not to be trained there.
    """
    if not (_begins_as(draft, node, 1, 1.0) and _begins_as(draft, node, 2, 0.0)):
        return False
    before = draft.makers.get(node.inputs[0])
    after = [reader.op for reader in draft.readers.get(node.outputs[0], ())]
    return before is not None and before.op == "Reshape" and after == ["Reshape"]


def _group(draft: Draft, node: Node) -> Value:
    """Rewrite operator set 18's form, with one scale and one bias for each group."""
    data = draft.data(node, 0)
    groups = int_attribute(node, "num_groups", 0)
    normal = _affine(draft, node, _normal(draft, node, data, groups))
    return _restored(draft, node, normal, data)


def _statistics(draft: Draft, node: Node, index: int, data: Live) -> Array:
    value = draft.fixed(node, index)
    if value is None or value.dtype != np.float32 or value.shape != data.shape[1:2]:
        raise GraphError(node.describe(), f"input {index} must be one number for each channel")
    return value.reshape(-1, *(1,) * (len(data.shape) - 2))


def _batch(draft: Draft, node: Node) -> Value:
    """Write (x - mean) (scale / sqrt(variance + epsilon)) + bias."""
    if int_attribute(node, "training_mode", 0) or len(node.outputs) > 1:
        raise GraphError(
            node.describe(), "would mix the batch's examples; export the model in evaluation mode"
        )
    data = draft.data(node, 0)
    rank = len(data.shape)
    mean, variance = (_statistics(draft, node, index, data) for index in (3, 4))
    epsilon = float_attribute(node, "epsilon", 1e-5)
    if (variance + epsilon <= 0).any():
        raise GraphError(node.describe(), "a variance is not positive")
    if mean.any():
        data = draft.emit(node, "Sub", data, draft.tensor(node, constant(mean)))
    inverse = (1 / np.sqrt(variance.astype(np.float64) + epsilon)).astype(np.float32)
    scale = _per_channel(draft, node, 1, rank)
    if (inverse != 1).any():
        factor = draft.tensor(node, constant(inverse))
        scale = draft.emit(node, "Mul", scale, factor)
    data = draft.emit(node, "Mul", data, scale)
    if _all(draft, node, 2, 0.0):
        return data
    return draft.emit(node, "Add", data, _per_channel(draft, node, 2, rank))


RULES: Mapping[str, Rule] = {
    "BatchNormalization": Rule(
        _batch, (5, 5), frozenset({"epsilon", "momentum", "training_mode", "spatial"})
    ),
    "GroupNormalization": Rule(_group, (3, 3), frozenset({"epsilon", "num_groups"})),
    "InstanceNormalization": Rule(_instance, (3, 3), frozenset({"epsilon"})),
    "LayerNormalization": Rule(_layer, (2, 3), frozenset({"axis", "epsilon", "stash_type"})),
}
"""Normalisations."""
