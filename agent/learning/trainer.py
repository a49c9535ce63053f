"""The training child: `python -m agent.learning.trainer`, one model at a time.

Responsible for doing requests from stdin and answering on stdout, one after the other, within
the limits it puts on itself first. Ends by itself at the end of input, or when idle for
`idle_s`. Expected failures are answered with `Failed`; anything else ends the process, which
the parent reports. The parent's half is `worker`.
"""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import dataclass
from io import FileIO

from agent.learning.backend import OnnxRuntimeBackend
from agent.learning.frames import (
    HEADER,
    Failed,
    FrameError,
    Infer,
    Inferred,
    Prepare,
    Prepared,
    Reply,
    Request,
    check_length,
    decode_request,
    encode,
    pack_array,
    pack_result,
    unpack_array,
    unpack_golden,
    unpack_params,
)
from agent.learning.golden import check_golden
from agent.learning.graph import read_graph
from agent.learning.limits import ProcessLimits, limit_this_process
from agent.learning.runtime import BackendError
from agent.learning.train import TrainingDiverged, train

_EXPECTED = (ValueError, TrainingDiverged, BackendError, MemoryError)


@dataclass
class Trainer:
    """The model loaded in this process, if any."""

    threads: int
    backend: OnnxRuntimeBackend | None = None

    def answer(self, request: Request) -> Reply:
        """Do one request; failures that a request can cause become `Failed`."""
        try:
            return self._do(request)
        except _EXPECTED as error:
            return Failed(type(error).__name__, str(error) or "out of memory")

    def _do(self, request: Request) -> Reply:
        if isinstance(request, Prepare):
            return self._prepare(request)
        if self.backend is None:
            raise ValueError("no model is prepared")
        if isinstance(request, Infer):
            x = unpack_array(request.x)
            return Inferred(pack_array(self.backend.infer(unpack_params(request.params), x)))
        start = unpack_params(request.params)
        x, y = unpack_array(request.x), unpack_array(request.y)
        return pack_result(train(self.backend, start, x, y, request.plan))

    def _prepare(self, request: Prepare) -> Reply:
        self.backend = None
        backend = OnnxRuntimeBackend(read_graph(request.graph), request.loss, self.threads)
        golden = request.golden
        if golden is not None:
            params = unpack_params(golden.params)
            check_golden(backend, params, unpack_golden(golden), golden.tolerance)
        self.backend = backend
        return Prepared()


def serve(source: FileIO, sink: FileIO, trainer: Trainer, idle_s: float) -> None:
    """Answer requests until the input ends or stays idle for `idle_s` seconds.

    Args:
      source: unbuffered, selectable.
      sink: unbuffered.
      trainer: does the requests.
      idle_s: see `ProcessLimits`.
    """
    while select.select([source], [], [], idle_s)[0]:
        header = _read_exactly(source, HEADER.size)
        if header is None:
            return
        size = HEADER.unpack(header)[0]
        check_length(size)
        body = _read_exactly(source, size)
        if body is None:
            return
        try:
            reply = trainer.answer(decode_request(body))
        except FrameError as error:
            reply = Failed("FrameError", str(error))
        del body
        _write_all(sink, encode(reply))


def _read_exactly(source: FileIO, size: int) -> bytearray | None:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = source.readinto(rest)
        if not count:
            return None
        rest = rest[count:]
    return data


def _write_all(sink: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]


def main(arguments: list[str]) -> None:
    """Run the child: arguments are the parent's process id and `ProcessLimits` as JSON."""
    limits = ProcessLimits(**json.loads(arguments[1]))
    limit_this_process(limits, parent=int(arguments[0]))
    # Whatever a library prints must not end up between frames.
    sink_descriptor = os.dup(1)
    os.dup2(2, 1)
    with FileIO(0, "r", closefd=False) as source, FileIO(sink_descriptor, "w") as sink:
        serve(source, sink, Trainer(limits.threads), limits.idle_s)


if __name__ == "__main__":
    main(sys.argv[1:])
