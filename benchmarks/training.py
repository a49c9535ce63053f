"""Training speed and memory of the learning runtime beside PyTorch eager, on one thread.

A step is what a training does with a batch: forward, loss, backward, Adam.  Both sides start from
the same weights and see the same rows; their gradients are compared first.  Steps of both
alternate in one process and are timed by its CPU time, so that other programs on the machine
disturb both alike; a figure is the median of the rounds' ratios.  Memory is the largest resident
set of a fresh process that trains one family at batch 32, for each side.

The last line is JSON; `value` is the smallest ratio at batch 32.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and PyTorch read it

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.learning.ir import initial_params
from agent.learning.losses import Loss
from agent.learning.optimizers import adam
from agent.learning.params import Vector, flatten, unflatten
from agent.learning.runtime import Backend
from benchmarks.training_models import Family, export_gru, families

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["mlp", "cnn1d", "autoencoder", "cnn2d", "gru"]
BATCHES = (1, 32, 256)
JUDGED = 32
"""The batch whose ratios decide: what the recipes use."""

TARGET = 1.0
TARGET_MLP = 3.0
TARGET_RSS_MB = 128
TARGET_RSS_RATIO = 0.5
LEARNING_RATE = 1e-4
GRADIENT_TOLERANCE = {1: 1e-3, 32: 1e-3, 256: 1e-2}
"""By batch. Rounding decides at a few of a batch's millions of Relus and pools which way the
gradient goes, on both sides (4e-7 without such a case); the tests compare exactly, in float64."""


Step = Callable[[], object]


@dataclass(frozen=True)
class Speed:
    """Samples a second of both sides, and the median of the rounds' ratios."""

    ours: float
    torch: float
    ratio: float


