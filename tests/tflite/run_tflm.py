"""Runs every model of a folder in the microcontroller's interpreter. Arguments: FOLDER LABEL.

Reads the rows as `run_litert.py` with the same LABEL stored them, and writes the stored outputs
and the arena's use. Each model has a process of its own, because the interpreter ends its
process instead of refusing a model.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.learning.export.micro import MicroError, run_micro


def run_one(file: Path, label: str) -> None:
    """Run one model."""
    rows = np.load(file.with_name(f"{file.stem}.{label}.stored.npy"))
    report: dict[str, object] = {"bytes": file.stat().st_size}
    try:
        result = run_micro(file.read_bytes(), rows)
    except MicroError as error:
        report["error"] = str(error)
    else:
        np.save(file.with_name(f"{file.stem}.tflm.raw.npy"), result.outputs)
        report["arena_used_bytes"] = result.arena_used_bytes
    file.with_name(f"{file.stem}.tflm.json").write_text(json.dumps(report))


def main() -> None:
    """Run all models that the other runtime took."""
    place, label = Path(sys.argv[1]), sys.argv[2]
    if place.is_file():
        run_one(place, label)
        return
    for file in sorted(place.glob("*.tflite")):
        if not file.with_name(f"{file.stem}.{label}.stored.npy").exists():
            continue
        done = subprocess.run(
            [sys.executable, __file__, str(file), label], capture_output=True, check=False
        )
        if done.returncode:
            words = done.stderr.decode(errors="replace")[-500:]
            report = {"error": f"exit status {done.returncode}: {words}"}
            file.with_name(f"{file.stem}.tflm.json").write_text(json.dumps(report))


main()
