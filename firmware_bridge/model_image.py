"""From an int8 `.tflite` file to the image that a microcontroller runs.

Responsible for the translation: TFLite's operators, as `agent.learning.export` writes them for
dense layers, 1-D convolutions and autoencoders, into the device's few layers. RESHAPE
disappears, PAD goes into the convolution behind it, STRIDED_SLICE into the transposed
convolution before it, and a convolution's zero point into its bias; none of this changes a
result by one bit. Refuses, with operator and reason, whatever the device's kernels do not have.

Arithmetic after TensorFlow Lite's 8-bit specification,
https://ai.google.dev/edge/litert/models/quantization_spec
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_format import write_image
from firmware_bridge.image_layers import MAX_BIAS, Image, Layer, ModelImageError, Operation, Window
from firmware_bridge.tflite_reader import TfliteFile, TfliteFileError, read_tflite
from firmware_bridge.tflite_step import RELU, Step, quantized_multiplier

_SAME, _VALID = 0, 1  # the schema's `Padding`


def image_from_tflite(data: bytes) -> bytes:
    """Return the model image of an int8 `.tflite` file.

    Args:
      data: the file; int8 input and output, one row.

    Raises:
      ModelImageError: the device's kernels cannot do what it says, or it is no such file.
    """
    try:
        image = translate(read_tflite(data))
    except TfliteFileError as error:
        raise ModelImageError(str(error)) from error
    return write_image(image)


def translate(file: TfliteFile) -> Image:
    """Return a file's model as layers.

    Raises:
      ModelImageError: the device's kernels cannot do what it says.
      TfliteFileError: an operator's options are damaged.
    """
    return _Translation(file).run()


class _Translation:
    """Walks the operators, which must form one chain."""

    def __init__(self, file: TfliteFile) -> None:
        self._file = file
        self._layers: list[Layer] = []
        self._at = file.input
        self._padding = (0, 0)  # samples of a PAD whose convolution is still to come

    def run(self) -> Image:
        """Translate everything."""
        for number, op in enumerate(self._file.ops):
            step = Step(op, f"operator {number} ({op.code})", self._file.tensors)
            self._follow(step)
            if self._padding != (0, 0) and op.code not in ("PAD", "CONV_2D"):
                raise step.refuse("a PAD before it is supported only before a convolution")
            rule = _RULES.get(op.code)
            if rule is None:
                raise step.refuse(f"its kernels are {', '.join(sorted(_RULES))}")
            rule(self, step)
            self._at = op.outputs[0]
        if self._at != self._file.output or not self._layers or self._padding != (0, 0):
            raise ModelImageError("the file's output is not what its operators compute")
        ends = (self._file.tensors[place] for place in (self._file.input, self._file.output))
        scales = [Step(self._file.ops[-1], "the file", ()).computed(end)[0] for end in ends]
        return Image(scales[0], scales[1], tuple(self._layers))

    def _follow(self, step: Step) -> None:
        """Check that an operator takes what the one before gave, and only that."""
        computed = [k for k in step.op.inputs if self._file.tensors[k].data is None]
        if computed != [self._at] or len(step.op.outputs) != 1:
            raise step.refuse("it must take what the operator before it gives, and nothing else")
        for tensor in (self._file.tensors[self._at], step.output):
            step.computed(tensor)
            if tensor.shape[:1] != (1,) or min(tensor.shape) < 1:
                raise step.refuse(f"tensor {tensor.name!r} has shape {tensor.shape}, not one row")

    def reshape(self, step: Step) -> None:
        """RESHAPE: nothing moves."""
        source, result = self._file.tensors[self._at], step.output
        if math.prod(source.shape) != math.prod(result.shape):
            raise step.refuse(f"{source.shape} does not fit {result.shape}")
        if step.computed(source) != step.computed(result):
            raise step.refuse("it must not change the scale")

    def pad(self, step: Step) -> None:
        """PAD: left to the convolution behind it, where padding is the zero point too."""
        amounts = step.constant(1, "int32")
        source, result = self._file.tensors[self._at], step.output
        length, channels = step.row(source)
        if amounts.shape != (4, 2) or amounts.min() < 0 or amounts[[0, 1, 3]].any():
            raise step.refuse("only samples can be padded, in front and behind")
        front, behind = (int(amount) for amount in amounts[2])
        if step.row(result) != (length + front + behind, channels):
            raise step.refuse(f"its output {result.shape} has not the size that it makes")
        if step.computed(source) != step.computed(result):
            raise step.refuse("it must not change the scale")
        self._padding = (self._padding[0] + front, self._padding[1] + behind)

    def convolve(self, step: Step) -> None:
        """CONV_2D of height 1, which is also what dense layers are exported as."""
        options, source = step.options, self._file.tensors[self._at]
        if (options.number(4, "i", 1), options.number(5, "i", 1)) != (1, 1):
            raise step.refuse("dilation is not supported")
        weights, window = self._weighted(step, step.constant(1, "int8"), options.number(3, "b"))
        padded = step.row(source)[0]
        before = self._slide(step, window, padded, options.number(0, "b"))
        length = padded - sum(self._padding)
        window = replace(window, in_length=length, before=before + self._padding[0])
        self._padding = (0, 0)
        bias = self._bias(step, 2, len(weights)) - window.in_zero * weights.sum(axis=(1, 2))
        self._append_weighted(step, Operation.CONV, window, weights, bias)

    def spread(self, step: Step) -> None:
        """TRANSPOSE_CONV of height 1."""
        options = step.options
        if self._file.tensors[self._at] is not step.input(2):
            raise step.refuse("its weights must be constant")
        weights, window = self._weighted(step, step.constant(1, "int8"), options.number(3, "b"))
        before = 0
        if options.number(0, "b") == _SAME:
            given = -(-window.out_length // window.stride)
            before = max((given - 1) * window.stride + window.taps - window.out_length, 0) // 2
        elif options.number(0, "b") != _VALID:
            raise step.refuse("its padding must be SAME or VALID")
        window = replace(window, before=before)
        bias = self._bias(step, 3, len(weights))
        self._append_weighted(step, Operation.TRANSPOSED_CONV, window, weights, bias)

    def cut(self, step: Step) -> None:
        """STRIDED_SLICE: the transposed convolution before it computes less."""
        last = self._layers[-1] if self._layers else None
        begin, end, strides = (step.constant(place, "int32").ravel() for place in (1, 2, 3))
        result = step.row(step.output)
        if last is None or last.operation is not Operation.TRANSPOSED_CONV:
            raise step.refuse("it is supported only behind TRANSPOSE_CONV")
        length, channels = last.window.out_length, last.window.out_channels
        masks = [step.options.number(slot, "i") for slot in range(5)]
        given = [begin.tolist(), end.tolist(), strides.tolist()]
        front = given[0][2] if len(given[0]) == 4 else -1
        wanted = [[0, 0, front, 0], [1, 1, front + result[0], channels], [1] * 4]
        if any(masks) or given != wanted:
            raise step.refuse("only samples in front and behind can be cut off")
        if front < 0 or front + result[0] > length or result[1] != channels:
            raise step.refuse(f"its output {step.output.shape} is not inside its input")
        if step.computed(self._file.tensors[self._at]) != step.computed(step.output):
            raise step.refuse("it must not change the scale")
        before = last.window.before + front
        self._layers[-1] = replace(
            last, window=replace(last.window, out_length=result[0], before=before)
        )

    def pool(self, step: Step) -> None:
        """MAX_POOL_2D and AVERAGE_POOL_2D of height 1."""
        options, source = step.options, self._file.tensors[self._at]
        length, channels = step.row(source)
        if options.number(4, "i") != 1:
            raise step.refuse("only 1-D pools are supported")
        if step.computed(source) != step.computed(step.output):
            raise step.refuse("it must not change the scale")
        taps = options.number(3, "i")
        window = self._window(step, (taps, channels), options.number(5, "b"))
        before = self._slide(step, window, length, options.number(0, "b"))
        window = replace(window, in_length=length, before=before)
        kind = Operation.MAX_POOL if step.op.code == "MAX_POOL_2D" else Operation.AVERAGE_POOL
        none = np.zeros(0, np.int32)
        weights = np.zeros((0, 0, 0), np.int8)
        self._layers.append(Layer(kind, window, none, none, none.astype(np.int8), weights))

    def rectify(self, step: Step) -> None:
        """RELU that stands alone, because the operator before it cannot apply it."""
        source = self._file.tensors[self._at]
        (scale, zero), (out_scale, out_zero) = step.computed(source), step.computed(step.output)
        numbers = math.prod(source.shape)
        if math.prod(step.output.shape) != numbers:
            raise step.refuse(f"{source.shape} does not fit {step.output.shape}")
        channels = source.shape[-1]
        length = numbers // channels
        low, high = step.bounds(RELU)
        window = Window(length, channels, length, channels, 1, 1, 0, zero, out_zero, low, high)
        multiplier, shift = quantized_multiplier(scale / out_scale)
        layer = Layer(
            Operation.RESCALE,
            window,
            np.zeros(0, np.int32),
            np.array([multiplier], np.int32),
            np.array([shift], np.int8),
            np.zeros((0, 0, 0), np.int8),
        )
        self._layers.append(layer)

    def _weighted(
        self, step: Step, filters: NDArray[np.int64], activation: int
    ) -> tuple[NDArray[np.int64], Window]:
        """Return weights (out, taps, in) and a window that knows all but length and padding."""
        _, channels = step.row(self._file.tensors[self._at])
        if filters.ndim != 4 or filters.shape[1] != 1 or filters.shape[3] != channels:
            raise step.refuse(f"weights {filters.shape} do not fit {channels} channels in 1-D")
        weights = filters[:, 0]
        window = self._window(step, (weights.shape[1], len(weights)), activation)
        return weights, window

    def _window(self, step: Step, sizes: tuple[int, int], activation: int) -> Window:
        """Return the window of `sizes` (taps, out channels) over what there is."""
        length, channels = step.row(self._file.tensors[self._at])
        result = step.row(step.output)
        stride = step.options.number(1, "i")
        if result[1] != sizes[1] or stride < 1 or sizes[0] < 1:
            raise step.refuse(f"{sizes[0]} taps, stride {stride} do not make {step.output.shape}")
        given, made = (step.computed(end)[1] for end in (self._file.tensors[self._at], step.output))
        ends = (length, channels, *result)
        return Window(*ends, sizes[0], stride, 0, given, made, *step.bounds(activation))

    def _slide(self, step: Step, window: Window, length: int, padding: int) -> int:
        """Return the padding in front, having checked that the window makes the output's length.

        Source: ComputePaddingWithOffset, tensorflow/lite/kernels/padding.h.
        """
        if padding == _SAME:
            made = -(-length // window.stride)
            before = max((made - 1) * window.stride + window.taps - length, 0) // 2
        elif padding == _VALID:
            made, before = (length - window.taps) // window.stride + 1, 0
        else:
            raise step.refuse("its padding must be SAME or VALID")
        if made != window.out_length:
            raise step.refuse(f"it makes {made} samples, its output has {window.out_length}")
        return before

    def _bias(self, step: Step, place: int, count: int) -> NDArray[np.int64]:
        bias = step.constant(place, "int32")
        if bias.shape != (count,):
            raise step.refuse(f"its bias {bias.shape} does not fit {count} outputs")
        return bias

    def _append_weighted(
        self,
        step: Step,
        operation: Operation,
        window: Window,
        weights: NDArray[np.int64],
        bias: NDArray[np.int64],
    ) -> None:
        count = len(weights)
        stored = step.input(1)
        given = self._file.tensors[self._at]
        if np.abs(bias).max() > MAX_BIAS:
            raise step.refuse(f"a bias, zero point folded in, is beyond {MAX_BIAS}")
        several = len(stored.scales) > 1
        if len(stored.scales) not in (1, count) or (several and stored.axis != 0):
            raise step.refuse(f"it has {len(stored.scales)} weight scales for {count} outputs")
        if any(stored.zero_points) or not all(0 < scale < math.inf for scale in stored.scales):
            raise step.refuse("its weights must have positive scales and no zero point")
        in_scale, out_scale = step.computed(given)[0], step.computed(step.output)[0]
        scales = stored.scales if several else stored.scales * count
        factors = [quantized_multiplier(in_scale * scale / out_scale) for scale in scales]
        layer = Layer(
            operation,
            window,
            bias.astype(np.int32),
            np.array([factor[0] for factor in factors], np.int32),
            np.array([factor[1] for factor in factors], np.int8),
            weights.astype(np.int8),
        )
        self._layers.append(layer)


_RULES: Mapping[str, Callable[[_Translation, Step], None]] = {
    "AVERAGE_POOL_2D": _Translation.pool,
    "CONV_2D": _Translation.convolve,
    "MAX_POOL_2D": _Translation.pool,
    "PAD": _Translation.pad,
    "RELU": _Translation.rectify,
    "RESHAPE": _Translation.reshape,
    "STRIDED_SLICE": _Translation.cut,
    "TRANSPOSE_CONV": _Translation.spread,
}
"""What can be translated."""
