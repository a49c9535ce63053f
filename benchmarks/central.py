"""What the benchmarks of central training share: training by this runtime, and its exports.

Responsible for one table row: a model trained on real data with the product's own loop, exported
to float and int8 `.tflite`, and the exports run by LiteRT and by the interpreter that runs on
microcontrollers, in environments of their own (`tests/install.sh` makes them).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.tflite_export import export_tflite, export_tflite_int8
from agent.learning.graph import Graph, Params, initial_params
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.train import TrainingPlan, TrainingResult, train

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RUNTIMES = ROOT / "tests" / "tflite"

Metric = Callable[[NDArray[np.float32]], float]
"""A model's outputs on the test rows -> the benchmark's figure."""


@dataclass(frozen=True)
class Task:
    """Real data, cut into what a model learns from and what it is judged on.

    `x`, `y`: training rows and labels; `test`: rows that no training saw; `metric` judges outputs
    on them.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    test: NDArray[np.float32]
    metric: Metric


@dataclass(frozen=True)
class Exports:
    """What the exported models give.

    Attributes:
      float_value: the metric of the float32 `.tflite` in LiteRT.
      int8_value: the metric of the int8 one.
      gap_lsb: largest difference between LiteRT's and TFLM's int8 outputs, in steps.
      bytes: size of the int8 file.
      arena_bytes: memory it needs on a microcontroller.
    """

    float_value: float
    int8_value: float
    gap_lsb: int
    bytes: int
    arena_bytes: int


def trained(graph: Graph, loss: Loss, task: Task, plan: TrainingPlan) -> TrainingResult:
    """Train on one thread and say how it went."""
    backend = OnnxRuntimeBackend(graph, loss)
    start, begun = time.process_time(), time.monotonic()
    result = train(backend, initial_params(graph), task.x, task.y, plan)
    cpu = time.process_time() - start
    print(
        f"trained {result.examples} examples in {time.monotonic() - begun:.0f} s "
        f"({result.examples / cpu:,.0f} per CPU second), loss {result.loss_first_epoch:.4f} to "
        f"{result.loss_last_epoch:.4f}",
        flush=True,
    )
    return result


def outputs(graph: Graph, loss: Loss, params: Params, rows: NDArray[np.float32]) -> Any:  # noqa: ANN401
    """Run a model on all rows: float32 (N, ...)."""
    return OnnxRuntimeBackend(graph, loss).infer(params, rows)


def exported(graph: Graph, params: Params, task: Task, *, micro_rows: int) -> Exports | None:
    """Export a trained model and run the files; None where no environment for them exists.

    Args:
      graph: the model.
      params: its trained parameters.
      task: its training rows calibrate, its test rows judge.
      micro_rows: test rows that the microcontroller's interpreter runs too.
    """
    python = RUNTIMES / ".venv-litert" / "bin" / "python"
    if not python.exists():
        print(f"exports not judged: {python.parent.parent} is not here; tests/install.sh makes it")
        return None
    spread = np.random.default_rng(0).permutation(len(task.x))[:500]
    files = {
        "float": export_tflite(graph, params),
        "int8": export_tflite_int8(graph, params, task.x[spread]),
    }
    with tempfile.TemporaryDirectory(prefix="journeyman-export-") as name:
        folder = Path(name)
        micro = folder / "micro"
        micro.mkdir()
        for case, data in files.items():
            (folder / f"{case}.tflite").write_bytes(data)
            np.save(folder / f"{case}.rows.npy", task.test)
        (micro / "int8.tflite").write_bytes(files["int8"])
        np.save(micro / "int8.rows.npy", task.test[:micro_rows])
        for script, place in (("litert", folder), ("litert", micro), ("tflm", micro)):
            _script(python, script, place)
        real = {case: np.load(folder / f"{case}.litert.real.npy") for case in files}
        here = np.load(micro / "int8.litert.raw.npy").astype(np.int32)
        there = np.load(micro / "int8.tflm.raw.npy").astype(np.int32)
        report = json.loads((micro / "int8.tflm.json").read_text())
    return Exports(
        float_value=task.metric(real["float"]),
        int8_value=task.metric(real["int8"]),
        gap_lsb=int(np.abs(here - there).max()),
        bytes=len(files["int8"]),
        arena_bytes=int(report["arena_used_bytes"]),
    )


def _script(python: Path, script: str, folder: Path) -> None:
    done = subprocess.run(
        [str(python), str(RUNTIMES / f"run_{script}.py"), str(folder), "litert"],
        capture_output=True,
        check=False,
    )
    refusals = [
        json.loads(report.read_text())["error"]
        for report in folder.glob("*.json")
        if "error" in json.loads(report.read_text())
    ]
    if done.returncode or refusals:
        words = refusals[0] if refusals else done.stderr.decode(errors="replace")[-1000:]
        raise SystemExit(f"the exported model does not run in {script}: {words}")


def conclude(name: str, verdict: dict[str, Any], exports: Exports | None) -> int:
    """Print the JSON line; 0 when it holds."""
    if exports is not None:
        print(
            f"exports    float {exports.float_value:.4g}  int8 {exports.int8_value:.4g}  "
            f"({exports.bytes:,} bytes, arena {exports.arena_bytes:,} bytes)  LiteRT and TFLM "
            f"differ by at most {exports.gap_lsb} steps"
        )
        change = abs(exports.int8_value - exports.float_value) / abs(exports.float_value)
        verdict["int8_value"] = round(exports.int8_value, 4)
        verdict["int8_change"] = round(change, 4)
        verdict["tflm_gap_lsb"] = exports.gap_lsb
        verdict["int8_bytes"] = exports.bytes
        verdict["arena_bytes"] = exports.arena_bytes
        verdict["holds"] = bool(verdict["holds"] and change <= 0.02 and exports.gap_lsb <= 1)
    sys.stdout.flush()
    print(json.dumps({"name": name, **verdict}))
    return 0 if verdict["holds"] else 1
