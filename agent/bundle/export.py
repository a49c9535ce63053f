"""Trained weights in formats that other runtimes read.

Responsible for fitting a bundle to `agent.learning.export`; what a format cannot say is refused
there, with the node.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agent.bundle.tables import TableError
from agent.bundle.trial_run import Columns, representative_inputs
from agent.learning.choice import open_backend
from agent.learning.export.onnx_export import export_onnx
from agent.learning.export.representative import representative
from agent.learning.export.tflite_export import export_tflite, export_tflite_int8
from agent.learning.graph import read_graph
from agent.learning.losses import Loss
from wire.bundle import MODEL, Bundle
from wire.tensors import Params

Format = Literal["onnx", "tflite", "tflite-int8"]

_MOST_ROWS = 1000
"""Rows to calibrate by, at equal distances; the extremes of all come to them."""


def export(
    bundle: Bundle, params: Params, form: Format, data: Sequence[Path], columns: Columns
) -> bytes:
    """Write a model with its weights in a format.

    Args:
      bundle: whose graph it is.
      params: the weights to write into it.
      form: ONNX, or TFLite in float32 or int8.
      data: files of real rows, which int8 needs.
      columns: which group and order their rows.

    Raises:
      TableError: a file can not be used, or none was given for int8.
      ValueError: the graph has no counterpart in the format; names the node.
    """
    graph = read_graph(bundle.files[MODEL])
    if form == "onnx":
        return export_onnx(graph, params)
    if form == "tflite":
        return export_tflite(graph, params)
    if not data:
        raise TableError("tflite-int8 needs rows of the real signal to choose the integers' ranges")
    inputs = representative_inputs(bundle.manifest, data, columns)
    outputs = open_backend(graph, Loss(bundle.manifest.loss)).infer(params, inputs)
    chosen = representative(inputs, outputs, _MOST_ROWS)
    return export_tflite_int8(graph, params, inputs[chosen])
