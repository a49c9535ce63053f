"""Training inside the agent's own process, in a thread: for gateways with little memory.

A training child costs some 45 MB while it lives, nearly all of it for libraries that the agent has
loaded already; this costs the rows and the model.  Only the numpy backend runs here: ONNX Runtime
loads 20 MB of machine code that would stay for good.

Responsible for keeping the agent alive beside it: the thread gives way a little, and between two
steps it sleeps a moment, so that what waits for Python's lock (acquisition, scoring) gets it.  The
model is dropped and the thread ends when nobody has asked for anything for `idle_s`.

What a child guarantees and a thread can not: memory has no limit of its own, and a step can not be
broken off.  So an interrupted training whose step takes longer than `INTERRUPT_GRACE_S` returns its
last checkpoint at once, while the thread ends that step unseen; the next request waits for it.

Invariant: results are those of the child with the same backend, to the last bit: both run
`train.train` on the same arguments.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import Checkpoint
from agent.learning.choice import open_backend
from agent.learning.golden import Golden, check_golden
from agent.learning.graph import read_graph
from agent.learning.ir import Params
from agent.learning.limits import ProcessLimits, lower_this_thread
from agent.learning.losses import Loss
from agent.learning.memory import give_memory_back
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.runtime import Backend
from agent.learning.train import Training, TrainingResult, train
from agent.learning.trainer import EXPECTED, Due
from agent.learning.worker import INTERRUPT_GRACE_S, TrainingFailed, stopped_at

T = TypeVar("T")

YIELD_S = 50e-6
"""Sleep between two steps: Python's lock is free for whoever waits, and the kernel rounds it up to
some 0.1 ms."""


@dataclass
class _Run:
    """The training that is going on.

    Attributes:
      deadline: when its call returns without it; never, until it is interrupted.
      latest: the newest checkpoint's bytes, of this run or given to it.
      on_checkpoint: told of each checkpoint that comes, on the event loop.
      is_over: whether to stop between two steps; read by the thread.
      is_heard: whether somebody still waits for it.
    """

    deadline: asyncio.Timeout
    latest: bytes | None
    on_checkpoint: Callable[[bytes], None] | None
    is_over: threading.Event = field(default_factory=threading.Event)
    is_heard: bool = True

    def keep(self, checkpoint: bytes) -> None:
        """Note a checkpoint, unless its call has returned already."""
        if self.is_heard:
            self.latest = checkpoint
            if self.on_checkpoint is not None:
                self.on_checkpoint(checkpoint)


class TrainingThread:
    """Trains in a thread of this process; `close` it.  Concurrent calls wait for each other."""

    def __init__(self, *, idle_s: float = ProcessLimits.idle_s) -> None:
        """Start nothing yet.

        Args:
          idle_s: without requests for this long the thread ends and the model is dropped.
        """
        self._idle_s = idle_s
        self._pool: ThreadPoolExecutor | None = None
        self._thread: int | None = None
        self._model: tuple[bytes, Loss] | None = None
        self._backend: Backend | None = None
        self._turn = asyncio.Lock()
        self._run: _Run | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The thread's id for the kernel, None while there is none."""
        return self._thread if self._pool is not None else None

    def limit(self, *, memory_bytes: int, idle_s: float) -> None:
        """Wait so long for requests from now on; memory can not be limited here."""
        del memory_bytes
        self._idle_s = idle_s

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
        """

        def load() -> Backend:
            backend = open_backend(read_graph(graph), loss, name="numpy")
            if golden is not None:
                vectors, params, tolerance = golden
                check_golden(backend, params, vectors, tolerance)
            return backend

        async with self._turn:
            if (graph, loss) == self._model and self._backend is not None:
                return
            self._model = self._backend = None
            self._backend = await self._work(load)
            self._model = graph, loss

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
        """Train the prepared model; arguments as of `TrainingProcess.train`, not to be changed.

        Cancelling the call ends the training after the step that is going on, unheard; `interrupt`
        ends it with a result.

        Raises:
          TrainingFailed: training diverged, or an argument does not fit the model; of kind
            `CheckpointError` or `CheckpointMismatch` when the checkpoint is of no use here.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            run = self._run = _Run(asyncio.timeout(None), checkpoint, on_checkpoint)
            due = Due(checkpoint_s)

            def on_step(training: Training) -> None:
                if due.now() and not training.finished:
                    data = training.checkpoint().to_bytes()
                    loop.call_soon_threadsafe(run.keep, data)
                time.sleep(YIELD_S)

            def work(backend: Backend) -> TrainingResult:
                start = Checkpoint.from_bytes(checkpoint) if checkpoint is not None else None
                return train(
                    backend,
                    params,
                    x,
                    y,
                    plan,
                    held_out=held_out,
                    example_weights=example_weights,
                    checkpoint=start,
                    should_stop=run.is_over.is_set,
                    on_step=on_step,
                )

            try:
                async with run.deadline:
                    return await self._with_model(work)
            except TimeoutError:
                if not run.deadline.expired():
                    raise
                return stopped_at(params, run.latest)
            finally:
                run.is_over.set()
                run.is_heard = False
                self._run = None

    def interrupt(self, grace_s: float = INTERRUPT_GRACE_S) -> None:
        """Make the training that is going on, if any, return within a second, or `grace_s`.

        Its call returns what is learned so far, `stopped` and with its checkpoint; when a step
        takes longer, that is the last checkpoint that came, or None.
        """
        run = self._run
        if run is None or run.is_over.is_set():
            return
        run.is_over.set()
        run.deadline.reschedule(asyncio.get_running_loop().time() + grace_s)

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the prepared model on rows x.

        Raises:
          TrainingFailed: an argument does not fit the model.
        """
        async with self._turn:
            return await self._with_model(lambda backend: backend.infer(params, x))

    async def close(self) -> None:
        """End what goes on after its step, the thread, and give back; the next call begins anew."""
        self.interrupt()
        async with self._turn:
            pool = self._pool
            self._forget()
            if pool is not None:
                await asyncio.to_thread(pool.shutdown)

    async def _with_model(self, do: Callable[[Backend], T]) -> T:
        """Do something with the last model prepared, which is loaded again where it was dropped."""
        if self._model is None:
            raise TrainingFailed("ValueError", "no model is prepared")
        if self._backend is None:
            graph, loss = self._model
            self._backend = await self._work(
                lambda: open_backend(read_graph(graph), loss, name="numpy")
            )
        backend = self._backend
        return await self._work(lambda: do(backend))

    async def _work(self, do: Callable[[], T]) -> T:
        """Do something in the thread; its expected failures become `TrainingFailed`."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "training", initializer=self._begin)
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, do)
        except EXPECTED as error:
            raise TrainingFailed(type(error).__name__, str(error) or "out of memory") from error
        finally:
            self._idle = loop.call_later(self._idle_s, self._forget)

    def _begin(self) -> None:
        """What the thread does first."""
        self._thread = threading.get_native_id()
        lower_this_thread()

    def _forget(self) -> None:
        """Drop the model, and the thread as soon as it has nothing to do."""
        if self._idle is not None:
            self._idle.cancel()
        self._backend = None
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = self._thread = None
            give_memory_back()
