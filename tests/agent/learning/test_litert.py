"""Running `.tflite` models: what is refused, and what a bare environment can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.learning import litert
from agent.learning.export.tflite_export import export_tflite, export_tflite_int8
from agent.learning.ir import initial_params
from agent.learning.litert import Port, TfliteError
from tests.agent.learning.export.export_models import CASES, rows_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some exported models."""
    folder = tmp_path_factory.mktemp("models")
    for case in ("mlp", "cnn1d", "autoencoder1d"):
        graph = CASES[case]()
        params = initial_params(graph)
        (folder / f"{case}-float.tflite").write_bytes(export_tflite(graph, params))
        data = export_tflite_int8(graph, params, rows_for(graph, 100, seed=1))
        (folder / f"{case}-int8.tflite").write_bytes(data)
    return folder


IN_ENVIRONMENT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from agent.learning import litert
for name in ("msgspec", "onnxruntime", "cryptography"):
    assert name not in sys.modules, name
data = open(sys.argv[2], "rb").read()
def refusal(action):
    try:
        action()
    except litert.TfliteError as error:
        return str(error)
    raise AssertionError("not refused")
model = litert.load(data)
rows = np.random.default_rng(0).standard_normal((150, *model.input.shape)).astype(np.float32)
together = model.infer(rows)
alone = np.concatenate([model.infer(row[None]) for row in rows])
assert together.shape == (150, *model.output.shape)
assert np.allclose(together, alone, atol=1e-6)
fast = litert.load(data, as_on_device=False).infer(rows)
assert np.abs(fast - together).max() < 8 * max(model.output.scale, 1e-6)
assert "expected float32" in refusal(lambda: model.infer(rows.astype(np.float64)))
assert "expected float32" in refusal(lambda: model.infer(rows[:, :-1]))
assert "expected float32" in refusal(lambda: model.infer(rows[:0]))
assert "refuses" in refusal(lambda: litert.load(b"no model"))
if "ai_edge_litert.interpreter" in sys.modules:  # the old runtime may crash instead
    for cut in (9, len(data) // 2, len(data) - 30):
        assert "refuses" in refusal(lambda: litert.load(data[:cut]))
assert "at most" in refusal(lambda: litert.load(bytes(litert.LARGEST_FILE_BYTES + 1)))
print("done")
"""


@pytest.mark.parametrize("case", ["mlp-float", "cnn1d-float", "cnn1d-int8", "autoencoder1d-int8"])
@pytest.mark.parametrize("environment", [".venv-litert", ".venv-runtime"])
def test_a_bare_environment_runs_models_and_refuses_what_does_not_fit(
    environment: str, case: str, written: Path
) -> None:
    python = ROOT / "tests" / "tflite" / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{environment} is not installed: run tests/install.sh .venv/bin/python")
    file = written / f"{case}.tflite"
    done = subprocess.run(
        [str(python), "-c", IN_ENVIRONMENT, str(ROOT), str(file)],
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode().strip() == "done", done.stderr.decode()[-1500:]


def test_without_a_runtime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    with pytest.raises(TfliteError, match=r"pip install 'journeyman\[tflite\]'"):
        litert.load(b"anything")


@pytest.mark.parametrize(
    ("name", "shape", "stored"),
    [
        ("x", (5,), (1, 5)),
        ("x", (6, 7), (1, 6, 7)),
        ("x@NCW", (3, 8), (1, 1, 8, 3)),
        ("x@NCHW", (3, 4, 5), (1, 4, 5, 3)),
    ],
)
def test_rows_come_back_from_every_layout(
    name: str, shape: tuple[int, ...], stored: tuple[int, ...]
) -> None:
    rows = np.random.default_rng(1).standard_normal((9, *shape)).astype(np.float32)
    plain = Port(name, shape, stored, np.dtype(np.float32), 0.0, 0)
    assert plain.encode(rows).shape == (9, *stored[1:])
    assert np.array_equal(plain.decode(plain.encode(rows)), rows)
    if name == "x@NCW":
        assert np.array_equal(plain.encode(rows)[2, 0, 5], rows[2, :, 5])
    small = Port(name, shape, stored, np.dtype(np.int8), 0.05, -3)
    assert small.encode(rows).dtype == np.int8
    assert np.abs(small.decode(small.encode(rows)) - np.clip(rows, -6.25, 6.5)).max() < 0.0251
