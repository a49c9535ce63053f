"""Training in the agent's own process: the child's results, and an agent that stays alive."""

import asyncio
import itertools
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.learning.families import mlp
from agent.learning.golden import make_golden
from agent.learning.graph import initial_params, write_graph
from agent.learning.inside import TrainingThread
from agent.learning.losses import Loss
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.params import flatten
from agent.learning.place import training_place
from agent.learning.train import TrainingPlan
from agent.learning.worker import TrainingFailed, TrainingProcess

MODEL = mlp(5, (64, 32), 1, seed=0)
START = initial_params(MODEL)
LOSS = Loss.BINARY_CROSS_ENTROPY
PLAN = TrainingPlan(
    epochs=20, batch_size=32, optimizer="adam", learning_rate=1e-2, average_tail=0.5
)
STEPS = 20 * 13
ENDLESS = TrainingPlan(epochs=10**6, batch_size=32, optimizer="sgd", learning_rate=1e-3)


def rows(number: int = 400) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.random.default_rng(0).standard_normal((number, 5)).astype(np.float32)
    return x, (x[:, :1] > 0).astype(np.float32)


def with_thread(
    body: Callable[[TrainingThread], Awaitable[None]], *, idle_s: float = 60.0, model: bool = True
) -> None:
    """Run a coroutine with a thread that has a model prepared, and see that none is left."""

    async def run() -> None:
        inside = TrainingThread(idle_s=idle_s)
        async with asyncio.timeout(60):
            try:
                if model:
                    await inside.prepare(write_graph(MODEL), LOSS)
                await body(inside)
            finally:
                await inside.close()
        assert not training_threads()

    asyncio.run(run())


def training_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("training")]


def test_a_training_inside_equals_the_childs_to_the_last_bit() -> None:
    x, y = rows()
    weights = np.linspace(0.5, 2.0, len(x), dtype=np.float32)
    inside_said: list[bytes] = []
    child_said: list[bytes] = []

    async def body(inside: TrainingThread) -> None:
        async with TrainingProcess(backend="numpy", nice=0) as child:
            await child.prepare(write_graph(MODEL), LOSS)
            results = [
                await place.train(
                    START,
                    x,
                    y,
                    PLAN,
                    held_out=(x[:50], y[:50]),
                    example_weights=weights,
                    checkpoint_s=1e-6,
                    on_checkpoint=said.append,
                )
                for place, said in ((inside, inside_said), (child, child_said))
            ]
        here, there = results
        assert flatten(here.params).tobytes() == flatten(there.params).tobytes()
        assert repr(replace(here, params={})) == repr(replace(there, params={}))
        assert list(here.params) == list(START)
        assert inside_said == child_said
        assert len(inside_said) == STEPS - 1

    with_thread(body)


def test_what_the_thread_begins_the_child_goes_on_with() -> None:
    x, y = rows()

    async def body(inside: TrainingThread) -> None:
        whole = await inside.train(START, x, y, PLAN)
        first = await inside.train(
            START, x, y, PLAN, checkpoint_s=1e-6, on_checkpoint=lambda _: inside.interrupt()
        )
        assert first.stopped
        assert first.checkpoint is not None
        assert 0 < first.steps < whole.steps == STEPS
        async with TrainingProcess(backend="numpy", nice=0) as child:
            await child.prepare(write_graph(MODEL), LOSS)
            rest = await child.train(START, x, y, PLAN, checkpoint=first.checkpoint.to_bytes())
        assert flatten(rest.params).tobytes() == flatten(whole.params).tobytes()

    with_thread(body)


def test_a_step_that_is_too_long_leaves_the_last_checkpoint_and_is_waited_for_later() -> None:
    x, y = rows()
    asked = itertools.count()
    entered, go_on = threading.Event(), threading.Event()

    class Slow(np.ndarray):
        """Rows that do not come when the third step asks for them."""

        def __getitem__(self, key: Any) -> Any:
            if next(asked) == 2:
                entered.set()
                go_on.wait()
            return np.asarray(super().__getitem__(key))

    async def body(inside: TrainingThread) -> None:
        received: list[bytes] = []
        task = asyncio.create_task(
            inside.train(
                START, x.view(Slow), y, ENDLESS, checkpoint_s=1e-6, on_checkpoint=received.append
            )
        )
        await asyncio.to_thread(entered.wait)
        inside.interrupt(0.05)
        result = await task
        assert (result.stopped, result.steps, len(received)) == (True, 2, 2)
        assert result.checkpoint is not None
        assert result.checkpoint.to_bytes() == received[-1]
        go_on.set()
        assert (await inside.train(START, x, y, PLAN)).steps == STEPS
        assert len(received) == 2  # nobody hears what came of the long step

    with_thread(body)


