"""What a node of Flower costs for an update: CPU time of the SuperNode and all its processes.

Run with the python of Flower's own environment.  Flower starts a new client process for each task,
so the SuperNode's descendants are looked at every few milliseconds and what each used last counts.
The first round, which installs the app at the node, is left out.  Writes one JSON file and leaves
no process behind.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import deployment

_LOOK_S = 0.02
_WITHIN_S = 240.0
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Run and write the result; 0 on success, 1 on failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deployment.APP = Path(__file__).resolve().parent / "app"  # submitted in place of its own
    try:
        milliseconds = asyncio.run(_run(arguments.parameters, arguments.rounds))
    except (deployment.DeploymentError, TimeoutError) as error:
        print(f"flower_cost: {error or 'Flower did not answer in time'}", file=sys.stderr)
        return 1
    arguments.out.write_text(json.dumps({"node_cpu_ms": milliseconds}) + "\n", encoding="utf-8")
    return 0


async def _run(parameters: int, rounds: int) -> float:
    """CPU milliseconds of the node for each update after the first."""
    with tempfile.TemporaryDirectory(prefix="flower-cost-") as name:
        events = Path(name) / "events.jsonl"
        settings = {"parameters": parameters, "rounds": rounds + 1, "events": str(events)}
        async with deployment.running(Path(name), ["press-1"]) as running:
            node = running.programs["supernode-press-1"].pid
            await running.submit(settings)
            used: dict[int, float] = {}
            async with asyncio.timeout(_WITHIN_S):
                await _follow(node, used, events, 1)
                first_s = sum(used.values())
                await _follow(node, used, events, rounds + 1)
    return 1e3 * (sum(used.values()) - first_s) / rounds


async def _follow(node: int, used: dict[int, float], events: Path, rounds: int) -> None:
    """Note what the node's processes used until so many rounds have ended."""
    while _rounds(events) < rounds:
        used.update(_cpu_s(node))
        await asyncio.sleep(_LOOK_S)
    used.update(_cpu_s(node))


def _rounds(events: Path) -> int:
    """Rounds that have ended; the evaluation before the first one is none."""
    return max(events.read_text().count("\n") - 1, 0) if events.exists() else 0


def _cpu_s(node: int) -> dict[int, float]:
    """User and system time of a process and everything below it (proc(5))."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        times[pid] = (int(fields[11]) + int(fields[12])) * _TICK_S
    found = {node}
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return {pid: times[pid] for pid in found if pid in times}


if __name__ == "__main__":
    sys.exit(main())
