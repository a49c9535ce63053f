"""What a machine makes of a few models, to be compared with what another machine makes of them.

A program, not a test: it runs inside an installed package, where there is no pytest.  It imports
every module of every program that is installed, with the libraries that these import, then writes

  NAME/BACKEND/output, /loss, /gradients    of declared families and of files exported by PyTorch
  NAME/BACKEND/trained                      parameters after two epochs
  exact/...                                 what must not differ by a bit: drawn numbers, quantized
                                            updates, deltas between models

usage: computed.py OUT.npz FOLDER_OF_ONNX_FILES
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.choice import BackendName, open_backend
from agent.learning.families import autoencoder, cnn1d, cnn2d, mlp
from agent.learning.graph import Graph, initial_params
from agent.learning.losses import Loss
from agent.learning.params import flatten
from agent.learning.plan import TrainingPlan
from agent.learning.simplify import read_exported
from agent.learning.train import train
from wire import deltas, tensors

PROGRAMS = ("wire", "agent", "coordinator", "firmware_bridge")
SEPARATE = {
    "agent.learning.litert",  # the extra tflite
    *("firmware_bridge.firmware_actions", "firmware_bridge.firmware_update"),  # firmware
    "firmware_bridge.smp_device",
}
"""Need extras of their own, which packages leave out."""
NOT_ON_32_BIT = {"onnxruntime", "starlette", "uvicorn"}
"""What needs these is not counted; in packages they are there, and the count says so."""
ROWS = 24
FAMILIES = {
    "mlp": mlp((6,), (16, 8), 1, seed=3),
    "cnn1d": cnn1d(3, 30, 2, seed=3, widths=(8, 8)),
    "cnn2d": cnn2d(1, 16, 16, 3, seed=3, widths=(4, 8)),
    "autoencoder": autoencoder((20,), seed=3, widths=(16, 4)),
}
EXPORTED = ("mlp.dynamo", "cnn1d.plain", "cnn2d.plain", "gru.plain", "mixer.dynamo")


def import_all() -> int:
    """Import every module that is installed; returns how many."""
    count = 0
    for program in PROGRAMS:
        package = importlib.import_module(program)
        for module in pkgutil.walk_packages(package.__path__, f"{program}."):
            if module.name not in SEPARATE and not module.name.endswith("__main__"):
                count += _imported(module.name)
    return count


def _imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name not in NOT_ON_32_BIT:
            raise
        return False
    return True


def backends() -> list[BackendName]:
    """numpy, and ONNX Runtime where there is one."""
    try:
        importlib.import_module("onnxruntime")
    except ImportError:
        return ["numpy"]
    return ["numpy", "onnxruntime"]


def models(folder: Path) -> Iterator[tuple[str, Graph]]:
    """The models, by name."""
    yield from FAMILIES.items()
    for name in EXPORTED:
        yield name, read_exported((folder / f"{name}.onnx").read_bytes(), ())


def learned(name: str, graph: Graph, backend: BackendName) -> Iterator[tuple[str, Any]]:
    """Output, loss, gradients and trained parameters of one model on one backend."""
    random = np.random.default_rng(7)
    shape = tuple(int(size or 0) for size in graph.inputs[0].shape[1:])
    x = random.standard_normal((ROWS, *shape)).astype(np.float32)
    runtime = open_backend(graph, Loss.MSE, name=backend)
    params = initial_params(graph)
    output = runtime.infer(params, x)
    y = random.standard_normal(output.shape).astype(np.float32)
    loss, gradients = runtime.grads(params, x, y, np.ones(ROWS, np.float32))
    plan = TrainingPlan(epochs=2, batch_size=8, optimizer="adam", learning_rate=1e-3)
    trained = train(runtime, params, x, y, plan)
    yield f"{name}/{backend}/output", output
    yield f"{name}/{backend}/loss", np.array(loss)
    yield f"{name}/{backend}/gradients", flatten(gradients)
    yield f"{name}/{backend}/trained", flatten(trained.params)


def exact() -> Iterator[tuple[str, NDArray[Any]]]:
    """What is the same on all machines, bit by bit."""
    random = np.random.default_rng(11)
    before = random.standard_normal(5000).astype(np.float32)
    after = (before + random.standard_normal(5000).astype(np.float32) / 64).astype(np.float32)
    yield "exact/drawn", before
    for bits in (4, 8, 16):
        integers, _ = tensors.quantize(after - before, 2.0**-7, bits, np.random.default_rng(1))
        yield f"exact/int{bits}", np.frombuffer(integers, np.uint8)
    delta = deltas.encode(before.tobytes(), after.tobytes())
    if delta is None:
        raise SystemExit("computed.py: no delta between two models")
    back = deltas.decode(before.tobytes(), delta, len(after.tobytes()))
    yield "exact/delta", np.frombuffer(delta, np.uint8)
    yield "exact/restored", np.frombuffer(back, np.uint8)


def main(out: str, folder: str) -> None:
    """Write everything to a file."""
    imported = import_all()
    found = dict(exact())
    for name, graph in models(Path(folder)):
        for backend in backends():
            found.update(learned(name, graph, backend))
    found["imported"] = np.array(imported)
    np.savez(out, allow_pickle=False, **found)
    print(f"{imported} modules, {len(found)} results, backends {backends()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
