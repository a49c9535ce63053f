"""A bundle in words: what `journeyman bundle inspect` shows.

Pure: a bundle in, lines out.  Nothing here judges; a graph that cannot be read or derived is shown
with the reason, because seeing what is wrong is what one inspects a file for.
"""

from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from agent.learning.derive import (
    derive_clipped_sum_graph,
    derive_per_example_graph,
    derive_training_graph,
    footprint,
)
from agent.learning.graph import Graph, GraphError, read_graph
from agent.learning.ir import Array
from agent.learning.losses import Loss
from agent.learning.operators import OPERATORS
from agent.learning.runtime import rows_at_once
from agent.learning.shapes import BATCH, Shape
from wire.bundle import MODEL, Bundle
from wire.manifest import REGRESSION, Channel, Manifest, describe, input_shape
from wire.tensors import parameter_count

_PRODUCTS: dict[str, Callable[[Graph, Loss], Graph]] = {
    "mean gradients": derive_training_graph,
    "per-example gradients": derive_per_example_graph,
    "clipped sums": derive_clipped_sum_graph,
}
_MOST_LINES = 64
_SYMMETRIES = {
    "mirror": "images may be mirrored, and are while they are trained on",
    "square": "images may be turned and mirrored, and are while they are trained on",
}


def bundle_lines(bundle: Bundle) -> Iterator[str]:
    """Describe a bundle whose parts agree; its graph is read here, under the usual caps."""
    manifest = bundle.manifest
    yield f"{manifest.name} revision {manifest.revision}"
    if manifest.description:
        yield f"  {manifest.description}"
    sizes = ", ".join(f"{name} {len(data):,}" for name, data in bundle.files.items())
    yield f"bytes      {sum(map(len, bundle.files.values())):,}: {sizes}"
    yield from _data_lines(manifest)
    yield f"parameters {parameter_count(manifest.shapes)}, in {len(manifest.tensors)} tensors"
    for tensor in manifest.tensors[:_MOST_LINES]:
        where = "  stays at the site" if tensor.local else ""
        yield f"  {tensor.name:32} {_shape(tensor.shape):>18} {prod(tensor.shape):>10,}{where}"
    try:
        yield from _graph_lines(read_graph(bundle.files[MODEL]), Loss(manifest.loss))
    except GraphError as error:
        yield f"graph      REFUSED: {error}"


def _data_lines(manifest: Manifest) -> Iterator[str]:
    yield f"channels   {', '.join(map(_channel, manifest.channels))}"
    if manifest.window is not None:
        yield f"window     {manifest.window.length} rows, one every {manifest.window.stride}"
    yield f"features   {len(manifest.features)}, input {_shape(('N', *input_shape(manifest)))}"
    for feature in manifest.features[:_MOST_LINES]:
        yield f"  {describe(feature):48} minus {feature.mean:g}, over {feature.std:g}"
    yield f"           standardised by {manifest.standardise} statistics"
    yield f"label      {_label(manifest)}"
    yield f"loss       {manifest.loss}{_alarm(manifest)}"
    if manifest.symmetry != "none":
        yield f"symmetry   {_SYMMETRIES[manifest.symmetry]}"
    recipe = manifest.recipe
    yield (
        f"recipe     {recipe.epochs} epochs of {recipe.batch_size}, {recipe.optimizer} at "
        f"{recipe.learning_rate:g}; {manifest.split.share:.0%} held out by {manifest.split.by}"
    )


def _alarm(manifest: Manifest) -> str:
    alarm = manifest.alarm
    if alarm is not None and alarm.share is not None:
        learned = f" until the sites' counts say what {alarm.share:.2%} of all rows reach"
    elif alarm is not None:
        costs = f"a missed failure costs {alarm.missed_cost:g}, a false alarm {alarm.false_cost:g}"
        learned = f" until the sites' counts say what is cheapest, where {costs}"
    elif manifest.loss != "binary_cross_entropy":
        return ""
    else:
        learned = ""
    return f", alarm from {manifest.threshold:g}{learned}"


def _channel(channel: Channel) -> str:
    words = f"{channel.name} [{channel.unit}]"
    words += f" {_shape(channel.shape)}" if channel.shape else ""
    return words + (f" at {channel.rate_hz:g} Hz" if channel.rate_hz else "")


def _label(manifest: Manifest) -> str:
    label = manifest.label
    if label is None:
        return "none: the model reconstructs its input"
    if label.classes:
        return (
            f"{label.channel}: {', '.join(f'{i} {name}' for i, name in enumerate(label.classes))}"
        )
    if manifest.loss not in REGRESSION:
        return f"{label.channel}: 0 or 1"
    limits = [
        f", {word} {value:g}"
        for word, value in (("at least", label.lowest), ("at most", label.highest))
        if value is not None
    ]
    return f"{label.channel}{''.join(limits)}; minus {label.mean:g}, over {label.std:g}"


def _graph_lines(graph: Graph, loss: Loss) -> Iterator[str]:
    yield f"layers     {len(graph.nodes)} nodes"
    for words, shape in _layers(graph)[:_MOST_LINES]:
        yield f"  {words:48} {_shape(shape)}"
    if len(graph.nodes) > _MOST_LINES:
        yield f"  and {len(graph.nodes) - _MOST_LINES} more"
    held = footprint(graph)
    yield (
        f"memory     {4 * held.values:,} bytes for the forward values of one row, at most "
        f"{4 * held.workspace:,} beside them; "
        f"{rows_at_once(held.values, held.workspace):,} rows run together at most"
    )
    for name, derive in _PRODUCTS.items():
        try:
            nodes = len(derive(graph, loss).nodes)
        except GraphError as error:
            yield f"derivable  {name}: NO: {error}"
        else:
            yield f"derivable  {name}: {nodes} nodes"


def _layers(graph: Graph) -> list[tuple[str, Shape]]:
    """Every node with the shape of its output.

    Raises:
      GraphError: a node can not be derived.
    """
    constants: dict[str, Array] = dict(graph.initializers)
    data = graph.inputs[0]
    shapes: dict[str, Shape] = {name: value.shape for name, value in constants.items()}
    shapes[data.name] = (BATCH, *(size for size in data.shape[1:] if isinstance(size, int)))
    layers: list[tuple[str, Shape]] = []
    for node in graph.nodes:
        if node.op not in OPERATORS:
            raise GraphError(node.describe(), f"operator {node.op!r} cannot be derived")
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, np.ndarray):
            constants[node.outputs[0]] = value
        given = [shapes[name] if name else () for name in node.inputs]
        shape = OPERATORS[node.op].infer(node, given, constants)
        shapes[node.outputs[0]] = shape
        layers.append((f"{node.op} {node.name or node.outputs[0]}"[:48], shape))
    return layers


def _shape(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "number"
