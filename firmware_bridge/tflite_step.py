"""One operator of a `.tflite` file as the translation to model images sees it.

Responsible for reading tensors and options with their checks, and for the arithmetic of scales;
every refusal names the operator. Knows nothing of layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_layers import ModelImageError
from firmware_bridge.tflite_reader import FileOp, FileTensor, Table

_NONE, RELU, _RELU_N1_TO_1, _RELU6 = 0, 1, 2, 3  # the schema's `ActivationFunctionType`
_BOUNDS: Mapping[int, tuple[float | None, float | None]] = {
    _NONE: (None, None),
    RELU: (0.0, None),
    _RELU_N1_TO_1: (-1.0, 1.0),
    _RELU6: (0.0, 6.0),
}


@dataclass(frozen=True)
class Step:
    """One operator.

    Attributes:
      op: as the file has it.
      label: words that find it in the file.
      tensors: all of the file.
    """

    op: FileOp
    label: str
    tensors: Sequence[FileTensor]

    def refuse(self, reason: str) -> ModelImageError:
        """Return the error that the operator cannot be translated."""
        return ModelImageError(f"{self.label} cannot run on the device: {reason}")

    def input(self, place: int) -> FileTensor:
        """Return an input's tensor."""
        if place >= len(self.op.inputs):
            raise self.refuse(f"it has {len(self.op.inputs)} inputs")
        return self.tensors[self.op.inputs[place]]

    @property
    def output(self) -> FileTensor:
        """The only output's tensor."""
        return self.tensors[self.op.outputs[0]]

    @property
    def options(self) -> Table:
        """The operator's options."""
        if self.op.options is None:
            raise self.refuse("its options are missing")
        return self.op.options

    def constant(self, place: int, dtype: str) -> NDArray[np.int64]:
        """Return a constant input's numbers in its shape."""
        tensor = self.input(place)
        if tensor.data is None or tensor.dtype != dtype:
            raise self.refuse(f"input {place} must be constant {dtype}, is {tensor.dtype}")
        kind = np.dtype({"int8": "i1", "int32": "<i4"}[dtype])
        if min(tensor.shape, default=1) < 1:
            raise self.refuse(f"input {place} has shape {tensor.shape}")
        if len(tensor.data) != kind.itemsize * math.prod(tensor.shape):
            raise self.refuse(f"input {place} has {len(tensor.data)} bytes for {tensor.shape}")
        return np.frombuffer(tensor.data, kind).reshape(tensor.shape).astype(np.int64)

    def computed(self, tensor: FileTensor) -> tuple[float, int]:
        """Return the scale and zero point of a computed int8 tensor."""
        if tensor.dtype != "int8" or (len(tensor.scales), len(tensor.zero_points)) != (1, 1):
            raise self.refuse(f"tensor {tensor.name!r} must be int8 with one scale")
        scale, zero = tensor.scales[0], tensor.zero_points[0]
        if not (0 < scale < math.inf and -128 <= zero <= 127):
            raise self.refuse(f"tensor {tensor.name!r} has scale {scale} and zero point {zero}")
        return scale, zero

    def row(self, tensor: FileTensor) -> tuple[int, int]:
        """Return length and channels of a tensor (1, 1, length, channels)."""
        if len(tensor.shape) != 4 or tensor.shape[:2] != (1, 1):
            raise self.refuse(f"only 1-D data is supported, not {tensor.shape}")
        return tensor.shape[2], tensor.shape[3]

    def bounds(self, activation: int) -> tuple[int, int]:
        """Return the stored numbers between which a fused activation keeps the output."""
        if activation not in _BOUNDS:
            raise self.refuse(f"activation {activation} of the schema is not supported")
        scale, zero = self.computed(self.output)
        low, high = (
            limit if real is None else zero + _steps(real, scale)
            for real, limit in zip(_BOUNDS[activation], (-128, 127), strict=True)
        )
        return max(low, -128), min(high, 127)


def quantized_multiplier(factor: float) -> tuple[int, int]:
    """Return a factor as (multiplier, shift): about multiplier * 2 ** (shift - 31).

    Factors below 2 ** -32 are 0. Source: QuantizeMultiplier,
    tensorflow/lite/kernels/internal/quantization_util.cc.

    Raises:
      ModelImageError: the factor is too large for the device.
    """
    fraction, shift = math.frexp(factor)
    multiplier = _half_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise ModelImageError(f"a factor of {factor:.3g} between two scales is too large")
    return multiplier, shift


def _steps(real: float, scale: float) -> int:
    """Return a number in steps of a scale, divided in float32 as the kernels do."""
    with np.errstate(over="ignore"):
        steps = float(np.float32(real) / np.float32(scale))
    return _half_away(max(-1e6, min(steps, 1e6)))  # far beyond int8 already


def _half_away(value: float) -> int:
    """Return the nearest integer, halves away from zero, as C's `round`."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))
