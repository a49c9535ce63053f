"""Defects of printed circuit boards (DeepPCB patches), trained by this runtime.

Patches of 64 x 64 bits of a tested board and of its golden template, as -1 and 1; seven classes (no
defect, open, short, mousebite, spur, spurious copper, pin-hole), seven board designs. 80 % of each
design's patches train, whole images at a time, so that no image gives patches to both sides; the
others are the test. The model is the family `cnn2d`.

The last line is JSON; `value` is the median test accuracy over the seeds.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.learning.families import cnn2d
from agent.learning.losses import Loss
from agent.learning.train import TrainingPlan
from benchmarks.central import DATA, Task, conclude, exported, outputs, trained

CLASSES = ("ok", "open", "short", "mousebite", "spur", "spurious copper", "pin-hole")
SIZE = 64
TARGET = 0.94
TARGET_REDUCED = 0.7  # most patches are of one class: half would be right without learning
PLAN = TrainingPlan(
    epochs=10,
    batch_size=64,
    optimizer="adam",
    learning_rate=2e-3,
    last_learning_rate=1e-4,
    average_tail=0.1,
)


def main() -> int:
    """Run; 0 when the target holds; reduced: when two epochs learn clearly more than nothing."""
    options = _arguments()
    if not options.data.exists():
        print(f"skipped: {options.data} is not here; name a copy with --data")
        print(json.dumps({"name": "deeppcb", "skipped": "no DeepPCB patches on this machine"}))
        return 0
    values = []
    exports = None
    epochs = 2 if options.reduced else PLAN.epochs
    for seed in range(1 if options.reduced else options.seeds):
        task, test_labels = read_task(options.data, seed)
        graph = cnn2d(2, SIZE, SIZE, len(CLASSES), seed=seed)
        plan = replace(PLAN, seed=seed, epochs=epochs)
        params = trained(graph, Loss.CROSS_ENTROPY, task, plan).params
        logits = outputs(graph, Loss.CROSS_ENTROPY, params, task.test)
        values.append(task.metric(logits))
        print(f"seed {seed}: test accuracy {values[-1]:.4f}", flush=True)
        _print_recall(logits, test_labels)
        if seed == 0:
            exports = exported(graph, params, task, micro_rows=100)
    value = statistics.median(values)
    target = TARGET_REDUCED if options.reduced else TARGET
    print(f"DeepPCB, {len(task.x)} patches train, {len(task.test)} test: accuracy {value:.4f}")
    verdict = {
        "value": round(value, 4),
        "unit": "accuracy",
        "target": target,
        "holds": value >= target,
        "epochs": epochs,
        "by_seed": [round(v, 4) for v in values],
    }
    return conclude("deeppcb", verdict, exports)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deeppcb", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=DATA / "deeppcb" / "deeppcb_patches.npz", help="the patches"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings, with seeds from 0")
    parser.add_argument("--reduced", action="store_true", help="one seed, two epochs")
    return parser.parse_args()


def read_task(path: Path, seed: int) -> tuple[Task, NDArray[np.int64]]:
    """Read the patches and hold out a fifth of each design's images; also the test labels."""
    with np.load(path) as arrays:
        bits, labels, design, image = (arrays[k] for k in ("bits", "y", "group", "image"))
    x = np.unpackbits(bits.reshape(len(bits), -1), axis=1).astype(np.float32)
    x = 2 * x.reshape(-1, 2, SIZE, SIZE) - 1
    y = labels.astype(np.int64)
    held_out = _held_out(design, image, seed)
    test_labels = y[held_out]
    task = Task(
        x=x[~held_out],
        y=y[~held_out],
        test=x[held_out],
        metric=lambda output: float(np.mean(output.argmax(axis=1) == test_labels)),
    )
    return task, test_labels


def _held_out(
    design: NDArray[np.integer], image: NDArray[np.integer], seed: int
) -> NDArray[np.bool_]:
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(design), np.bool_)
    for one in np.unique(design):
        images = random.permutation(np.unique(image[design == one]))
        room = np.sum(design == one) // 5
        for name in images:
            patches = (design == one) & (image == name)
            if room <= 0:
                break
            chosen |= patches
            room -= int(patches.sum())
    return chosen


def _print_recall(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    right = logits.argmax(axis=1) == labels
    words = [f"{name} {right[labels == k].mean():.3f}" for k, name in enumerate(CLASSES)]
    print("  recall: " + "  ".join(words), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
