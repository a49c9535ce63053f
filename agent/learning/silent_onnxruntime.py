"""ONNX Runtime, kept from reporting its use.

The official builds send trace events to their maker from the first session on, and keep a device
identifier under the home folder (ONNX Runtime 1.31, Privacy.md, "Disabling Telemetry"); nothing of
a plant may leave it that way.  The variable has to be set before the library initializes, so
whoever needs ONNX Runtime takes it from here.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

__all__ = ["onnxruntime", "ort_errors"]
