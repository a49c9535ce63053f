"""Forward graphs for the export tests, made by hand with random weights.

Every family of the product is here, and every operator in the situations that lowering treats
differently. Hidden activations keep a standard deviation near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.observe import observe
from agent.learning.ir import Array, Attribute, Graph, Node, ValueInfo


@dataclass
class Sketch:
    """A forward graph under construction; every method appends a node and returns its output."""

    row: tuple[int, ...]
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, Array] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        output = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(Node(kind, inputs, (output,), attributes, output))
        return output

    def parameter(self, *shape: int, fan_in: int = 1, shift: float = 0.0) -> str:
        name = f"p{len(self.initializers)}"
        values = self.random.standard_normal(shape) * np.sqrt(2 / fan_in) + shift
        self.initializers[name] = values.astype(np.float32)
        return name

    def settings(self, *values: int) -> str:
        name = f"s{len(self.initializers)}"
        self.initializers[name] = np.array(values, np.int64)
        return name

    def ones(self, size: int) -> str:
        """A constant vector that is no parameter."""
        return self.scales(*[1.0] * size)

    def scales(self, *values: float) -> str:
        """A constant that is no parameter: Resize wants float32 of rank 1."""
        output = f"scales{len(self.nodes)}"
        constant = {"value": np.array(values, np.float32)}
        self.nodes.append(Node("Constant", (), (output,), constant, output))
        return output

    def number(self, value: float) -> str:
        """A scalar constant."""
        name = f"c{len(self.initializers)}"
        self.initializers[name] = np.array(value, np.float32)
        return name

    def dense(self, value: str, inputs: int, outputs: int) -> str:
        weight = self.parameter(outputs, inputs, fan_in=inputs)
        return self.op("Gemm", value, weight, self.parameter(outputs, fan_in=20), transB=1)

    def conv(
        self, value: str, channels: Sequence[int], kernel: Sequence[int], **attributes: Attribute
    ) -> str:
        group = attributes.get("group", 1)
        assert isinstance(group, int)
        inner = channels[0] // group
        weight = self.parameter(channels[1], inner, *kernel, fan_in=inner * int(np.prod(kernel)))
        bias = self.parameter(channels[1], fan_in=20)
        return self.op("Conv", value, weight, bias, kernel_shape=tuple(kernel), **attributes)

    def upconv(
        self, value: str, channels: Sequence[int], kernel: Sequence[int], **attributes: Attribute
    ) -> str:
        group = attributes.get("group", 1)
        assert isinstance(group, int)
        outputs = channels[1] // group
        weight = self.parameter(channels[0], outputs, *kernel, fan_in=2 * channels[0] // group)
        bias = self.parameter(channels[1], fan_in=20)
        return self.op(
            "ConvTranspose", value, weight, bias, kernel_shape=tuple(kernel), **attributes
        )

    def graph(self, output: str) -> Graph:
        return Graph(
            nodes=tuple(self.nodes),
            inputs=(ValueInfo("x", "float32", ("N", *self.row)),),
            outputs=(ValueInfo(output, "float32", ("N", *self._output_sizes(output))),),
            initializers=self.initializers,
        )

    def _output_sizes(self, output: str) -> tuple[int, ...]:
        guess = Graph(
            tuple(self.nodes),
            (ValueInfo("x", "float32", ("N", *self.row)),),
            (ValueInfo(output, "float32", ("N",)),),
            self.initializers,
        )
        return observe(guess).shapes[output][1:]


def mlp() -> Graph:
    s = Sketch((16,))
    hidden = s.op("Relu", s.dense("x", 16, 32))
    hidden = s.op("Tanh", s.dense(hidden, 32, 24))
    return s.graph(s.op("Softmax", s.dense(hidden, 24, 5), axis=1))


def cnn1d() -> Graph:
    s = Sketch((3, 256))
    h = s.op("Relu", s.conv("x", (3, 16), (13,), strides=(4,), pads=(6, 6)))
    h = s.op("MaxPool", h, kernel_shape=(2,), strides=(2,))
    h = s.op("Relu", s.conv(h, (16, 24), (7,), strides=(2,), pads=(3, 3)))
    h = s.op("AveragePool", h, kernel_shape=(2,), strides=(2,))
    h = s.op("Relu", s.conv(h, (24, 32), (5,), pads=(2, 2)))
    h = s.op("Flatten", s.op("GlobalAveragePool", h))
    return s.graph(s.dense(h, 32, 4))


def depthwise1d() -> Graph:
    s = Sketch((6, 64))
    h = s.op("LeakyRelu", s.conv("x", (6, 12), (9,), group=6, pads=(4, 4)), alpha=0.1)
    h = s.op("Relu", s.conv(h, (12, 20), (1,)))
    h = s.op("Relu", s.conv(h, (20, 20), (5,), group=20, strides=(2,), pads=(2, 2)))
    h = s.conv(h, (20, 16), (1,))
    h = s.op("Relu", s.conv(h, (16, 16), (3,), group=4, pads=(2, 2), dilations=(2,)))
    return s.graph(s.dense(s.op("Flatten", h), 16 * 32, 1))


def cnn2d() -> Graph:
    s = Sketch((1, 32, 32))
    h = s.op("Relu", s.conv("x", (1, 8), (3, 3), pads=(1, 1, 1, 1)))
    h = s.op("MaxPool", h, kernel_shape=(2, 2), strides=(2, 2))
    h = s.op("Relu", s.conv(h, (8, 16), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    skip = h
    h = s.op("Relu", s.conv(h, (16, 16), (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)))
    h = s.op("Relu", s.op("Add", s.conv(h, (16, 16), (3, 3), pads=(1, 1, 1, 1)), skip))
    h = s.op("MaxPool", h, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    h = s.op("Relu", s.dense(s.op("Flatten", h), 256, 32))
    return s.graph(s.dense(h, 32, 7))


def autoencoder1d() -> Graph:
    s = Sketch((2, 64))
    h = s.op("Relu", s.conv("x", (2, 8), (5,), strides=(2,), pads=(2, 2)))
    h = s.op("Relu", s.conv(h, (8, 12), (5,), strides=(2,), pads=(2, 2)))
    code = s.dense(s.op("Flatten", h), 12 * 16, 8)
    h = s.op("Relu", s.dense(code, 8, 12 * 16))
    h = s.op("Reshape", h, s.settings(-1, 12, 16))
    h = s.op("Relu", s.upconv(h, (12, 8), (4,), strides=(2,), pads=(1, 1)))
    return s.graph(s.upconv(h, (8, 2), (5,), strides=(2,), pads=(2, 2), output_padding=(1,)))


def autoencoder2d() -> Graph:
    s = Sketch((1, 16, 16))
    h = s.op("Relu", s.conv("x", (1, 6), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    h = s.op("Relu", s.conv(h, (6, 8), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    h = s.op("Relu", s.upconv(h, (8, 6), (2, 2), strides=(2, 2)))
    h = s.op(
        "Resize",
        h,
        "",
        s.scales(1, 1, 2, 2),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return s.graph(s.op("Sigmoid", s.conv(h, (6, 1), (3, 3), pads=(1, 1, 1, 1))))


def normalized1d() -> Graph:
    """Layer normalization, attention-like products, slices and joins."""
    s = Sketch((12, 8))
    h = s.op("MatMul", "x", s.parameter(8, 16, fan_in=8))
    h = s.op("Add", h, s.parameter(16))
    scale, bias = s.parameter(16, fan_in=20, shift=1.0), s.parameter(16, fan_in=20)
    h = s.op("LayerNormalization", h, scale, bias, axis=-1)
    left = s.op("Slice", h, s.settings(0), s.settings(8), s.settings(2))
    right = s.op("Slice", h, s.settings(8), s.settings(16), s.settings(2), s.settings(1))
    scores = s.op("MatMul", left, s.op("Transpose", right, perm=(0, 2, 1)))
    attention = s.op("Softmax", s.op("Mul", scores, s.number(0.35)), axis=-1)
    mixed = s.op("MatMul", attention, right)
    h = s.op("Concat", mixed, left, axis=2)
    h = s.op("ReduceMean", h, s.settings(1), keepdims=0)
    return s.graph(s.dense(h, 16, 3))


def group_normalized1d() -> Graph:
    """Group normalization as it reaches training, and a squeeze-and-excite gate."""
    s = Sketch((4, 40))
    h = s.conv("x", (4, 8), (5,), strides=(2,), pads=(2, 2))
    grouped = s.op("Reshape", h, s.settings(0, 2, -1))
    scale = s.ones(80)
    h = s.op("Reshape", s.op("LayerNormalization", grouped, scale, axis=-1), s.settings(0, 8, 20))
    h = s.op("Mul", h, s.parameter(8, 1, fan_in=20, shift=1.0))
    h = s.op("Relu", s.op("Add", h, s.parameter(8, 1, fan_in=20)))
    gate = s.op("Squeeze", s.op("GlobalAveragePool", h), s.settings(2))
    gate = s.op("Sigmoid", s.dense(gate, 8, 8))
    h = s.op("Mul", h, s.op("Unsqueeze", gate, s.settings(2)))
    h = s.op("ReduceMean", h, s.settings(2), keepdims=0)
    return s.graph(s.dense(h, 8, 2))


def time_first1d() -> Graph:
    """Rows (time, channels), turned for the convolution and back."""
    s = Sketch((30, 5))
    h = s.op("Transpose", "x", perm=(0, 2, 1))
    h = s.op("Relu", s.conv(h, (5, 10), (5,), pads=(4, 0)))
    h = s.op("Transpose", h, perm=(0, 2, 1))
    h = s.op("Relu", s.op("Add", s.op("MatMul", h, s.parameter(10, 6, fan_in=10)), s.parameter(6)))
    return s.graph(s.dense(s.op("Reshape", h, s.settings(-1, 180)), 180, 1))


def pools2d() -> Graph:
    """Padded pools that TFLite's SAME does not pad so, and joins along channels."""
    s = Sketch((3, 14, 14))
    h = s.conv("x", (3, 6), (3, 3), pads=(0, 0, 1, 1), strides=(1, 2))
    a = s.op("MaxPool", h, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    b = s.op("AveragePool", h, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    c = s.op(
        "AveragePool",
        h,
        kernel_shape=(3, 3),
        strides=(2, 2),
        pads=(1, 1, 1, 1),
        count_include_pad=1,
    )
    h = s.op("Concat", a, b, c, axis=1)
    h = s.op("Slice", h, s.settings(2, 0), s.settings(16, 99), s.settings(1, 3), s.settings(1, 2))
    h = s.op("Sub", h, s.parameter(14, 1, 1, fan_in=20))
    h = s.op("Div", h, s.number(1.7))
    h = s.op("ReduceMean", h, s.settings(2), keepdims=1)
    return s.graph(s.dense(s.op("Flatten", h), 14 * 2, 3))


def upsampled1d() -> Graph:
    """Transposed convolutions with groups, dilation and padding that must be cut off."""
    s = Sketch((4, 10))
    h = s.op("Relu", s.upconv("x", (4, 6), (3,), group=2, pads=(1, 1), dilations=(2,)))
    h = s.upconv(h, (6, 6), (4,), group=6, strides=(2,), pads=(2, 0))
    h = s.op("Tanh", h)
    h = s.op(
        "Resize",
        h,
        "",
        s.scales(1, 1, 3),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return s.graph(s.op("Div", h, s.op("Add", s.op("Sigmoid", h), s.number(1.0))))


def functions1d() -> Graph:
    """Gelu as exporters write it, and the other functions of one value."""
    s = Sketch((4, 24))
    h = s.conv("x", (4, 8), (3,), pads=(1, 1))
    gate = s.op("Add", s.op("Erf", s.op("Mul", h, s.number(0.70710678))), s.number(1.0))
    h = s.op("Mul", s.op("Mul", h, s.number(0.5)), gate)
    h = s.op("Softplus", s.op("Neg", s.conv(h, (8, 8), (3,), group=8)))
    h = s.op("Log", s.op("Add", s.op("Pow", h, s.number(2.0)), s.number(1.0)))
    h = s.op("Sqrt", s.op("Exp", s.op("Clip", h, s.number(-0.5), s.number(1.5))))
    h = s.op("Clip", s.conv(h, (8, 6), (1,)), "", s.number(0.7))
    h = s.op("MaxPool", h, kernel_shape=(4,), strides=(3,), ceil_mode=1)
    return s.graph(s.dense(s.op("Flatten", h), 6 * 7, 3))


def sums1d() -> Graph:
    """Sums over axes, and values that are nothing but 0 or far below their operands."""
    s = Sketch((4, 24))
    h = s.conv("x", (4, 8), (3,), pads=(1, 1))
    nothing = s.op("Mul", h, s.number(0.0))
    faint = s.op("Sub", s.op("Add", h, s.parameter(8, 24, shift=1e-4)), h)
    rest = s.op("Mul", s.op("Sub", h, h), s.number(1e-6))
    h = s.op("Add", s.op("Add", h, nothing), s.op("Mul", rest, faint))
    sums = s.op("ReduceSum", h, s.settings(2), keepdims=0)
    square = s.op("Flatten", s.op("ReduceSum", s.op("Mul", h, h), s.settings(1), keepdims=1))
    joined = s.op("Concat", sums, square, s.op("Slice", sums, s.settings(0), s.settings(3),
                  s.settings(1)), axis=1)  # fmt: skip
    return s.graph(s.dense(joined, 8 + 24 + 3, 3))


def gru1d(steps: int = 6, features: int = 4, width: int = 8) -> Graph:
    """A gated recurrent unit, unrolled, over rows (time, features)."""
    s = Sketch((steps, features))
    weight, bias = s.parameter(3 * width, features, fan_in=features), s.parameter(3 * width)
    inner, shift = s.parameter(3 * width, width, fan_in=width), s.parameter(3 * width)

    def third(value: str, index: int) -> str:
        ends = s.settings(index * width), s.settings((index + 1) * width)
        return s.op("Slice", value, *ends, s.settings(1))

    state = s.op("Mul", s.op("ReduceMean", "x", s.settings(1, 2), keepdims=0), s.number(0.0))
    state = s.op("Add", s.op("Unsqueeze", state, s.settings(1)), s.scales(*[0.0] * width))
    for step in range(steps):
        now = s.op("Slice", "x", s.settings(step), s.settings(step + 1), s.settings(1))
        a = s.op("Gemm", s.op("Squeeze", now, s.settings(1)), weight, bias, transB=1)
        b = s.op("Gemm", state, inner, shift, transB=1)
        reset = s.op("Sigmoid", s.op("Add", third(a, 0), third(b, 0)))
        keep = s.op("Sigmoid", s.op("Add", third(a, 1), third(b, 1)))
        new = s.op("Tanh", s.op("Add", third(a, 2), s.op("Mul", reset, third(b, 2))))
        fresh = s.op("Mul", s.op("Sub", s.number(1.0), keep), new)
        state = s.op("Add", fresh, s.op("Mul", keep, state))
    return s.graph(s.dense(state, width, 1))


CASES: dict[str, Callable[[], Graph]] = {
    build.__name__: build
    for build in (
        mlp,
        cnn1d,
        depthwise1d,
        cnn2d,
        autoencoder1d,
        autoencoder2d,
        normalized1d,
        group_normalized1d,
        time_first1d,
        pools2d,
        upsampled1d,
        functions1d,
        gru1d,
        sums1d,
    )
}


def random_window(seed: int) -> Graph:
    """One convolution, transposed convolution or pool with any window, 1-D or 2-D."""
    random = np.random.default_rng(seed)
    axes = int(random.integers(1, 3))
    group, inner, outer = (int(size) for size in random.integers(1, 4, 3))
    sizes = tuple(int(size) for size in random.integers(8, 14, axes))
    kernel = tuple(int(size) for size in random.integers(1, 5, axes))
    strides = tuple(int(size) for size in random.integers(1, 4, axes))
    pads = tuple(int(random.integers(0, size)) for size in (*kernel, *kernel))
    kind = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")[seed % 4]
    s = Sketch((group * inner, *sizes))
    window: dict[str, Attribute] = {"strides": strides, "pads": pads}
    if kind.startswith("Conv"):
        channels = (group * inner, group * outer)
        dilations = tuple(int(size) for size in random.integers(1, 3, axes))
        if kind == "Conv":
            value = s.conv("x", channels, kernel, group=group, dilations=dilations, **window)
        else:
            extra = tuple(int(random.integers(0, step)) for step in strides)
            value = s.upconv(
                "x",
                channels,
                kernel,
                group=group,
                dilations=dilations,
                output_padding=extra,
                **window,
            )
        return s.graph(value)
    counted = {"count_include_pad": seed // 4 % 2} if kind == "AveragePool" else {}
    value = s.op("Mul", "x", s.parameter(group * inner, *(1,) * axes))
    return s.graph(s.op(kind, value, kernel_shape=kernel, **window, **counted))


def _geometry(seed: int) -> Callable[[], Graph]:
    return lambda: random_window(seed)


GEOMETRIES: dict[str, Callable[[], Graph]] = {
    f"window{seed}": _geometry(seed) for seed in range(32)
}


def rows_for(graph: Graph, count: int, seed: int) -> NDArray[np.float32]:
    """Smooth random rows of unlike channels, as sensors give them."""
    random = np.random.default_rng(seed)
    shape = graph.inputs[0].shape[1:]
    sizes = [size for size in shape if isinstance(size, int)]
    rows = random.standard_normal((count, *sizes))
    if len(sizes) > 1:
        rows = rows + np.cumsum(rows, axis=-1) / np.sqrt(sizes[-1])
    return rows.astype(np.float32)
