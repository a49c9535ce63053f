"""The training child: a real process, its limits, its death, and its frames."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.checkpoint import Checkpoint
from agent.learning.families import mlp
from agent.learning.frames import (
    HEADER,
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
    Trained,
    WireArray,
    check_length,
    decode_reply,
    decode_request,
    encode,
    pack_array,
    pack_params,
    unpack_array,
)
from agent.learning.golden import make_golden
from agent.learning.graph import initial_params, write_graph
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.params import flatten
from agent.learning.train import TrainingPlan, TrainingResult, train
from agent.learning.trainer import Line, Trainer, serve
from agent.learning.worker import TrainingFailed, TrainingProcess, TrainingProcessDied

ROOT = Path(__file__).resolve().parents[3]
MODEL = mlp(5, (64, 32), 1, seed=0)
START = initial_params(MODEL)
LOSS = Loss.BINARY_CROSS_ENTROPY
SHORT = TrainingPlan(epochs=2, batch_size=32, optimizer="adam", learning_rate=1e-2)
ENDLESS = TrainingPlan(epochs=10**6, batch_size=32, optimizer="sgd", learning_rate=1e-3)


def rows() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32)
    return x, (x[:, :1] > 0).astype(np.float32)


def with_child(
    body: Callable[[TrainingProcess], Awaitable[None]], model: bool = True, **limits: Any
) -> None:
    """Run a coroutine with a child that has a model prepared."""

    async def run() -> None:
        async with asyncio.timeout(60), TrainingProcess(**limits) as child:
            if model:
                await child.prepare(write_graph(MODEL), LOSS)
            await body(child)

    asyncio.run(run())


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def the_pid(child: TrainingProcess) -> int:
    assert child.pid is not None
    return child.pid


def proc_file(child: TrainingProcess, name: str) -> str:
    return Path(f"/proc/{the_pid(child)}/{name}").read_text()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something outside this process, which can only be polled."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def until_busy(child: TrainingProcess) -> None:
    """Wait until the child has used 50 ms of CPU time that it had not used before."""

    def used() -> int:
        return int(proc_file(child, "stat").rpartition(")")[2].split()[11])

    before = used()
    await until(lambda: used() >= before + 5)


def test_training_in_the_child_equals_training_here() -> None:
    x, y = rows()
    here = train(OnnxRuntimeBackend(MODEL, LOSS), START, x, y, SHORT)

    async def body(child: TrainingProcess) -> None:
        there = await child.train(START, x, y, SHORT)
        assert np.array_equal(flatten(there.params), flatten(here.params))
        assert list(there.params) == list(START)
        assert (there.steps, there.examples) == (here.steps, here.examples)
        assert there.loss_last_epoch == here.loss_last_epoch
        output = await child.infer(there.params, x)
        assert np.array_equal(output, OnnxRuntimeBackend(MODEL, LOSS).infer(here.params, x))

    with_child(body)


def test_a_cancelled_training_is_gone_within_a_second_and_the_next_call_works() -> None:
    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        task = asyncio.create_task(child.train(START, *rows(), ENDLESS))
        await until_busy(child)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 1.0
        assert not is_alive(pid)
        assert (await child.train(START, *rows(), SHORT)).steps == 26
        assert the_pid(child) != pid

    with_child(body)


def test_everything_that_decides_a_training_crosses_to_the_child_and_back() -> None:
    x, y = rows()
    weights = np.linspace(0.5, 2, 300, dtype=np.float32)
    plan = replace(SHORT, epochs=20, patience=2, class_weights=(1.0, 2.0), proximal=0.1)
    arguments: dict[str, Any] = {"held_out": (x[300:], y[300:]), "example_weights": weights}
    here = train(OnnxRuntimeBackend(MODEL, LOSS), START, x[:300], y[:300], plan, **arguments)

    async def body(child: TrainingProcess) -> None:
        there = await child.train(START, x[:300], y[:300], plan, **arguments)
        assert np.array_equal(flatten(there.params), flatten(here.params))
        assert replace(there, params={}) == replace(here, params={})

    with_child(body)


def test_an_interrupted_training_returns_its_checkpoint_and_goes_on_anywhere() -> None:
    x, y = rows()
    plan = replace(SHORT, epochs=20, average_tail=0.5)
    backend = OnnxRuntimeBackend(MODEL, LOSS)
    whole = train(backend, START, x, y, plan)

    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        first = await child.train(
            START, x, y, plan, checkpoint_s=1e-6, on_checkpoint=lambda _: child.interrupt()
        )
        assert first.stopped
        assert first.checkpoint is not None
        assert 0 < first.steps < whole.steps
        assert first.checkpoint.progress.optimizer.steps == first.steps
        data = first.checkpoint.to_bytes()
        there = await child.train(START, x, y, plan, checkpoint=data)
        here = train(backend, START, x, y, plan, checkpoint=Checkpoint.from_bytes(data))
        for result in (there, here):
            assert np.array_equal(flatten(result.params), flatten(whole.params))
            assert repr(replace(result, params={})) == repr(replace(whole, params={}))
        assert the_pid(child) == pid

    with_child(body, nice=0)


def test_an_endless_training_is_interrupted_within_a_second_by_a_living_child() -> None:
    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        task = asyncio.create_task(child.train(START, *rows(), ENDLESS))
        await until_busy(child)
        began = time.monotonic()
        child.interrupt()
        child.interrupt()  # once is enough, and twice does no harm
        result = await task
        assert time.monotonic() - began < 1.0
        assert result.stopped
        assert result.steps > 0
        assert (await child.train(START, *rows(), SHORT)).steps == 26
        assert the_pid(child) == pid

    with_child(body, nice=0)


def test_a_child_that_does_not_answer_is_killed_and_its_last_checkpoint_stands() -> None:
    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        received: list[bytes] = []

        def hang(data: bytes) -> None:
            received.append(data)
            if len(received) == 3:
                os.kill(pid, signal.SIGSTOP)

        task = asyncio.create_task(
            child.train(START, *rows(), ENDLESS, checkpoint_s=1e-3, on_checkpoint=hang)
        )
        await until(lambda: len(received) >= 3)
        began = time.monotonic()
        child.interrupt()
        result = await task
        assert time.monotonic() - began < 1.0
        assert not is_alive(pid)
        assert result.stopped
        assert result.checkpoint is not None
        assert result.checkpoint.to_bytes() == received[-1]
        last = Checkpoint.from_bytes(received[-1]).progress
        assert result.steps == last.optimizer.steps > 0
        assert np.array_equal(flatten(result.params), last.params)
        assert (await child.train(START, *rows(), SHORT)).steps == 26

    with_child(body)


def test_without_any_checkpoint_a_killed_training_gives_its_start_or_where_it_went_on() -> None:
    x, y = rows()
    backend = OnnxRuntimeBackend(MODEL, LOSS)
    calls = itertools.count()
    given_ = train(backend, START, x, y, ENDLESS, should_stop=lambda: next(calls) >= 9).checkpoint
    assert given_ is not None

    async def interrupted(child: TrainingProcess, checkpoint: bytes | None) -> TrainingResult:
        await child.start()
        task = asyncio.create_task(child.train(START, x, y, ENDLESS, checkpoint=checkpoint))
        await until_busy(child)
        os.kill(the_pid(child), signal.SIGSTOP)
        child.interrupt()
        return await task

    async def body(child: TrainingProcess) -> None:
        nothing = await interrupted(child, None)
        assert (nothing.stopped, nothing.steps, nothing.checkpoint) == (True, 0, None)
        assert np.array_equal(flatten(nothing.params), flatten(START))
        went_on = await interrupted(child, given_.to_bytes())
        assert (went_on.stopped, went_on.steps) == (True, 9)

    with_child(body)


def test_an_interrupt_without_a_training_does_nothing() -> None:
    async def body(child: TrainingProcess) -> None:
        child.interrupt()
        assert (await child.train(START, *rows(), SHORT)).stopped is False
        child.interrupt()
        assert (await child.train(START, *rows(), SHORT)).stopped is False

    with_child(body)


def test_a_checkpoint_that_is_of_no_use_is_refused_by_a_living_child() -> None:
    x, y = rows()
    backend = OnnxRuntimeBackend(MODEL, LOSS)
    other = train(backend, START, x, y, replace(SHORT, seed=1), should_stop=lambda: True)
    assert other.checkpoint is not None
    foreign = other.checkpoint.to_bytes()

    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        with pytest.raises(TrainingFailed, match=r"CheckpointMismatch: .* another training"):
            await child.train(START, x, y, SHORT, checkpoint=foreign)
        with pytest.raises(TrainingFailed, match=r"CheckpointError: .* do not begin"):
            await child.train(START, x, y, SHORT, checkpoint=b"rubbish")
        assert the_pid(child) == pid

    with_child(body)


def answers(tmp_path: Path, *requests: Request) -> list[Reply]:
    """Serve requests that are all there from the beginning; then the input ends."""
    (tmp_path / "in").write_bytes(b"".join(encode(request) for request in requests))
    with FileIO(tmp_path / "in") as source, FileIO(tmp_path / "out", "w") as sink:
        line = Line(source, sink)
        serve(line, Trainer(line, 1), 0.0)
    data, replies = (tmp_path / "out").read_bytes(), []
    while data:
        end = HEADER.size + HEADER.unpack(data[: HEADER.size])[0]
        replies.append(decode_reply(data[HEADER.size : end]))
        data = data[end:]
    return replies


def test_the_child_looks_at_its_input_between_steps(tmp_path: Path) -> None:
    x, y = rows()
    prepare = Prepare(write_graph(MODEL), LOSS)
    request = Train(pack_params(START), pack_array(x), pack_array(y), ENDLESS)
    infer = Infer(pack_params(START), pack_array(x))
    late = answers(tmp_path, Interrupt(), prepare, request, Interrupt(), Interrupt(), infer)
    assert [type(reply) for reply in late] == [Prepared, Trained, Inferred]
    assert isinstance(late[1], Trained)
    assert (late[1].stopped, late[1].steps) == (True, 0)
    ended = answers(tmp_path, prepare, request)
    assert [type(reply) for reply in ended] == [Prepared, Trained]
    wrong = answers(tmp_path, prepare, request, infer, infer)
    assert wrong[1] == Failed("FrameError", "Infer came during training")
    assert isinstance(wrong[2], Inferred)


def test_a_killed_child_is_reported_and_replaced_with_its_model() -> None:
    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        task = asyncio.create_task(child.train(START, *rows(), ENDLESS))
        await until_busy(child)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(TrainingProcessDied) as caught:
            await task
        assert caught.value.status == -signal.SIGKILL
        assert (await child.train(START, *rows(), SHORT)).steps == 26

    with_child(body)


def test_an_idle_child_leaves_and_comes_back_unnoticed() -> None:
    async def body(child: TrainingProcess) -> None:
        pid = the_pid(child)
        await until(lambda: not is_alive(pid))
        assert (await child.train(START, *rows(), SHORT)).steps == 26

    with_child(body, idle_s=0.2)


def test_a_child_ends_when_it_is_closed() -> None:
    pids = []

    async def body(child: TrainingProcess) -> None:
        pids.append(the_pid(child))

    with_child(body)
    assert not is_alive(pids[0])


def test_a_child_dies_with_its_parent() -> None:
    script = """
