"""The ring of rows through every power cut: the last rows may be gone, the file is whole."""

from pathlib import Path

import numpy as np
import pytest

from agent.history import History
from tests.power.history_work import account_of, open_history
from tests.power.replay import (
    Check,
    Promise,
    Recording,
    assert_the_log_is_complete,
    record,
    replay,
)

RUNS = ["first", "second", "third"]
LOST = "rows that a checkpoint had made safe are gone, or half of a call is there"


def recorded(shim: Path, directory: Path, broken: str = "") -> Recording:
    return record(shim, "tests.power.history_work", [[run, broken] for run in RUNS], directory)


def checking(recording: Recording) -> Check:
    """Each state is what some call left: none before the last close, none that was not begun."""
    made = recording.promises

    def check(directory: Path, promises: list[Promise]) -> None:
        history = open_history(directory)
        try:
            assert history.set_aside == []
            assert_rows_are_whole(history)
            safe = max((at for at, promise in enumerate(promises) if promise["is_safe"]), default=0)
            allowed = [promise["account"] for promise in made[safe : len(promises) + 1]]
            assert account_of(history) in allowed, LOST
        finally:
            history.close()

    return check


def assert_rows_are_whole(history: History) -> None:
    for held_out in (True, False):
        rows = history.read(held_out=held_out).values
        seconds = rows[:, 0]
        assert np.array_equal(rows, np.stack([seconds, seconds / 7, -seconds], axis=1))
        assert (np.diff(seconds) > 0).all()


def test_no_power_cut_leaves_half_a_row_or_half_an_append(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, checking(recording), scratch, 10_000, seeds=4)
    print(f"history: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts


def test_a_ring_that_never_syncs_is_found_out(shim: Path, scratch: Path) -> None:
    recording = recorded(shim, scratch / "work", "off")
    outcome = replay(recording, checking(recording), scratch, 10_000)
    assert outcome.failed > 10


@pytest.mark.parametrize("held_out", [True, False])
def test_the_ring_forgets_its_oldest_rows_in_the_workload(
    shim: Path, scratch: Path, held_out: bool
) -> None:
    recording = recorded(shim, scratch / "work")
    history = open_history(recording.directory)
    try:
        assert history.count == 60
        assert history.read(held_out=held_out).values[:, 0].min() >= 80
    finally:
        history.close()
