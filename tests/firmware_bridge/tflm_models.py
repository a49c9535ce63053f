"""Models of the product's families, exported, as images, with what TensorFlow Lite Micro says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.learning import families
from agent.learning.export.tflite_export import export_tflite_int8
from agent.learning.ir import Graph, initial_params
from firmware_bridge.image_format import read_image
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.tflite_reader import read_tflite

TFLITE = Path(__file__).resolve().parents[1] / "tflite"


@dataclass(frozen=True)
class Judged:
    """A model, rows as it stores them, int8 (N, numbers), and what they give in TFLM."""

    image: bytes
    rows: NDArray[np.int8]
    outputs: NDArray[np.int8]


def graphs(seed: int) -> Mapping[str, Graph]:
    """One of each family, differently sized for each seed."""
    random = np.random.default_rng(seed)

    def size(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    odd = (3, 5, 7)
    length, kernel = size(9, 40), odd[size(0, 2)]
    return {
        f"mlp-{seed}": families.mlp(size(2, 40), (size(2, 48), size(2, 20)), size(1, 6), seed),
        f"flattened-{seed}": families.mlp((size(1, 4), size(2, 9)), (size(3, 40),), 2, seed),
        f"cnn-max-{seed}": families.cnn1d(
            size(1, 5), length, size(1, 5), seed,
            widths=(size(2, 20), size(2, 20)), kernel=kernel, pool=size(2, 3),
        ),
        f"cnn-average-{seed}": families.cnn1d(
            size(1, 5), length, size(1, 5), seed, hidden=(size(2, 9),),
            widths=(size(2, 12), size(2, 12)), kernel=kernel, pool=size(2, 4), pooling="average",
        ),
        f"autoencoder-{seed}": families.autoencoder(
            (size(1, 4), length), seed, widths=(size(2, 16), size(2, 9)), kernel=kernel
        ),
        f"autoencoder-rows-{seed}": families.autoencoder(
            (size(4, 40),), seed, widths=(size(3, 40), size(2, 9))
        ),
    }  # fmt: skip


def exported(graph: Graph, seed: int) -> bytes:
    """An int8 `.tflite` file of a graph with its first, random weights."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(64, *graph.inputs[0].shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    return export_tflite_int8(graph, initial_params(graph), rows)


def judged(files: Mapping[str, bytes], folder: Path, rows: int, seed: int = 0) -> dict[str, Judged]:
    """Run every file in TFLM on random rows, half of them with nothing but extremes."""
    python = TFLITE / ".venv-litert" / "bin" / "python"
    if not (python.parents[1] / ".installed-tflm.txt").exists():
        pytest.skip("tflite-micro is not installed: run tests/install.sh .venv/bin/python")
    random = np.random.default_rng(seed)
    images = {name: image_from_tflite(data) for name, data in files.items()}
    for name, data in files.items():
        sizes = stored_shape(data)
        stored = random.integers(-128, 128, (rows, *sizes)).astype(np.int8)
        stored[: rows // 2] = random.choice(
            np.array([-128, 127], np.int8), stored[: rows // 2].shape
        )
        (folder / f"{name}.tflite").write_bytes(data)
        np.save(folder / f"{name}.judge.stored.npy", stored)
    subprocess.run([str(python), str(TFLITE / "run_tflm.py"), str(folder), "judge"], check=True)
    found = {}
    for name, image in images.items():
        report = json.loads((folder / f"{name}.tflm.json").read_text())
        assert "error" not in report, f"{name}: {report['error']}"
        given = np.load(folder / f"{name}.judge.stored.npy").reshape(rows, -1)
        made = np.load(folder / f"{name}.tflm.raw.npy").reshape(rows, -1)
        assert made.shape[1] == read_image(image).output_numbers
        found[name] = Judged(image, given, made)
    return found


def stored_shape(data: bytes) -> tuple[int, ...]:
    """The sizes of one row as a file stores it."""
    file = read_tflite(data)
    return file.tensors[file.input].shape[1:]
