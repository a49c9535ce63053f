"""Export to int8 in a process of its own: ONNX Runtime's memory is the agent's only for a moment.

    python -m agent.devices.exporting     reads a request, writes the `.tflite` file

Both ends are this module's, so the bytes between them are not checked further than their lengths.
Exit status 1: the model has no int8 form, said on standard error.
"""

import asyncio
import importlib.util
import os
import struct
import sys

import numpy as np
from numpy.typing import NDArray

from agent.devices.folding import LaterError, NotForDevicesError
from agent.learning.graph import GraphError, read_graph
from wire.tensors import Params, read_safetensors, write_params

_LENGTHS = struct.Struct("<IIII")
_EXPORT_S = 600.0
_NICE = 10


async def exported(graph: bytes, params: Params, rows: NDArray[np.float32]) -> bytes:
    """Return the int8 `.tflite` file of a model.

    Args:
      graph: ONNX.
      params: trained.
      rows: representative ones, float32 (N, ...), some hundreds.

    Raises:
      NotForDevicesError: it has no int8 form, or this machine can not make it.
      LaterError: the process did not start, or was killed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotForDevicesError("export needs onnxruntime, which this machine does not have")
    weights = write_params(params)
    given = _LENGTHS.pack(len(graph), len(weights), len(rows), rows.nbytes)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.devices.exporting"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise LaterError(f"export did not start: {error.strerror}") from None
    try:
        async with asyncio.timeout(_EXPORT_S):
            data = given + graph + weights + rows.astype("<f4").tobytes()
            made, words = await process.communicate(data)
    except TimeoutError:
        raise LaterError(f"export took over {_EXPORT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode is not None and process.returncode < 0:
        raise LaterError(f"export was ended by signal {-process.returncode}; is memory short?")
    if process.returncode:
        said = words.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise NotForDevicesError(f"it has no int8 form ({process.returncode}): {said[0]}")
    return made


def main() -> int:
    """Export what standard input brings; returns the exit status."""
    # ONNX Runtime takes a second and 30 MB to load, which the agent itself is spared.
    from agent.learning.export.observe import row_shape  # noqa: PLC0415
    from agent.learning.export.tflite_export import export_tflite_int8  # noqa: PLC0415

    os.nice(_NICE)
    data = sys.stdin.buffer.read()
    graph_bytes, weight_bytes, count, _ = _LENGTHS.unpack_from(data)
    at = _LENGTHS.size
    try:
        graph = read_graph(data[at : at + graph_bytes])
        weights = read_safetensors(data[at + graph_bytes : at + graph_bytes + weight_bytes])
        params = {name: value.astype(np.float32) for name, value in weights.items()}
        rows = np.frombuffer(data[at + graph_bytes + weight_bytes :], "<f4")
        made = export_tflite_int8(graph, params, rows.reshape(count, *row_shape(graph)))
    except (GraphError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
