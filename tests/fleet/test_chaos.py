"""The chaos suite for a minute: every kind of fault on the real programs, and a sceptic who looks.

`make chaos N=1000` is the same for longer.  One short run is shared; copies of what it left are
tampered with, to see that the verdict depends on it.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shopfloor.chaos.judge import Verdict, judge
from shopfloor.chaos.layout import Layout
from shopfloor.chaos.schedule import KINDS

ROOT = Path(__file__).resolve().parents[2]
FAULTS = 24


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    directory: Path
    said: str
    result: dict[str, Any]


def chaos(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shopfloor.chaos", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )


def processes_of(run: Path) -> list[str]:
    """Command lines of live processes that name the run's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(run) in words:
            found.append(words)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mosquitto_program: str) -> Finished:
    """A run in which every kind of fault comes at least once."""
    directory = tmp_path_factory.mktemp("chaos") / "run"
    done = chaos("--faults", str(FAULTS), "--seed", "1", "--out", str(directory))
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(directory, done.stdout, json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.timeout(420)
def test_no_update_is_lost_and_none_counted_twice_and_the_weights_are_bit_equal(
    finished: Finished,
) -> None:
    result = finished.result
    assert (result["lost"], result["double"], result["bit_equal"]) == (0, 0, True)
    assert result["holds"] is True
    assert (result["value"], result["target"]) == (0, 0)
    outcomes = sum(result[name] for name in ("folded", "refused", "void", "dropped"))
    assert outcomes + result["gone_with_their_disk"] == result["produced"]


@pytest.mark.timeout(420)
def test_the_faults_really_happened_and_there_was_something_to_lose(finished: Finished) -> None:
    result = finished.result
    assert result["faults"] >= FAULTS
    assert result["folded"] > FAULTS
    assert result["restarts"] >= 4
    log = (finished.directory / "faults.log").read_text()
    assert {line.split()[1] for line in log.splitlines()} == set(KINDS)
    boots = (
        (finished.directory / "coordinator.log").read_text().count("federation chaos at version")
    )
    assert boots >= 2


@pytest.mark.timeout(420)
def test_nothing_is_left_running(finished: Finished) -> None:
    assert processes_of(finished.directory) == []


def judged_again(finished: Finished, copy: Path, *statements: str) -> Verdict:
    """The verdict on a copy of the run in whose store these SQL statements were done."""
    shutil.copytree(finished.directory, copy)
    layout = Layout(copy, 0, 0, {})
    with closing(sqlite3.connect(layout.store)) as database, database:
        for statement in statements:
            database.execute(statement)
    return judge(layout)


def one_member(finished: Finished) -> tuple[str, str, int]:
    """Some update that was folded."""
    store = judge(Layout(finished.directory, 0, 0, {})).store
    return store.members[2][0].update


@pytest.mark.timeout(420)
def test_an_update_that_is_taken_out_of_the_store_is_lost_and_missing_in_the_weights(
    finished: Finished, tmp_path: Path
) -> None:
    agent, incarnation, sequence = one_member(finished)
    verdict = judged_again(
        finished,
        tmp_path / "copy",
        f"DELETE FROM updates WHERE agent = '{agent}' AND incarnation = '{incarnation}'"
        f" AND sequence = {sequence}",
    )
    assert [found.update for found in verdict.reckoning.lost] == [(agent, incarnation, sequence)]
    assert verdict.differences


@pytest.mark.timeout(420)
def test_an_update_that_is_counted_in_another_version_too_is_doubled(
    finished: Finished, tmp_path: Path
) -> None:
    agent, incarnation, sequence = one_member(finished)
    verdict = judged_again(
        finished,
        tmp_path / "copy",
        "INSERT INTO updates SELECT agent, 'ffffffffffffffff', sequence, digest, status, reason,"
        " version + 1, base_version, coefficient, weight, bucket, received_at FROM updates"
        f" WHERE agent = '{agent}' AND incarnation = '{incarnation}' AND sequence = {sequence}",
    )
    assert verdict.doubled == 1
    assert verdict.differences


@pytest.mark.timeout(420)
def test_weights_that_are_one_bit_off_are_not_equal(finished: Finished, tmp_path: Path) -> None:
    verdict = judged_again(
        finished,
        tmp_path / "copy",
        "UPDATE versions SET digest = zeroblob(32) WHERE version = 3",
    )
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.differences == ["version 3 has other weights than its members give"]


def test_a_directory_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    done = chaos("--faults", "1", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]
