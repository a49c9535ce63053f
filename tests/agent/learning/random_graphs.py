"""Random forward graphs over every operator that can be derived, with data that fits them.

A sketch grows a graph step by step. The same steps grow values with a batch axis and, as branches,
values computed from parameters alone, which the derivation treats differently.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.graph import Graph, Node, ValueInfo
from agent.learning.losses import Loss

Draw = Callable[..., Any]
Shape = tuple[int, ...]

LARGEST = 300
"""Elements of one example's value; beyond it, the next step shrinks it."""


@dataclass
class Sketch:
    """A random forward graph under construction; the next step works on `value`."""

    random: np.random.Generator
    value: str
    shape: Shape  # without the batch axis
    batch: bool = True
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return len(self.shape) + self.batch

    def axis(self, place: int) -> int:
        """The axis of the whole value, for one of `shape`."""
        return place + self.batch

    def branch(self, *shape: int) -> "Sketch":
        """A second value in the same graph, which starts from a new parameter."""
        tensor = self.tensor(*shape)
        return Sketch(self.random, tensor, shape, False, self.nodes, self.initializers)

    def tensor(self, *shape: int) -> str:
        scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 1
        return self.add(np.asarray(self.random.standard_normal(shape) * scale, np.float32))

    def positive_tensor(self, *shape: int) -> str:
        return self.add(np.asarray(self.random.uniform(0.5, 2, shape), np.float32))

    def scalar(self, value: float) -> str:
        return self.add(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.add(np.array(values, np.int64))

    def add(self, values: NDArray[Any]) -> str:
        name = f"p{len(self.initializers)}"
        self.initializers[name] = values
        return name

    def constant(self, values: NDArray[Any]) -> str:
        self.nodes.append(Node("Constant", (), (f"c{len(self.nodes)}",), {"value": values}))
        return self.nodes[-1].outputs[0]

    def apply(self, op: str, *inputs: str, shape: Shape, **attributes: Any) -> None:
        output = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (output,), attributes, f"n{len(self.nodes)}"))
        self.value, self.shape = output, shape

    def turn(self, op: str, *settings: str, **attributes: Any) -> None:
        """Apply an operator that keeps the shape."""
        self.apply(op, self.value, *settings, shape=self.shape, **attributes)

    def reshape(self, *shape: int) -> None:
        target = self.ints(*(-1,) * self.batch, *shape)
        self.apply("Reshape", self.value, target, shape=shape)

    def make_positive(self) -> None:
        self.turn("Mul", self.value)
        self.turn("Add", self.scalar(0.3))


def multiply(draw: Draw, sketch: Sketch, width: int) -> None:
    """Multiply with a matrix; may add a bias."""
    if sketch.rank == 1:
        sketch.reshape(1, *sketch.shape)
    *lead, last = sketch.shape
    if sketch.rank > 2 or draw(st.booleans()):
        sketch.apply("MatMul", sketch.value, sketch.tensor(last, width), shape=(*lead, width))
        return
    transposed = draw(st.integers(0, 1))
    weight = sketch.tensor(*((width, last) if transposed else (last, width)))
    biases: tuple[Shape | None, ...] = ((), (1,), (width,), (1, width), None)
    bias = draw(st.sampled_from(biases if sketch.batch else (*biases, (*lead, width), (*lead, 1))))
    inputs = [sketch.value, weight] + ([] if bias is None else [sketch.tensor(*bias)])
    scale = {"alpha": draw(st.sampled_from((1.0, 0.5)))}
    if bias is not None:
        scale["beta"] = draw(st.sampled_from((1.0, 2.0)))
    sketch.apply("Gemm", *inputs, shape=(*lead, width), transB=transposed, **scale)


def _dense(draw: Draw, sketch: Sketch) -> None:
    multiply(draw, sketch, draw(st.integers(1, 9)))


def _operand(draw: Draw, sketch: Sketch, make: Callable[..., str]) -> str:
    """A parameter that broadcasts to the value."""
    shape = sketch.shape
    other = draw(st.sampled_from(((), shape[-1:], (1,), (1, *shape), (1, 1, *shape[1:]))))
    return make(*(shape if len(other) > sketch.rank else other))


