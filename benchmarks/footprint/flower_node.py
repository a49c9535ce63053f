"""What a SuperNode of Flower takes, with a client that returns the weights it got.

Run with the python of Flower's own environment.  Rests, trains some rounds without a pause between
them, and rests again; the first round, which installs the app at the node, is left out.  Writes one
JSON file and leaves no process behind.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "benchmarks" / "flower_poc")]
from benchmarks.flower_poc import deployment  # noqa: E402 - found by the path above
from benchmarks.footprint.usage import Memory, Totals, memory  # noqa: E402

_APP = _ROOT / "benchmarks" / "flower_poc" / "node_cost" / "app"
_LOOK_S = 0.1
_SETTLE_S = 5.0
_WITHIN_S = 240.0


@dataclass
class _Phase:
    """What was seen of the node."""

    node: int
    totals: Totals
    moments: list[Memory] = field(default_factory=list)

    async def look(self) -> None:
        """Look once, and wait a moment."""
        self.moments.append(await asyncio.to_thread(memory, self.node))
        self.totals.look(self.node)
        await asyncio.sleep(_LOOK_S)

    def most(self) -> tuple[float, float]:
        """The greatest memory, alone and as PSS, in MiB."""
        return max(each.mib for each in self.moments), max(each.pss_mib for each in self.moments)


def main() -> int:
    """Run and write the result; 0 on success, 1 on failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of rest")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deployment.APP = _APP  # submitted in place of its own
    try:
        found = asyncio.run(_run(arguments.parameters, arguments.rounds, arguments.seconds))
    except (deployment.DeploymentError, TimeoutError) as error:
        print(f"flower_node: {error or 'Flower did not answer in time'}", file=sys.stderr)
        return 1
    arguments.out.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return 0


async def _run(parameters: int, rounds: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="flower-node-") as name:
        events = Path(name) / "events.jsonl"
        settings = {"parameters": parameters, "rounds": rounds + 1, "events": str(events)}
        async with deployment.running(Path(name), ["press-1"]) as running:
            node = running.programs["supernode-press-1"].pid
            totals = Totals()
            await running.submit(settings)
            training, resting = _Phase(node, totals), _Phase(node, totals)
            async with asyncio.timeout(_WITHIN_S):
                while _rounds(events) < 1:
                    await training.look()
                before = _used(totals, running.relay)
                while _rounds(events) < rounds + 1:
                    await training.look()
                after = _used(totals, running.relay)
                await asyncio.sleep(_SETTLE_S)
                begun = time.monotonic()
                while time.monotonic() < begun + seconds:
                    await resting.look()
                idle = _used(totals, running.relay)
    a_round = [(end - begin) / rounds for begin, end in zip(before, after, strict=True)]
    rest_s = seconds + _SETTLE_S
    at_rest = [(end - begin) / rest_s for begin, end in zip(after, idle, strict=True)]
    return {
        **dict(zip(("between_mib", "pss_between_mib"), resting.most(), strict=True)),
        **dict(zip(("training_mib", "pss_training_mib"), training.most(), strict=True)),
        **dict(zip(("round_cpu_s", "round_written", "round_sent"), a_round, strict=True)),
        **dict(zip(("rest_cpu_s", "rest_written", "rest_sent"), at_rest, strict=True)),
    }


def _used(totals: Totals, relay: deployment.Relay) -> tuple[float, float, float]:
    """CPU seconds, bytes written, and bytes to and from the SuperLink, so far."""
    return totals.cpu_s, totals.written_bytes, relay.up_bytes + relay.down_bytes


def _rounds(events: Path) -> int:
    """Rounds that have ended; the evaluation before the first one is none."""
    return max(events.read_text().count("\n") - 1, 0) if events.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
