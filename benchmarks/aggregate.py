"""How fast updates become a sum, beside Flower's FedAvg in the same run.

A hundred updates of a million parameters each, weights from 20 to 10,000, all different.

`production`  what `Federation.commit` does with an update's bytes but for SQLite: `read_integers`,
              `take` (admission, the norm bound, the buffer), and `settled` after every 64.
`fold alone`  the same without the norm bound: `read_integers`, `fold`, `settled`.
`Flower`      `aggregate_inplace`, which its FedAvg uses, from serialized float32 parameters to
              arrays, in a process and an environment of its own (`flower_poc/requirements.txt`).

CPU time on one thread, best of several passes that take turns.  Memory: peak of a process of its
own that commits 100 or 400 updates in batches of 64.

The last line is JSON; `value` is the production path's speed over Flower's.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.flower_environment import flower_python
from coordinator.aggregate import Member, empty, fold, settled
from coordinator.aggregation import Model, Rules, begin, take
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy
from wire.tensors import read_integers

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS, UPDATES, BATCH = 1 << 20, 100, 64
LIGHTEST, HEAVIEST = 20, 10_000
POLICY = Policy(clip_norm=100.0, scale=1e-3)
LEAST_SPEED, LEAST_RATIO = 2.0, 2.5
MOST_GROWTH = 1.05
"""Of the peak memory from 100 to 400 updates."""
Fold = Callable[[list[bytes], list[int]], NDArray[np.int64]]


def main() -> int:
    """Run; 0 when the targets hold."""
    options = _arguments()
    if options.peak_of:
        return _print_peak(options.peak_of)
    parameters, passes = (1 << 18, 3) if options.reduced else (PARAMETERS, options.passes)
    contents, weights = make_updates(parameters, UPDATES)
    _check_sums(contents, weights)
    best = {"production": 0.0, "fold alone": 0.0, "Flower": 0.0}
    flower = _Flower(parameters)
    for _ in range(passes):
        for name, path in (("production", production), ("fold alone", fold_alone)):
            best[name] = max(best[name], _speed(path, contents, weights))
        best["Flower"] = max(best["Flower"], flower.speed())
    flower.end()
    print(f"\n{UPDATES} updates of {parameters} parameters; G parameters per CPU-second, best")
    for name, speed in best.items():
        print(f"  {name:12} {speed:6.2f}   production is {best['production'] / speed:.2f}x as fast")
    peaks = {count: _peak_mib(count) for count in (UPDATES, 4 * UPDATES)}
    print("peak memory: " + ", ".join(f"{mib:.0f} MiB at {n} updates" for n, mib in peaks.items()))
    return _conclude(best, peaks, reduced=options.reduced)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregate", description=__doc__)
    parser.add_argument("--passes", type=int, default=15, help="of which the best counts")
    parser.add_argument("--reduced", action="store_true", help="a small model: no verdict")
    parser.add_argument("--peak-of", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_updates(parameters: int, count: int) -> tuple[list[bytes], list[int]]:
    """Contents of updates, 8-bit integers around zero as trained ones are, and their weights."""
    rng = np.random.default_rng(0)
    steps = np.clip(np.round(rng.normal(0.0, 30.0, parameters)), -127, 127).astype(np.int8)
    weights = rng.choice(np.arange(LIGHTEST, HEAVIEST), count, replace=False)
    return [np.roll(steps, 17 * at).tobytes() for at in range(count)], weights.tolist()


def production(contents: list[bytes], weights: list[int]) -> NDArray[np.int64]:
    """From bytes to the folded sum, as the coordinator does."""
    parameters = len(contents[0])
    strategy = make_strategy(StrategySettings(goal=len(contents) + 1), POLICY)
    optimizer = make_server_optimizer(ServerOptimizerSettings())
    rules = Rules(strategy, RobustSettings(), optimizer, POLICY.clip_norm)
    model: Model = begin(rules, np.zeros(parameters, np.float32))
    for at, (content, weight) in enumerate(zip(contents, weights, strict=True), start=1):
        delta = read_integers(content, POLICY.bits, parameters)
        taken = take(rules, model, Offer(f"a{at}", f"s{at}", weight, 0), delta, POLICY.scale)
        if isinstance(taken, Rejected):
            raise RuntimeError(f"a valid update was refused: {taken.reason}")  # noqa: TRY004
        model = taken
        if at % BATCH == 0 or at == len(contents):
            model = replace(model, buffer=settled(model.buffer))
    return np.asarray(model.buffer.total[0])


def fold_alone(contents: list[bytes], weights: list[int]) -> NDArray[np.int64]:
    """From bytes to the folded sum, without looking at norms."""
    parameters = len(contents[0])
    buffer = empty(parameters)
    for at, (content, weight) in enumerate(zip(contents, weights, strict=True), start=1):
        delta = read_integers(content, POLICY.bits, parameters)
        member = Member(
            agent=f"a{at}", site=f"s{at}", base_version=0, weight=weight, coefficient=weight
        )
        buffer = fold(buffer, delta, member)
        if at % BATCH == 0 or at == len(contents):
            buffer = settled(buffer)
    return np.asarray(buffer.total[0])


def _check_sums(contents: list[bytes], weights: list[int]) -> None:
    expected = np.zeros(len(contents[0]), np.int64)
    for content, weight in zip(contents, weights, strict=True):
        expected += np.frombuffer(content, np.int8).astype(np.int64) * weight
    for path in (production, fold_alone):
        if not np.array_equal(path(contents, weights), expected):
            raise SystemExit(f"{path.__name__}: the sum is not exact")


def _speed(path: Fold, contents: list[bytes], weights: list[int]) -> float:
    started = time.process_time()
    path(contents, weights)
    seconds = time.process_time() - started
    return len(contents) * len(contents[0]) / seconds / 1e9


class _Flower:
    """The peer's process: it makes its updates once and is asked for one pass at a time."""

    def __init__(self, parameters: int) -> None:
        program = ROOT / "benchmarks" / "flower_poc" / "aggregation.py"
        self._process = subprocess.Popen(
            [str(flower_python()), str(program), str(parameters), str(UPDATES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def speed(self) -> float:
        """G parameters per CPU-second of one pass."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("Flower's process has no pipes")
        self._process.stdin.write("pass\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Let it go."""
        self._process.communicate()


def _print_peak(count: int) -> int:
    """In a process of its own: commit so many updates, each made when it comes, print the peak."""
    contents, weights = make_updates(PARAMETERS, 1)
    steps = np.frombuffer(contents[0], np.int8)
    buffer = empty(PARAMETERS)
    for at in range(count):
        member = Member(
            agent=f"a{at}", site=f"s{at}", base_version=0, weight=weights[0], coefficient=weights[0]
        )
        buffer = fold(buffer, np.roll(steps, at), member)
        if (at + 1) % BATCH == 0:
            buffer = settled(buffer)
    settled(buffer)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return 0


def _peak_mib(count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.aggregate", "--peak-of", str(count)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _conclude(best: dict[str, float], peaks: dict[int, float], *, reduced: bool) -> int:
    ratio = best["production"] / best["Flower"]
    is_constant = peaks[4 * UPDATES] <= MOST_GROWTH * peaks[UPDATES]
    result = {
        "name": "aggregate",
        "value": round(ratio, 2),
        "unit": "times Flower's speed",
        "target": LEAST_RATIO,
        "holds": ratio >= LEAST_RATIO and best["production"] >= LEAST_SPEED and is_constant,
        "giga_parameters_per_cpu_second": {name: round(gps, 2) for name, gps in best.items()},
        "target_speed": LEAST_SPEED,
        "peak_mib": {str(count): round(mib) for count, mib in peaks.items()},
    }
    if reduced:
        print("reduced: exact sums and constant memory are asserted, speeds only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or (reduced and is_constant) else 1


if __name__ == "__main__":
    raise SystemExit(main())
