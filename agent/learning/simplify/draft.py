"""The simplified graph under construction: what the rewriting rules read from and write to.

Responsible for what is known of every value of the exported graph, for fresh names, shared
constants and shapes. Invariant: every node it holds is of the core set, and its shape was inferred
by the rules that derivation will use, so that what cannot be trained is refused at the exported
node that asked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from agent.learning.ir import Array, Attribute, Graph, GraphError, Limits, Node, is_trainable
from agent.learning.operators import OPERATORS
from agent.learning.shapes import BATCH, LARGEST_VALUE, Shape, check_shape, elements, has_batch
from agent.learning.simplify.folding import Budget
from agent.learning.simplify.known import Known, constant, spread


@dataclass(frozen=True)
class Live:
    """A value that is computed when the model runs, or a parameter.

    Attributes:
      name: in the simplified graph.
      shape: begins with `BATCH` where the exported value has a batch axis.
      alike: the same for every example, so that the simplified graph keeps only one in its place
        (a batch axis of size 1, stretched by whatever the value is combined with). The initial
        state of a recurrent network is such a value.
    """

    name: str
    shape: Shape
    alike: bool = False


@dataclass(frozen=True)
class Waiting:
    """A value that only certain operators can take, because no core operator computes it.

    Attributes:
      node: the exported node.
      source: its data.
      detail: padding before and after each spatial axis, or the number compared with.
      reason: why other operators cannot take it.
    """

    node: Node
    source: Live
    detail: tuple[float, ...]
    reason: str


@dataclass(frozen=True)
class Parts:
    """A sequence of values, of which core operators can only take one at a time.

    Attributes:
      node: the exported node.
      items: the values.
    """

    node: Node
    items: tuple[Live, ...]


Value = Live | Known | Waiting | Parts


class Draft:
    """The simplified graph so far.

    Attributes:
      source: the exported graph.
      budget: what folding may still cost.
      values: what is known of each exported value, by name.
      nodes: the nodes so far, in topological order.
      initializers: parameters and constants of the simplified graph.
      makers: the exported node that computes a value, by the value's name.
      readers: the exported nodes that use it.
    """

    def __init__(self, source: Graph, limits: Limits, frozen: frozenset[str]) -> None:
        """Begin with the exported graph's input and initializers; those `frozen` are constants."""
        self.source = source
        self.budget = Budget()
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.initializers: dict[str, Array] = {}
        self._limits = limits
        self._constants: dict[str, Array] = {}
        self._interned: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._marks: dict[int, Live] = {}
        self._taken = {name for node in source.nodes for name in node.outputs}
        self._taken.update(source.initializers, (value.name for value in source.inputs))
        self._written: dict[str, Node] = {}
        self._labels: dict[str, int] = {}
        self._count = 0
        for name, value in source.initializers.items():
            if is_trainable(value) and name not in frozen:
                self.initializers[name] = value
                self.values[name] = Live(name, value.shape)
            else:
                self.values[name] = constant(value)
        self.makers = {name: node for node in source.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in source.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self._data = Live(source.inputs[0].name, _data_shape(source))
        self.values[self._data.name] = self._data

    def value(self, node: Node, index: int) -> Value | None:
        """Return what is known of a node's input; None when it is omitted.

        Raises:
          GraphError: reading constants over and over has spent the budget.
        """
        name = node.inputs[index] if index < len(node.inputs) else ""
        value = self.values[name] if name else None
        if isinstance(value, Known):
            self.budget.charge(node, [value.first])
        return value

    def data(self, node: Node, index: int) -> Live:
        """Return a node's input as a value that can be computed with.

        Raises:
          GraphError: it is omitted, no float32, or waits for another operator.
        """
        value = self.value(node, index)
        if isinstance(value, Live):
            return value
        if isinstance(value, Waiting):
            raise GraphError(value.node.describe(), value.reason)
        if isinstance(value, Parts):
            raise GraphError(
                value.node.describe(), "only single values of its sequence can be used"
            )
        if value is None:
            raise GraphError(node.describe(), f"input {index} is missing")
        return self.tensor(node, value)

    def fixed(self, node: Node, index: int) -> Array | None:
        """Return the values of an input that must be constant; None when it is omitted.

        A float32 initializer counts as constant here: where this is asked no operator could
        train it.

        Raises:
          GraphError: it is computed, or depends on the batch.
        """
        value = self.value(node, index)
        if value is None:
            return None
        if isinstance(value, Live) and value.name in self.source.initializers:
            initializer = self.source.initializers[value.name]
            self.budget.charge(node, [initializer])
            return initializer
        settled = value.settled() if isinstance(value, Known) else None
        if settled is None:
            raise GraphError(node.describe(), f"input {index} must be a constant")
        return settled

    def ints(self, *values: int) -> Live:
        """Return a constant int64 vector."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float) -> Live:
        """Return a float32 number."""
        return self._constant(np.array(value, np.float32))

    def tensor(self, node: Node, value: Known) -> Live:
        """Return a known float32 value as a constant of the simplified graph.

        Raises:
          GraphError: another element type, or values that depend on the size of the batch.
        """
        if value.dtype != np.float32:
            raise GraphError(node.describe(), f"computes with {value.dtype} values")
        shape, array = spread(node, value)
        self.budget.charge(node, [array])
        return replace(self._constant(array), shape=shape, alike=has_batch(shape))

    def emit(self, node: Node, op: str, *inputs: Live | None, **attributes: Attribute) -> Live:
        """Append a core node.

        Args:
          node: the exported node it stands for, to be named in errors.
          op: a core operator.
          inputs: None for an omitted one.
          attributes: of the core node.

        Raises:
          GraphError: the operator cannot be derived from these inputs, or there are too many
            nodes.
        """
        if len(self.nodes) >= self._limits.nodes:
            raise GraphError(
                node.describe(), f"more than {self._limits.nodes} nodes after simplification"
            )
        names = tuple("" if value is None else value.name for value in inputs)
        core = Node(op, names, (self._fresh(),), attributes, self._label(node))
        shape = self._infer(node, core, inputs)
        if len(shape) > self._limits.rank:
            raise GraphError(node.describe(), f"a value has {len(shape)} axes")
        self.nodes.append(core)
        self._written[core.outputs[0]] = core
        examples = [value for value in inputs if value is not None and has_batch(value.shape)]
        alike = has_batch(shape) and all(value.alike for value in examples)
        return Live(core.outputs[0], shape, alike)

    def maker(self, value: Live) -> Node | None:
        """Return the core node that computes a value; None for the data and initializers."""
        return self._written.get(value.name)

    def each(self, node: Node, value: Live) -> Live:
        """Return a value that is alike for all examples with a real batch axis.

        The sum with 0 times a number of each example; there is no core operator that only
        stretches. Needed where values are joined, and nowhere else.
        """
        if not value.alike:
            return value
        rank = len(value.shape)
        if rank not in self._marks:
            rows = self.emit(node, "Reshape", self._data, self.ints(0, -1))
            first = self.emit(node, "Slice", rows, self.ints(0), self.ints(1), self.ints(1))
            zeros = self.emit(node, "Mul", first, self.scalar(0.0))
            self._marks[rank] = self.emit(node, "Reshape", zeros, self.ints(-1, *(1,) * (rank - 1)))
        return self.emit(node, "Add", value, self._marks[rank])

    def rename(self, value: Live, name: str) -> Live:
        """Give a value that the last node computed the name it has in the exported graph."""
        last = self.nodes[-1] if self.nodes else None
        if last is None or last.op == "Constant" or last.outputs != (value.name,):
            return value
        self.nodes[-1] = self._written[name] = replace(last, outputs=(name,))
        return replace(value, name=name)

    def _infer(self, node: Node, core: Node, inputs: Sequence[Live | None]) -> Shape:
        operator = OPERATORS.get(core.op)
        if operator is None:
            raise GraphError(node.describe(), f"operator {core.op!r} cannot be derived")
        shapes = [() if value is None else value.shape for value in inputs]
        try:
            operator.check(core)
            return check_shape(core, operator.infer(core, shapes, self._constants))
        except GraphError as error:
            raise GraphError(node.describe(), error.reason) from error

    def _constant(self, value: Array) -> Live:
        value = np.ascontiguousarray(value).reshape(value.shape)
        key = (value.dtype.str, value.shape, sha256(value.tobytes()).digest())
        if key not in self._interned:
            name = self._fresh()
            self._interned[key] = name
            self._constants[name] = value
            if is_trainable(value):  # as an initializer it would be taken for a parameter
                self.nodes.append(Node("Constant", (), (name,), {"value": value}, name))
            else:
                self.initializers[name] = value
        return Live(self._interned[key], value.shape)

    def _label(self, node: Node) -> str:
        """Return a name for a core node that tells its exported node; ONNX Runtime wants it new."""
        label = node.name or node.outputs[0]
        count = self._labels.get(label, 0)
        self._labels[label] = count + 1
        if not count:
            return label
        tail = f"#{count}"
        return label[: self._limits.name_length - len(tail)] + tail

    def _fresh(self) -> str:
        while True:
            self._count += 1
            name = f"v{self._count}"
            if name not in self._taken:
                return name


def _data_shape(graph: Graph) -> Shape:
    given = graph.inputs[0]
    where = f"input {given.name!r}"
    if given.dtype != "float32" or not given.shape:
        raise GraphError(where, f"must be float32 (batch, sizes...), is {given.dtype}")
    if isinstance(given.shape[0], int):
        raise GraphError(where, "its first axis must be dynamic (the batch); export it so")
    sizes = tuple(size for size in given.shape[1:] if isinstance(size, int) and size > 0)
    if len(sizes) != len(given.shape) - 1:
        raise GraphError(where, f"only the first axis may be dynamic, its shape is {given.shape}")
    if elements(sizes) > LARGEST_VALUE:
        raise GraphError(where, f"one example has more than {LARGEST_VALUE} elements")
    return (BATCH, *sizes)