import asyncio, sys
from agent.learning.worker import TrainingProcess
async def main():
    child = TrainingProcess(idle_s=3600)
    await child.start()
    try:
        await asyncio.wait_for(child.infer({}, __import__("numpy").zeros((1, 1), "f4")), 60)
    except RuntimeError:
        print(child.pid, flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""

    async def run() -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        await parent.wait()
        async with asyncio.timeout(5):
            await until(lambda: not is_alive(pid))

    asyncio.run(run())


def test_failures_a_request_causes_are_answered_by_a_living_child() -> None:
    x, y = rows()

    async def body(child: TrainingProcess) -> None:
        pid = child.pid
        with pytest.raises(TrainingFailed, match="no model is prepared"):
            await child.train(START, x, y, SHORT)
        with pytest.raises(TrainingFailed, match="GraphError"):
            await child.prepare(b"\xff" * 100, LOSS)
        await child.prepare(write_graph(MODEL), LOSS)
        hot = TrainingPlan(epochs=1, batch_size=8, optimizer="sgd", learning_rate=1e30)
        with pytest.raises(TrainingFailed, match="TrainingDiverged"):
            await child.train(START, x, y, hot)
        with pytest.raises(TrainingFailed, match="expected"):
            await child.infer(START, x[:, :3])
        assert child.pid == pid

    with_child(body, model=False)


def test_golden_vectors_are_checked_by_the_child_that_will_train() -> None:
    golden = make_golden(OnnxRuntimeBackend(MODEL, LOSS), START, *rows())
    other = {name: value * np.float32(1.1) for name, value in START.items()}

    async def body(child: TrainingProcess) -> None:
        await child.prepare(write_graph(MODEL), LOSS, (golden, START, 1e-4))
        with pytest.raises(TrainingFailed, match="GoldenMismatch"):
            await child.prepare(write_graph(MODEL), LOSS, (golden, other, 1e-4))

    with_child(body, model=False)


def test_memory_above_the_limit_is_refused_and_the_agent_lives() -> None:
    x = np.zeros((8_000_000, 5), np.float32)  # 160 MB, and the child itself needs 50 to 70

    async def body(child: TrainingProcess) -> None:
        with pytest.raises((TrainingFailed, TrainingProcessDied)):
            await child.infer(START, x)
        assert len(await child.infer(START, x[:100])) == 100

    with_child(body, memory_bytes=200 << 20)


def test_the_child_has_its_limits_and_no_secret_of_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/secret")

    async def body(child: TrainingProcess) -> None:
        limits = proc_file(child, "limits")
        line = next(line for line in limits.splitlines() if line.startswith("Max data size"))
        assert line.split()[3] == str(400 << 20)
        assert os.getpriority(os.PRIO_PROCESS, the_pid(child)) >= min(19, os.nice(0) + 7)
        assert "CREDENTIALS" not in proc_file(child, "environ")

    with_child(body, memory_bytes=400 << 20, nice=7)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_frame_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        message: Request | Reply | None = None
        try:
            message = decode(data)
        except FrameError:
            continue
        assert isinstance(message, Request | Reply)


def test_arrays_cross_exactly_and_lies_about_shapes_are_refused() -> None:
    values: list[NDArray[Any]] = [
        np.array(3, np.float32),
        np.arange(6, dtype=np.int64).reshape(3, 2).T,
        np.zeros((0, 4), np.float32),
    ]
    for value in values:
        again = unpack_array(pack_array(value))
        assert again.dtype == value.dtype
        assert np.array_equal(again, value)
    for shape in ((3,), (-1, -2), (2**62, 2**62), (2, 0)):
        with pytest.raises(FrameError, match="do not fill"):
            unpack_array(WireArray("float32", shape, memoryview(b"12345678")))
    with pytest.raises(FrameError, match="float64"):
        pack_array(np.zeros(3))


def test_a_frame_over_the_cap_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError, match="exceeds"):
        check_length(257 << 20)
    request = Infer(pack_params(START), pack_array(rows()[0]))
    decoded = decode_request(encode(request)[4:])
    assert isinstance(decoded, Infer)
    assert list(decoded.params) == list(START)
    prepare = Prepare(b"graph", LOSS)
    assert decode_request(encode(prepare)[4:]) == prepare
