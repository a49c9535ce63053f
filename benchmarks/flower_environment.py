"""The environment in which the peer runs: made once, and again when its requirements change."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOWER_ENV = ROOT / ".venv-flower"
_REQUIREMENTS = ROOT / "benchmarks" / "flower_poc" / "requirements.txt"


def flower_python() -> Path:
    """The interpreter that has Flower; installs it where it is missing.

    Raises:
      subprocess.CalledProcessError: it can not be installed; pip has said why.
    """
    python, stamp = FLOWER_ENV / "bin" / "python", FLOWER_ENV / ".installed"
    if not stamp.exists() or stamp.read_text() != _REQUIREMENTS.read_text():
        print(f"installing Flower into {FLOWER_ENV.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FLOWER_ENV)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-r", str(_REQUIREMENTS)], check=True
        )
        stamp.write_text(_REQUIREMENTS.read_text())
    return python
