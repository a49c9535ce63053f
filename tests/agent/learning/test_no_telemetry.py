"""ONNX Runtime reports nothing: where it would, it leaves a device identifier at home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SESSION = """
from agent.learning.families import mlp
from agent.learning.onnx_writer import write_graph
{imports}
onnxruntime.InferenceSession(write_graph(mlp(4, (3,), 2, 0)), providers=["CPUExecutionProvider"])
"""
OURS = "from agent.learning.silent_onnxruntime import onnxruntime"
PRODUCT = ("agent", "coordinator", "wire", "firmware_bridge", "shopfloor", "benchmarks")


def left_at_home(imports: str, home: Path) -> list[Path]:
    """Files that a session leaves under its home folder."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    program = SESSION.format(imports=imports)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    return [path for path in home.rglob("*") if path.is_file()]


def test_a_session_leaves_no_device_identifier(tmp_path: Path) -> None:
    if not left_at_home("import onnxruntime", tmp_path / "theirs"):
        pytest.skip("this build of ONNX Runtime leaves nothing even when it may report")
    assert left_at_home(OURS, tmp_path / "ours") == []


@pytest.mark.parametrize("folder", PRODUCT)
def test_nobody_else_imports_it(folder: str) -> None:
    importers = [
        path.name
        for path in (ROOT / folder).rglob("*.py")
        if any(
            line.startswith(("import onnxruntime", "from onnxruntime"))
            for line in map(str.strip, path.read_text().splitlines())
        )
    ]
    assert importers == (["silent_onnxruntime.py"] if folder == "agent" else [])
