"""The agent's handle on its training child.

Responsible for starting the child, one request at a time, killing it on cancellation, and
starting it again, with its model, when it is gone. Loads no runtime itself, so that an agent
that only trains stays small between trainings.

Theory. The child is in one of three states: absent, ready, busy. A call makes an absent child
ready (start, then the last `prepare` again). A child that ended while ready, because it was
idle, is absent and nobody minds. A child that ends while busy raises `TrainingProcessDied`
and is absent. Cancelling a call kills the child, which is then absent; a half-read reply can
so never be taken for the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.learning.frames import (
    HEADER,
    Failed,
    Infer,
    Inferred,
    Prepare,
    Prepared,
    Reply,
    Request,
    Train,
    Trained,
    check_length,
    decode_reply,
    encode,
    pack_array,
    pack_golden,
    pack_params,
    unpack_array,
    unpack_result,
)
from agent.learning.golden import Golden
from agent.learning.ir import Params
from agent.learning.limits import ProcessLimits
from agent.learning.losses import Loss
from agent.learning.train import TrainingPlan, TrainingResult

Answer = TypeVar("Answer", bound=Reply)

_ROOT = str(Path(__file__).resolve().parents[2])
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HOME", "TMPDIR")


class TrainingFailed(RuntimeError):  # noqa: N818 - an answer of the child, named as such
    """The child answered that it cannot do a request; it is still alive.

    Attributes:
      kind: class name of the child's error, such as `GraphError` or `TrainingDiverged`.
      reason: its words.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


class TrainingProcessDied(RuntimeError):  # noqa: N818 - states what happened
    """The child ended while doing a request; the next call starts another.

    Attributes:
      status: its exit status, negative for the signal that killed it (-9 also when the
        kernel ran out of memory, -24 when its CPU time was used up).
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the training process ended with status {status} during a request")
        self.status = status


class TrainingProcess:
    """A training child; use as an async context manager or `close` it.

    Start it from a thread that lives as long as the agent: the kernel kills the child when
    the thread that started it ends. Concurrent calls wait for each other.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = ProcessLimits.memory_bytes,
        cpu_s: int | None = ProcessLimits.cpu_s,
        nice: int = ProcessLimits.nice,
        threads: int = ProcessLimits.threads,
        idle_s: float = ProcessLimits.idle_s,
    ) -> None:
        """Take the child's limits, see `ProcessLimits`; nothing is started yet."""
        self._limits = ProcessLimits(memory_bytes, cpu_s, nice, threads, idle_s)
        self._child: asyncio.subprocess.Process | None = None
        self._prepared: Prepare | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.pid if self._child and self._child.returncode is None else None

    async def start(self) -> None:
        """Start the child if there is none, and give it the last model prepared.

        Raises:
          TrainingFailed: the model is refused this time.
          TrainingProcessDied: the child ended at once.
        """
        async with self._turn:
            await self._ensure_child()

    async def prepare(
        self,
        graph: bytes,
        loss: Loss,
        golden: tuple[Golden, Params, float] | None = None,
    ) -> None:
        """Load a model; nothing happens when it is the one that is loaded.

        Args:
          graph: the forward graph, ONNX bytes from anywhere.
          loss: what to train it for.
          golden: golden vectors, the parameters they hold for, and the tolerance.

        Raises:
          TrainingFailed: the graph, or its golden vectors on this runtime, are refused.
          TrainingProcessDied: the child ended.
        """
        request = Prepare(graph, loss, pack_golden(*golden) if golden else None)
        async with self._turn:
            if request == self._prepared and self.pid is not None:
                return
            self._prepared = None
            await self._expect(request, Prepared)
            self._prepared = request

    async def train(
        self, params: Params, x: NDArray[np.float32], y: NDArray[Any], plan: TrainingPlan
    ) -> TrainingResult:
        """Train the prepared model; see `train.train`.

        Cancelling the call kills the child at once.

        Raises:
          TrainingFailed: training diverged, or an argument does not fit the model.
          TrainingProcessDied: the child ended.
        """
        request = Train(pack_params(params), pack_array(x), pack_array(y), plan)
        async with self._turn:
            return unpack_result(await self._expect(request, Trained))

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the prepared model on rows x.

        Raises:
          TrainingFailed: an argument does not fit the model.
          TrainingProcessDied: the child ended.
        """
        request = Infer(pack_params(params), pack_array(x))
        async with self._turn:
            output: NDArray[np.float32] = unpack_array(
                (await self._expect(request, Inferred)).output
            )
        return output

    async def close(self) -> None:
        """Kill the child, if there is one, and wait until it is gone."""
        async with self._turn:
            await self._kill()

    async def _expect(self, request: Request, kind: type[Answer]) -> Answer:
        await self._ensure_child()
        reply = await self._exchange(request)
        if reply is None:  # idle, it left while the request was on its way
            await self._ensure_child()
            reply = await self._exchange(request)
        return _checked(reply, kind)

    async def _ensure_child(self) -> None:
        if self.pid is not None:
            return
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-s",
            "-m",
            "agent.learning.trainer",
            str(os.getpid()),
            json.dumps(asdict(self._limits)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the agent to handle
            env=_environment(self._limits.threads),
        )
        if self._prepared is not None:
            _checked(await self._exchange(self._prepared), Prepared)

    async def _exchange(self, request: Request) -> Reply | None:
        """Send a request and read its reply; None when the child had left in peace."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            return None
        try:
            child.stdin.write(encode(request))
            await child.stdin.drain()
            size = HEADER.unpack(await child.stdout.readexactly(HEADER.size))[0]
            check_length(size)
            return decode_reply(await child.stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            status = await child.wait()
            if status == 0:
                return None
            raise TrainingProcessDied(status) from error
        except BaseException:  # cancelled, or a broken reply: the stream is of no more use
            await self._kill()
            raise

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        await child.wait()


def _checked(reply: Reply | None, kind: type[Answer]) -> Answer:
    if reply is None:
        raise TrainingProcessDied(0)
    if isinstance(reply, Failed):
        raise TrainingFailed(reply.kind, reply.reason)
    if not isinstance(reply, kind):
        raise TrainingFailed("FrameError", f"unexpected reply {type(reply).__name__}")
    return reply


def _environment(threads: int) -> dict[str, str]:
    """Return the child's variables: no secret of the agent, no thread pools of numpy."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    pools = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    return {**kept, **pools, "PYTHONPATH": _ROOT}
