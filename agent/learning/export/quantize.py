"""Full int8: a float32 TFLite program with integers for its numbers.

Responsible for scales and zero points by the TFLite 8-bit specification: weights symmetric in
-127 to 127, with one scale per output channel; activations with one scale and zero point;
biases int32 at the product of both scales. Operators marked exact stay float32 between
DEQUANTIZE and QUANTIZE. Refuses values whose range nobody has seen.

Source: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.calibration import Range
from agent.learning.export.program import Op, Program, Quantization, Tensor
from agent.learning.export.simplify import WEIGHTED
from agent.learning.ir import GraphError

KEEPS_SCALE = frozenset(
    {
        "AVERAGE_POOL_2D",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "PAD",
        "PADV2",
        "RESHAPE",
        "RESIZE_NEAREST_NEIGHBOR",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)
"""Operators whose output must have its input's scale and zero point."""

_FIXED: Mapping[str, tuple[float, int]] = {
    "LOGISTIC": (1 / 256, -128),
    "LOG_SOFTMAX": (16 / 256, 127),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
"""Output scale and zero point that the specification prescribes."""

_WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0}
_SMALLEST_SCALE = 1e-9
_LARGEST_BIAS = 1 << 30  # of an int32 accumulator, half is left to the products


def quantized_values(program: Program) -> tuple[set[str], set[str]]:
    """Return the ONNX values whose ranges `quantize` wants.

    Returns:
      All of them; and those of the program's input and output, whose extremes must be kept,
      traced back through operators that keep the scale.
    """
    names = {tensor.value for tensor in program.tensors.values() if tensor.value}
    producers = {op.outputs[0]: op for op in program.ops}
    last = program.output
    while last in producers and producers[last].code in KEEPS_SCALE:
        last = producers[last].inputs[0]
    ends = {program.tensors[name].value for name in (program.input, program.output, last)}
    return names, ends & names


def quantize(program: Program, ranges: Mapping[str, Range]) -> Program:
    """Return the int8 program: int8 input, int8 output.

    Args:
      program: float32, simplified.
      ranges: of the values that `quantized_values` names.

    Raises:
      GraphError: an operator has no int8 form.
    """
    return _Quantizer(program, ranges).run()


