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
from dataclasses import dataclass, replace

import numpy as np

from agent.learning.ir import Graph, GraphError, Node, ValueInfo, check_graph, is_trainable
from agent.learning.losses import (
    DATA,
    TARGET,
    WEIGHTS,
    Loss,
    target_of,
    write_example_slopes,
    write_margin_slope,
    write_mean_loss,
)
from agent.learning.operators import OPERATORS
from agent.learning.shapes import BATCH, Shape, check_shape, elements, has_batch
from agent.learning.tape import GENERATED, Tape

LOSS, OUTPUT, GRADIENT_PREFIX = "loss", "output", "grad:"
"""Names in derived graphs: the loss, the model's output, the gradients."""

CLIP, NORMS = "clip", "norms"
"""Names in clipped-sum graphs: the largest norm of one example's gradient, and the norms found."""

LARGEST_MODEL = 4 << 20
"""Elements of all values of a forward pass of one example together; float32, so 16 MiB."""

LARGEST_WORKSPACE = 16 << 20
"""Elements that one node may need for one example besides its values; float32, so 64 MiB."""

_RESERVED = frozenset({DATA, TARGET, WEIGHTS, LOSS, OUTPUT, CLIP, NORMS})


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
    steps = list(tape.nodes)
    mean = write_mean_loss(tape, loss, output)
    tape.gradients[output] = mean.slope
    gradients = _backward(tape, steps, forward)
    outputs = [ValueInfo(LOSS, "float32", ())]
    outputs += [replace(p, name=GRADIENT_PREFIX + p.name) for p in _parameters(forward)]
    return _finish(
        tape,
        _training_inputs(tape, forward, loss, output),
        outputs,
        {
            LOSS: mean.value,
            **gradients,
        },
    )


def derive_per_example_graph(forward: Graph, loss: Loss) -> Graph:
    """Derive the graph that computes each example's own gradients.

    Args:
      forward: as for `derive_training_graph`.
      loss: what to differentiate.

    Returns:
      A graph with the inputs of the training graph and, for each parameter of shape S, the output
      `grad:<parameter>` of shape (N, *S): example n's is the gradient of w_n l_n.

    Raises:
      GraphError: as `derive_training_graph`.
    """
    tape, output = _replay(forward, per_example=True)
    gradients = _per_example_gradients(tape, forward, loss, output)
    outputs = [
        ValueInfo(GRADIENT_PREFIX + p.name, "float32", (BATCH, *p.shape))
        for p in _parameters(forward)
    ]
    return _finish(tape, _training_inputs(tape, forward, loss, output), outputs, gradients)


def derive_clipped_sum_graph(forward: Graph, loss: Loss) -> Graph:
    """Derive the graph that sums the examples' gradients, each clipped to a norm first.

    The clipping of differentially private training (Abadi et al., arXiv:1607.00133, algorithm 1);
    the noise is no part of the graph, because no graph has a trustworthy source of randomness.

    Args:
      forward: as for `derive_training_graph`.
      loss: what to differentiate.

    Returns:
      A graph with the inputs of the training graph and the scalar `clip`, and the outputs `norms`
      (N,), the norms |g_n| of the examples' gradients over all parameters before clipping, and
      `grad:<parameter>`, the sums over n of g_n min(1, clip / |g_n|).

    Raises:
      GraphError: as `derive_training_graph`.
    """
    tape, output = _replay(forward, per_example=True)
    gradients = _per_example_gradients(tape, forward, loss, output)
    parameters = _parameters(forward)
    flat = {
        name: tape.emit("Reshape", value, tape.ints(0, -1)) for name, value in gradients.items()
    }
    # ONNX Runtime's ReduceSumSquare is 2.7e-5 off at 90,000 elements, ReduceSum 1.7e-6, measured.
    squares = [
        tape.emit("ReduceSum", tape.emit("Mul", value, value), tape.ints(1), keepdims=0)
        for value in flat.values()
    ]
    total = squares[0] if len(squares) == 1 else tape.emit("Sum", *squares)
    norms = tape.emit("Sqrt", total)
    factor = tape.emit("Min", tape.emit("Div", CLIP, norms), tape.scalar(1.0))
    row = tape.emit("Unsqueeze", factor, tape.ints(0))
    results = {NORMS: norms}
    for parameter in parameters:
        name = GRADIENT_PREFIX + parameter.name
        results[name] = tape.reshape(tape.emit("MatMul", row, flat[name]), _sizes(parameter))
    outputs = [ValueInfo(NORMS, "float32", (BATCH,))]
    outputs += [replace(p, name=GRADIENT_PREFIX + p.name) for p in parameters]
    inputs = (*_training_inputs(tape, forward, loss, output), ValueInfo(CLIP, "float32", ()))
    return _finish(tape, inputs, outputs, results)


def derive_input_gradient_graph(forward: Graph, loss: Loss) -> Graph:
    """Derive the graph that computes how each example's margin changes with its own input.

    Args:
      forward: as for `derive_training_graph`.
      loss: decides the margin, see `losses.margins`.

    Returns:
      A graph with inputs x, w float32 (N,), then each parameter by its name, and the output
      `grad:x` of the shape of x: row n is the gradient of w_n m_n in x_n, m_n its margin.

    Raises:
      GraphError: as `derive_training_graph`, or the loss has no margin.
    """
    tape, output = _replay(forward, of_input=True)
    steps = list(tape.nodes)
    tape.gradients[output] = write_margin_slope(tape, loss, output)
    _walk_back(tape, steps)
    data = _data(forward)
    inputs = (data, ValueInfo(WEIGHTS, "float32", (BATCH,)), *_parameters(forward))
    name = GRADIENT_PREFIX + DATA
    return _finish(tape, inputs, [replace(data, name=name)], {name: tape.gradients[DATA]})


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


