"""A process that writes the agent's small files, and says what it has done.

    python -m tests.power.files_work DIRECTORY RUN SABOTAGE

Run `training` keeps checkpoints of two trainings one after the other; `status` writes the status.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from agent.learning.checkpoint import Checkpoint, Counts, Progress, fingerprint
from agent.learning.optimizers import OptimizerState
from agent.learning.plan import TrainingPlan
from agent.status import Status, write_status
from agent.unfinished import Job, TrainingRows, Unfinished
from tests.power.replay import Promises
from tests.power.sabotage import sabotage

PLAN = TrainingPlan(epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.1)


def _job(sequence: int) -> Job:
    return Job(
        bundle=bytes(32),
        lineage=0,
        base_version=sequence,
        base_digest=bytes([sequence]) * 32,
        incarnation="0" * 16,
        sequence=sequence,
        plan=PLAN,
    )


def _rows(sequence: int) -> TrainingRows:
    rng = np.random.default_rng(sequence)
    x = rng.normal(size=(100, 6)).astype(np.float32)
    return TrainingRows(x, rng.integers(0, 2, (100, 1)).astype(np.float32))


JOBS = {number: _job(number) for number in (1, 2)}
ROWS = {number: _rows(number) for number in (1, 2)}


def digest_of(rows: TrainingRows) -> bytes:
    """What a checkpoint says of the training that it belongs to."""
    return fingerprint(b"loss and plan", [rows.x, rows.y])


def checkpoint_of(number: int, step: int) -> bytes:
    """The checkpoint of a training after a step."""
    progress = Progress(
        params=np.full(500, step, np.float32),
        optimizer=OptimizerState(step, ()),
        best_params=np.empty(0, np.float32),
        tail_sum=np.empty(0, np.float64),
        counts=Counts(step=step),
    )
    return Checkpoint(digest_of(ROWS[number]), progress).to_bytes()


def status_at(number: int) -> Status:
    """The status after so many samples; large enough for two sectors."""
    return Status(
        agent="press-1",
        site="plant",
        federation="net",
        pid=1,
        samples=number,
        rows=number * 7,
        refused="reason " * (60 + number),
    )


def train(directory: Path) -> None:
    """Two trainings, the first one given up for the second."""
    unfinished, promises = Unfinished(directory), Promises(directory)
    for number in (1, 2):
        promises.make(about=number, kept=None)
        for step in (1, 2, 3):
            checkpoint = checkpoint_of(number, step)
            unfinished.keep(JOBS[number], ROWS[number], checkpoint)
            promises.make(about=number, kept=hashlib.sha256(checkpoint).hexdigest())
    promises.make(about=2, kept=None)
    unfinished.discard()


def write(directory: Path) -> None:
    """Six statuses."""
    promises = Promises(directory)
    for number in range(6):
        write_status(directory, status_at(number))
        promises.make(samples=number)


def main() -> None:
    """Do one run."""
    sabotage(sys.argv[3])
    {"training": train, "status": write}[sys.argv[2]](Path(sys.argv[1]))
    os._exit(0)


if __name__ == "__main__":
    main()
