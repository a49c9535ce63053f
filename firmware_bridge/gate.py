"""The gate: what is to run on a microcontroller runs here first.

Responsible for one question: may this model go to this device?  It translates the file to the
device's own image, and refuses, with the reason, a model

- that the device's kernels can not compute, or whose operators its firmware lacks,
- that is too large for its slot or its arena,
- whose int8 outputs leave the float model's by more than the bound, over the golden rows,
- whose golden outputs differ by one bit from what TensorFlow Lite Micro computes of the file.

The device runs its own kernels and not that interpreter, so the arena that counts is the image's;
the interpreter is the independent witness of the bits.  Where it is not installed (`pip install
'journeyman[mcu]'`) the int8 reference judges alone, and `Passed.judges` says so.
"""

import asyncio
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import tflm
from firmware_bridge.image_format import read_image
from firmware_bridge.image_layers import Image, ModelImageError
from firmware_bridge.image_reference import dequantize_rows, quantize_rows, run_image
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.slot_content import slot_content
from wire.bridge import Offer

BOTH, ALONE = "int8 reference and TensorFlow Lite Micro", "int8 reference alone"
_SELF_TEST_ROWS: Final = 16
"""Golden rows that the device itself computes; more cost its slot's room and its time."""
_WITNESS_S: Final = 120.0


class RefusedError(Exception):
    """The model does not go to the device; says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device has, as it says itself: see `messages.Connected`."""

    slot_bytes: int
    arena_bytes: int
    ops: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A model that may go.

    Attributes:
      content: of a slot.
      arena_bytes: that the device needs for it.
      largest: difference between int8 and float over the golden rows; `bound` is what it kept.
      judges: `BOTH` or `ALONE`.
    """

    content: bytes
    arena_bytes: int
    largest: float
    bound: float
    judges: str


async def judge(offer: Offer, limits: Limits, python: str = sys.executable) -> Passed:
    """Let a model pass.

    Args:
      offer: the model with its golden rows.
      limits: the device's.
      python: the interpreter that has tflite-micro, if any has.

    Raises:
      RefusedError: it may not.
    """
    # In a thread: lines are served meanwhile.
    passed, stored, outputs = await asyncio.to_thread(_fit, offer, limits)
    witnessed = await _witness(offer.model, stored, python)
    if witnessed is None:
        return passed
    if witnessed != outputs.tobytes():
        wrong = _differing(witnessed, outputs)
        raise RefusedError(f"TensorFlow Lite Micro computes {wrong} golden rows otherwise")
    return Passed(passed.content, passed.arena_bytes, passed.largest, passed.bound, BOTH)


def _fit(offer: Offer, limits: Limits) -> tuple[Passed, NDArray[np.int8], NDArray[np.int8]]:
    """Everything but the witness: what passed, with the golden rows and outputs as stored."""
    rows = np.frombuffer(offer.rows, "<f4").reshape(offer.vectors, -1)
    floats = np.frombuffer(offer.outputs, "<f4").reshape(offer.vectors, -1)
    try:
        data = image_from_tflite(offer.model)
        image = read_image(data)
        _check_device(image, limits)
        if rows.shape[1] != image.input_numbers or floats.shape[1] != image.output_numbers:
            raise RefusedError(
                f"golden rows of {rows.shape[1]} and {floats.shape[1]} numbers; the model takes "
                f"{image.input_numbers} and gives {image.output_numbers}"
            )
        stored = quantize_rows(image, rows)
        content = slot_content(data, stored[:_SELF_TEST_ROWS])
    except (ModelImageError, ValueError) as error:
        raise RefusedError(str(error)) from None
    if len(content) > limits.slot_bytes:
        raise RefusedError(
            f"{len(content)} bytes; the device's slots have room for {limits.slot_bytes}"
        )
    outputs = run_image(image, stored)
    largest = float(np.abs(dequantize_rows(image, outputs) - floats).max())
    bound = offer.bound_steps * image.output_scale
    if not largest <= bound:
        raise RefusedError(
            f"int8 differs from float by {largest:.4g} over the golden rows; at most {bound:.4g}, "
            f"{offer.bound_steps:g} steps of its output, is allowed"
        )
    return Passed(content, image.arena_bytes, largest, bound, ALONE), stored, outputs


def _check_device(image: Image, limits: Limits) -> None:
    """Compare operators and arena with the device's."""
    lacking = {
        layer.operation.name.lower().replace("_", " ")
        for layer in image.layers
        if not limits.ops >> layer.operation & 1
    }
    if lacking:
        raise RefusedError(f"the device's firmware has no {', '.join(sorted(lacking))}")
    if image.arena_bytes > limits.arena_bytes:
        raise RefusedError(
            f"it needs an arena of {image.arena_bytes} bytes; the device has {limits.arena_bytes}"
        )


async def _witness(model: bytes, stored: NDArray[np.int8], python: str) -> bytes | None:
    """What TensorFlow Lite Micro computes; None where it is not installed.

    Raises:
      RefusedError: it refuses the model, or ends over it.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            str(Path(tflm.__file__)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise RefusedError(f"the gate's process did not start: {error.strerror}") from None
    try:
        async with asyncio.timeout(_WITNESS_S):
            given = struct.pack("<II", len(stored), len(model)) + model + stored.tobytes()
            outputs, words = await process.communicate(given)
    except TimeoutError:
        raise RefusedError(f"TensorFlow Lite Micro took over {_WITNESS_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == tflm.NOT_INSTALLED:
        return None
    if process.returncode:
        said = words.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise RefusedError(f"TensorFlow Lite Micro ends ({process.returncode}): {said[0]}")
    return outputs


def _differing(witnessed: bytes, outputs: NDArray[np.int8]) -> int:
    if len(witnessed) != outputs.nbytes:
        return len(outputs)
    seen = np.frombuffer(witnessed, np.int8).reshape(outputs.shape)
    return int((seen != outputs).any(axis=1).sum())
