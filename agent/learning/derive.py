"""Deriving graphs from a forward graph: how to train it, and how to run it with given weights.

Responsible for reverse-mode automatic differentiation over ONNX: replays the forward graph on
a tape with its shapes, then walks it backwards through the operators' adjoint rules. The
gateway derives its training graph itself, because a training graph from outside could claim to
clip or weigh examples and not do it. Refuses what it cannot derive, naming operator and node.

Invariant: parameters are inputs of every derived graph, so that one session serves all
weights. Source: Griewank and Walther, Evaluating Derivatives, chapter 3 (reverse mode).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from agent.learning.ir import Graph, GraphError, Node, ValueInfo, check_graph, is_trainable
from agent.learning.losses import TARGET, WEIGHTS, Loss, target_of, write_loss
from agent.learning.operators import OPERATORS
from agent.learning.shapes import BATCH, Shape, check_shape
from agent.learning.tape import GENERATED, Tape

DATA, LOSS, OUTPUT, GRADIENT_PREFIX = "x", "loss", "output", "grad:"
"""Names in derived graphs: the input rows, the loss, the model's output, the gradients."""

_RESERVED = frozenset({DATA, TARGET, WEIGHTS, LOSS, OUTPUT})


def derive_training_graph(forward: Graph, loss: Loss) -> Graph:
    """Derive the graph that computes a model's loss and mean gradients.

    Args:
      forward: one float32 input with a symbolic first axis, one output.
      loss: what to differentiate.

    Returns:
      A graph with inputs x, y (see `Loss`), w float32 (N,), then each parameter by its name,
      and outputs `loss` (scalar, sum(w l) / sum(w)), then `grad:<parameter>` for each.

    Raises:
      GraphError: an operator, attribute or shape that cannot be derived, or a parameter the
        output does not depend on.
    """
    tape, output = _replay(forward)
    target = target_of(loss, tape.shapes[output])
    steps = list(tape.nodes)
    value, slope = write_loss(tape, loss, output)
    tape.gradients[output] = slope
    for node in reversed(steps):
        gradient = tape.gradients.get(node.outputs[0])
        if gradient is None or node.outputs[0] not in tape.needed:
            continue
        for name, contribution in OPERATORS[node.op].adjoint(tape, node, gradient):
            if name in tape.needed:
                tape.add_gradient(name, contribution)
    parameters = _parameters(forward)
    results = {LOSS: value}
    for parameter in parameters:
        if parameter.name not in tape.gradients:
            raise GraphError(f"parameter {parameter.name!r}", "does not reach the model's output")
        results[GRADIENT_PREFIX + parameter.name] = tape.gradients[parameter.name]
    outputs = [ValueInfo(LOSS, "float32", ())]
    outputs += [replace(p, name=GRADIENT_PREFIX + p.name) for p in parameters]
    weights = ValueInfo(WEIGHTS, "float32", (BATCH,))
    inputs = (_data(forward), target, weights, *parameters)
    return _finish(tape, inputs, outputs, results)


def derive_inference_graph(forward: Graph) -> Graph:
    """Derive the graph that runs a model with parameters given as inputs.

    Returns:
      A graph with inputs x, then each parameter by its name, and the output `output`.

    Raises:
      GraphError: as `derive_training_graph`.
    """
    tape, output = _replay(forward)
    inputs = (_data(forward), *_parameters(forward))
    outputs = [ValueInfo(OUTPUT, "float32", tape.shapes[output])]
    return _finish(tape, inputs, outputs, {OUTPUT: output})


def _data(forward: Graph) -> ValueInfo:
    if len(forward.inputs) != 1 or len(forward.outputs) != 1:
        raise GraphError("graph", "a forward graph has exactly one input and one output")
    given = forward.inputs[0]
    sizes = given.shape[1:]
    fixed = tuple(size for size in sizes if isinstance(size, int) and size > 0)
    if given.dtype != "float32" or not given.shape or fixed != sizes:
        raise GraphError(
            f"input {given.name!r}", f"must be float32 (batch, fixed sizes...), is {given.shape}"
        )
    if isinstance(given.shape[0], int):
        raise GraphError(f"input {given.name!r}", "its first axis must be dynamic (the batch)")
    return ValueInfo(DATA, "float32", (BATCH, *fixed))


