"""The walk over an exported graph: fold what is known, rewrite what is computed, drop the rest.

Responsible for the result as a whole: core operators only, no value that nobody uses, parameters
in the order and by the names of the file, float32 constants of rank 1 or more in `Constant` nodes
(an initializer would be trained). One pass in the order of the file, no recursion; files of
strangers cost at most `folding.WORK_BYTES` of folding and `DEFAULT_LIMITS.nodes` new nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from agent.learning.derive import derive_inference_graph
from agent.learning.graph import read_graph, write_graph
from agent.learning.ir import (
    AUTHORING_OPERATORS,
    DEFAULT_LIMITS,
    Array,
    Graph,
    GraphError,
    Limits,
    Node,
    check_graph,
    is_trainable,
)
from agent.learning.simplify import arithmetic, cutting, dense, layout, norms, spatial
from agent.learning.simplify.draft import Draft, Live, Value
from agent.learning.simplify.folding import FOLDS, fold
from agent.learning.simplify.known import Known
from agent.learning.simplify.rule import Rule

AUTHORING_LIMITS = Limits(
    total_bytes=64 << 20,
    nodes=20_000,
    node_bytes=32 << 20,
    tensors=10_000,
    operators=AUTHORING_OPERATORS,
)
"""Caps on a file to be simplified: exporters write a recurrent network, unrolled over 100 steps, as
5,000 nodes, and every node with the lines of source it came from."""

RULES: Mapping[str, Rule] = {
    **arithmetic.RULES,
    **cutting.RULES,
    **dense.RULES,
    **layout.RULES,
    **norms.RULES,
    **spatial.RULES,
}
"""The operators that can be rewritten; together with `FOLDS` they are `AUTHORING_OPERATORS`."""


def read_exported(
    data: bytes, frozen: Collection[str] = (), limits: Limits = AUTHORING_LIMITS
) -> Graph:
    """Read an ONNX file as exporters write it.

    Args:
      data: the file's bytes, from anywhere.
      frozen: as for `simplify`.
      limits: caps and the operators allowed.

    Returns:
      A graph of core operators that can be derived, and that a gateway's limits admit.

    Raises:
      GraphError: the file is refused, or holds something that cannot be trained; names the node.
    """
    graph = simplify(read_graph(data, limits), frozen)
    derive_inference_graph(graph)
    return read_graph(write_graph(graph))


def simplify(graph: Graph, frozen: Collection[str] = ()) -> Graph:
    """Rewrite a graph with the core operators.

    Args:
      graph: one float32 input with a dynamic first axis, one output.
      frozen: names of float32 initializers that are constants. A file does not tell a model's
        buffers from its parameters.

    Returns:
      A graph with the same input, output, and parameters by the same names, as far as the output
      depends on them.

    Raises:
      GraphError: something that cannot be rewritten, with its node.
    """
    check_graph(graph, AUTHORING_LIMITS)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise GraphError("graph", "a forward graph has exactly one input and one output")
    graph = _parted(graph)
    for name in frozen:
        if name not in graph.initializers:
            raise GraphError(f"initializer {name!r}", "is to be frozen, and is not in the file")
    draft = Draft(graph, DEFAULT_LIMITS, frozenset(frozen))
    for node in _reaching(graph.outputs[0].name, graph.nodes):
        before = len(draft.nodes)
        value = _rewritten(draft, _trimmed(node))
        if isinstance(value, Live) and len(draft.nodes) > before:
            value = draft.rename(value, node.outputs[0])
        _bind(draft, node, value)
    result = _finish(draft)
    check_graph(result)
    return result


def _parted(graph: Graph) -> Graph:
    """Undo the merging of parameters that were equal by chance.

    The older exporter writes a parameter that equals an earlier one, as fresh scales and biases of
    normalisations do, as `Identity` of it, before all other nodes; taken literally the two would be
    trained as one. Parameters that the model shares have one name and no `Identity`.
    """
    initializers: dict[str, Array] = dict(graph.initializers)
    parted = 0
    for node in graph.nodes:
        source = graph.initializers.get(node.inputs[0]) if len(node.inputs) == 1 else None
        if node.op != "Identity" or source is None or not is_trainable(source):
            break
        initializers[node.outputs[0]] = source
        parted += 1
    return replace(graph, nodes=graph.nodes[parted:], initializers=initializers)


def _trimmed(node: Node) -> Node:
    """Drop omitted inputs at the end."""
    given = len(node.inputs)
    while given and not node.inputs[given - 1]:
        given -= 1
    return node if given == len(node.inputs) else replace(node, inputs=node.inputs[:given])


def _rewritten(draft: Draft, node: Node) -> Value | list[Value]:
    rule = RULES.get(node.op)
    values = [draft.values[name] for name in node.inputs if name]
    known = [value for value in values if isinstance(value, Known)]
    if node.op in FOLDS and len(known) == len(node.inputs) > 0 and len(node.outputs) == 1:
        first = fold(node, [value.first for value in known], draft.budget)
        if all(value.first is value.second for value in known):
            return Known(first, first)
        return Known(first, fold(node, [value.second for value in known], draft.budget))
    if rule is None:
        reason = f"operator {node.op!r} is supported on constants only"
        if node.op not in FOLDS:
            reason = f"operator {node.op!r} is not supported"
        raise GraphError(node.describe(), reason)
    rule.check(node)
    return rule.rewrite(draft, node)


def _bind(draft: Draft, node: Node, given: Value | list[Value]) -> None:
    results = given if isinstance(given, list) else [given]
    if len(results) != len(node.outputs):
        raise GraphError(node.describe(), f"{len(node.outputs)} outputs are not supported")
    draft.values.update(zip(node.outputs, results, strict=True))


def _finish(draft: Draft) -> Graph:
    wanted = draft.source.outputs[0]
    value = draft.values[wanted.name]
    if not isinstance(value, Live):
        raise GraphError("model output", "does not depend on the data by any operator")
    nodes = draft.nodes
    if draft.maker(value) is None:
        nodes = [*nodes, Node("Identity", (value.name,), (wanted.name,), {}, wanted.name)]
    elif value.name != wanted.name:
        nodes = [_with_name(node, value.name, wanted.name) for node in nodes]
    kept = _reaching(wanted.name, nodes)
    used = {name for node in kept for name in node.inputs}
    initializers = {name: v for name, v in draft.initializers.items() if name in used}
    output = replace(wanted, shape=value.shape)
    return Graph(tuple(kept), draft.source.inputs, (output,), initializers)


def _with_name(node: Node, old: str, new: str) -> Node:
    inputs, outputs = (
        tuple(new if name == old else name for name in names)
        for names in (node.inputs, node.outputs)
    )
    return replace(node, inputs=inputs, outputs=outputs)


def _reaching(wanted: str, nodes: tuple[Node, ...] | list[Node]) -> list[Node]:
    """Return the nodes, in order, that a value depends on."""
    needed = {wanted}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]
