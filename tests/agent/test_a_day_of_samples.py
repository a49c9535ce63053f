"""Samples in = samples stored + samples marked lost with a reason, over a day of random faults."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shopfloor.faults.shim import Control, ShimError, build, environment

SEED = int(os.environ.get("JM_DAY_SEED", "1"))
MEMORY = Path("/dev/shm")


def test_every_sample_of_a_day_is_stored_or_marked_lost(tmp_path: Path, repository: Path) -> None:
    try:
        shim = build(tmp_path / "shim")
    except ShimError as error:
        pytest.skip(str(error))
    fast = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=fast) as scratch:
        folder = Path(scratch) / "samples"
        folder.mkdir()
        with Control.create(Path(scratch) / "control") as control:
            arguments = ["tests.agent.samples_day", folder, control.path, SEED]
            done = subprocess.run(
                [sys.executable, "-m", *map(str, arguments)],
                env={**os.environ, **environment(shim, control, folder)},
                cwd=repository,
                capture_output=True,
                text=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr[-3000:]
    day = json.loads(done.stdout)
    print(f"a day, seed {SEED}: {day}")
    lost = sum(count for reason, count in day["lost"].items() if reason != "store damaged")
    assert day["pushed"] == day["stored"] + lost + day["vanished"]
    assert day["stored"] == day["kept"] + day["expired"] + day["rotten"]
    assert day["pushed"] == 20 * 86_400 + 1_440
    assert day["bytes_used"] <= 1 << 20
    assert min(day["faults"].values()) > 0, "a fault that never struck"
    reasons = {"agent stopped", "disk full", "disk failing", "disk read-only", "store damaged"}
    assert set(day["reasons"]) == reasons
    assert min(day["lost"].values()) > 0
    assert day["vanished"] > 0
    assert day["expired"] > 0
    assert day["failed_operations"] > 100
