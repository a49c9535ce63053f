"""Runs the processes of one load and says what they found."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agent.sensors.opcua.own_certificate import own_certificate
from benchmarks.ingest.ours import Tally
from benchmarks.ingest.plan import Plan
from benchmarks.testbed import ROOT, BenchmarkError, wait_for
from shopfloor.ports import free_port
from shopfloor.processes import Child, Processes, python

NODE_OPCUA = ROOT / "tests" / "node_opcua" / "node_modules"
_SLOWER = 4
"""The plain client gets messages at a quarter of the rate: at the full rate it would lose some."""
_READY_S = 180.0


@dataclass(frozen=True)
class Found:
    """What one load cost.

    Attributes:
      ours_us: CPU time for a value, of the agent's source and rows.
      plain_us: the same of the plain client.
      rss_mb: most memory of the agent's process.
      plain_rss_mb: of the plain client's.
      values_s: values a second that were served to the agent.
    """

    ours_us: float
    plain_us: float
    rss_mb: float
    plain_rss_mb: float
    values_s: float

    @property
    def ratio(self) -> float:
        """Ours to the plain client's."""
        return self.ours_us / self.plain_us


def measure(load: Plan, plain_messages: int, passes: int) -> Found:
    """Serve a load to both clients in turns; the best of each counts.

    Raises:
      BenchmarkError: a value is missing, wrong or there twice.
    """
    with _directory() as directory:
        ours = replace(load, port=free_port(), directory=str(directory))
        plain = replace(ours, hz=ours.hz // _SLOWER, messages=plain_messages)
        own_certificate(directory / "server", "server", datetime.now(UTC))
        processes = Processes(directory)
        try:
            texts = [ours.text(), plain.text()] * passes
            server = processes.start("server", python("benchmarks.ingest.server", *texts))
            wait_for(
                lambda: "ready" in server.last_words(), "the server", server, timeout_s=_READY_S
            )
            tallies: list[tuple[Tally, Tally]] = []
            for _ in range(passes):
                mine = client("ours", ours)
                check_all(ours, mine)
                tallies.append((mine, client("plain", plain)))
                check_sum(plain, tallies[-1][1])
            served = _served(server)
        finally:
            processes.stop()
    if any(each["lost"] for each in served):
        raise BenchmarkError(f"the clients were too slow for the server: {served}")
    return Found(
        min(_cost_us(mine) for mine, _ in tallies),
        min(_cost_us(other) for _, other in tallies),
        max(mine.rss_mb for mine, _ in tallies),
        max(other.rss_mb for _, other in tallies),
        min(_rate(ours, each["seconds"]) for each in served[::2]),
    )


def _rate(plan: Plan, seconds: float) -> float:
    """The first message is served at once."""
    return (plan.messages - 1) * plan.values_at_once / seconds


def _served(server: Child) -> list[dict[str, float]]:
    lines = server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def client(module: str, plan: Plan) -> Tally:
    """Run a client to its end."""
    done = subprocess.run(
        python(f"benchmarks.ingest.{module}", plan.text()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * plan.patience_s,
    )
    if done.returncode:
        raise BenchmarkError(f"{module} ended with {done.returncode}\n{done.stderr[-3000:]}")
    tally = Tally(**json.loads(done.stdout.splitlines()[-1]))
    if tally.values < plan.values:
        raise BenchmarkError(f"{module} got {tally.values} of {plan.values}\n{done.stderr[-3000:]}")
    return tally


def check_all(plan: Plan, tally: Tally) -> None:
    """Every value came exactly once, and is in one row.

    Raises:
      BenchmarkError: it is not so.
    """
    check_sum(plan, tally)
    rows = plan.cycles - 1  # of the last cycle nobody knows yet that nothing follows
    is_exact = (tally.misplaced, tally.gaps, tally.rows) == (0, 0, rows)
    if not is_exact or tally.row_total != plan.sum_of(rows):
        raise BenchmarkError(f"the agent lost or made up values: {tally}")


def check_sum(plan: Plan, tally: Tally) -> None:
    """The checksum of all values is right.

    Raises:
      BenchmarkError: it is not.
    """
    if (tally.values, tally.total) != (plan.values, plan.sum_of(plan.cycles)):
        raise BenchmarkError(f"values are missing, or other than those that were served: {tally}")


def _cost_us(tally: Tally) -> float:
    return tally.cpu_s / tally.measured * 1e6


def measure_peer(load: Plan, node: str) -> tuple[float, Tally]:
    """CPU microseconds for a value of a live node-opcua server, and what came."""
    with _directory() as directory:
        plan = replace(load, port=free_port(), directory=str(directory))
        script = Path(__file__).with_name("node_server.cjs")
        command = [node, str(script), str(plan.port), str(plan.items), str(plan.hz)]
        log = directory / "node.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [*command, str(directory / "pki")],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=os.environ | {"NODE_PATH": str(NODE_OPCUA)},
            ) as server,
        ):
            try:
                wait_for(lambda: "READY" in log.read_text(), "node-opcua", timeout_s=_READY_S)
                tally = client("peer", plan)
            finally:
                server.terminate()
    if tally.misplaced:
        raise BenchmarkError(f"values of node-opcua skip: {tally}")
    return _cost_us(tally), tally


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ingest-") as directory:
        yield Path(directory)