@dataclass(frozen=True)
class Footprint:
    """What one example needs, in float32 elements.

    Attributes:
      values: of a forward pass, all together.
      workspace: of the neediest node, besides the values.
    """

    values: int
    workspace: int


def footprint(forward: Graph) -> Footprint:
    """Tell what one example needs of memory.

    Raises:
      GraphError: as `derive_training_graph`.
    """
    tape, _ = _replay(forward)
    values = sum(elements(shape) for shape in tape.shapes.values() if has_batch(shape))
    return Footprint(values, tape.workspace)


def output_shape(forward: Graph) -> Shape:
    """Return the shape of a model's output; the batch axis is `BATCH`.

    Raises:
      GraphError: as `derive_training_graph`.
    """
    tape, output = _replay(forward)
    return tape.shapes[output]


def _training_inputs(tape: Tape, forward: Graph, loss: Loss, output: str) -> tuple[ValueInfo, ...]:
    target = target_of(loss, tape.shapes[output], tape.shapes[DATA])
    labels = () if target is None else (target,)
    weights = ValueInfo(WEIGHTS, "float32", (BATCH,))
    return (_data(forward), *labels, weights, *_parameters(forward))


def _per_example_gradients(tape: Tape, forward: Graph, loss: Loss, output: str) -> dict[str, str]:
    steps = list(tape.nodes)
    tape.gradients[output] = write_example_slopes(tape, loss, output)
    return _backward(tape, steps, forward)


def _backward(tape: Tape, steps: list[Node], forward: Graph) -> dict[str, str]:
    """Walk the forward nodes backwards; return output name -> gradient for each parameter."""
    _walk_back(tape, steps)
    gradients = {}
    for parameter in _parameters(forward):
        if parameter.name not in tape.gradients:
            raise GraphError(f"parameter {parameter.name!r}", "does not reach the model's output")
        gradients[GRADIENT_PREFIX + parameter.name] = tape.gradients[parameter.name]
    return gradients


def _walk_back(tape: Tape, steps: list[Node]) -> None:
    """Walk the forward nodes backwards; gradients of what is needed are then in the tape."""
    for node in reversed(steps):
        gradient = tape.gradients.get(node.outputs[0])
        if gradient is None or node.outputs[0] not in tape.needed:
            continue
        for name, contribution in OPERATORS[node.op].adjoint(tape, node, gradient):
            if name in tape.needed:
                tape.add_gradient(name, contribution)


def _sizes(value: ValueInfo) -> Shape:
    return tuple(size for size in value.shape if size is not None)


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


def _replay(
    forward: Graph, *, per_example: bool = False, of_input: bool = False
) -> tuple[Tape, str]:
    """Write a forward graph to a new tape, with shapes; return it and the output's name.

    Gradients are needed in the parameters, or, `of_input`, in the input instead.
    """
    check_graph(forward)
    tape = Tape(per_example=per_example)
    data = _data(forward)
    names = {forward.inputs[0].name: DATA}
    tape.shapes[DATA] = _sizes(data)
    for parameter in _parameters(forward):
        names[parameter.name] = parameter.name
        tape.shapes[parameter.name] = forward.initializers[parameter.name].shape
        tape.needed.add(DATA if of_input else parameter.name)
    for name, value in forward.initializers.items():
        if name not in names:
            names[name] = tape.constant(value)
            tape.constants[names[name]] = value
            tape.shapes[names[name]] = value.shape
    room = LARGEST_MODEL
    for node in _reaching([forward.outputs[0].name], forward.nodes):
        shape = _replay_node(tape, node, names)
        room -= elements(shape) if has_batch(shape) else 0
        if room < 0:
            raise GraphError(
                node.describe(), f"one example's values exceed {LARGEST_MODEL} elements here"
            )
    output = names[forward.outputs[0].name]
    if output not in tape.needed or tape.shapes[output][:1] != (BATCH,):
        raise GraphError(
            "model output", f"must depend on data and parameters, shape {tape.shapes[output]}"
        )
    return tape, output


def _replay_node(tape: Tape, node: Node, names: dict[str, str]) -> Shape:
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise GraphError(node.describe(), f"operator {node.op!r} cannot be derived")
    operator.check(node)
    moved = replace(node, inputs=tuple(names[name] if name else "" for name in node.inputs))
    shapes = [tape.shapes[name] if name else () for name in moved.inputs]
    for index, name in enumerate(moved.inputs):
        constant = tape.constants.get(name)
        if constant is not None and constant.dtype != np.float32 and index not in operator.settings:
            raise GraphError(node.describe(), f"computes with {constant.dtype} values")
    shape: Shape = check_shape(node, operator.infer(moved, shapes, tape.constants))
    workspace = operator.workspace(moved, shapes, shape)
    if workspace > LARGEST_WORKSPACE:
        raise GraphError(
            node.describe(),
            f"its windows hold {workspace} elements, at most {LARGEST_WORKSPACE} are allowed",
        )
    tape.workspace = max(tape.workspace, workspace)
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
    return shape


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
    nodes = _reaching(results, (*nodes, *copies))
    used = {name for node in nodes for name in node.inputs}
    constants = {name: value for name, value in tape.initializers.items() if name in used}
    return Graph(tuple(nodes), inputs, tuple(outputs), constants)


def _reaching(wanted: Iterable[str], nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes, in order, that the values `wanted` depend on."""
    needed = set(wanted)
    kept = []
    for node in reversed(tuple(nodes)):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]
