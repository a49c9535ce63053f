"""Writing `.tflite` files.

Responsible for the schema: operator codes, versions, options, field numbers. A program is
checked where it is made, not here. Invariants: the same program gives the same bytes; constants
lie at multiples of 16 bytes.

Source: tensorflow/lite/schema/schema.fbs, schema version 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.flatbuffer import (
    Field,
    Scalar,
    Table,
    Tables,
    Vector,
    ints,
    write_flatbuffer,
)
from agent.learning.export.program import Op, Program, Quantization, Tensor

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # `force_align` of Buffer.data
_TENSOR_TYPES = {"float32": 0, "int32": 2, "int8": 9}
_LARGEST_OLD_CODE = 127
SIGNATURE = "serving_default"
"""The name under which runtimes offer the model's input and output by their ONNX names."""


@dataclass(frozen=True)
class _Builtin:
    """What the schema says of an operator.

    Attributes:
      code: its number in `BuiltinOperator`.
      options: the number of its options in the union `BuiltinOptions`, 0 for none.
      fields: its options' field numbers and formats, by name.
      versions: of the float32 and of the int8 operator; runtimes refuse versions they are too
        old for.
    """

    code: int
    options: int = 0
    fields: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    versions: tuple[int, int] = (1, 2)


_ACTIVATION = {"fused_activation_function": (0, "b")}
_POOL = {
    "padding": (0, "b"),
    "stride_w": (1, "i"),
    "stride_h": (2, "i"),
    "filter_width": (3, "i"),
    "filter_height": (4, "i"),
    "fused_activation_function": (5, "b"),
}
_CONV = {
    "padding": (0, "b"),
    "stride_w": (1, "i"),
    "stride_h": (2, "i"),
    "fused_activation_function": (3, "b"),
    "dilation_w_factor": (4, "i"),
    "dilation_h_factor": (5, "i"),
}
_DEPTHWISE = {
    "padding": (0, "b"),
    "stride_w": (1, "i"),
    "stride_h": (2, "i"),
    "depth_multiplier": (3, "i"),
    "fused_activation_function": (4, "b"),
    "dilation_w_factor": (5, "i"),
    "dilation_h_factor": (6, "i"),
}
_TRANSPOSE_CONV = {
    "padding": (0, "b"),
    "stride_w": (1, "i"),
    "stride_h": (2, "i"),
    "fused_activation_function": (3, "b"),
}
_DENSE = {"fused_activation_function": (0, "b"), "keep_num_dims": (2, "?")}
_CONCATENATION = {"axis": (0, "i"), "fused_activation_function": (1, "b")}
_MASKS = {"begin_mask": (0, "i"), "end_mask": (1, "i")}
_REDUCER = {"keep_dims": (0, "?")}

BUILTINS: Mapping[str, _Builtin] = {
    "ABS": _Builtin(101, 78),
    "ADD": _Builtin(0, 11, _ACTIVATION),
    "AVERAGE_POOL_2D": _Builtin(1, 5, _POOL),
    "BATCH_MATMUL": _Builtin(126, 101),
    "CONCATENATION": _Builtin(2, 10, _CONCATENATION),
    "CONV_2D": _Builtin(3, 1, _CONV, (1, 3)),
    "DEPTHWISE_CONV_2D": _Builtin(4, 2, _DEPTHWISE, (2, 3)),
    "DEQUANTIZE": _Builtin(6, 38, versions=(2, 2)),
    "DIV": _Builtin(42, 29, _ACTIVATION),
    "EXP": _Builtin(47, 33),
    "FULLY_CONNECTED": _Builtin(9, 8, _DENSE, (1, 4)),
    "LEAKY_RELU": _Builtin(98, 75, {"alpha": (0, "f")}),
    "LOG": _Builtin(73),
    "LOGISTIC": _Builtin(14),
    "LOG_SOFTMAX": _Builtin(50, 36),
    "MAXIMUM": _Builtin(55, 39),
    "MAX_POOL_2D": _Builtin(17, 5, _POOL),
    "MEAN": _Builtin(40, 27, _REDUCER),
    "MINIMUM": _Builtin(57, 39),
    "MUL": _Builtin(18, 21, _ACTIVATION),
    "PAD": _Builtin(34, 22),
    "PADV2": _Builtin(60, 43),
    "QUANTIZE": _Builtin(114, 89),
    "RELU": _Builtin(19),
    "RESHAPE": _Builtin(22, 17, versions=(1, 1)),
    "RESIZE_NEAREST_NEIGHBOR": _Builtin(97, 74),
    "RSQRT": _Builtin(76),
    "SOFTMAX": _Builtin(25, 9, {"beta": (0, "f")}),
    "SQRT": _Builtin(75),
    "STRIDED_SLICE": _Builtin(45, 32, _MASKS),
    "SUB": _Builtin(41, 28, _ACTIVATION),
    "SUM": _Builtin(74, 27, _REDUCER),
    "TANH": _Builtin(28),
    "TRANSPOSE": _Builtin(39, 26),
    "TRANSPOSE_CONV": _Builtin(67, 49, _TRANSPOSE_CONV, (3, 3)),
}
"""Every operator that lowering and quantizing may emit."""


