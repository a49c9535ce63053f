"""The training child: `python -m agent.learning.trainer`, one model at a time.

Responsible for doing requests from stdin and answering on stdout, one after the other, within
the limits it puts on itself first. While it trains it looks for `Interrupt` between two steps
and sends checkpoints. Ends by itself at the end of input, or when idle for `idle_s`. Expected
failures are answered with `Failed`; anything else ends the process, which the parent reports.
The parent's half is `worker`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import Checkpoint
from agent.learning.choice import open_backend
from agent.learning.frames import (
    HEADER,
    Checkpointed,
    Failed,
    FrameError,
    Infer,
    Inferred,
    Interrupt,
    Prepare,
    Prepared,
    Reply,
    Request,
    Train,
    WireArray,
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
from agent.learning.runtime import Backend, BackendError
from agent.learning.train import Training, TrainingDiverged, train

EXPECTED = (ImportError, ValueError, TrainingDiverged, BackendError, MemoryError)
"""What a request can cause."""


@dataclass(frozen=True)
class Line:
    """The two ends of the agent's pipes: requests come in, replies go out.

    Attributes:
      source: unbuffered, selectable.
      sink: unbuffered.
    """

    source: FileIO
    sink: FileIO

    def has_request(self, wait_s: float) -> bool:
        """Wait until a request, or the end of input, is there to be received."""
        return bool(select.select([self.source], [], [], wait_s)[0])

    def receive(self) -> Request | None:
        """Read one request; None at the end of input.

        Raises:
          FrameError: the frame is no request, and has been read.
          SystemExit: the frame is too large to read; what follows makes no sense either.
        """
        header = _read_exactly(self.source, HEADER.size)
        if header is None:
            return None
        size = HEADER.unpack(header)[0]
        try:
            check_length(size)
        except FrameError as error:
            raise SystemExit(str(error)) from error
        body = _read_exactly(self.source, size)
        return None if body is None else decode_request(body)

    def send(self, reply: Reply) -> None:
        """Write one reply."""
        rest = memoryview(encode(reply))
        while rest:
            rest = rest[self.sink.write(rest) :]


class Due:
    """Says when something is due that is done every so many seconds; 0: never."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._done_s = every_s, time.monotonic()

    def now(self) -> bool:
        """Whether it is; then the next time begins."""
        now_s = time.monotonic()
        is_due = 0 < self._every_s <= now_s - self._done_s
        if is_due:
            self._done_s = now_s
        return is_due


@dataclass
class Trainer:
    """The model loaded in this process, if any."""

    line: Line
    threads: int
    backend: Backend | None = None

    def answer(self, request: Request) -> Reply:
        """Do one request; failures that a request can cause become `Failed`."""
        try:
            return self._do(request)
        except EXPECTED as error:
            return Failed(type(error).__name__, str(error) or "out of memory")

    def _do(self, request: Request) -> Reply:
        if isinstance(request, Prepare):
            return self._prepare(request)
        if self.backend is None:
            raise ValueError("no model is prepared")
        if isinstance(request, Train):
            return self._train(self.backend, request)
        if not isinstance(request, Infer):
            raise FrameError(f"{type(request).__name__} is not answered")
        x = unpack_array(request.x)
        return Inferred(pack_array(self.backend.infer(unpack_params(request.params), x)))

    def _prepare(self, request: Prepare) -> Reply:
        self.backend = None
        graph = read_graph(request.graph)
        backend = open_backend(graph, request.loss, threads=self.threads, name=request.backend)
        golden = request.golden
        if golden is not None:
            params = unpack_params(golden.params)
            check_golden(backend, params, unpack_golden(golden), golden.tolerance)
        self.backend = backend
        return Prepared()

    def _train(self, backend: Backend, request: Train) -> Reply:
        given = request.checkpoint
        weights = request.example_weights
        result = train(
            backend,
            unpack_params(request.params),
            unpack_array(request.x),
            unpack_array(request.y),
            request.plan,
            held_out=_unpack_pair(request.held_out),
            example_weights=unpack_array(weights) if weights is not None else None,
            checkpoint=Checkpoint.from_bytes(given) if given is not None else None,
            should_stop=self._is_interrupted,
            on_step=self._checkpoints(request.checkpoint_s),
        )
        return pack_result(result)

    def _is_interrupted(self) -> bool:
        """Look at the line between two steps; a closed one ends training as well.

        Raises:
          FrameError: something else than `Interrupt` came while training.
        """
        if not self.line.has_request(0.0):
            return False
        request = self.line.receive()
        if not isinstance(request, Interrupt | None):
            raise FrameError(f"{type(request).__name__} came during training")
        return True

    def _checkpoints(self, every_s: float) -> Callable[[Training], None]:
        """Return what sends a checkpoint after a step, `every_s` seconds after the last one."""
        due = Due(every_s)

        def send_if_due(training: Training) -> None:
            if due.now() and not training.finished:
                self.line.send(Checkpointed(training.checkpoint().to_bytes()))

        return send_if_due


def serve(line: Line, trainer: Trainer, idle_s: float) -> None:
    """Answer requests until the input ends or stays idle for `idle_s` seconds.

    Args:
      line: where requests come from.
      trainer: does the requests.
      idle_s: see `ProcessLimits`.
    """
    while line.has_request(idle_s):
        try:
            request = line.receive()
        except FrameError as error:
            line.send(Failed("FrameError", str(error)))
            continue
        if request is None:
            return
        if not isinstance(request, Interrupt):  # it crossed the end of the training it meant
            line.send(trainer.answer(request))


def _unpack_pair(
    message: tuple[WireArray, WireArray] | None,
) -> tuple[NDArray[np.float32], NDArray[Any]] | None:
    if message is None:
        return None
    x, y = message
    return unpack_array(x), unpack_array(y)


def _read_exactly(source: FileIO, size: int) -> bytearray | None:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = source.readinto(rest)
        if not count:
            return None
        rest = rest[count:]
    return data


def main(arguments: list[str]) -> None:
    """Run the child: arguments are the parent's process id and `ProcessLimits` as JSON."""
    limits = ProcessLimits(**json.loads(arguments[1]))
    limit_this_process(limits, parent=int(arguments[0]))
    # Whatever a library prints must not end up between frames.
    sink_descriptor = os.dup(1)
    os.dup2(2, 1)
    with FileIO(0, "r", closefd=False) as source, FileIO(sink_descriptor, "w") as sink:
        line = Line(source, sink)
        serve(line, Trainer(line, limits.threads), limits.idle_s)


if __name__ == "__main__":
    main(sys.argv[1:])
