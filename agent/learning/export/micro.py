"""Running a `.tflite` model in the microcontroller's interpreter (TensorFlow Lite Micro).

Responsible for golden rows and the size of the arena, as a device would need it. Needs the
package `tflite-micro`, which the product does not depend on: build machines and tests install
it. Imports nothing of the project. The arena must be generous: the interpreter ends the whole
process when it is too small to say so.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RUNTIME = "tflite_micro.python.tflite_micro.runtime"
_TOTAL = re.compile(rb"Arena allocation total (\d+) bytes")
DEFAULT_ARENA_BYTES = 4 << 20


class MicroError(RuntimeError):
    """The interpreter is not installed, refuses the model, or fails."""


@dataclass(frozen=True)
class MicroRun:
    """What the interpreter gave.

    Attributes:
      outputs: as stored in the file (int8 or float32), (N, ...).
      arena_used_bytes: what the model needs of the arena on this machine, whose pointers have
        8 bytes: on a 32-bit device it is less.
    """

    outputs: NDArray[Any]
    arena_used_bytes: int


def run_micro(data: bytes, rows: NDArray[Any], arena_bytes: int = DEFAULT_ARENA_BYTES) -> MicroRun:
    """Run a model row by row.

    Args:
      data: the `.tflite` file.
      rows: as the file stores its input (`litert.Port.encode`), (N, ...), N >= 1.
      arena_bytes: memory for all of the model's tensors.

    Raises:
      MicroError: see there.
      ValueError: there are no rows.
    """
    if not len(rows):
        raise ValueError("at least one row is needed")
    try:
        runtime = importlib.import_module(_RUNTIME)
    except ModuleNotFoundError as error:
        raise MicroError("tflite-micro is not installed: pip install tflite-micro") from error
    outputs = []
    try:
        interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena_bytes)
        for row in rows:
            interpreter.set_input(row[None], 0)
            interpreter.invoke()
            outputs.append(np.array(interpreter.get_output(0)))
    except (RuntimeError, ValueError) as error:
        raise MicroError(f"the interpreter fails: {error}") from error
    return MicroRun(np.concatenate(outputs), _arena_used(interpreter))


def _arena_used(interpreter: Any) -> int:  # noqa: ANN401 - an untyped library's
    """Return the arena's use, which the interpreter only prints, to the process's stderr."""
    with tempfile.TemporaryFile() as printed:
        stderr = os.dup(2)
        try:
            os.dup2(printed.fileno(), 2)
            interpreter.print_allocations()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        printed.seek(0)
        found = _TOTAL.search(printed.read())
    if found is None:
        raise MicroError("the interpreter does not tell how much of the arena it uses")
    return int(found[1])
