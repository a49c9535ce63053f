"""A process of its own that runs a model in TensorFlow Lite Micro's interpreter, for `gate.py`.

Its own, because the interpreter ends its process over a model that it does not like.  Started by
path with any Python that has `tflite-micro`, so it imports nothing of the project.

    standard input:  rows u32, bytes of the model u32, the model, the rows (int8)
    standard output: the outputs (int8)
    exit status:     0; 3: tflite-micro is not installed; 4: the interpreter refuses, said on stderr
"""

import struct
import sys

import numpy as np

NOT_INSTALLED, REFUSED = 3, 4
_ARENA_BYTES = 8 << 20
"""Generous: it holds the interpreter's own records too, with this machine's pointers of 8 bytes."""


def main() -> int:
    """Run; returns the exit status."""
    try:
        from tflite_micro.python.tflite_micro import runtime  # noqa: PLC0415
    except ImportError:
        return NOT_INSTALLED
    data = sys.stdin.buffer.read()
    count, size = struct.unpack_from("<II", data)
    rows = np.frombuffer(data[8 + size :], np.int8).reshape(count, -1)
    try:
        interpreter = runtime.Interpreter.from_bytes(data[8 : 8 + size], arena_size=_ARENA_BYTES)
        shape = interpreter.get_input_details(0)["shape"]
        for row in rows:
            interpreter.set_input(row.reshape(shape), 0)
            interpreter.invoke()
            sys.stdout.buffer.write(np.asarray(interpreter.get_output(0), np.int8).tobytes())
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
