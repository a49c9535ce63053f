"""The agent's handle on its training child.

Responsible for starting the child, one request at a time, killing it on cancellation, and
starting it again, with its model, when it is gone. Loads no runtime itself, so that an agent
that only trains stays small between trainings.

Theory. The child is in one of three states: absent, ready, busy. A call makes an absent child
ready (start, then the last `prepare` again). A child that ended while ready, because it was
idle, is absent and nobody minds. A child that ends while busy raises `TrainingProcessDied`
and is absent. Cancelling a call kills the child, which is then absent; a half-read reply can
so never be taken for the next one.

Interrupting is kinder than cancelling: the child is asked to stop between two steps and answers
with its checkpoint. A step may be longer than anybody wants to wait, and a child may hang; so
after `INTERRUPT_GRACE_S` it is killed all the same, and the last checkpoint that it sent is
where training stopped.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import Checkpoint
from agent.learning.choice import BackendName
from agent.learning.frames import (
    HEADER,
    Checkpointed,
    Failed,
    Infer,
    Inferred,
    Interrupt,
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
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.train import TrainingResult, result_of

Answer = TypeVar("Answer", bound=Reply)

INTERRUPT_GRACE_S = 0.8
"""What an interrupted child may take to answer; killing it fits into the rest of a second."""

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


@dataclass
class _Run:
    """The training that is going on.

    Attributes:
      deadline: when its child is killed; never, until it is interrupted.
      latest: the newest checkpoint's bytes, of this run or given to it.
      on_checkpoint: told of each checkpoint that comes.
      sent: whether the request is on its way to the child.
      interrupted: whether to stop.
    """

    deadline: asyncio.Timeout
    latest: bytes | None
    on_checkpoint: Callable[[bytes], None] | None
    sent: bool = False
    interrupted: bool = False


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
        backend: BackendName = "auto",
    ) -> None:
        """Take the child's limits, see `ProcessLimits`, and its runtime; nothing is started yet."""
        self._backend = backend
        self._limits = ProcessLimits(memory_bytes, cpu_s, nice, threads, idle_s)
        self._child: asyncio.subprocess.Process | None = None
        self._prepared: Prepare | None = None
        self._turn = asyncio.Lock()
        self._run: _Run | None = None

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

    def limit(self, *, memory_bytes: int, idle_s: float) -> None:
        """Give the next child these limits; the one that runs keeps its own."""
        self._limits = replace(self._limits, memory_bytes=memory_bytes, idle_s=idle_s)

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
        vectors = pack_golden(*golden) if golden else None
        request = Prepare(graph, loss, vectors, self._backend)
        async with self._turn:
            if request == self._prepared and self.pid is not None:
                return
            self._prepared = None
            await self._expect(request, Prepared)
            self._prepared = request

    async def train(  # noqa: PLR0913 - `train.train`'s arguments, and two of its own
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
        example_weights: NDArray[np.float32] | None = None,
        checkpoint: bytes | None = None,
        checkpoint_s: float = 0.0,
        on_checkpoint: Callable[[bytes], None] | None = None,
    ) -> TrainingResult:
        """Train the prepared model; see `train.train`.

        Cancelling the call kills the child at once; `interrupt` ends it with a result.

        Args:
          params: parameters to start from.
          x: rows.
          y: labels.
          plan: how to train.
          held_out: rows and labels to judge each epoch by.
          example_weights: the rows' weights.
          checkpoint: bytes of a `Checkpoint` to go on from.
          checkpoint_s: least time between two checkpoints, 0 for none.
          on_checkpoint: called with each checkpoint's bytes as it comes.

        Raises:
          TrainingFailed: training diverged, or an argument does not fit the model; of kind
            `CheckpointError` or `CheckpointMismatch` when the checkpoint is of no use here.
          TrainingProcessDied: the child ended.
        """
        request = Train(
            params=pack_params(params),
            x=pack_array(x),
            y=pack_array(y),
            plan=plan,
            held_out=(pack_array(held_out[0]), pack_array(held_out[1])) if held_out else None,
            example_weights=None if example_weights is None else pack_array(example_weights),
            checkpoint=checkpoint,
            checkpoint_s=checkpoint_s,
        )
        async with self._turn:
            run = self._run = _Run(asyncio.timeout(None), checkpoint, on_checkpoint)
            try:
                async with run.deadline:
                    return unpack_result(await self._expect(request, Trained))
            except TimeoutError:
                if not run.deadline.expired():
                    raise
                return stopped_at(params, run.latest)
            finally:
                self._run = None

    def interrupt(self, grace_s: float = INTERRUPT_GRACE_S) -> None:
        """Make the training that is going on, if any, return within a second, or `grace_s`.

        Its call returns what is learned so far, `stopped` and with its checkpoint. When the child
        does not answer in time it is killed, and that is the last checkpoint that came, or None.
        A training that ends by itself meanwhile returns as if nothing had happened.
        """
        run = self._run
        if run is None or run.interrupted:
            return
        run.interrupted = True
        run.deadline.reschedule(asyncio.get_running_loop().time() + grace_s)
        if run.sent and self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(encode(Interrupt()))

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
            self._send(child.stdin, request)
            await child.stdin.drain()
            while isinstance(reply := await _read_reply(child.stdout), Checkpointed):
                self._keep(reply)
            return reply
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            status = await child.wait()
            if status == 0:
                return None
            raise TrainingProcessDied(status) from error
        except BaseException:  # cancelled, or a broken reply: the stream is of no more use
            await self._kill()
            raise

    def _send(self, sink: asyncio.StreamWriter, request: Request) -> None:
        sink.write(encode(request))
        if self._run is not None and isinstance(request, Train):
            self._run.sent = True
            if self._run.interrupted:  # while the child was starting
                sink.write(encode(Interrupt()))

    def _keep(self, reply: Checkpointed) -> None:
        if self._run is not None:
            self._run.latest = reply.data
            if self._run.on_checkpoint is not None:
                self._run.on_checkpoint(reply.data)

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _read_reply(source: asyncio.StreamReader) -> Reply:
    size = HEADER.unpack(await source.readexactly(HEADER.size))[0]
    check_length(size)
    return decode_reply(await source.readexactly(size))


def stopped_at(start: Params, checkpoint: bytes | None) -> TrainingResult:
    """Return the result of a training that is known by its last checkpoint alone, or by none."""
    if checkpoint is not None:
        return result_of(start, Checkpoint.from_bytes(checkpoint), stopped=True)
    return TrainingResult(
        params={name: value.copy() for name, value in start.items()},
        steps=0,
        examples=0,
        loss_first_epoch=math.nan,
        loss_last_epoch=math.nan,
        stopped=True,
    )


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
