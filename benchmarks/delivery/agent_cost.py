"""What an update costs the agent beside training, and what it costs a client of Flower.

Ours is `lone_agent.py` against the real broker and coordinator, twice: with a version for every ten
updates, so that a model comes with each tenth, and with a version for each, so that each brings
its model, as a round of Flower does.  The peer is a real SuperLink and SuperNode with a client that
returns what it got (`../flower_poc/node_cost/`), the same number of float32 parameters.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.delivery.publishers import Observer
from benchmarks.flower_environment import FLOWER_ENV
from benchmarks.testbed import (
    PARAMETERS,
    ROOT,
    BenchmarkError,
    mlp_bundle,
    real_disk,
    testbed,
)
from shopfloor.ports import free_port
from shopfloor.processes import python

TARGET_MS = 10.0
FLOWER_FIELD_NOTES_MS = 1_500.0
"""FIELD-NOTES section 1: 1.5 to 1.7 node CPU-seconds an update of Flower 1.41, trivial fit."""
_GOAL = 10
_FLOWER = ROOT / "benchmarks" / "flower_poc" / "node_cost" / "run.py"


@dataclass(frozen=True)
class AgentCost:
    """CPU time of the agent's process for an update, in ms."""

    update_ms: float
    with_model_ms: float
    """With a new version, fetched, verified and adopted, after every update."""
    flower_ms: float | None
    """SuperNode and client of Flower in the same run; None where Flower is not installed."""


def measure(updates: int, rounds: int) -> AgentCost:
    """Measure both, and the peer where `make bench-poc` has installed it.

    Args:
      updates: a multiple of ten, for each of both.
      rounds: of the peer; 0 leaves it out.

    Raises:
      BenchmarkError: an agent or Flower did not do its work.
    """
    return AgentCost(_ours(updates, goal=_GOAL), _ours(updates, goal=1), _flower(rounds))


def _ours(updates: int, goal: int) -> float:
    with testbed(real_disk(), mlp_bundle) as bed:
        port = free_port()
        bed.start_broker(port)
        bed.write_coordinator(
            port,
            f"[strategy]\ngoal = {goal}\ndeadline_s = 3600\n[gate]\nevery = 10000\n"
            "[policy]\nupdates_per_version = 1000\n",
        )
        observer = Observer.connect(port)
        bed.start_coordinator()
        observer.wait_online()
        config = bed.write_agent("press-1", port)
        command = python("benchmarks.delivery.lone_agent", config, updates)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"the agent failed:\n{done.stderr[-3000:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
    if goal == 1 and figures["heads"] < updates:
        raise BenchmarkError(f"only {figures['heads']} of {updates} versions were adopted")
    return float(1e3 * figures["cpu_s"] / updates)


def _flower(rounds: int) -> float | None:
    program = FLOWER_ENV / "bin" / "python"
    if not rounds or not program.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="flower-cost-") as folder:
        out = Path(folder) / "cost.json"
        command = [program, _FLOWER, "--parameters", str(PARAMETERS), "--rounds", str(rounds)]
        done = subprocess.run(
            [*map(str, command), "--out", str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"Flower failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        return float(json.loads(out.read_text())["node_cpu_ms"])