def main() -> int:
    """Run; 0 when everything that was asserted holds."""
    options = _arguments()
    if options.memory:
        family = families(options.exports)[options.families[0]]
        print(_peak_of_this_process(options.memory, family))
        return 0
    if importlib.util.find_spec("torch") is None:
        print("skipped: PyTorch is not installed here; tests/install.sh installs it")
        print(json.dumps({"name": "training", "skipped": "no PyTorch on this machine"}))
        return 0
    with tempfile.TemporaryDirectory(prefix="journeyman-training-") as folder:
        export_gru(Path(folder))
        result = _measure(options.families, Path(folder), options.seconds)
    if options.reduced:
        print("\nreduced: gradients are asserted, figures are only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or options.reduced else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--families", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each family and batch")
    parser.add_argument("--reduced", action="store_true", help="a second each: no verdict")
    parser.add_argument("--memory", choices=("ours", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--exports", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reduced:
        options.seconds = 1.0
    return options


def _measure(names: list[str], folder: Path, seconds: float) -> dict[str, object]:
    """Measure and print every family; return the line of JSON."""
    print("samples/s on one thread, ours and PyTorch eager's; peak resident set at batch 32\n")
    print(f"{'family':12} {'parameters':>10}  " + "".join(f"{f'batch {n}':^29}" for n in BATCHES))
    speeds: dict[str, dict[int, Speed]] = {}
    memory: dict[str, tuple[float, float]] = {}
    for name in names:
        family = families(folder)[name]
        speeds[name] = {rows: _compare(family, rows, seconds) for rows in BATCHES}
        ours, theirs = (_measure_memory(side, name, folder) for side in ("ours", "torch"))
        memory[name] = ours, theirs
        _print_row(name, family, speeds[name], memory[name])
    return _result(speeds, memory)


def _compare(family: Family, rows: int, seconds: float) -> Speed:
    """Time both sides in turns for about `seconds` of CPU."""
    _check_gradients(family, rows)
    steps = (_our_step(family, rows), _torch_step(family, rows))
    for step in steps:
        _time(step, 3)
    alone = [max(_time(step, 3) / 3, 1e-6) for step in steps]
    # Many short turns, so that a disturbance hits both sides or is outvoted.
    rounds = max(15, min(100, round(seconds / sum(alone))))
    counts = [max(1, round(seconds / (2 * rounds) / one)) for one in alone]
    taken: list[list[float]] = []
    for turn in range(rounds):
        order = (0, 1) if turn % 2 else (1, 0)
        times = {side: _time(steps[side], counts[side]) / counts[side] for side in order}
        taken.append([times[0], times[1]])
    ours, torch_s = (statistics.median(column) for column in zip(*taken, strict=True))
    ratio = statistics.median(theirs / own for own, theirs in taken)
    return Speed(rows / ours, rows / torch_s, ratio)


def _time(step: Step, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - start


def _backend(family: Family) -> Backend:
    from agent.learning.onnxruntime_backend import OnnxRuntimeBackend  # noqa: PLC0415 - not in PyTorch's process

    return OnnxRuntimeBackend(family.graph(), family.loss)


def _our_step(family: Family, rows: int) -> Step:
    """Make a function that trains one step, with the trainer's own parts."""
    backend = _backend(family)
    start = initial_params(family.graph())
    x, y = family.batch(rows)
    w = np.ones(rows, np.float32)
    optimizer = adam(LEARNING_RATE)
    vector: Vector = flatten(start)
    state = optimizer.init(vector)

    def step() -> None:
        nonlocal vector, state
        _, gradients = backend.grads(unflatten(vector, start), x, y, w)
        state, vector = optimizer.apply(flatten(gradients), state, vector)

    return step


def _torch_loss(family: Family, rows: int) -> tuple[Any, Callable[[], Any]]:
    """Return a module with our weights, and a function that computes its loss."""
    import torch  # noqa: PLC0415 - not in our process

    torch.set_num_threads(1)
    module = family.module()
    with torch.no_grad():
        pairs = zip(module.parameters(), initial_params(family.graph()).values(), strict=True)
        for parameter, value in pairs:
            parameter.copy_(torch.tensor(value))
    x, y = (torch.tensor(value) for value in family.batch(rows))
    functional = torch.nn.functional
    judges: dict[Loss, Callable[[Any], Any]] = {
        Loss.BINARY_CROSS_ENTROPY: lambda z: functional.binary_cross_entropy_with_logits(z, y),
        Loss.CROSS_ENTROPY: lambda z: functional.cross_entropy(z, y),
        Loss.MSE: lambda z: functional.mse_loss(z, y),
        Loss.RECONSTRUCTION: lambda z: functional.mse_loss(z, x),
    }
    return module, lambda: judges[family.loss](module(x))


def _torch_step(family: Family, rows: int) -> Step:
    """Make a function that trains one step as PyTorch's tutorials do."""
    import torch  # noqa: PLC0415 - not in our process

    module, loss = _torch_loss(family, rows)
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _check_gradients(family: Family, rows: int) -> None:
    x, y = family.batch(rows)
    params = initial_params(family.graph())
    _, ours = _backend(family).grads(params, x, y, np.ones(rows, np.float32))
    module, loss = _torch_loss(family, rows)
    loss().backward()
    theirs = np.concatenate([value.grad.numpy().ravel() for value in module.parameters()])
    error = float(np.linalg.norm(flatten(ours) - theirs) / np.linalg.norm(theirs))
    if not error <= GRADIENT_TOLERANCE[rows]:
        raise SystemExit(f"gradients differ by {error:.1e} at batch {rows} of {family.words}")


def _measure_memory(side: str, name: str, folder: Path) -> float:
    """Return the peak resident set, in MB, of a fresh process that trains."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory", side, "--families", name]
    command += ["--exports", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _peak_of_this_process(side: str, family: Family) -> float:
    step = (_our_step if side == "ours" else _torch_step)(family, JUDGED)
    for _ in range(50):
        step()
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def _print_row(
    name: str, family: Family, speeds: dict[int, Speed], memory: tuple[float, float]
) -> None:
    cells = [f"{s.ours:10,.0f} {s.torch:9,.0f} {s.ratio:5.2f}x  " for s in speeds.values()]
    own, theirs = memory
    print(
        f"{name:12} {family.parameters():10,}  {' '.join(cells)} {own:4.0f} MB, PyTorch "
        f"{theirs:4.0f} MB   {family.words}",
        flush=True,
    )


def _result(
    speeds: dict[str, dict[int, Speed]], memory: dict[str, tuple[float, float]]
) -> dict[str, object]:
    ratios = {name: by_batch[JUDGED].ratio for name, by_batch in speeds.items()}
    smallest = min(ratios.values())
    rss = max(own for own, _ in memory.values())
    share = max(own / theirs for own, theirs in memory.values())
    mlp_ratio = ratios.get("mlp")
    return {
        "name": "training",
        "value": round(smallest, 3),
        "unit": "x PyTorch eager",
        "target": TARGET,
        "holds": smallest >= TARGET
        and (mlp_ratio is None or mlp_ratio >= TARGET_MLP)
        and rss <= TARGET_RSS_MB
        and share <= TARGET_RSS_RATIO,
        "mlp_ratio": None if mlp_ratio is None else round(mlp_ratio, 2),
        "rss_mb": round(rss, 1),
        "rss_ratio": round(share, 3),
        "ratios": {
            name: {str(rows): round(speed.ratio, 2) for rows, speed in by_batch.items()}
            for name, by_batch in speeds.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
