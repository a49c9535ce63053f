"""Bytes of a client update, and accuracy at equal versions and at equal bytes.

Asynchronous training (FedBuff, 10 updates a version, 50 of 500 clients at a time) of a task whose
clients have one or two of ten classes (`task.py`). Methods see the same events and differ in how a
delta travels: float32, integers of 16, 8 and 4 bits, and the largest 10 % and 1 % in 8 bits, with
and without remembering the rest. All but the float32 baseline go through the product's functions
from the delta to the next version (`training.py`). Bytes are those of the signed header and of the
content.

- table model: 10,906 parameters, every method, at equal versions and at equal uplink bytes;
- large model: 100,138 parameters, float32 and the default (8 bits, scale 0.001), for the claim.

Scales were chosen on seed 7, which is not among the seeds: 8 bits .0005, .001 and .002 differ by
less than .4 points; 4 bits .005 is worse (it saturates), .01, .02 and .03 are alike; sparse .001
saturates at 1 %, .002 and .004 are alike. The server's rate is 1.5, by float32 after 100 and 400
versions: 1 gives .797 and .883, 1.5 gives .824 and .895, 2 gives .803 and .899, 3 gives .642 and
.904.

The last line is JSON; `value` is the bytes per parameter of the default's updates of the large
model.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.small_network import Network
from benchmarks.update_bytes.methods import FLOAT32, Method, integers, largest
from benchmarks.update_bytes.sizes import bytes_per_parameter, delta_of, folded_step
from benchmarks.update_bytes.task import make_task
from benchmarks.update_bytes.training import Run, run

TARGET = 1.01
MOST_POINTS_LOST = 0.5
SEEDS = 5
TABLE_MODEL = Network((32, 128, 48, 10))
LARGE_MODEL = Network((32, 768, 96, 10))
SERVER_RATE = 1.5
INT8 = integers("int8 (default)", 8, 1e-3)
SPARSE_SCALE = 2e-3
METHODS = (
    FLOAT32,
    integers("int16", 16, 2e-5),
    INT8,
    integers("int4", 4, 2e-2),
    largest("top 10 %", 0.1, SPARSE_SCALE, remembers=False),
    largest("top 10 %, remembered", 0.1, SPARSE_SCALE, remembers=True),
    largest("top 1 %", 0.01, SPARSE_SCALE, remembers=False),
    largest("top 1 %, remembered", 0.01, SPARSE_SCALE, remembers=True),
)
SIZES = (2_000, 10_906, 100_138, 1_000_000)


@dataclass(frozen=True)
class Scale:
    """How long the trainings are.

    Attributes:
      seeds: trainings of each method.
      versions: of each on the table model, at equal versions.
      large_versions: of each on the large model.
      budget_versions: the byte budget is what the default uses for so many.
    """

    seeds: int
    versions: int
    large_versions: int
    budget_versions: int


def main() -> int:
    """Run; 0 when the target holds."""
    options = _arguments()
    scale = Scale(options.seeds, versions=400, large_versions=150, budget_versions=100)
    if options.reduced:
        scale = Scale(seeds=1, versions=40, large_versions=20, budget_versions=12)
    value = _print_sizes()
    lost = _compare(TABLE_MODEL, METHODS, scale, scale.versions)
    lost_large = _compare(LARGE_MODEL, (FLOAT32, INT8), scale, scale.large_versions, budget=False)
    _print_deltas()
    holds = value <= TARGET and max(lost, lost_large) <= MOST_POINTS_LOST
    verdict = {
        "name": "bytes",
        "value": round(value, 4),
        "unit": "bytes per parameter per update, 8 bits, 100,138 parameters",
        "target": TARGET,
        "holds": holds,
        "points_lost": {"10,906 parameters": round(lost, 2), "100,138": round(lost_large, 2)},
        "most_points_lost": MOST_POINTS_LOST,
        "seeds": scale.seeds,
        "reduced": options.reduced,
    }
    print(json.dumps(verdict))
    return 0 if holds or options.reduced else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.update_bytes", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings, with seeds from 0")
    parser.add_argument("--reduced", action="store_true", help="one seed, short trainings")
    return parser.parse_args()


def _print_sizes() -> float:
    """Print bytes per parameter; return the default's for the large model."""
    print("bytes per parameter of one update, signed header and content:")
    print(f"{'parameters':<22}" + "".join(f"{size:>12,}" for size in SIZES))
    found = {}
    for method in METHODS:
        if method.remembers:
            continue  # the same bytes
        found[method.name] = [bytes_per_parameter(method, size) for size in SIZES]
        print(f"{method.name:<22}" + "".join(f"{each:>12.4f}" for each in found[method.name]))
    return found[INT8.name][SIZES.index(LARGE_MODEL.parameters)]


