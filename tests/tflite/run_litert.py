"""Runs every model of a folder in this environment's TFLite runtime. Arguments: FOLDER LABEL.

For `<case>.tflite` and `<case>.rows.npy` (float32, ONNX's layout) it writes, with LABEL in the
name, the outputs in ONNX's layout, the rows and outputs as the file stores them, and what the
runtime says of input and output; or the runtime's refusal.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.learning import litert


def main() -> None:
    """Run all models."""
    folder, label = Path(sys.argv[1]), sys.argv[2]
    for file in sorted(folder.glob("*.tflite")):
        rows = np.load(folder / f"{file.stem}.rows.npy")
        report: dict[str, object] = {"runtime": litert._runtime().__name__}  # noqa: SLF001
        try:
            model = litert.load(file.read_bytes())
            stored = model.input.encode(rows)
            outputs = model.run(stored)
        except litert.TfliteError as error:
            report["error"] = str(error)
        else:
            np.save(folder / f"{file.stem}.{label}.stored.npy", stored)
            np.save(folder / f"{file.stem}.{label}.raw.npy", outputs)
            np.save(folder / f"{file.stem}.{label}.real.npy", model.infer(rows))
            for name, port in (("input", model.input), ("output", model.output)):
                report[name] = {**asdict(port), "dtype": port.dtype.name}
        (folder / f"{file.stem}.{label}.json").write_text(json.dumps(report))


main()
