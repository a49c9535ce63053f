"""What an agent takes from its gateway: memory, processor, disk and link.

The real agent reads 50 OPC UA items at 10 Hz, scores and keeps every row, and trains a perceptron
of 5,281 parameters on them every minute, in a federation with a real coordinator over a real
broker: once with numpy inside its own process, once with ONNX Runtime in a child.  Its environment
is that of its unit.  Memory is of the whole process tree:

`PSS`    the kernel's proportional set size, from smaps_rollup, on this machine, where the
         coordinator and the simulated machine run the same Python and share its libraries;
`alone`  the same on a machine where nothing else does: what a gateway has less of, at most.

Beside it a SuperNode of Flower with a client that returns the weights that it got, which trains
nothing and reads no machine.

The last line is JSON; `value` is PSS in MiB between two trainings, the greater of both agents.
With --reduced for some seconds: that rows and updates are all there is asserted, figures are only
printed, and Flower is left out.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.flower_environment import flower_python
from benchmarks.footprint.gateway import Footprint, measure
from benchmarks.testbed import BenchmarkError, use_two_cores

BETWEEN_MIB, INSIDE_MIB, CHILD_MIB = 65.0, 70.0, 105.0
PARAMETERS = 5_281
_MINUTES, _REDUCED_S = 6.0, 18.0
_PAUSE_S, _REDUCED_PAUSE_S = 60.0, 6.0
_ROUNDS, _REST_S = 5, 30.0
_FLOWER = Path(__file__).resolve().parent / "flower_node.py"


@dataclass(frozen=True)
class _Line:
    """One line of the table, see `Footprint`."""

    name: str
    pss_between: float
    pss_training: float
    alone_between: float
    alone_training: float
    cpu_percent: float
    written_mb_a_day: float
    sent_mb_a_day: float


def main() -> int:
    """Run; 0 when the targets hold."""
    options = _arguments()
    use_two_cores()
    seconds = _REDUCED_S if options.reduced else 60 * options.minutes
    pause_s = _REDUCED_PAUSE_S if options.reduced else _PAUSE_S
    try:
        inside = measure("numpy", seconds, pause_s)
        child = measure("onnxruntime", seconds, pause_s)
        peer = None if options.reduced else _flower()
    except BenchmarkError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    lines = [_line("agent, numpy inside", inside), _line("agent, ONNX Runtime child", child)]
    _print(lines + ([peer] if peer else []), inside, child)
    between = max(inside.pss_between_mib, child.pss_between_mib)
    holds = (
        between <= BETWEEN_MIB
        and inside.pss_training_mib <= INSIDE_MIB
        and child.pss_training_mib <= CHILD_MIB
    )
    result = {
        "name": "footprint",
        "value": round(between, 1),
        "unit": "MiB PSS between trainings",
        "target": BETWEEN_MIB,
        "holds": holds,
        "training_inside_mib": round(inside.pss_training_mib, 1),
        "training_inside_target": INSIDE_MIB,
        "training_child_mib": round(child.pss_training_mib, 1),
        "training_child_target": CHILD_MIB,
        "lines": [_rounded(line) for line in lines + ([peer] if peer else [])],
    }
    if options.reduced:
        print("reduced: that rows and updates are all there is asserted, figures only printed")
    print(json.dumps(result))
    return 0 if holds or options.reduced else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="of each agent (6)")
    parser.add_argument("--reduced", action="store_true", help="for some seconds: no verdict")
    return parser.parse_args()


def _line(name: str, found: Footprint) -> _Line:
    return _Line(
        name,
        found.pss_between_mib,
        found.pss_training_mib,
        found.between_mib,
        found.training_mib,
        found.cpu_percent,
        found.written_mb_a_day,
        found.mqtt_mb_a_day,
    )


def _flower() -> _Line | None:
    """The peer's line, for a round a minute; None where Flower can not be installed.

    Raises:
      BenchmarkError: it did not run.
    """
    try:
        python = flower_python()
    except subprocess.CalledProcessError as error:
        print(f"without Flower: {error}", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        out = Path(folder) / "node.json"
        command = [python, _FLOWER, "--parameters", PARAMETERS, "--rounds", _ROUNDS]
        command += ["--seconds", _REST_S, "--out", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"Flower failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        found = json.loads(out.read_text())
    minutes = 24 * 60
    cpu_s, written, sent = (
        found[f"round_{what}"] + 60 * found[f"rest_{what}"] for what in ("cpu_s", "written", "sent")
    )
    return _Line(
        "Flower 1.41 SuperNode",
        found["pss_between_mib"],
        found["pss_training_mib"],
        found["between_mib"],
        found["training_mib"],
        100 * cpu_s / 60,
        written * minutes / 1e6,
        sent * minutes / 1e6,
    )


def _print(lines: list[_Line], inside: Footprint, child: Footprint) -> None:
    print(f"\n{inside.seconds:.0f} s each, {inside.rows} and {child.rows} rows, ", end="")
    print(f"{inside.updates} and {child.updates} updates; most MiB of the process tree")
    print(f"  {'':26} {'PSS':^17} {'alone':^17} {'CPU':>6} {'disk':>7} {'link':>7}")
    print(f"  {'':26} {'between':>8} {'training':>8} {'between':>8} {'training':>8}", end="")
    print(f" {'%':>6} {'MB/day':>7} {'MB/day':>7}")
    for line in lines:
        sizes = (line.pss_between, line.pss_training, line.alone_between, line.alone_training)
        print(f"  {line.name:26} " + " ".join(f"{size:8.1f}" for size in sizes), end="")
        print(f" {line.cpu_percent:6.2f} {line.written_mb_a_day:7.1f} {line.sent_mb_a_day:7.2f}")


def _rounded(line: _Line) -> dict[str, str | float | None]:
    def plain(value: str | float) -> str | float | None:
        if isinstance(value, str):
            return value
        return round(value, 2) if math.isfinite(value) else None

    return {name: plain(value) for name, value in asdict(line).items()}


if __name__ == "__main__":
    raise SystemExit(main())
