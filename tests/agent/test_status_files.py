"""Under systemd the status is written in memory, and found where it always was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.main import main
from agent.running import agent_runs
from agent.status import FILE_NAME, read_status
from agent.status_files import VARIABLE, StatusFiles, runtime_directory
from tests.agent.federation import Federation, agent_toml


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_agent_of_systemd_writes_its_status_in_memory_and_leaves_it_at_the_end(
    tmp_path: Path, federation: Federation, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, state = tmp_path / "agent.toml", tmp_path / "run", tmp_path / "state"
    config.write_text(agent_toml(federation))
    run.mkdir()
    command = [sys.executable, "-m", "agent.main", "run", str(config)]
    environment = os.environ | {VARIABLE: str(run)}
    with subprocess.Popen(
        command, cwd=repository, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: (status := read_status(state)) and status.pid == process.pid)
            assert (state / FILE_NAME).readlink() == run / FILE_NAME
            assert agent_runs(state)
            assert main(["status", str(config)]) == 0
            assert str(process.pid) in capsys.readouterr().out
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    (run / FILE_NAME).unlink()  # as systemd does
    assert not (state / FILE_NAME).is_symlink()
    last = read_status(state)
    assert last is not None
    assert last.pid == process.pid
    assert main(["status", "--channels", str(config)]) == 0
    assert "torque" in capsys.readouterr().out


def test_a_link_to_a_folder_of_before_is_replaced(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    run.mkdir()
    (state / FILE_NAME).symlink_to(tmp_path / "gone" / FILE_NAME)
    assert read_status(state) is None
    StatusFiles(state, run).write(FILE_NAME, b"{}")
    assert (state / FILE_NAME).readlink() == run / FILE_NAME
    StatusFiles(state, None).write(FILE_NAME, b"{ }")
    assert (state / FILE_NAME).read_bytes() == b"{ }"
    assert (run / FILE_NAME).read_bytes() == b"{}"


def test_a_folder_that_is_not_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert runtime_directory() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert runtime_directory() is None
    monkeypatch.setenv(VARIABLE, f"{tmp_path}:/run/other")
    assert runtime_directory() == tmp_path
