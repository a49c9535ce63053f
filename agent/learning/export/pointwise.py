"""Dense layers as convolutions of one tap, for int8.

Why: FULLY_CONNECTED is the one operator whose int8 kernels round differently in LiteRT (once)
and in the microcontroller's interpreter (twice, after gemmlowp), which a softmax behind it can
make several steps of the output. CONV_2D's reference kernels agree bit for bit, and take one
weight scale per output instead of one for all.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from agent.learning.export.program import VALID, Op, Program, Setting, Tensor


def dense_to_pointwise(program: Program) -> Program:
    """Return a program that computes the same without FULLY_CONNECTED.

    Every dense layer with a constant weight becomes RESHAPE, CONV_2D and RESHAPE; `simplify`
    then merges the reshapes.
    """
    tensors = dict(program.tensors)
    ops: list[Op] = []
    for op in program.ops:
        weight = tensors[op.inputs[1]].data if op.code == "FULLY_CONNECTED" else None
        if weight is None:
            ops.append(op)
            continue
        source, result = tensors[op.inputs[0]], tensors[op.outputs[0]]
        outputs, width = weight.shape
        taken = (1, 1, math.prod(result.shape) // outputs, width)
        given = (*taken[:3], outputs)
        label = result.name
        added = [
            Tensor(f"{label}/taken", taken, None, source.value),
            Tensor(f"{label}/given", given, None, result.value),
            _constant(f"{label}/filters", weight.reshape(outputs, 1, 1, width)),
            _constant(f"{label}/taken sizes", np.array((-1, *taken[1:]), np.int32)),
            _constant(f"{label}/given sizes", np.array((-1, *result.shape[1:]), np.int32)),
        ]
        tensors.update({tensor.name: tensor for tensor in added})
        before, after, filters, before_sizes, after_sizes = (tensor.name for tensor in added)
        options: dict[str, Setting] = {
            "padding": VALID,
            "stride_h": 1,
            "stride_w": 1,
            "dilation_h_factor": 1,
            "dilation_w_factor": 1,
            "fused_activation_function": op.options["fused_activation_function"],
        }
        inputs = (before, filters, op.inputs[2])
        ops += [
            Op("RESHAPE", (source.name, before_sizes), (before,), {}, op.node),
            replace(op, code="CONV_2D", inputs=inputs, outputs=(after,), options=options),
            Op("RESHAPE", (after, after_sizes), (label,), {}, op.node),
        ]
    return replace(program, tensors=tensors, ops=tuple(ops))


def _constant(name: str, data: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    return Tensor(name, data.shape, data, dtype=data.dtype.name)
