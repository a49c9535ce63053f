"""What each job's bundle is worth in every place that serves it, and what int8 costs.

Each job of `journeyman demo --job` is learned from all sites' rows, generated or given, by its
bundle's own recipe, then served unchanged (`shopfloor/jobs/served_on.py`) by ONNX Runtime, by the
numpy backend, as int8 by LiteRT, and as int8 on an emulated Cortex-M3; the same test rows are
judged by the job's metric.  The board, slow under emulation, computes some of them.

Asserted, reduced too: numpy and ONNX Runtime agree within the bundle's tolerance in every job; the
board gives the int8 reference's bits, wherever the bridge's gate lets the model on it, and so does
LiteRT where it is installed.  The target of int8's loss: at most 2 points of PR-AUC, ROC-AUC or
accuracy, at most 5 % of RMSE.  A federation may lose as much to pooled training before a job counts
as failed; a gateway that saves a float unit should not cost a site more than learning apart does.
What 8 bits can not carry is named, with the reason (`NOT_FOR_INT8`), and its loss printed.

The last line is JSON; `value` is the worst other job's loss as a share of what is allowed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.examples import Examples, Site, make_examples
from agent.bundle.quality import judge
from agent.bundle.trial import learn_alone
from agent.learning.litert import TfliteError
from agent.learning.losses import Loss, example_losses
from agent.learning.train import Training
from agent.model import Model, prepare
from agent.signals.features import measure, standardise
from benchmarks.central import RUNTIMES
from benchmarks.runtimes_table import ALLOWED, HEADER, NOT_FOR_INT8, SCORES, Line, reasons, told
from shopfloor.jobs.choice import NAMES, rows_of, task_named
from shopfloor.jobs.judging import Judged, judged_rows, quality, table_of
from shopfloor.jobs.served_on import (
    BOARD_ROWS,
    Board,
    Int8,
    Interpreter,
    NotServed,
    Places,
    Rows,
    litert_here,
    served_on,
)
from shopfloor.jobs.task import Metric, SiteRows, Task
from wire.bundle import read_draft
from wire.manifest import Manifest

_NUMBERS: Final = {True: 1_500_000, False: 12_000_000}
"""Of training inputs, reduced or not: a job of images takes fewer rows; a third of it judges."""
_MOST_EPOCHS: Final = {True: 3, False: 1000}
_REDUCED_BOARD_ROWS: Final = 20


def main() -> int:
    """Serve every job everywhere; 0 when all agree and no loss is above its allowance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="few rows, few epochs")
    parser.add_argument("--job", choices=NAMES, action="append", help="these alone")
    parser.add_argument(
        "--data",
        nargs=2,
        metavar=("JOB", "PATH"),
        action="append",
        default=[],
        help="rows of a job, else generated ones",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = dict(options.data)
    lines = []
    print(HEADER)
    for name in options.job or NAMES:
        task, path = task_named(name), Path(data[name]) if name in data else None
        sites = rows_of(task, path, options.seed)
        lines.append(measured(task, sites, options.seed, reduced=options.reduced))
        print(told(lines[-1]), flush=True)
    for reason in reasons(lines):
        print(reason)
    return _conclude(lines, reduced=options.reduced)


def measured(task: Task, sites: Sequence[SiteRows], seed: int, *, reduced: bool) -> Line:
    """Learn one job from all sites' rows, serve it everywhere, and judge."""
    bundle = read_draft(build_draft(task.description, read_bundle_settings(task.description)))[0]
    model, rng = prepare(bundle, "onnxruntime"), np.random.default_rng(seed)
    learned, judges = _rows(task, model.manifest, sites)
    learned = _some(learned, _NUMBERS[reduced], rng)
    chosen = _chosen(len(judges.examples), _NUMBERS[reduced] // 3, judges.examples.x, rng)
    x, test = learned.x, judges.examples.x[chosen]
    if model.manifest.standardise != "given":
        moments = measure(model.manifest.features, x)
        x, test = (standardise(model.manifest.features, each, moments) for each in (x, test))
    together = Site("pooled", replace(learned, x=x), learned, 0)
    epochs = min(model.manifest.recipe.epochs, _MOST_EPOCHS[reduced])
    params = learn_alone(
        model, bundle.weights, together, seed=seed, epochs=epochs, on_step=_unseen
    ).params
    python = RUNTIMES / ".venv-litert" / "bin" / "python"
    places = served_on(
        model,
        params,
        x,
        test,
        interpreter=_beside(python) if python.exists() else litert_here,
        board_rows=_REDUCED_BOARD_ROWS if reduced else BOARD_ROWS,
        python=str(python) if python.exists() else sys.executable,
    )
    where = np.zeros(len(judges.examples), np.bool_)
    where[chosen] = True
    rows = Judged(judges.examples.where(where), judges.truth[where])
    return _judged(task, model, places, rows, test)


def _unseen(_training: Training) -> None:
    """Nobody watches this training."""


def _judged(task: Task, model: Model, places: Places, rows: Judged, test: Rows) -> Line:
    """Judge what each place gave."""
    int8, values = places.int8, {}
    outputs = {
        "onnxruntime": places.onnxruntime,
        "numpy": places.numpy,
        "int8": int8.outputs if isinstance(int8, Int8) else int8,
    }
    for place, given in outputs.items():
        if not isinstance(given, NotServed):
            values[place] = _value(task.metric, model.manifest, given, rows, test)
        elif place != "int8":
            raise SystemExit(f"{task.name}: {place} does not serve it: {given.reason}")
    one, other = (np.asarray(outputs[name], np.float64) for name in ("onnxruntime", "numpy"))
    apart = float(np.linalg.norm(one - other) / max(1.0, float(np.linalg.norm(one))))
    return Line(task, len(test), places, values, apart, model.manifest.tolerance)


def _value(metric: Metric, manifest: Manifest, outputs: Rows, rows: Judged, inputs: Rows) -> float:
    """The job's metric of a place's outputs."""
    if manifest.label is None:
        errors = example_losses(Loss.RECONSTRUCTION, outputs, inputs)
        found = quality(metric, rows.truth, np.asarray(errors, np.float64))
    else:
        found = judge(manifest, outputs, rows.examples).scores[SCORES[metric]]
    if found is None:
        raise SystemExit(f"{manifest.name}: the test rows are of one kind and can not judge")
    return found


def _rows(task: Task, manifest: Manifest, sites: Sequence[SiteRows]) -> tuple[Examples, Judged]:
    """All sites' examples to learn from, and to judge by."""
    train = [
        make_examples(manifest, table_of(manifest, site.train, task.group, site.name))
        for site in sites
    ]
    test = [judged_rows(manifest, site.test, task.group, site.name) for site in sites]
    truth = np.concatenate([each.truth for each in test])
    return _joined(train), Judged(_joined([each.examples for each in test]), truth)


def _joined(sites: list[Examples]) -> Examples:
    names = ("x", "y", "groups", "first", "last")
    return Examples(*(np.concatenate([getattr(each, name) for each in sites]) for name in names))


def _chosen(rows: int, numbers: int, x: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows by chance, in order, so many that their inputs have `numbers` numbers."""
    most = max(1, numbers // max(1, x[0].size))
    return np.sort(rng.permutation(rows)[:most])


def _some(examples: Examples, numbers: int, rng: np.random.Generator) -> Examples:
    where = np.zeros(len(examples), np.bool_)
    where[_chosen(len(examples), numbers, examples.x, rng)] = True
    return examples.where(where)


def _beside(python: Path) -> Interpreter:
    """LiteRT in an environment of its own, which `tests/install.sh` makes."""

    def run(file: bytes, rows: Rows) -> Rows:
        with tempfile.TemporaryDirectory(prefix="journeyman-runtimes-") as name:
            folder = Path(name)
            (folder / "job.tflite").write_bytes(file)
            np.save(folder / "job.rows.npy", rows)
            script = str(RUNTIMES / "run_litert.py")
            subprocess.run([str(python), script, name, "bench"], check=True, capture_output=True)
            told = json.loads((folder / "job.bench.json").read_text())
            if "error" in told:
                raise TfliteError(told["error"])
            return np.asarray(np.load(folder / "job.bench.real.npy"), np.float32)

    return run


def _conclude(lines: list[Line], *, reduced: bool) -> int:
    """Print the JSON line; the exit status."""
    losses = {each.task.name: each.loss for each in lines}
    shares = [each.share for each in lines if each.share is not None]
    is_exact = all(each.is_exact for each in lines)
    boards = [each.places.board for each in lines if isinstance(each.places.board, Board)]
    worst = max(shares, default=0.0)
    result: dict[str, Any] = {
        "name": "runtimes",
        "value": round(worst, 3),
        "unit": "of the loss allowed to int8",
        "target": 1.0,
        "holds": is_exact and worst <= 1.0,
        "is_exact": is_exact,
        "int8_loss": {name: None if at is None else round(at, 3) for name, at in losses.items()},
        "allowed": ALLOWED,
        "not_for_int8": [name for name in losses if name in NOT_FOR_INT8],
        "apart": {each.task.name: float(f"{each.apart:.2g}") for each in lines},
        "on_board": len(boards),
        "board_rows": sum(len(each.rows) for each in boards),
    }
    if reduced:
        print("reduced: agreement is asserted, losses only printed")
    print(json.dumps(result))
    return 0 if result["holds"] or (reduced and is_exact) else 1


if __name__ == "__main__":
    raise SystemExit(main())
