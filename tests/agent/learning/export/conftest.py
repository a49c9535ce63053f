"""Every model exported once and run once in each environment that tests/install.sh made."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.learning.export.tflite_export import export_tflite, export_tflite_int8
from agent.learning.ir import Graph, initial_params
from agent.learning.onnx_writer import write_graph
from agent.learning.silent_onnxruntime import onnxruntime
from tests.agent.learning.export.export_models import CASES, GEOMETRIES, rows_for

SCRIPTS = Path(__file__).resolve().parents[3] / "tflite"
LITERT, RUNTIME = ".venv-litert", ".venv-runtime"


@dataclass
class Exports:
    """A folder of exported models, with what ran over them.

    `litert` and `runtime` name the two gateway runtimes, `tflm` the microcontroller's.
    """

    folder: Path
    references: dict[str, NDArray[np.float32]]

    def array(self, case: str, kind: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.folder / f"{case}.{kind}.npy")
        return array

    def report(self, case: str, label: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / f"{case}.{label}.json").read_text())
        return report

    def outputs(self, case: str, label: str, kind: str = "raw") -> NDArray[Any]:
        report = self.report(case, label)
        assert "error" not in report, f"{case} in {label}: {report['error']}"
        return self.array(case, f"{label}.{kind}")


def run_onnx(graph: Graph, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The oracle of every export: ONNX Runtime."""
    session = onnxruntime.InferenceSession(write_graph(graph), providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {graph.inputs[0].name: rows})[0]
    return output


def environment(name: str) -> str:
    """The interpreter of an environment under tests/tflite; skips where it is missing."""
    python = SCRIPTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: run tests/install.sh .venv/bin/python")
    return str(python)


def run_script(name: str, script: str, *arguments: str) -> None:
    """Run a script of tests/tflite in an environment."""
    done = subprocess.run(
        [environment(name), str(SCRIPTS / script), *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert not done.returncode, done.stderr.decode(errors="replace")[-2000:]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """All models, exported in float32 and in int8."""
    exports = Exports(tmp_path_factory.mktemp("exports"), {})
    for case, build in {**CASES, **GEOMETRIES}.items():
        graph = build()
        params = initial_params(graph)
        rows = rows_for(graph, 70 if case in CASES else 9, seed=2)
        calibration = rows_for(graph, 300 if case in CASES else 40, seed=1)
        exports.references[case] = run_onnx(graph, rows)
        for kind, data in (
            ("float", export_tflite(graph, params)),
            ("int8", export_tflite_int8(graph, params, calibration)),
        ):
            (exports.folder / f"{case}-{kind}.tflite").write_bytes(data)
            np.save(exports.folder / f"{case}-{kind}.rows.npy", rows)
    return exports


@pytest.fixture(scope="session")
def in_litert(written: Exports) -> Exports:
    """All models, run in LiteRT as `litert`."""
    run_script(LITERT, "run_litert.py", str(written.folder), "litert")
    return written


@pytest.fixture(scope="session")
def in_runtime(written: Exports) -> Exports:
    """All models, run in tflite-runtime as `runtime`."""
    run_script(RUNTIME, "run_litert.py", str(written.folder), "runtime")
    return written


@pytest.fixture(scope="session")
def in_tflm(in_litert: Exports) -> Exports:
    """All models, run in LiteRT and in the microcontroller's interpreter as `tflm`."""
    micro = SCRIPTS / LITERT / ".installed-tflm.txt"
    if not micro.exists():
        pytest.skip("tflite-micro is not installed: run tests/install.sh .venv/bin/python")
    run_script(LITERT, "run_tflm.py", str(in_litert.folder), "litert")
    return in_litert


@pytest.fixture(scope="session")
def in_schema(written: Exports) -> Exports:
    """All models, read by another FlatBuffers reader as `schema`."""
    run_script(LITERT, "read_flatbuffers.py", str(written.folder))
    return written