def write_tflite(program: Program) -> bytes:
    """Write a program as a `.tflite` file.

    The input's and output's batch is free where every operator allows it, and 1 otherwise.
    """
    free_batch = all(op.code != "TRANSPOSE_CONV" for op in program.ops)
    buffers: list[NDArray[Any] | None] = [None]  # buffer 0 is the empty one, by convention
    positions: dict[str, int] = {}
    tensors = []
    for tensor in program.tensors.values():
        positions[tensor.name] = len(positions)
        buffer = 0
        if tensor.data is not None:
            buffer = len(buffers)
            buffers.append(tensor.data)
        tensors.append(_tensor(tensor, buffer, free_batch=free_batch))
    codes = list(dict.fromkeys(_versioned(op, program) for op in program.ops))
    ops = [_operator(op, codes.index(_versioned(op, program)), positions) for op in program.ops]
    ends = ([positions[program.input]], [positions[program.output]])
    subgraph: dict[int, Field] = {
        0: Tables(tensors),
        1: ints(ends[0]),
        2: ints(ends[1]),
        3: Tables(ops),
        4: "main",
    }
    model: dict[int, Field] = {
        0: Scalar("I", _SCHEMA_VERSION),
        1: Tables([_code(*code) for code in codes]),
        2: Tables([Table(subgraph)]),
        3: "journeyman",
        4: Tables([_buffer(data) for data in buffers]),
        7: Tables([_signature(program, positions)]),
    }
    return write_flatbuffer(Table(model), _IDENTIFIER)


def _versioned(op: Op, program: Program) -> tuple[str, int]:
    """Return an operator's name and version."""
    dtypes = {program.tensors[name].dtype for name in (*op.inputs, *op.outputs)}
    version = BUILTINS[op.code].versions["int8" in dtypes]
    if op.code == "QUANTIZE" and "float32" in dtypes:
        version = 1
    if op.code == "FULLY_CONNECTED" and op.options["keep_num_dims"]:
        version = 5
    return op.code, version


def _code(name: str, version: int) -> Table:
    code = BUILTINS[name].code
    old = Scalar("b", min(code, _LARGEST_OLD_CODE))
    return Table({0: old, 2: Scalar("i", version), 3: Scalar("i", code)})


def _operator(op: Op, code: int, positions: Mapping[str, int]) -> Table:
    builtin = BUILTINS[op.code]
    written: dict[int, Field] = {
        0: Scalar("I", code),
        1: ints([positions[name] for name in op.inputs]),
        2: ints([positions[name] for name in op.outputs]),
    }
    if not builtin.options:
        return Table(written)
    options: dict[int, Field] = {
        slot: Scalar(letter, op.options[name])
        for name, (slot, letter) in builtin.fields.items()
        if name in op.options
    }
    return Table({**written, 3: Scalar("B", builtin.options), 4: Table(options)})


def _tensor(tensor: Tensor, buffer: int, *, free_batch: bool) -> Table:
    written: dict[int, Field] = {
        0: ints(tensor.shape),
        1: Scalar("b", _TENSOR_TYPES[tensor.dtype]),
        2: Scalar("I", buffer),
        8: Scalar("?", value=True),
    }
    if tensor.data is None:  # nobody looks for a constant by name, and flash is small
        written[3] = tensor.name
    if tensor.quantization is not None:
        written[4] = _quantization(tensor.quantization)
    if tensor.data is None and free_batch:
        written[7] = ints([-1, *tensor.shape[1:]])
    return Table(written)


def _quantization(quantization: Quantization) -> Table:
    scale = quantization.scale.astype("<f4")
    zero_points = [quantization.zero_point] * len(scale)
    return Table(
        {
            2: Vector(scale.tobytes(), len(scale), 4),
            3: ints(zero_points, "q"),
            6: Scalar("i", quantization.axis),
        }
    )


def _buffer(data: NDArray[Any] | None) -> Table:
    if data is None:
        return Table({})
    raw = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<")).tobytes()
    return Table({0: Vector(raw, len(raw), _ALIGNMENT)})


def _signature(program: Program, positions: Mapping[str, int]) -> Table:
    """Return the SignatureDef that names input and output by their ONNX values."""

    def entry(tensor: str) -> Tables:
        name = program.tensors[tensor].value or tensor
        return Tables([Table({0: name, 1: Scalar("I", positions[tensor])})])

    return Table(
        {0: entry(program.input), 1: entry(program.output), 2: SIGNATURE, 4: Scalar("I", 0)}
    )