def _compare(
    network: Network, methods: Sequence[Method], scale: Scale, versions: int, *, budget: bool = True
) -> float:
    """Print the table of one model; return the points that the default loses to float32."""
    per_update = bytes_per_parameter(INT8, network.parameters) * network.parameters
    bound = per_update * 10 * scale.budget_versions if budget else 0.0
    print(
        f"\n{network.parameters:,} parameters, seeds: {scale.seeds}; accuracy (%) after "
        f"{versions} versions" + (f", and with {bound / 1e6:.2f} MB of uplink" if bound else "")
    )
    columns = f"{'':<22}{'B/update':>10}{'B/param':>9}{'accuracy':>10}{'lost':>7}{'+-':>6}"
    print(columns + (f"{'at bytes':>10}{'versions':>10}" if bound else ""))
    tasks = [make_task(seed) for seed in range(scale.seeds)]
    baseline: list[Run] = []
    lost_by_default = 0.0
    for method in methods:
        runs = [
            run(
                task,
                network,
                method,
                seed=seed,
                versions=versions,
                budget=bound,
                server_rate=SERVER_RATE,
            )
            for seed, task in enumerate(tasks)
        ]
        baseline = baseline or runs
        lost = _print_row(network, method, runs, baseline, versions, bound)
        if method is INT8:
            lost_by_default = lost
    return lost_by_default


def _print_row(
    network: Network,
    method: Method,
    runs: Sequence[Run],
    baseline: Sequence[Run],
    versions: int,
    bound: float,
) -> float:
    """Print a method's figures; return the points it loses to the baseline on the same seeds."""
    accuracy = [100 * each.at_version(versions) for each in runs]
    lost = [
        100 * other.at_version(versions) - own
        for other, own in zip(baseline, accuracy, strict=True)
    ]
    spread = statistics.stdev(lost) if len(lost) > 1 else 0.0
    size = statistics.mean(each.update_bytes for each in runs)
    row = f"{method.name:<22}{size:>10,.0f}{size / network.parameters:>9.4f}"
    row += f"{statistics.mean(accuracy):>10.2f}{statistics.mean(lost):>7.2f}{spread:>6.2f}"
    if bound:
        points = [each.at_bytes(bound) for each in runs]
        row += f"{100 * statistics.mean(point.accuracy for point in points):>10.2f}"
        row += f"{statistics.mean(point.version for point in points):>10.0f}"
    print(row, flush=True)
    return statistics.mean(lost)


def _print_deltas() -> None:
    """Print what a head's delta costs after a step of 1 %."""
    print("\na head's delta after a step of 1 % of the weights, ten updates folded:")
    for method in (FLOAT32, INT8):
        found = delta_of(*folded_step(method, LARGE_MODEL, seed=0))
        print(
            f"{method.name:<22}step {100 * found.step:.2f} %  {found.per_parameter:.3f} B/param, "
            f"{found.share:.3f} of the whole weights"
        )


if __name__ == "__main__":
    raise SystemExit(main())
