"""A TFLite model in memory: what lowering, simplifying, quantizing and writing share.

Responsible for the types only. Invariants: operators are in the order in which they run, every
tensor has at most one producer, and axis 0 of every computed tensor is the batch, of size 1
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Setting = int | float | bool
"""An operator's option; enumerations are ints of the TFLite schema."""

SAME, VALID = 0, 1
"""The schema's `Padding`."""

NO_ACTIVATION, RELU_ACTIVATION = 0, 1
"""The schema's `ActivationFunctionType`, as far as it is used."""


@dataclass(frozen=True)
class Quantization:
    """How the integers q of a tensor stand for real numbers: (q - zero_point) * scale.

    Attributes:
      scale: float32, (1,), or (C,) for one scale per slice of `axis`.
      zero_point: the integer that stands for 0; 0 wherever there are several scales.
      axis: the axis of several scales.
    """

    scale: NDArray[np.float32]
    zero_point: int
    axis: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model, computed or constant.

    Attributes:
      name: unique in its program.
      shape: as stored, which for values of convolutions is channels last.
      data: the values of a constant (float32, int8 or int32), None when computed.
      value: the ONNX value that holds the same numbers, where there is one; calibration knows
        its range.
      dtype: "float32", "int8" or "int32".
      quantization: of int8 tensors and int32 biases.
    """

    name: str
    shape: tuple[int, ...]
    data: NDArray[Any] | None = None
    value: str = ""
    dtype: str = "float32"
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Op:
    """One TFLite operator.

    Attributes:
      code: its name in the schema's `BuiltinOperator`.
      inputs: tensors by name.
      outputs: as `inputs`.
      options: its options by their names in the schema; those not given are zero.
      node: words that find the ONNX node it comes from, for errors.
      exact: computed in float32 even in an int8 model, between DEQUANTIZE and QUANTIZE.
    """

    code: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Setting] = field(default_factory=dict)
    node: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Program:
    """A TFLite model with one input and one output, named by their tensors."""

    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    input: str
    output: str
