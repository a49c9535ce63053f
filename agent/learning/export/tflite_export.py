"""Export to `.tflite`, float32 and full int8, without TensorFlow.

Responsible for the order of the steps. The file's input and output have ONNX's shape, or, where
convolutions want it, the channels last (`N, C, W` as `N, 1, W, C`); then their names end in
`@NCW` or `@NCHW`, the ONNX order, from which `agent.learning.litert` finds its way back. Refuses
what TFLite cannot say, with the node. Invariant: the same model and rows give the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.calibration import calibrate
from agent.learning.export.lowering import lower
from agent.learning.export.observe import observe
from agent.learning.export.onnx_export import with_params
from agent.learning.export.pointwise import dense_to_pointwise
from agent.learning.export.program import Program
from agent.learning.export.quantize import quantize, quantized_values
from agent.learning.export.simplify import simplify
from agent.learning.export.tflite_writer import write_tflite
from agent.learning.ir import Graph, Params


def export_tflite(forward: Graph, params: Params) -> bytes:
    """Return a float32 `.tflite` file of a model with its trained parameters.

    Args:
      forward: the model, one float32 input (N, ...), one output.
      params: its parameters, in its order.

    Raises:
      GraphError: an operator or shape has no counterpart in TFLite.
      ValueError: `params` are not the model's.
    """
    return write_tflite(_float_program(with_params(forward, params)))


def export_tflite_int8(
    forward: Graph, params: Params, representative: NDArray[np.float32]
) -> bytes:
    """Return a full int8 `.tflite` file: int8 input, int8 output, int8 arithmetic between.

    Normalizations and divisions of computed values are the exception: they are computed in
    float32 between DEQUANTIZE and QUANTIZE.

    Args:
      forward: as `export_tflite`.
      params: as `export_tflite`.
      representative: float32, (N, ...); rows as the model will see them, some hundreds.

    Raises:
      GraphError: an operator or shape has no counterpart in TFLite, or none in int8.
      ValueError: `params` or `representative` are not the model's.
    """
    model = with_params(forward, params)
    program = simplify(dense_to_pointwise(_float_program(model)))
    names, ends = quantized_values(program)
    ranges = calibrate(model, representative, names, ends)
    return write_tflite(quantize(program, ranges))


def _float_program(model: Graph) -> Program:
    return simplify(lower(model, observe(model)))