def _parameters(forward: Graph) -> list[ValueInfo]:
    parameters = []
    for name, value in forward.initializers.items():
        if not is_trainable(value):
            continue
        if name in _RESERVED or name.startswith((GENERATED, GRADIENT_PREFIX)):
            raise GraphError(f"parameter {name!r}", "this name is reserved, rename it")
        parameters.append(ValueInfo(name, "float32", value.shape))
    if not parameters:
        raise GraphError("graph", "has no float32 initializer of rank 1 or more to train")
    return parameters


def _replay(forward: Graph) -> tuple[Tape, str]:
    """Write a forward graph to a new tape, with shapes; return it and the output's name."""
    check_graph(forward)
    tape = Tape()
    data = _data(forward)
    names = {forward.inputs[0].name: DATA}
    tape.shapes[DATA] = tuple(size for size in data.shape if size is not None)
    for parameter in _parameters(forward):
        names[parameter.name] = parameter.name
        tape.shapes[parameter.name] = forward.initializers[parameter.name].shape
        tape.needed.add(parameter.name)
    for name, value in forward.initializers.items():
        if name not in names:
            names[name] = tape.constant(value)
            tape.constants[names[name]] = value
            tape.shapes[names[name]] = value.shape
    for node in _contributing(forward):
        _replay_node(tape, node, names)
    output = names[forward.outputs[0].name]
    if output not in tape.needed or tape.shapes[output][:1] != (BATCH,):
        raise GraphError(
            "model output", f"must depend on data and parameters, shape {tape.shapes[output]}"
        )
    return tape, output


def _contributing(forward: Graph) -> Iterable[Node]:
    """Return the nodes that the output depends on, in order."""
    wanted = {forward.outputs[0].name}
    kept = []
    for node in reversed(forward.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return reversed(kept)


def _replay_node(tape: Tape, node: Node, names: dict[str, str]) -> None:
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise GraphError(node.describe(), f"operator {node.op!r} cannot be derived")
    operator.check(node)
    moved = replace(node, inputs=tuple(names[name] for name in node.inputs))
    shapes = [tape.shapes[name] for name in moved.inputs]
    for index, name in enumerate(moved.inputs):
        constant = tape.constants.get(name)
        if constant is not None and constant.dtype != np.float32 and index not in operator.settings:
            raise GraphError(node.describe(), f"computes with {constant.dtype} values")
    shape: Shape = check_shape(node, operator.infer(moved, shapes, tape.constants))
    value = node.attributes.get("value")
    if node.op == "Constant" and isinstance(value, np.ndarray):
        output = tape.constant(value)
        tape.constants[output] = value
    else:
        output = tape.emit(node.op, *moved.inputs, **node.attributes)
    if tape.needed.intersection(moved.inputs):
        tape.needed.add(output)
    names[node.outputs[0]] = output
    tape.shapes[output] = shape


def _finish(
    tape: Tape,
    inputs: tuple[ValueInfo, ...],
    outputs: list[ValueInfo],
    results: dict[str, str],
) -> Graph:
    """Give the results their names and close the graph."""
    computed = {name for node in tape.nodes for name in node.outputs}
    renamed: dict[str, str] = {}
    copies = []
    for name, result in results.items():
        if result in computed and result not in renamed:
            renamed[result] = name
        else:  # one value under two names, or an input as a result
            copies.append(Node("Identity", (renamed.get(result, result),), (name,), name=name))
    nodes = [
        replace(
            node,
            inputs=tuple(renamed.get(name, name) for name in node.inputs),
            outputs=tuple(renamed.get(name, name) for name in node.outputs),
        )
        for node in tape.nodes
    ]
    used = {name for node in nodes for name in node.inputs}
    constants = {name: value for name, value in tape.initializers.items() if name in used}
    return Graph((*nodes, *copies), inputs, tuple(outputs), constants)
