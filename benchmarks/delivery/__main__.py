"""What delivery costs and how fast it is: real broker, real programs, state on a real disk.

Five measurements, each with its limit or peer in the same run: durable ingest against SQLite alone;
the agent's CPU time for an update against Flower's; an idle agent's traffic by counted packets;
twenty megabytes over a link with cuts against the same without; the coordinator's way back after
kill -9 against what its imports cost.  What was taken in is verified: every update has one outcome,
and the versions are folded again, bit by bit.

The last line is JSON; `value` is the durable ingest in updates a second.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass

from benchmarks.delivery import agent_cost, cuts, idle, ingest, restart
from benchmarks.testbed import BenchmarkError, use_two_cores


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    updates: int = 8_000
    agent_updates: int = 100
    flower_rounds: int = 5
    idle_s: float = 120.0
    cut_bytes: int = 20_000_000
    cut_runs: int = 3
    agents: int = 1_000
    kills: int = 5


REDUCED = Sizes(
    updates=1_600,
    agent_updates=20,
    flower_rounds=0,
    idle_s=0.0,
    cut_bytes=12_000_000,
    cut_runs=1,
    agents=100,
    kills=1,
)


def main() -> int:
    """Run; 0 when everything that was asserted holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivery", description=__doc__)
    parser.add_argument(
        "--reduced", action="store_true", help="small: correctness is asserted, no verdict"
    )
    reduced = parser.parse_args().reduced
    use_two_cores()
    try:
        result = _measure(REDUCED if reduced else Sizes())
    except BenchmarkError as error:
        print(f"delivery: {error}", file=sys.stderr)
        return 1
    if reduced:
        print("\nreduced: outcomes and sums are asserted, figures are only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or reduced else 1


def _measure(sizes: Sizes) -> dict[str, object]:
    """Measure and print everything; return the line of JSON."""
    parts = [
        _ingest(sizes),
        _agent_cost(sizes),
        _idle(sizes),
        _cuts(sizes),
        _restart(sizes),
    ]
    result: dict[str, object] = {"name": "delivery", "unit": "updates/s"}
    for part in parts:
        result |= part
    holds = {name: bool(held) for name, held in result.items() if name.endswith("_holds")}
    return result | {"holds": all(holds.values())}


def _say(what: str, measured: str, against: str) -> None:
    print(f"{what:34} {measured:30} {against}", flush=True)


def _ingest(sizes: Sizes) -> dict[str, object]:
    found = ingest.measure(sizes.updates)
    _say(
        "durable ingest, 8 x 100 KB",
        f"{found.updates_s:,.0f} updates/s",
        f"SQLite alone {found.limit_s:,.0f}/s; asked for {found.threshold_s:,.0f}",
    )
    _say(
        "  CPU ms an update",
        f"coordinator {found.coordinator_ms:.2f}",
        f"mosquitto {found.broker_ms:.2f}, load generators {found.load_ms:.2f}",
    )
    _say(
        "  from offer to receipt",
        f"p50 {found.receipt_p50_ms:.0f} ms, p99 {found.receipt_p99_ms:.0f} ms",
        f"{len(found.batches)} transactions of {statistics.median(found.batches):.0f} updates "
        f"(median; most {max(found.batches)}); {found.resent} offered again",
    )
    _say("  verified", f"{found.updates} updates, one outcome", f"{found.versions} versions again")
    return {
        "value": round(found.updates_s, 1),
        "limit": round(found.limit_s, 1),
        "target": round(found.threshold_s, 1),
        "ingest_holds": found.updates_s >= found.threshold_s,
        "coordinator_cpu_ms": round(found.coordinator_ms, 3),
        "receipt_p50_ms": round(found.receipt_p50_ms, 1),
        "receipt_p99_ms": round(found.receipt_p99_ms, 1),
        "lost": 0,
        "double": 0,
        "bit_equal": True,
    }


def _agent_cost(sizes: Sizes) -> dict[str, object]:
    found = agent_cost.measure(sizes.agent_updates, sizes.flower_rounds)
    flower = (
        f"{agent_cost.FLOWER_FIELD_NOTES_MS:,.0f} ms (field notes; not measured here)"
        if found.flower_ms is None
        else f"{found.flower_ms:,.0f} ms (SuperNode and its client)"
    )
    _say(
        "agent CPU, 100,000 parameters",
        f"{found.update_ms:.1f} ms an update",
        f"Flower {flower}; target {agent_cost.TARGET_MS:.0f}",
    )
    _say("  with a model for every update", f"{found.with_model_ms:.1f} ms", "")
    return {
        "agent_cpu_ms": round(found.update_ms, 2),
        "agent_cpu_with_model_ms": round(found.with_model_ms, 2),
        "flower_cpu_ms": None if found.flower_ms is None else round(found.flower_ms),
        "agent_holds": found.update_ms <= agent_cost.TARGET_MS,
    }


def _idle(sizes: Sizes) -> dict[str, object]:
    if not sizes.idle_s:
        _say("idle traffic", "left out", "a keep-alive is due every 20 s")
        return {}
    found = idle.measure(sizes.idle_s)
    if found.plain is None or found.tls is None:
        _say("idle traffic", "not counted", "seeing packets needs CAP_NET_RAW: run it as root")
        return {"idle_bytes_day": None, "idle_holds": False}
    _say(
        "idle traffic, keep-alive 20 s",
        f"{found.plain:,.0f} bytes a day",
        f"over TLS {found.tls:,.0f}; target below {idle.TARGET_BYTES:,}",
    )
    return {
        "idle_bytes_day": round(found.plain),
        "idle_tls_bytes_day": round(found.tls),
        "idle_holds": max(found.plain, found.tls) < idle.TARGET_BYTES,
    }


def _cuts(sizes: Sizes) -> dict[str, object]:
    down = cuts.measure_down(sizes.cut_bytes, sizes.cut_runs)
    up = cuts.measure_up(sizes.cut_bytes, sizes.cut_runs)
    for name, found in (("down", down), ("up", up)):
        _say(
            f"{found.bytes / 1e6:.0f} MB {name}, cut 0.2 s in 2 s",
            f"{found.cut_s:.2f} s, {found.ratio:.2f} x uncut",
            f"uncut {found.uncut_s:.2f} s at 5 MB/s; {found.cuts} cuts; "
            f"target {cuts.TARGET_RATIO:g} x",
        )
    return {
        "cut_down_ratio": round(down.ratio, 3),
        "cut_up_ratio": round(up.ratio, 3),
        "cut_holds": down.ratio <= cuts.TARGET_RATIO,
    }


def _restart(sizes: Sizes) -> dict[str, object]:
    found = restart.measure(sizes.agents, sizes.kills)
    _say(
        f"kill -9, {found.agents:,} known agents",
        f"online after {found.online_s:.2f} s",
        f"first receipt {found.receipt_s:.2f} s, first new update {found.accepted_s:.2f} s; "
        f"target {restart.TARGET_S:g}",
    )
    _say(
        "  of which",
        f"imports {found.program_s:.2f} s",
        f"interpreter {found.interpreter_s:.2f} s; with numpy, paho, cryptography, msgspec "
        f"{found.imports_s:.2f} s",
    )
    return {
        "restart_online_s": round(found.online_s, 3),
        "restart_receipt_s": round(found.receipt_s, 3),
        "restart_imports_s": round(found.program_s, 3),
        "restart_holds": found.receipt_s < restart.TARGET_S,
    }


if __name__ == "__main__":
    sys.exit(main())
