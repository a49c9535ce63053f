"""int8 inference on a Cortex-M3: what it costs, and that no bit differs.

Every family that a device runs, with random weights and rows: TensorFlow Lite Micro is asked
where it is installed (tests/install.sh), then the gateway's reference, the kernels on the host
under sanitizers and the kernels as firmware in QEMU must give the same bits.

Costs are instructions as QEMU counts them with `-icount shift=6`: every instruction takes 64 ns
of virtual time, which a timer of 40 ns a tick reads off, exact to one or two instructions. They
are no cycles: on the chip a multiplication with a long result, a division, a load or a taken
branch takes several, and slow flash more.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.tflite_export import export_tflite_int8
from agent.learning.families import autoencoder, cnn1d, mlp
from agent.learning.ir import Graph, initial_params
from firmware_bridge.image_format import read_image
from firmware_bridge.image_reference import run_image
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.slot_content import slot_content
from firmware_bridge.tflite_reader import read_tflite
from shopfloor.emulated_board import (
    COUNTING,
    TICKS_PER_INSTRUCTION,
    Kernels,
    build,
    kernels_on_board,
    kernels_on_host,
)

ROOT = Path(__file__).resolve().parents[2]
TFLITE = ROOT / "tests" / "tflite"
OBJECTS = ("jm_int8", "jm_model", "jm_content")


@dataclass(frozen=True)
class Cost:
    """What one model costs on a Cortex-M3.

    Attributes:
      tflite_bytes: of the exported file.
      image_bytes: of the model image.
      arena_bytes: of RAM while it runs.
      products: multiply-accumulates of one inference.
      instructions: of one inference, the most of all rows.
    """

    tflite_bytes: int
    image_bytes: int
    arena_bytes: int
    products: int
    instructions: int


@dataclass(frozen=True)
class Agreement:
    """How much was compared; that all of it agreed is asserted.

    Attributes:
      models: of all families and seeds.
      outputs: int8 numbers, each from every implementation.
      in_tflm: whether TensorFlow Lite Micro was one of them.
    """

    models: int
    outputs: int
    in_tflm: bool


def graphs(seed: int) -> Mapping[str, Graph]:
    """Return one model of each family, of sizes that microcontrollers run."""
    return {
        "dense 12-32-16-3": mlp(12, (32, 16), 3, seed),
        "dense 48-64-32-5": mlp((3, 16), (64, 32), 5, seed),
        "1-D CNN 3x64": cnn1d(3, 64, 4, seed, widths=(8, 16, 16)),
        "1-D CNN 3x64, default widths": cnn1d(3, 64, 4, seed),
        "1-D CNN 6x60, means": cnn1d(
            6, 60, 2, seed, widths=(12, 16), kernel=(7, 5), pool=3, pooling="average", hidden=(16,)
        ),
        "autoencoder 2x64": autoencoder((2, 64), seed, widths=(8, 8, 4)),
        "autoencoder 20": autoencoder((20,), seed, widths=(16, 6)),
    }


def code_size() -> dict[str, int]:
    """Return the bytes of code and constants of each object, -Os for Cortex-M3."""
    sizes = {}
    for name in OBJECTS:
        path = build(f"cortex-m3/{name}.o")
        done = subprocess.run(
            ["arm-none-eabi-size", path], capture_output=True, text=True, check=True
        )
        text, data, bss = (int(word) for word in done.stdout.splitlines()[1].split()[:3])
        if data or bss:
            raise RuntimeError(f"{name} keeps {data + bss} bytes of RAM of its own, must keep none")
        sizes[name] = text
    return sizes


def agreement(seeds: int, rows: int) -> Agreement:
    """Compare all implementations on `seeds` models of each family and `rows` rows of each.

    Raises:
      RuntimeError: a bit differs.
    """
    models = outputs = 0
    in_tflm = (TFLITE / ".venv-litert" / ".installed-tflm.txt").exists()
    with kernels_on_host() as host, kernels_on_board() as board:
        for seed in range(seeds):
            files = {name: _exported(graph, seed) for name, graph in graphs(seed).items()}
            stored = {name: _rows(data, rows, seed) for name, data in files.items()}
            known = _in_tflm(files, stored) if in_tflm else {}
            for name, data in files.items():
                image = image_from_tflite(data)
                wanted = run_image(read_image(image), stored[name])
                found = {"TFLM": known.get(name, wanted)}
                for place, kernels in (("host", host), ("Cortex-M3", board)):
                    found[place] = _run(kernels, image, stored[name])[0]
                for place, given in found.items():
                    if not np.array_equal(given, wanted):
                        raise RuntimeError(f"{name}, seed {seed}: {place} differs")
                models, outputs = models + 1, outputs + wanted.size
    return Agreement(models, outputs, in_tflm)


def costs() -> dict[str, Cost]:
    """Return what one model of each family costs, on rows of random numbers."""
    found = {}
    with kernels_on_board(COUNTING) as board:
        for name, graph in graphs(0).items():
            data = _exported(graph, 0)
            image = image_from_tflite(data)
            opened = board.open(image)
            ticks = board.run_counted(_rows(data, 8, 0))[1]
            instructions = round(max(ticks) / TICKS_PER_INSTRUCTION)
            sizes = (len(data), len(image), opened.arena_bytes, opened.products)
            found[name] = Cost(*sizes, instructions)
    return found


def fuzz(runs: int, seed: int) -> int:
    """Give the checks `runs` inputs, from whole images on, under both sanitizers.

    Returns:
      How many there were.

    Raises:
      RuntimeError: one of them broke a rule; libFuzzer's words say which.
    """
    program = build("fuzz_model")
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(_seeds()):
            (Path(folder) / f"{number}").write_bytes(content)
        options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=2048", "-print_final_stats=1"]
        done = subprocess.run(
            [program, *options, folder], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the fuzz target ended with {done.returncode}:\n{done.stderr[-3000:]}")
    word = "stat::number_of_executed_units:"
    line = next(line for line in done.stderr.splitlines() if line.startswith(word))
    return int(line.removeprefix(word))


def _seeds() -> list[bytes]:
    """Return small images with rows behind them, and the same as slot contents."""
    small = (
        mlp(3, (4,), 2, 1),
        cnn1d(2, 9, 2, 1, widths=(3, 4), kernel=3),
        cnn1d(2, 9, 2, 1, widths=(3, 2), kernel=3, pooling="average"),
        autoencoder((2, 8), 1, widths=(3, 2), kernel=3),
        autoencoder((1, 7), 1, widths=(2,), kernel=3),
    )
    found = []
    for graph in small:
        data = _exported(graph, 1)
        image, rows = image_from_tflite(data), _rows(data, 2, 1)
        found += [image + rows.tobytes(), slot_content(image, rows)]
    return found


def _exported(graph: Graph, seed: int) -> bytes:
    sizes = [size for size in graph.inputs[0].shape[1:] if isinstance(size, int)]
    rows = np.random.default_rng(seed).normal(size=(64, *sizes)).astype(np.float32)
    return export_tflite_int8(graph, initial_params(graph), rows)


def _rows(data: bytes, count: int, seed: int) -> NDArray[np.int8]:
    """Return random stored rows, the first half of them extremes, in the file's shape."""
    file = read_tflite(data)
    random = np.random.default_rng(seed)
    rows = random.integers(-128, 128, (count, *file.tensors[file.input].shape[1:])).astype(np.int8)
    rows[: count // 2] = np.where(rows[: count // 2] < 0, -128, 127)
    return rows


def _run(
    kernels: Kernels, image: bytes, rows: NDArray[np.int8]
) -> tuple[NDArray[np.int8], list[int]]:
    opened = kernels.open(image)
    if opened.code:
        raise RuntimeError(f"the device refuses an image with code {opened.code}")
    return kernels.run_counted(rows)


def _in_tflm(
    files: Mapping[str, bytes], stored: Mapping[str, NDArray[np.int8]]
) -> dict[str, NDArray[np.int8]]:
    """Return what TensorFlow Lite Micro's own interpreter gives, int8 (N, numbers)."""
    python = TFLITE / ".venv-litert" / "bin" / "python"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (model, data) in enumerate(files.items()):
            (folder / f"{number}.tflite").write_bytes(data)
            np.save(folder / f"{number}.bench.stored.npy", stored[model])
        subprocess.run([python, TFLITE / "run_tflm.py", folder, "bench"], check=True)
        found = {}
        for number, model in enumerate(files):
            told = json.loads((folder / f"{number}.tflm.json").read_text())
            if "error" in told:
                raise RuntimeError(f"{model}: TensorFlow Lite Micro refuses it: {told['error']}")
            made = np.load(folder / f"{number}.tflm.raw.npy")
            found[model] = made.reshape(len(made), -1)
    return found


def report(seeds: int, inputs: int) -> dict[str, Any]:
    """Measure, print a table, and return the verdict's figures."""
    compared, sizes = agreement(seeds, 40), code_size()
    print(f"\n{compared.outputs} outputs of {compared.models} models agree bit for bit", end="")
    print(" with TensorFlow Lite Micro" if compared.in_tflm else "; TFLM is not installed")
    print(f"\n{'model':30} {'.tflite':>8} {'image':>7} {'arena':>6} {'products':>9} instructions")
    found = costs()
    for name, cost in found.items():
        each = cost.instructions / cost.products
        print(
            f"{name:30} {cost.tflite_bytes:8} {cost.image_bytes:7} {cost.arena_bytes:6}"
            f" {cost.products:9} {cost.instructions:9} ({each:.1f} a product)"
        )
    print("code, bytes: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    ran = fuzz(inputs, 0)
    print(f"{ran} inputs to the checks of images without a finding")
    return {
        "kernel_code": sum(sizes.values()),
        "costs": {name: asdict(cost) for name, cost in found.items()},
        "agreement": asdict(compared),
        "image_inputs": ran,
    }