class _Quantizer:
    """Rewrites a program operator by operator."""

    def __init__(self, program: Program, ranges: Mapping[str, Range]) -> None:
        self._program = program
        self._ranges = ranges
        self._tensors: dict[str, Tensor] = {}
        self._ops: list[Op] = []
        self._copies: dict[tuple[str, str], str] = {}
        self._constants: dict[tuple[object, ...], str] = {}

    def run(self) -> Program:
        """Quantize everything, input first."""
        program = self._program
        source = program.tensors[program.input]
        self._compute(source, self._seen(source, "graph input"))
        for op in program.ops:
            if op.exact:
                self._keep_float(op)
            else:
                self._make_int8(op)
        output = program.output
        if self._tensors[output].dtype != "int8":
            self._rename_float_output(output)
        return Program(self._tensors, tuple(self._ops), program.input, output)

    def _make_int8(self, op: Op) -> None:
        inputs = [self._int8_input(op, index) for index in range(len(op.inputs))]
        if op.code in WEIGHTED:
            inputs[-2:] = self._weights(op, inputs)
        output = self._program.tensors[op.outputs[0]]
        if op.code in KEEPS_SCALE:
            quantization = self._tensors[inputs[0]].quantization
        elif op.code in _FIXED:
            scale, zero_point = _FIXED[op.code]
            quantization = Quantization(np.array([scale], np.float32), zero_point)
        else:
            quantization = self._coarse_enough(op, inputs, self._seen(output, op.node))
        if op.code == "CONCATENATION" and quantization is not None:
            inputs = [self._requantized(op, name, quantization) for name in inputs]
        self._compute(output, quantization)
        self._ops.append(replace(op, inputs=tuple(inputs)))

    def _coarse_enough(self, op: Op, inputs: list[str], wanted: Quantization) -> Quantization:
        """Return the output's quantization, not finer than the kernel of sums or products takes.

        Outputs far below their inputs' step, such as x - x, would abort the process: ADD and SUB
        want 2 max(scales) / scale below 2**20, MUL wants the product of scales below scale.
        """
        if op.code not in ("ADD", "MUL", "SUB"):
            return wanted
        given = [self._tensors[name].quantization for name in inputs]
        scales = [float(one.scale[0]) for one in given if one is not None]
        least = math.prod(scales) if op.code == "MUL" else 2 * max(scales) / (1 << 19)
        if least < float(wanted.scale[0]):
            return wanted
        return Quantization(short_scale(np.array([least * 1.01])), wanted.zero_point)

    def _int8_input(self, op: Op, index: int) -> str:
        """Return the tensor that an int8 operator reads at one place."""
        name = op.inputs[index]
        tensor = self._program.tensors[name]
        if tensor.data is None:
            if self._tensors[name].dtype == "float32":
                return self._quantized(op, name)
            return name
        if tensor.dtype == "int32":
            self._tensors[name] = tensor
            return name
        if op.code in WEIGHTED:
            return name  # `_weights` replaces it
        if op.code in KEEPS_SCALE:  # a filling or a bound
            shared = self._tensors[op.inputs[0]].quantization
            if shared is not None:
                label = f"{op.outputs[0]}/{name}"
                return self._constant(label, _integers(tensor.data, shared), shared)
        return self._int8_constant(tensor)

    def _weights(self, op: Op, inputs: list[str]) -> list[str]:
        """Quantize a weighted operator's weight and bias; return their places' new tensors."""
        position = WEIGHTED[op.code]
        source = inputs[2 if op.code == "TRANSPOSE_CONV" else 0]
        weight, bias = (
            self._program.tensors[op.inputs[position]],
            self._program.tensors[op.inputs[-1]],
        )
        taken = self._tensors[source].quantization
        if weight.data is None or bias.data is None or taken is None:
            raise GraphError(op.node, "cannot be exported to int8: its weights are computed")
        axis = None if _is_narrow(op, weight) else _WEIGHT_AXIS.get(op.code)
        scale = _weight_scale(weight.data, bias.data, axis, taken)
        shape = [1] * weight.data.ndim
        shape[axis or 0] = -1
        numbers = np.clip(np.rint(weight.data / scale.reshape(shape)), -127, 127).astype(np.int8)
        bias_scale = (taken.scale * scale).astype(np.float32)
        sums = np.rint(bias.data.astype(np.float64) / bias_scale).astype(np.int32)
        label = op.outputs[0]
        new_weight = self._constant(f"{label}/weight", numbers, Quantization(scale, 0, axis or 0))
        new_bias = self._constant(f"{label}/bias", sums, Quantization(bias_scale, 0))
        if op.code == "TRANSPOSE_CONV":
            inputs[position] = new_weight
            return [source, new_bias]
        return [new_weight, new_bias]

    def _keep_float(self, op: Op) -> None:
        """Append an operator in float32, with DEQUANTIZE before it where its input is int8."""
        inputs = []
        for name in op.inputs:
            tensor = self._program.tensors[name]
            if tensor.data is not None:
                self._tensors[name] = tensor
                inputs.append(name)
            elif self._tensors[name].dtype == "int8":
                inputs.append(self._dequantized(op, name))
            else:
                inputs.append(name)
        for name in op.outputs:
            self._tensors[name] = self._program.tensors[name]
        self._ops.append(replace(op, inputs=tuple(inputs)))

    def _dequantized(self, op: Op, name: str) -> str:
        return self._copied(op, name, "float", "DEQUANTIZE", None)

    def _quantized(self, op: Op, name: str) -> str:
        return self._copied(
            op, name, "int8", "QUANTIZE", self._seen(self._program.tensors[name], op.node)
        )

    def _requantized(self, op: Op, name: str, wanted: Quantization) -> str:
        """Return a tensor at another scale: CONCATENATION does not rescale."""
        tensor = self._tensors[name]
        has = tensor.quantization
        if has is None or (has.scale[0] == wanted.scale[0] and has.zero_point == wanted.zero_point):
            return name
        if tensor.data is not None:
            real = (tensor.data.astype(np.float64) - has.zero_point) * has.scale[0]
            return self._constant(f"{op.outputs[0]}/{name}", _integers(real, wanted), wanted)
        return self._copied(op, name, f"for {op.outputs[0]}", "QUANTIZE", wanted)

    def _copied(
        self, op: Op, name: str, kind: str, code: str, quantization: Quantization | None
    ) -> str:
        """Return a computed tensor's copy of another type or scale, made once."""
        key = (name, kind)
        if key not in self._copies:
            copy = f"{name}/{kind}"
            tensor = self._tensors[name]
            dtype = "float32" if quantization is None else "int8"
            self._tensors[copy] = replace(tensor, name=copy, dtype=dtype, quantization=quantization)
            self._ops.append(Op(code, (name,), (copy,), {}, op.node))
            self._copies[key] = copy
        return self._copies[key]

    def _rename_float_output(self, output: str) -> None:
        """Let the output's name stand for the int8 copy of what is computed in float32."""
        inner = f"{output}/float"
        self._tensors[inner] = replace(self._tensors.pop(output), name=inner)
        self._ops = [
            replace(
                op,
                inputs=tuple(inner if name == output else name for name in op.inputs),
                outputs=tuple(inner if name == output else name for name in op.outputs),
            )
            for op in self._ops
        ]
        self._compute(
            self._program.tensors[output], self._seen(self._program.tensors[output], "graph output")
        )
        self._ops.append(Op("QUANTIZE", (inner,), (output,), {}, self._ops[-1].node))

    def _compute(self, tensor: Tensor, quantization: Quantization | None) -> None:
        self._tensors[tensor.name] = replace(tensor, dtype="int8", quantization=quantization)

    def _constant(self, name: str, data: NDArray[Any], quantization: Quantization | None) -> str:
        """Return the constant tensor with these integers; equal ones are one tensor.

        Unrolled recurrent layers use one weight at every step.
        """
        key: tuple[object, ...] = (data.dtype.name, data.shape, data.tobytes())
        if quantization is not None:
            key += (quantization.scale.tobytes(), quantization.zero_point, quantization.axis)
        if key not in self._constants:
            self._constants[key] = name
            self._tensors[name] = Tensor(
                name, data.shape, data, dtype=data.dtype.name, quantization=quantization
            )
        return self._constants[key]

    def _int8_constant(self, tensor: Tensor) -> str:
        if tensor.data is None:
            return tensor.name
        low, high = float(tensor.data.min()), float(tensor.data.max())
        quantization = activation_quantization(Range(min(low, 0.0), max(high, 0.0)))
        return self._constant(
            f"{tensor.name}/int8", _integers(tensor.data, quantization), quantization
        )

    def _seen(self, tensor: Tensor, where: str) -> Quantization:
        seen = self._ranges.get(tensor.value)
        if seen is None:
            raise GraphError(
                where, f"cannot be exported to int8: the range of {tensor.name!r} is not known"
            )
        return activation_quantization(seen)


