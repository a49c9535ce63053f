"""Checkpoints of a training and the status file through every power cut."""

import hashlib
from pathlib import Path

import numpy as np

from agent.learning.checkpoint import Checkpoint
from agent.status import read_status
from agent.unfinished import Unfinished
from tests.power.files_work import JOBS, ROWS, checkpoint_of, digest_of, status_at
from tests.power.replay import Promise, Recording, assert_the_log_is_complete, record, replay
from wire.errors import SettingsError

STEPS = (1, 2, 3)


def recorded(shim: Path, directory: Path, run: str, broken: str = "") -> Recording:
    return record(shim, "tests.power.files_work", [[run, broken]], directory)


def check_training(directory: Path, promises: list[Promise]) -> None:
    """The training that is due goes on from its newest checkpoint, or one that was under way.

    A checkpoint beside other rows is as good as none: the training child refuses it by its digest.
    """
    due: Promise = promises[-1] if promises else {"about": 1, "kept": None}
    number: int = due["about"]
    found = Unfinished(directory).load(JOBS[number])
    if found is None or Checkpoint.from_bytes(found[1]).digest != digest_of(found[0]):
        assert due["kept"] is None, "a checkpoint that was kept is gone"
        return
    rows, data = found
    assert np.array_equal(rows.x, ROWS[number].x)
    assert np.array_equal(rows.y, ROWS[number].y)
    made = [hashlib.sha256(checkpoint_of(number, step)).hexdigest() for step in STEPS]
    assert hashlib.sha256(data).hexdigest() in made
    if due["kept"] is not None:
        assert made.index(hashlib.sha256(data).hexdigest()) >= made.index(due["kept"])


def check_status(directory: Path, promises: list[Promise]) -> None:
    """A reader gets a status that was written, or none."""
    try:
        status = read_status(directory)
    except (SettingsError, UnicodeDecodeError):
        return
    if status is not None:
        assert status == status_at(status.samples)
        assert status.samples <= len(promises)


def check_whole_status(directory: Path, promises: list[Promise]) -> None:
    """The same, and a reader is never refused."""
    status = read_status(directory)
    assert status is None or status == status_at(status.samples)


def test_no_power_cut_mixes_two_trainings_or_loses_a_kept_checkpoint(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work", "training")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, check_training, scratch, 10_000, seeds=8)
    print(f"training files: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts


def test_a_checkpoint_that_is_renamed_before_it_is_synced_is_found_out(
    shim: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work", "training", "nofsync")
    outcome = replay(recording, check_training, scratch, 10_000)
    assert outcome.failed > 10


def test_no_power_cut_makes_a_status_that_was_never_written(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work", "status")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, check_status, scratch, 10_000, seeds=8)
    print(f"status: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)


def test_no_power_cut_leaves_a_status_that_can_not_be_read(shim: Path, scratch: Path) -> None:
    recording = recorded(shim, scratch / "work", "status")
    outcome = replay(recording, check_whole_status, scratch, 10_000)
    assert not outcome.failures, "\n".join(outcome.failures)
