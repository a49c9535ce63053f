"""What may go to a device and what may not, each with the reason that a person needs."""

import asyncio
import functools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.devices.making import by_sample
from agent.learning import families
from agent.learning.choice import open_backend
from agent.learning.export.tflite_export import export_tflite_int8
from agent.learning.ir import initial_params
from agent.learning.losses import Loss
from firmware_bridge.gate import ALONE, BOTH, Limits, Passed, RefusedError, judge
from firmware_bridge.image_format import read_image
from firmware_bridge.slot_content import image_of
from tests.firmware_bridge.tflm_models import TFLITE
from wire.bridge import Offer

DEVICE = Limits(slot_bytes=16_384, arena_bytes=1024, ops=0b111110)


@functools.cache
def offer() -> Offer:
    """An autoencoder over windows of three signals with its golden rows."""
    graph = families.autoencoder((3, 16), 1, widths=(8, 4), kernel=5)
    params = initial_params(graph)
    rows = np.random.default_rng(0).normal(size=(64, 3, 16)).astype(np.float32)
    file = export_tflite_int8(graph, params, rows)
    golden = rows[:24]
    outputs = open_backend(graph, Loss.RECONSTRUCTION, name="numpy").infer(params, golden)
    return Offer(
        device="board",
        key=bytes(32),
        model=file,
        vectors=24,
        rows=by_sample(golden).tobytes(),
        outputs=by_sample(outputs).tobytes(),
        bound_steps=16.0,
        trial_s=60,
    )


def judged(given: Offer, limits: Limits = DEVICE, python: str = "") -> Passed:
    return asyncio.run(judge(given, limits, python) if python else judge(given, limits))


def refused(given: Offer, limits: Limits = DEVICE, python: str = "") -> str:
    with pytest.raises(RefusedError) as error:
        judged(given, limits, python)
    return str(error.value)


def interpreter(folder: Path, script: str) -> str:
    """A Python of whoever: it is started by path, and says what it likes."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def test_without_the_witness_the_reference_judges_alone_and_that_is_said(tmp_path: Path) -> None:
    passed = judged(offer(), python=interpreter(tmp_path, "cat >/dev/null; exit 3"))
    assert passed.judges == ALONE
    image = read_image(image_of(passed.content))
    assert passed.arena_bytes == image.arena_bytes
    assert 0 < passed.largest <= passed.bound == 16 * image.output_scale


def test_the_microcontrollers_interpreter_computes_the_same_bits() -> None:
    python = TFLITE / ".venv-litert" / "bin" / "python"
    if not (python.parents[1] / ".installed-tflm.txt").exists():
        pytest.skip("tflite-micro is not installed: run tests/install.sh .venv/bin/python")
    assert judged(offer(), python=str(python)).judges == BOTH


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("cat >/dev/null; head -c 1152 /dev/zero", "computes 24 golden rows otherwise"),
        ("cat >/dev/null; echo short", "computes 24 golden rows otherwise"),
        ("cat >/dev/null; echo no room >&2; exit 134", "ends (134): no room"),
    ],
)
def test_a_witness_that_disagrees_or_dies_refuses(tmp_path: Path, script: str, reason: str) -> None:
    assert reason in refused(offer(), python=interpreter(tmp_path, script))


def test_what_the_device_lacks_is_named() -> None:
    def with_limits(**changed: int) -> Limits:
        return Limits(**{"slot_bytes": 16_384, "arena_bytes": 1024, "ops": 0b111110} | changed)

    assert "its slots have room for 600" in refused(offer(), with_limits(slot_bytes=600)).replace(
        "the device's", "its"
    )
    arena = refused(offer(), with_limits(arena_bytes=64))
    assert arena.startswith("it needs an arena of ")
    assert arena.endswith("the device has 64")
    assert refused(offer(), with_limits(ops=0b11010)) == (
        "the device's firmware has no rescale, transposed conv"
    )


def test_a_model_that_int8_spoils_is_refused_by_the_bound() -> None:
    reason = refused(msgspec.structs.replace(offer(), bound_steps=0.25))
    assert "0.25 steps of its output, is allowed" in reason
    floats = np.frombuffer(offer().outputs, "<f4") + np.float32("nan")
    spoilt = msgspec.structs.replace(offer(), outputs=floats.tobytes())
    assert "int8 differs from float by nan" in refused(spoilt)


def test_what_is_no_model_or_has_other_rows_is_refused() -> None:
    damaged = msgspec.structs.replace(offer(), model=offer().model[:200])
    assert refused(damaged)
    rows = offer().rows[: len(offer().rows) // 2]
    other = msgspec.structs.replace(offer(), rows=rows)
    assert refused(other) == ("golden rows of 24 and 48 numbers; the model takes 48 and gives 48")
