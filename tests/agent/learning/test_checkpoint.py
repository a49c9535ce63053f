"""Checkpoints: training goes on bit-equally, and nothing else is taken for a checkpoint."""

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.checkpoint import (
    LARGEST_CHECKPOINT,
    Checkpoint,
    CheckpointError,
    CheckpointMismatch,
    fingerprint,
    write_durably,
)
from agent.learning.families import mlp
from agent.learning.graph import initial_params
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.optimizers import OptimizerName
from agent.learning.params import flatten
from agent.learning.train import TrainingPlan, TrainingResult, train

ROOT = Path(__file__).resolve().parents[3]
MODEL = mlp(3, (6,), 1, seed=0)
START = initial_params(MODEL)
BACKEND = OnnxRuntimeBackend(MODEL, Loss.BINARY_CROSS_ENTROPY)
OPTIMIZERS: list[OptimizerName] = ["sgd", "momentum", "adam"]
PLANS = [
    TrainingPlan(
        epochs=4,
        batch_size=16,
        optimizer=optimizer,
        learning_rate=0.05,
        class_weights=(1.0, 3.0),
        proximal=0.1,
        seed=5,
        last_learning_rate=0.01,
        average_tail=tail,
        patience=patience,
    )
    for optimizer in OPTIMIZERS
    for tail, patience in ((0.0, 0), (0.6, 0), (0.0, 1), (0.0, 3))
]
STEPS = 12  # 40 rows in 3 batches, 4 epochs


