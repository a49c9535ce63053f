"""Running `.tflite` models: LiteRT, or its frozen predecessor tflite-runtime.

Responsible for rows in ONNX's layout in float32 going in and coming out, whatever the file
stores: channels last, int8. Imports nothing of the project, so that a bare environment with
numpy and one of the two packages can use it; the package is loaded at the first model. Refuses
files that are too large, that the runtime refuses, or that have not one input and one output.

Layouts come from tensor names: `x@NCW` is stored as (N, 1, W, C), `x@NCHW` as (N, H, W, C), any
other name as it is (`agent.learning.export` writes such names).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_FILE_BYTES = 32 << 20
_BATCH_ROWS = 64  # rows run at once, which bounds the memory of activations
_PACKAGES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


class TfliteError(ValueError):
    """A `.tflite` model or its rows are refused, or no runtime is installed."""


@dataclass(frozen=True)
class Port:
    """A model's input or output.

    Attributes:
      name: of the tensor; its end tells the layout.
      shape: sizes of one row in ONNX's layout.
      stored: the tensor's sizes with a batch of one row.
      dtype: int8 or float32, as stored.
      scale: of int8, real = (stored - zero_point) * scale.
      zero_point: as `scale`.
    """

    name: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    def encode(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Return rows (N, *shape) as the tensor stores them, (N, ...).

        Numbers outside the range of int8 are clipped to its ends.
        """
        moved = rows
        if self._channels_last:
            moved = np.moveaxis(rows, 1, -1)
        moved = moved.reshape(len(rows), *self.stored[1:])
        if self.dtype == np.float32:
            return np.ascontiguousarray(moved)
        numbers = np.rint(moved / np.float32(self.scale)) + self.zero_point
        return np.ascontiguousarray(np.clip(numbers, -128, 127).astype(np.int8))

    def decode(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored rows (N, ...) as float32 (N, *shape)."""
        real = stored.astype(np.float32)
        if self.dtype != np.float32:
            real = (real - np.float32(self.zero_point)) * np.float32(self.scale)
        if not self._channels_last:
            return real.reshape(len(stored), *self.shape)
        last = real.reshape(len(stored), *self.shape[1:], self.shape[0])
        return np.ascontiguousarray(np.moveaxis(last, -1, 1))

    @property
    def _channels_last(self) -> bool:
        return self.name.endswith(("@NCW", "@NCHW"))


class TfliteModel:
    """A loaded model; not safe for use by several threads at once.

    Attributes:
      input: its input.
      output: its output.
    """

    def __init__(self, interpreter: Any) -> None:  # noqa: ANN401 - an untyped library's
        """Take an allocated interpreter; use `load`."""
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise TfliteError(f"has {len(inputs)} inputs and {len(outputs)} outputs, not 1 and 1")
        self.input, self.output = _port(inputs[0]), _port(outputs[0])
        self._places = int(inputs[0]["index"]), int(outputs[0]["index"])
        self._free_batch = int(inputs[0]["shape_signature"][0]) == -1
        self._batch = 1

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (N, ...), for rows x, float32 (N, ...), in ONNX's layout.

        Raises:
          TfliteError: the rows do not fit the model, or the runtime failed.
        """
        if x.dtype != np.float32 or x.shape[1:] != self.input.shape or not len(x):
            raise TfliteError(
                f"rows are {x.dtype} {x.shape}, expected float32 (N, *{self.input.shape})"
            )
        return self.output.decode(self.run(self.input.encode(x)))

    def run(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the stored output for rows as `Port.encode` gives them.

        Raises:
          TfliteError: the runtime failed.
        """
        step = min(len(stored), _BATCH_ROWS) if self._free_batch else 1
        parts = [self._run_batch(stored[k : k + step]) for k in range(0, len(stored), step)]
        return np.concatenate(parts)

    def _run_batch(self, stored: NDArray[Any]) -> NDArray[Any]:
        source, result = self._places
        try:
            if len(stored) != self._batch:
                self._interpreter.resize_tensor_input(source, list(stored.shape))
                self._interpreter.allocate_tensors()
                self._batch = len(stored)
            self._interpreter.set_tensor(source, stored)
            self._interpreter.invoke()
            output: NDArray[Any] = self._interpreter.get_tensor(result)
        except (RuntimeError, ValueError) as error:
            raise TfliteError(f"the runtime failed: {error}") from error
        return output


def load(data: bytes, threads: int = 1, *, as_on_device: bool = True) -> TfliteModel:
    """Load a `.tflite` file.

    Only of a source that was checked before: LiteRT verifies a file's structure, tflite-runtime
    does not and may end the process over a damaged one.

    Args:
      data: the file.
      threads: threads inside one operator.
      as_on_device: run int8 models on the reference kernels, which give bit for bit what the
        microcontroller's interpreter gives; False takes the fast ones, which round otherwise by
        some steps of the output, and are up to 40 times as fast on convolutions. Models in
        float32 always take the fast ones.

    Raises:
      TfliteError: no runtime is installed, or the file is refused.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise TfliteError(f"has {len(data)} bytes, at most {LARGEST_FILE_BYTES} are allowed")
    runtime = _runtime()
    model = TfliteModel(_interpreter(runtime, data, threads, "BUILTIN_REF"))
    if model.input.dtype == np.int8 and as_on_device:
        return model
    return TfliteModel(_interpreter(runtime, data, threads, "BUILTIN"))


def _interpreter(runtime: Any, data: bytes, threads: int, resolver: str) -> Any:  # noqa: ANN401
    try:
        interpreter = runtime.Interpreter(
            model_content=data,
            num_threads=threads,
            experimental_op_resolver_type=getattr(runtime.OpResolverType, resolver),
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise TfliteError(f"the runtime refuses the file: {error}") from error
    return interpreter


def _runtime() -> Any:  # noqa: ANN401 - whichever package there is
    """Import the runtime.

    Raises:
      TfliteError: there is none.
    """
    for name in _PACKAGES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".", maxsplit=1)[0]):
                raise  # installed, but something that it needs is missing
    raise TfliteError(
        "no TFLite runtime is installed: pip install 'journeyman[tflite]', or on Python 3.11 "
        "tflite-runtime==2.14.0 with numpy<2"
    )


def _port(details: dict[str, Any]) -> Port:
    """Read what the runtime says of an input or output.

    Raises:
      TfliteError: its type or name does not fit.
    """
    name = str(details["name"])
    stored = tuple(int(size) for size in details["shape"])
    dtype = np.dtype(details["dtype"])
    if dtype not in (np.dtype(np.float32), np.dtype(np.int8)) or not stored:
        raise TfliteError(f"tensor {name!r} is {dtype} {stored}, expected rows of float32 or int8")
    shape = stored[1:]
    if name.endswith(("@NCW", "@NCHW")):
        if len(stored) != 4 or (name.endswith("@NCW") and stored[1] != 1):
            raise TfliteError(f"tensor {name!r} has shape {stored}, which its name does not fit")
        spatial = stored[2:3] if name.endswith("@NCW") else stored[1:3]
        shape = (stored[3], *spatial)
    scale, zero_point = details["quantization"]
    return Port(name, shape, stored, dtype, float(scale), int(zero_point))