def _arithmetic(op: str) -> Callable[[Draw, Sketch], None]:
    def step(draw: Draw, sketch: Sketch) -> None:
        shape = sketch.shape
        if op == "Div" and draw(st.booleans()):
            above = _operand(draw, sketch, sketch.tensor)
            sketch.make_positive()
            sketch.apply(op, above, sketch.value, shape=shape)
            return
        make = sketch.positive_tensor if op == "Div" else sketch.tensor
        pair = [sketch.value, _operand(draw, sketch, make)]
        if op != "Div" and draw(st.booleans()):
            pair.reverse()
        sketch.apply(op, *pair, shape=shape)

    return step


def _residual(draw: Draw, sketch: Sketch) -> None:
    before, shape = sketch.value, sketch.shape
    sketch.turn(draw(st.sampled_from(("Tanh", "Softplus"))))
    op = draw(st.sampled_from(("Add", "Sub", "Mul", "Div")))
    if op == "Div":
        sketch.make_positive()
    sketch.apply(op, before, sketch.value, shape=shape)


def _square(draw: Draw, sketch: Sketch) -> None:
    sketch.turn("Mul", sketch.value)


def _plain(op: str) -> Callable[[Draw, Sketch], None]:
    def step(draw: Draw, sketch: Sketch) -> None:
        if op in ("Log", "Sqrt"):
            sketch.make_positive()
        elif op == "Exp":
            sketch.turn("Tanh")
        sketch.turn(op)

    return step


def _pow(draw: Draw, sketch: Sketch) -> None:
    exponent = draw(st.sampled_from((2.0, 3.0, 1.0, -1.0, 0.5, 1.7, -0.5)))
    if exponent not in (2, 3):
        sketch.make_positive()
    if exponent == 2 and draw(st.booleans()):
        sketch.turn("Pow", sketch.add(np.array(2)))
    else:
        sketch.turn("Pow", sketch.scalar(exponent))


def _leaky_relu(draw: Draw, sketch: Sketch) -> None:
    alpha = draw(st.sampled_from((None, 0.2, 0.0, -0.5, 1.5)))
    sketch.turn("LeakyRelu", **({} if alpha is None else {"alpha": alpha}))


def _clip(draw: Draw, sketch: Sketch) -> None:
    low, high = draw(st.sampled_from(((-0.5, 0.7), (None, 0.3), (-0.2, None), (None, None))))
    bounds = ["" if bound is None else sketch.scalar(bound) for bound in (low, high)]
    while bounds and not bounds[-1] and draw(st.booleans()):
        bounds.pop()
    sketch.turn("Clip", *bounds)