def test_a_cancelled_training_ends_and_the_next_call_works() -> None:
    async def body(inside: TrainingThread) -> None:
        began = asyncio.Event()
        task = asyncio.create_task(
            inside.train(
                START,
                *rows(),
                ENDLESS,
                checkpoint_s=1e-6,
                on_checkpoint=lambda _: began.set(),
            )
        )
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await inside.train(START, *rows(), PLAN)).steps == STEPS

    with_thread(body)


def test_closing_ends_a_training_that_goes_on() -> None:
    async def body(inside: TrainingThread) -> None:
        began = asyncio.Event()
        task = asyncio.create_task(
            inside.train(
                START,
                *rows(),
                ENDLESS,
                checkpoint_s=1e-6,
                on_checkpoint=lambda _: began.set(),
            )
        )
        await began.wait()
        await inside.close()
        assert (await task).stopped
        assert inside.pid is None
        assert (await inside.train(START, *rows(), PLAN)).steps == STEPS

    with_thread(body)


def test_an_idle_thread_leaves_with_its_model_and_comes_back_unnoticed() -> None:
    x, y = rows()

    async def body(inside: TrainingThread) -> None:
        first = await inside.train(START, x, y, PLAN)
        while training_threads():  # noqa: ASYNC110 - another thread's end can only be polled
            await asyncio.sleep(0.01)
        again = await inside.train(START, x, y, PLAN)
        assert flatten(again.params).tobytes() == flatten(first.params).tobytes()

    with_thread(body, idle_s=0.05)


def test_the_event_loop_runs_between_the_steps_of_a_training() -> None:
    async def body(inside: TrainingThread) -> None:
        turns = 0

        async def live() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        living = asyncio.create_task(live())
        result = await inside.train(START, *rows(), PLAN)
        living.cancel()
        assert result.steps == STEPS
        assert turns > STEPS / 4  # hundreds of times as many, on an idle machine

    with_thread(body)


def test_the_thread_gives_way_and_the_agent_does_not() -> None:
    async def body(inside: TrainingThread) -> None:
        await inside.infer(START, rows()[0])
        (thread,) = training_threads()
        assert thread.native_id is not None
        assert inside.pid == thread.native_id
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(own + 5, 19)

    with_thread(body)


def test_failures_that_a_request_causes_are_told_and_leave_it_working() -> None:
    x, y = rows()
    golden = make_golden(NumpyBackend(MODEL, LOSS), START, x, y)
    other = {name: value * np.float32(1.1) for name, value in START.items()}

    async def body(inside: TrainingThread) -> None:
        with pytest.raises(TrainingFailed, match="no model is prepared"):
            await inside.train(START, x, y, PLAN)
        with pytest.raises(TrainingFailed, match="GraphError"):
            await inside.prepare(b"\xff" * 100, LOSS)
        with pytest.raises(TrainingFailed, match="GoldenMismatch"):
            await inside.prepare(write_graph(MODEL), LOSS, (golden, other, 1e-4))
        await inside.prepare(write_graph(MODEL), LOSS, (golden, START, 1e-4))
        hot = TrainingPlan(epochs=1, batch_size=8, optimizer="sgd", learning_rate=1e30)
        with pytest.raises(TrainingFailed, match="TrainingDiverged"):
            await inside.train(START, x, y, hot)
        with pytest.raises(TrainingFailed, match="CheckpointError"):
            await inside.train(START, x, y, PLAN, checkpoint=b"none")
        with pytest.raises(TrainingFailed, match="expected"):
            await inside.infer(START, x[:, :3])
        assert (await inside.train(START, x, y, PLAN)).steps == STEPS

    with_thread(body, model=False)


@pytest.mark.parametrize(
    ("name", "backend", "is_inside"),
    [
        ("auto", "numpy", True),
        ("auto", "onnxruntime", False),
        ("child", "numpy", False),
        ("inside", "auto", True),
    ],
)
def test_numpy_trains_inside_and_onnx_runtime_in_a_child_unless_told_otherwise(
    name: str, backend: str, is_inside: bool
) -> None:
    place = training_place(name, backend, memory_bytes=1 << 30, idle_s=60, nice=10)  # type: ignore[arg-type]
    assert isinstance(place, TrainingThread) == is_inside