def activation_quantization(seen: Range) -> Quantization:
    """Return the scale and zero point that spread -128 to 127 over a range.

    0 is met exactly, because padding and rectified values are exactly 0. Where nothing but 0 was
    seen the scale is 1: a tiny one would leave the other operand of a sum no bits.
    """
    if seen.low == seen.high:
        return Quantization(np.ones(1, np.float32), 0)
    scale = short_scale(np.array(max((seen.high - seen.low) / 255, _SMALLEST_SCALE)))
    zero_point = int(np.clip(np.rint(-128 - seen.low / float(scale)), -128, 127))
    return Quantization(scale.reshape(1), zero_point)


def short_scale(scale: NDArray[Any]) -> NDArray[np.float32]:
    """Return scales of at most 12 significant bits, not smaller than given.

    Some kernels compute the scale of products in float32, some in float64. The product of two
    short scales is exact in both, so all of them use the same multiplier.
    """
    fraction, exponent = np.frexp(np.asarray(scale, np.float64))
    short: NDArray[np.float32] = np.ldexp(np.ceil(fraction * 4096), exponent - 12).astype(
        np.float32
    )
    return short


def _integers(real: NDArray[Any], quantization: Quantization) -> NDArray[np.int8]:
    scaled = real.astype(np.float64) / float(quantization.scale[0])
    numbers = np.rint(scaled) + quantization.zero_point
    clipped: NDArray[np.int8] = np.clip(numbers, -128, 127).astype(np.int8)
    return clipped


def _is_narrow(op: Op, weight: Tensor) -> bool:
    """Tell whether scales per output, 24 bytes each, would cost as much as the weights."""
    return op.code == "CONV_2D" and math.prod(weight.shape[1:3]) == 1 and weight.shape[3] < 32


def _weight_scale(
    weight: NDArray[Any], bias: NDArray[Any], axis: int | None, taken: Quantization
) -> NDArray[np.float32]:
    """Return the scales of a weight, (C,) by output channel, or (1,) where `axis` is None.

    A channel of tiny weights and a large bias gets a larger scale, so that its bias fits.
    """
    if axis is None:
        largest = np.abs(weight).max(keepdims=True).reshape(1)
        offset = np.abs(bias).max(keepdims=True).reshape(1)
    else:
        largest = np.abs(weight).max(axis=tuple(k for k in range(weight.ndim) if k != axis))
        offset = np.abs(bias)
    fits_bias = offset / (float(taken.scale[0]) * _LARGEST_BIAS)
    return short_scale(np.maximum(np.maximum(largest / 127, fits_bias), _SMALLEST_SCALE))