def some_rows(number: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.random.default_rng(seed).standard_normal((number, 3)).astype(np.float32)
    return x, (x[:, :1] * x[:, 1:2] > 0).astype(np.float32)


X, Y = some_rows(40, 0)
HELD_OUT = some_rows(15, 1)
WEIGHTS = np.linspace(0.5, 2, 40, dtype=np.float32)


def run(
    plan: TrainingPlan, checkpoint: Checkpoint | None = None, steps: int | None = None
) -> TrainingResult:
    """Train on the rows above, for some steps only."""
    calls = itertools.count()
    return train(
        BACKEND,
        START,
        X,
        Y,
        plan,
        held_out=HELD_OUT,
        example_weights=WEIGHTS,
        checkpoint=checkpoint,
        should_stop=lambda: steps is not None and next(calls) >= steps,
    )


def assert_equal(one: TrainingResult, other: TrainingResult) -> None:
    """Compare everything, to the last bit; NaN equals NaN."""
    assert np.array_equal(flatten(one.params), flatten(other.params))
    assert repr(replace(one, params={})) == repr(replace(other, params={}))


@given(st.sampled_from(PLANS), st.lists(st.integers(0, STEPS), min_size=1, max_size=4))
def test_a_training_stopped_at_any_steps_ends_as_one_that_was_never_stopped(
    plan: TrainingPlan, stops: list[int]
) -> None:
    checkpoint: Checkpoint | None = None
    for steps in stops:
        result = run(plan, checkpoint, steps)
        if result.checkpoint is None:
            break
        checkpoint = Checkpoint.from_bytes(result.checkpoint.to_bytes())
        assert result.stopped
    assert_equal(run(plan, checkpoint), run(plan))


def test_a_checkpoint_does_not_change_when_training_goes_on() -> None:
    taken: list[tuple[Checkpoint, bytes]] = []
    plan = replace(PLANS[0], average_tail=1.0)

    def take(training: Any) -> None:
        checkpoint = training.checkpoint()
        taken.append((checkpoint, checkpoint.to_bytes()))

    train(BACKEND, START, X, Y, plan, on_step=take)
    assert len(taken) == STEPS
    assert all(checkpoint.to_bytes() == data for checkpoint, data in taken)
    assert len({data for _, data in taken}) == STEPS


RESUME = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/agent/learning")
import test_checkpoint as here
path = Path(sys.argv[1])
plan = here.PLANS[int(sys.argv[2])]
result = here.run(plan, here.Checkpoint.load(path), 4)
result.checkpoint.save(path)
"""


@pytest.mark.parametrize("number", [1, 11])
def test_training_goes_on_in_another_process(tmp_path: Path, number: int) -> None:
    path = tmp_path / "training.checkpoint"
    first = run(PLANS[number], None, 3).checkpoint
    assert first is not None
    first.save(path)
    subprocess.run([sys.executable, "-c", RESUME, path, str(number)], cwd=ROOT, check=True)
    last = Checkpoint.load(path)
    assert last.progress.optimizer.steps == 7
    assert_equal(run(PLANS[number], last), run(PLANS[number]))


def test_a_checkpoint_of_another_training_is_refused() -> None:
    plan = PLANS[2]
    checkpoint = run(plan, None, 5).checkpoint
    assert checkpoint is not None

    def go_on(**changes: Any) -> TrainingResult:
        arguments: dict[str, Any] = {
            "backend": BACKEND,
            "start": START,
            "x": X,
            "y": Y,
            "plan": plan,
            "held_out": HELD_OUT,
            "example_weights": WEIGHTS,
        }
        return train(checkpoint=checkpoint, **(arguments | changes))

    assert go_on().steps > 5
    other_loss = OnnxRuntimeBackend(MODEL, Loss.MSE)
    changes: list[dict[str, Any]] = [
        {"x": X[::-1]},
        {"y": 1 - Y},
        {"x": X[:39], "y": Y[:39], "example_weights": WEIGHTS[:39]},
        {"start": {name: value * 2 for name, value in START.items()}},
        {"plan": replace(plan, seed=6)},
        {"plan": replace(plan, epochs=5)},
        {"held_out": (HELD_OUT[0] + 1, HELD_OUT[1])},
        {"example_weights": None},
        {"backend": other_loss, "plan": replace(plan, class_weights=())},
    ]
    for change in changes:
        with pytest.raises(CheckpointMismatch, match="another training"):
            go_on(**change)


def a_checkpoint() -> bytes:
    checkpoint = run(PLANS[9], None, 5).checkpoint
    assert checkpoint is not None
    return checkpoint.to_bytes()


DATA = a_checkpoint()


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at: int, change: int) -> None:
    changed = bytearray(DATA)
    changed[at] ^= change
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(bytes(changed))


@given(st.integers(0, len(DATA) - 1) | st.binary(max_size=100))
def test_cut_and_foreign_bytes_are_no_checkpoint(what: int | bytes) -> None:
    data = DATA[:what] if isinstance(what, int) else what
    with pytest.raises(CheckpointError, match=r"do not begin|were cut"):
        Checkpoint.from_bytes(data)


def sealed(**changes: Any) -> bytes:
    """Return a checkpoint with changed fields and the SHA-256 that fits them."""
    fields = msgspec.msgpack.decode(DATA[40:]) | changes
    body = msgspec.msgpack.encode(fields)
    return DATA[:8] + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "changes",
    [
        {"params": b"12345"},
        {"tail_sum": b"12345678"},
        {"best_params": b"1234"},
        {"averages": [b""]},
        {"averages": [b"", b"", b""]},
        {"steps": -1},
        {"digest": b"short"},
        {"counts": {"epoch": -1}},
        {"more": 1},
    ],
)
def test_fields_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    assert Checkpoint.from_bytes(sealed()).to_bytes() == DATA
    with pytest.raises(CheckpointError, match=r"not of one length|not a checkpoint of this"):
        Checkpoint.from_bytes(sealed(**changes))


def test_files_over_the_cap_or_without_a_checkpoint_are_named(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGEST_CHECKPOINT + 1)
    with pytest.raises(CheckpointError, match="large: the file exceeds"):
        Checkpoint.load(path)
    with pytest.raises(CheckpointError, match="bytes exceed"):
        Checkpoint.from_bytes(bytes(LARGEST_CHECKPOINT + 1))
    with pytest.raises(FileNotFoundError):
        Checkpoint.load(tmp_path / "none")


def test_a_file_is_replaced_wholly_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["checkpoint"]  # noqa: PTH208 - hidden files count too
    assert path.stat().st_mode & 0o777 == 0o600


WRITER = """
import sys
from pathlib import Path
from agent.learning.checkpoint import write_durably
path, at = Path(sys.argv[1]), 0
while True:
    write_durably(path, bytes([at % 256]) * 300_000)
    at += 1
    print(at, flush=True)
"""


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 20))
def test_a_kill_while_writing_leaves_a_whole_file(
    tmp_path_factory: pytest.TempPathFactory, writes: int
) -> None:
    path = tmp_path_factory.mktemp("kill") / "checkpoint"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        for _ in range(writes):
            process.stdout.readline()
        process.kill()
    data = path.read_bytes()
    assert data == data[:1] * 300_000


def test_fingerprints_tell_shapes_types_order_and_absence_apart() -> None:
    a, b = np.zeros(4, np.float32), np.ones(4, np.float32)
    variants: list[tuple[bytes, list[NDArray[Any] | None]]] = [
        (b"", [a, b]),
        (b"", [b, a]),
        (b"x", [a, b]),
        (b"", [a.reshape(2, 2), b]),
        (b"", [a.astype(np.int32), b]),
        (b"", [a, None, b]),
        (b"", [np.concatenate([a, b])]),
        (b"", [a, b, np.zeros((0, 3), np.float32)]),
    ]
    assert len({fingerprint(words, arrays) for words, arrays in variants}) == len(variants)
    assert fingerprint(b"", [a, b]) == fingerprint(b"", [a.astype(">f4"), b[::-1]])
