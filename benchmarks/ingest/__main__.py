"""What an OPC UA value costs, from the socket to rows, beside the plain asyncua client.

100,000 values a second, Double with source and server timestamp, some Uncertain; encoded before
they are served, by a process of its own, over a real channel: Basic256Sha256, SignAndEncrypt, as
our server needs no more than a copy of each message and its encryption.

    ours    the agent's source (connection, decoding, queue) and its rows at the items' rate
    plain   asyncua's subscription as an asynchronous iterator that adds values up, and no rows

CPU time of the client's process, all that happens in it from the second message to the last; the
server is not counted.  Each client is kept on one core.  Both get the same messages, in turns; the
plain one fewer of them at a quarter of the rate, because it can not keep up.  Every value must
arrive exactly once and be in one row.

And a live node-opcua server, at a rate that it can serve.

The last line is JSON; `value` is ours over plain, the worse of the first two loads.
"""

import argparse
import json
import logging
import shutil
import sys
from dataclasses import dataclass, replace

from benchmarks.ingest.decoding import mixed_us, waveform_us
from benchmarks.ingest.loads import NODE_OPCUA, Found, measure, measure_peer
from benchmarks.ingest.plan import Plan
from benchmarks.testbed import BenchmarkError, use_two_cores

TARGET = 0.1
PEER_TARGET_US = 3.0
WAVEFORM_TARGET_US = 0.3
LOADS = {
    "1,000 items at 100 Hz, 10 samples a message": Plan(1_000, 100, 10, 100, 0, ""),
    "10,000 items at 10 Hz": Plan(10_000, 10, 1, 100, 0, ""),
    "1,000 items at 100 Hz, 1 sample a message": Plan(1_000, 100, 1, 1_000, 0, ""),
}
"""The last is the worst case, a publishing interval of 10 ms: measured, not judged."""
JUDGED = 2
PEER = Plan(1_000, 10, 1, 100, 0, "")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seconds: int = 10
    plain_s: float = 2.0
    """Of messages at the full rate."""
    passes: int = 3
    loads: int = len(LOADS)
    peer_s: int = 10


REDUCED = Sizes(seconds=2, plain_s=0.5, passes=1, loads=2, peer_s=2)


def main() -> int:
    """Run; 0 when everything that was asserted holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument(
        "--reduced", action="store_true", help="small: correctness is asserted, no verdict"
    )
    reduced = parser.parse_args().reduced
    logging.getLogger("agent").setLevel(logging.ERROR)  # certificates are new in each run
    use_two_cores()
    try:
        result = _measure(REDUCED if reduced else Sizes())
    except BenchmarkError as error:
        print(f"ingest: {error}", file=sys.stderr)
        return 1
    if reduced:
        print("\nreduced: zero loss and checksums are asserted, figures are only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or reduced else 1


def _measure(sizes: Sizes) -> dict[str, object]:
    """Measure and print everything; return the line of JSON."""
    print("CPU microseconds for a value; 100,000 values/s, Basic256Sha256 SignAndEncrypt\n")
    _row("", "ours", "plain asyncua", "ratio", "zero loss at", "memory of both")
    found: dict[str, Found] = {}
    for name, load in list(LOADS.items())[: sizes.loads]:
        messages = round(sizes.seconds * load.messages_hz)
        plain_messages = max(2, round(sizes.plain_s * load.messages_hz))
        one = measure(replace(load, messages=messages), plain_messages, sizes.passes)
        found[name] = one
        _row(
            name,
            f"{one.ours_us:.2f}",
            f"{one.plain_us:.2f}",
            f"{one.ratio:.3f}",
            f"{one.values_s:,.0f}/s",
            f"{one.rss_mb:.0f} and {one.plain_rss_mb:.0f} MB",
        )
    judged = [found[name] for name in list(LOADS)[:JUDGED]]
    value = max(one.ratio for one in judged)
    peer_us = _peer(sizes)
    mixed, waveform = mixed_us(), waveform_us()
    print(f"\ndecoding alone: types that take turns {mixed:.3f} us a value, ", end="")
    print(f"waveforms {waveform:.4f} us an element (target {WAVEFORM_TARGET_US})")
    holds = value <= TARGET and waveform <= WAVEFORM_TARGET_US
    return {
        "name": "ingest",
        "value": round(value, 4),
        "unit": "CPU per value, ours to plain asyncua",
        "target": TARGET,
        "holds": holds and (peer_us is None or peer_us <= PEER_TARGET_US),
        "us_per_value": {name: round(one.ours_us, 3) for name, one in found.items()},
        "plain_us_per_value": {name: round(one.plain_us, 2) for name, one in found.items()},
        "ratios": {name: round(one.ratio, 4) for name, one in found.items()},
        "values_per_s": round(min(one.values_s for one in judged)),
        "lost": 0,
        "rss_mb": round(max(one.rss_mb for one in found.values())),
        "node_opcua_us_per_value": None if peer_us is None else round(peer_us, 2),
        "node_opcua_target": PEER_TARGET_US,
        "mixed_decode_us": round(mixed, 3),
        "waveform_us_per_element": round(waveform, 4),
    }


def _row(name: str, *cells: str) -> None:
    widths = (8, 15, 8, 16, 18)
    print(f"{name:46}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    sys.stdout.flush()


def _peer(sizes: Sizes) -> float | None:
    """CPU microseconds for a value of a live server; None without one."""
    node = shutil.which("node")
    if node is None or not NODE_OPCUA.is_dir():
        print("\nnode-opcua: skipped, it is not installed (tests/install.sh .venv/bin/python)")
        return None
    cost_us, tally = measure_peer(replace(PEER, messages=sizes.peer_s * PEER.hz), node)
    print(
        f"\nnode-opcua, {PEER.items} items at {PEER.hz} Hz: {cost_us:.2f} us a value with rows, "
        f"{tally.values:,} values, none skipped, {tally.rss_mb:.0f} MB (target {PEER_TARGET_US})"
    )
    return cost_us


if __name__ == "__main__":
    raise SystemExit(main())
