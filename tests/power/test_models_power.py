"""The model slots through every power cut: contents are exact, the head in use has all its own."""

from pathlib import Path

import pytest

from agent.models import Models
from tests.power.models_work import CONTENTS, DATA, FILE, HEADS, account_of, named_by
from tests.power.replay import (
    Check,
    Promise,
    Recording,
    assert_the_log_is_complete,
    record,
    replay,
    require,
)


def recorded(shim: Path, directory: Path, broken: str = "") -> Recording:
    runs = [["first", broken], ["second", broken]]
    return record(shim, "tests.power.models_work", runs, directory)


def checking(recording: Recording) -> Check:
    """Each state holds what was promised last, or what the call that was going on makes of it."""

    def check(directory: Path, promises: list[Promise]) -> None:
        models = Models(directory / FILE)
        try:
            assert_exact(models)
            if promises:
                require(account_of(models), recording.allowed(promises, "account"))
            else:
                assert models.head_envelope is None
            assert sorted(path.name for path in directory.glob("*damaged*")) == []
        finally:
            models.close()

    return check


def assert_exact(models: Models) -> None:
    for name, content in CONTENTS.items():
        assert models.read(content.digest) in {None, DATA[name]}
    envelope = models.head_in_use
    if envelope is not None:
        assert all(models.read(digest) is not None for digest in named_by(HEADS[envelope]))


def test_no_power_cut_breaks_a_promise_of_the_model_slots(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, checking(recording), scratch, 400)
    print(f"model slots: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts
    assert recording.promises[-1]["account"][:2] == ["third head", "third head"]


@pytest.mark.parametrize("broken", ["off", "late"])
def test_model_slots_that_promise_too_early_are_found_out(
    shim: Path, scratch: Path, broken: str
) -> None:
    recording = recorded(shim, scratch / "work", broken)
    outcome = replay(recording, checking(recording), scratch, 150, enough=8)
    assert outcome.failed == 8