def _flatten(draw: Draw, sketch: Sketch) -> None:
    total = int(np.prod(sketch.shape))
    if sketch.batch:
        axis = draw(st.sampled_from((1, -len(sketch.shape))))
        sketch.apply("Flatten", sketch.value, shape=(total,), axis=axis)
        return
    axis = draw(st.integers(-sketch.rank, sketch.rank))
    rows = int(np.prod(sketch.shape[:axis])) if axis else 1
    sketch.apply("Flatten", sketch.value, shape=(rows, total // rows), axis=axis)


def _reshape(draw: Draw, sketch: Sketch) -> None:
    flat = int(np.prod(sketch.shape))
    if not sketch.batch:
        target = draw(st.sampled_from(((-1,), (1, -1), (flat, 1), (0, -1), (-1, 1, flat))))
        new = np.zeros(sketch.shape).reshape(
            [sketch.shape[i] if size == 0 else size for i, size in enumerate(target)]
        )
        sketch.apply("Reshape", sketch.value, sketch.ints(*target), shape=new.shape)
        return
    target = draw(st.sampled_from(((-1, flat), (0, -1), (-1, 1, flat), (0, 1, flat))))
    shape = (1, flat) if len(target) == 3 else (flat,)
    sketch.apply("Reshape", sketch.value, sketch.ints(*target), shape=shape)


def _softmax(op: str) -> Callable[[Draw, Sketch], None]:
    def step(draw: Draw, sketch: Sketch) -> None:
        axis = sketch.axis(draw(st.integers(0, len(sketch.shape) - 1)))
        sketch.turn(op, axis=draw(st.sampled_from((axis, axis - sketch.rank))))

    return step


def _transpose(draw: Draw, sketch: Sketch) -> None:
    places = draw(st.permutations(range(len(sketch.shape))))
    shape = tuple(sketch.shape[place] for place in places)
    perm = (0,) * sketch.batch + tuple(sketch.axis(place) for place in places)
    backwards = tuple(range(sketch.rank))[::-1]
    attributes = {} if perm == backwards else {"perm": perm}
    sketch.apply("Transpose", sketch.value, shape=shape, **attributes)


def _concat(draw: Draw, sketch: Sketch) -> None:
    place = draw(st.integers(0, len(sketch.shape) - 1))
    before, shape = sketch.value, sketch.shape
    sketch.turn("Tanh")
    parts = draw(st.permutations((before, before, sketch.value)))[: draw(st.integers(1, 3))]
    if not sketch.batch:
        parts = [*parts, sketch.tensor(*shape)]
    joined = (*shape[:place], len(parts) * shape[place], *shape[place + 1 :])
    axis = sketch.axis(place)
    sketch.apply(
        "Concat", *parts, shape=joined, axis=draw(st.sampled_from((axis, axis - sketch.rank)))
    )


def _slice(draw: Draw, sketch: Sketch) -> None:
    settings: list[list[int]] = [[], [], [], []]
    shape = list(sketch.shape)
    order = draw(st.permutations(range(len(shape))))
    for place in order[: draw(st.integers(1, 2))]:
        size = shape[place]
        step = draw(st.sampled_from((1, 1, 2, 3, -1, -2)))
        first, last = sorted(draw(st.tuples(*[st.integers(0, size - 1)] * 2)))
        start, end = (first, last + 1) if step > 0 else (last, first - 1)
        if draw(st.booleans()) and step > 0:
            end = 2**63 - 1
        elif end < 0 or (draw(st.booleans()) and step < 0):
            end = -(2**63)
        shape[place] = len(range(size)[start:end:step])
        axis = sketch.axis(place)
        for values, one in zip(settings, (start, end, axis, step), strict=True):
            values.append(one)
        if draw(st.booleans()):
            settings[2][-1] -= sketch.rank
    if sketch.batch and draw(st.booleans()):
        for values, one in zip(settings, (0, 2**63 - 1, 0, 1), strict=True):
            values.append(one)
    sketch.apply(
        "Slice", sketch.value, *(sketch.ints(*values) for values in settings), shape=tuple(shape)
    )


def _gates(draw: Draw, sketch: Sketch) -> None:
    """Split the value into neighbours along an axis and multiply them again, as gates are."""
    place = draw(st.integers(0, len(sketch.shape) - 1))
    count, axis = draw(st.integers(2, 4)), sketch.axis(place)
    shape = sketch.shape
    sketch.apply(
        "Concat",
        *(sketch.value,) * count,
        shape=(*shape[:place], shape[place] * count, *shape[place + 1 :]),
        axis=axis,
    )
    sketch.turn("Mul", sketch.tensor(*sketch.shape))  # or all gates would be alike
    whole, gates = sketch.value, []
    for start in draw(st.permutations(range(count))):
        ends = sketch.ints((start + 1) * shape[place])
        sketch.apply(
            "Slice",
            whole,
            sketch.ints(start * shape[place]),
            ends,
            sketch.ints(axis),
            shape=shape,
        )
        gates.append(sketch.value)
    for gate in gates[: draw(st.integers(1, count))]:
        sketch.apply(draw(st.sampled_from(("Mul", "Sub"))), sketch.value, gate, shape=shape)


def _unsqueeze(draw: Draw, sketch: Sketch) -> None:
    place = draw(st.integers(0, len(sketch.shape)))
    shape = (*sketch.shape[:place], 1, *sketch.shape[place:])
    axis = sketch.axis(place)
    axes = sketch.ints(draw(st.sampled_from((axis, axis - sketch.rank - 1))))
    sketch.apply("Unsqueeze", sketch.value, axes, shape=shape)


def _squeeze(draw: Draw, sketch: Sketch) -> None:
    ones = [place for place, size in enumerate(sketch.shape) if size == 1]
    if not ones or len(ones) == len(sketch.shape):
        sketch.reshape(1, *sketch.shape, 1)
        ones = [0]
    shape = tuple(size for place, size in enumerate(sketch.shape) if place not in ones)
    if not sketch.batch and len(shape) + len(ones) == len(sketch.shape) and draw(st.booleans()):
        shape = tuple(size for size in sketch.shape if size != 1)
        sketch.apply("Squeeze", sketch.value, shape=shape)
        return
    axes = sketch.ints(*(sketch.axis(place) for place in ones))
    sketch.apply("Squeeze", sketch.value, axes, shape=shape)


def _reduce(op: str) -> Callable[[Draw, Sketch], None]:
    def step(draw: Draw, sketch: Sketch) -> None:
        all_places = range(len(sketch.shape))
        places = draw(st.sets(st.sampled_from(all_places), min_size=1))
        keep = 1 if len(places) == len(sketch.shape) else draw(st.sampled_from((None, 0, 1)))
        attributes = {} if keep is None else {"keepdims": keep}
        shape = tuple(
            1 if place in places else size
            for place, size in enumerate(sketch.shape)
            if place not in places or keep != 0
        )
        axes = [sketch.axis(place) for place in places]
        if draw(st.booleans()):
            axes = [axis - sketch.rank for axis in axes]
        if not sketch.batch and len(places) == len(sketch.shape) and draw(st.booleans()):
            sketch.apply(op, sketch.value, shape=shape, **attributes)
        else:
            sketch.apply(op, sketch.value, sketch.ints(*axes), shape=shape, **attributes)

    return step


def _no_reduction(draw: Draw, sketch: Sketch) -> None:
    sketch.turn(draw(st.sampled_from(("ReduceSum", "ReduceMean"))), noop_with_empty_axes=1)


def _layer_normalization(draw: Draw, sketch: Sketch) -> None:
    place = draw(st.integers(0, len(sketch.shape) - 1))
    normal = sketch.shape[place:]
    choices = (normal, (1,), normal[-1:], (1,) * len(normal), ())
    scale, bias = draw(st.sampled_from(choices)), draw(st.sampled_from((*choices, None)))
    # ONNX Runtime takes any scale that broadcasts, unless it is a scalar.
    if draw(st.booleans()):
        inputs = [sketch.constant(np.ones(normal, np.float32))]
    else:
        inputs = [sketch.positive_tensor(*(scale or (1,)))]
    if bias is not None:
        inputs.append(sketch.tensor(*(bias or (1,))))
    axis = sketch.axis(place)
    axis = draw(st.sampled_from((axis, axis - sketch.rank)))
    epsilon = draw(st.sampled_from((1e-5, 0.1)))
    sketch.turn("LayerNormalization", *inputs, axis=axis, epsilon=epsilon)


UPSAMPLING = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def _resize(draw: Draw, sketch: Sketch) -> None:
    if sketch.rank == 1:
        sketch.reshape(1, 1, *sketch.shape)
    elif sketch.rank == 2:
        sketch.reshape(1, *sketch.shape) if sketch.batch else sketch.reshape(*sketch.shape, 1)
    elif sketch.rank > 4:
        sketch.reshape(*(sketch.shape[: 3 - sketch.batch]), -1)
        return
    spatial = range(2 - sketch.batch, len(sketch.shape))
    factors = [draw(st.integers(1, 3)) for _ in spatial]
    grown = [sketch.shape[place] * f for place, f in zip(spatial, factors, strict=True)]
    shape = (*sketch.shape[: 2 - sketch.batch], *grown)
    if draw(st.booleans()):
        scales = sketch.constant(np.array([1, 1, *factors], np.float32))
        attributes: dict[str, Any] = {"cubic_coeff_a": -0.75}
        inputs = ["", scales]
    else:
        attributes = {"axes": tuple(sketch.axis(place) for place in spatial)}
        inputs = ["", "", sketch.ints(*grown)]
    sketch.apply("Resize", sketch.value, *inputs, shape=shape, **UPSAMPLING, **attributes)


def _weights(draw: Draw, sketch: Sketch, within: str | None = None) -> None:
    """Compute a parameter from parameters, by the same steps, and use it."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    branch = sketch.branch(*shape)
    steps = draw(st.lists(st.sampled_from(tuple(STEPS)), min_size=1, max_size=3))
    for kind in steps if within is None else ("Mul", within):
        grow(draw, branch, kind)
    total = int(np.prod(branch.shape))
    *lead, last = sketch.shape
    use = draw(st.sampled_from(("MatMul", "Gemm", "Mul", "Add", "LayerNormalization")))
    width = draw(st.integers(1, 5)) if use in ("MatMul", "Gemm") else 1
    branch.reshape(1, total)
    matrix = branch.tensor(total, last * width)
    branch.apply("MatMul", branch.value, matrix, shape=(1, last * width))
    if use in ("MatMul", "Gemm"):
        branch.reshape(last, width)
        op = "MatMul" if sketch.rank != 2 else use
        if sketch.rank == 1:
            sketch.reshape(1, last)
            lead = [1]
        sketch.apply(op, sketch.value, branch.value, shape=(*lead, width))
        return
    branch.reshape(last)
    if use == "LayerNormalization":
        sketch.turn(use, branch.value)
    else:
        pair = draw(st.permutations((sketch.value, branch.value)))
        sketch.apply(use, *pair, shape=sketch.shape)


STEPS: Mapping[str, Callable[[Draw, Sketch], None]] = {
    "dense": _dense,
    **{op: _arithmetic(op) for op in ("Add", "Sub", "Mul", "Div")},
    "residual": _residual,
    "square": _square,
    **{
        op: _plain(op)
        for op in ("Erf", "Exp", "Identity", "Log", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt")
    },
    "Tanh": _plain("Tanh"),
    "Pow": _pow,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Softmax": _softmax("Softmax"),
    "LogSoftmax": _softmax("LogSoftmax"),
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "gates": _gates,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ReduceSum": _reduce("ReduceSum"),
    "ReduceMean": _reduce("ReduceMean"),
    "no reduction": _no_reduction,
    "LayerNormalization": _layer_normalization,
    "Resize": _resize,
}
"""Kind of step -> how it grows a sketch."""

KINDS = (*STEPS, *("weights",) * 4)


def grow(draw: Draw, sketch: Sketch, kind: str, within: str | None = None) -> None:
    """Take one step, and shrink the value when it has become too large or deep."""
    if kind == "weights":
        _weights(draw, sketch, within)
    else:
        STEPS[kind](draw, sketch)
    if not sketch.shape:
        sketch.reshape(1)
    if int(np.prod(sketch.shape)) > LARGEST or len(sketch.shape) > 3:
        flat = int(np.prod(sketch.shape))
        sketch.reshape(flat)
        multiply(draw, sketch, 5)


@st.composite
def problems(
    draw: Draw,
    kinds: tuple[str, ...] = KINDS,
    steps: tuple[str, ...] | None = None,
    within: str | None = None,
) -> tuple[Graph, Loss, NDArray[Any], NDArray[Any], Any]:
    """A forward graph with a loss, rows, labels and weights.

    Args:
      draw: from hypothesis.
      kinds: what steps are drawn from.
      steps: exactly these instead.
      within: the kind of step that computes weights, instead of any.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    sketch = Sketch(random, "x", shape)
    multiply(draw, sketch, draw(st.integers(1, 9)))
    drawn = draw(st.lists(st.sampled_from(kinds), max_size=6)) if steps is None else steps
    for kind in drawn:
        grow(draw, sketch, kind, within)
    loss = draw(st.sampled_from(list(Loss)))
    if loss not in (Loss.MSE, Loss.HUBER) and len(sketch.shape) > 1:
        grow(draw, sketch, "Flatten")
    if loss is Loss.RECONSTRUCTION:
        multiply(draw, sketch, int(np.prod(shape)))
        sketch.reshape(*shape)
    else:
        multiply(draw, sketch, 1 if loss is Loss.BINARY_CROSS_ENTROPY else draw(st.integers(2, 5)))
    graph = Graph(
        tuple(sketch.nodes),
        (ValueInfo("x", "float32", ("batch", *shape)),),
        (ValueInfo(sketch.value, "float32", ("batch", *sketch.shape)),),
        sketch.initializers,
    )
    rows = draw(st.integers(1, 9))
    x = random.standard_normal((rows, *shape)).astype(np.float32)
    w = np.asarray(random.uniform(0.01, 3, rows), np.float32)
    return graph, loss, x, _labels(random, loss, rows, sketch.shape), w


def _labels(random: np.random.Generator, loss: Loss, rows: int, shape: Shape) -> NDArray[Any]:
    if loss is Loss.CROSS_ENTROPY:
        return np.asarray(random.integers(0, shape[0], rows))
    if loss is Loss.RECONSTRUCTION:
        return np.zeros((rows, 0), np.float32)
    if loss in (Loss.MSE, Loss.HUBER):
        return np.asarray(random.standard_normal((rows, *shape)), np.float32)
    return np.asarray(random.integers(0, 2, (rows, 1)), np.float32)
