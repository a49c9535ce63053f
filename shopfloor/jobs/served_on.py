"""One model in every place that serves it: what each place makes of the same rows.

    onnxruntime   a gateway's usual runtime
    numpy         the same graphs without it, as on 32-bit gateways
    int8          the `.tflite` file that agents export for devices, run by LiteRT
    board         that file's model image on an emulated Cortex-M3, if the bridge's gate agrees

Responsible for outputs alone: what they are worth, the caller judges.  Refuses nothing: a place
that a model does not fit, or that is not installed, is named with its reason.  The board takes the
model's inputs, which features make of samples; which models can take a device's samples themselves
is `agent/devices`'s question, and `journeyman demo --mcu` shows one.

Invariant: without LiteRT the int8 outputs are the gateway's own reference's
(`firmware_bridge/image_reference.py`), never a float model's.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.devices.making import by_sample
from agent.learning.choice import BackendName, open_backend
from agent.learning.export.tflite_export import export_tflite_int8
from agent.learning.golden import GoldenMismatch, check_golden
from agent.learning.graph import Graph, GraphError, read_graph
from agent.learning.litert import TfliteError, load
from agent.learning.runtime import BackendError
from agent.model import Model
from firmware_bridge.gate import Limits, Passed, RefusedError, judge
from firmware_bridge.image_format import read_image
from firmware_bridge.image_layers import Image, ModelImageError, Operation
from firmware_bridge.image_reference import dequantize_rows, quantize_rows, run_image
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.slot_content import image_of
from shopfloor.emulated_board import CHECK_ON_BOARD, Kernels, kernels_on_board, missing_tools
from wire.bridge import Offer
from wire.tensors import Params

Rows = NDArray[np.float32]
Interpreter = Callable[[bytes, Rows], Rows]
"""A `.tflite` file and rows (N, ...) to its outputs (N, ...); raises TfliteError."""

BOARD: Final = Limits(
    slot_bytes=65_536,
    arena_bytes=32_768,
    ops=sum(1 << operation for operation in Operation),
)
"""What the firmware of device/ports/mps2_an385 has: a test reads it out of its sources."""
BOARD_ROWS: Final = 200
"""Test rows that the board computes, at most."""
_BOARD_NUMBERS: Final = 20_000
_BOARD_PRODUCTS: Final = 20_000_000
"""Emulated, a number takes 0.4 ms to send and quantize, a product 0.6 us: some ten seconds each."""
_LEAST_BOARD_ROWS: Final = 8
_REPRESENTATIVE: Final = 20_000
"""Rows, at most: few leave out the extremes, which int8 then clips.  With 512 rows the process job
lost 15 % of its RMSE and the milling machines 3 points of PR-AUC; with all their thousands, 0.5 and
less than 0.1."""
_GOLDEN: Final = 128
_BOUND_STEPS: Final = 16.0  # as `[[device]] bound_steps` is where nobody sets it
_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class NotServed:
    """A place where the model is not served, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Int8:
    """The int8 file's outputs.

    Attributes:
      outputs: float32 (N, ...), of all test rows.
      file_bytes: of the `.tflite` file.
      judges: whose outputs they are: LiteRT's, or the gateway's int8 reference's.
      unlike: test rows on which the two differ in any bit; None where only one can run it.
    """

    outputs: Rows
    file_bytes: int
    judges: str
    unlike: int | None


@dataclass(frozen=True, eq=False)
class Board:
    """The emulated board's outputs.

    Attributes:
      rows: numbers of the test rows that it computed, evenly over all of them.
      outputs: float32 (len(rows), ...), by its own quantization of the real inputs.
      unlike: of these rows, those on which it differs from the int8 reference in any bit.
      content_bytes: of flash: the image and its golden vectors.
      arena_bytes: of RAM.
      judges: who computed the gate's golden rows.
    """

    rows: NDArray[np.int64]
    outputs: Rows
    unlike: int
    content_bytes: int
    arena_bytes: int
    judges: str


@dataclass(frozen=True)
class Places:
    """One model's outputs for the same test rows, by place."""

    onnxruntime: Rows | NotServed
    numpy: Rows | NotServed
    int8: Int8 | NotServed
    board: Board | NotServed


def litert_here(file: bytes, rows: Rows) -> Rows:
    """Run a file in this process's LiteRT.

    Raises:
      TfliteError: it is not installed, or refuses the file.
    """
    return load(file).infer(rows)


def served_on(
    model: Model,
    params: Params,
    representative: Rows,
    test: Rows,
    *,
    interpreter: Interpreter = litert_here,
    board_rows: int = BOARD_ROWS,
    python: str = sys.executable,
) -> Places:
    """Serve a model everywhere.  Not to be called from an event loop: the gate runs one.

    Args:
      model: of a bundle, as `agent.model.prepare` gives it.
      params: what it learned.
      representative: inputs of training rows, float32 (N, ...), for the ranges of int8.
      test: inputs of the rows to judge by, float32 (N, ...), N >= 1.
      interpreter: runs the int8 file.
      board_rows: the most rows that the board computes; it takes fewer of a large model's.
      python: of an environment that has tflite-micro, the gate's witness, if any has.
    """
    graph = read_graph(model.graph)
    some = representative[:: max(1, len(representative) // _REPRESENTATIVE)]
    floats = _float(model, graph, params, test, "onnxruntime")
    plain = _float(model, graph, params, test, "numpy")
    try:
        file = export_tflite_int8(graph, params, some)
    except GraphError as error:
        none = NotServed(f"it has no int8 form: {error}")
        return Places(floats, plain, none, none)
    shape = (test if isinstance(plain, NotServed) else plain).shape[1:]
    int8 = _int8(file, test, shape, interpreter)
    golden = some[:: max(1, len(some) // _GOLDEN)][:_GOLDEN]
    try:
        passed = _gated(file, golden, model.outputs(params, golden), python)
    except RefusedError as error:
        return Places(floats, plain, int8, NotServed(str(error)))
    return Places(floats, plain, int8, _board(passed, test, shape, board_rows))


def _float(
    model: Model, graph: Graph, params: Params, test: Rows, name: BackendName
) -> Rows | NotServed:
    """A float runtime's outputs, if it reproduces the bundle's golden vectors."""
    try:
        backend = open_backend(graph, model.loss, name=name)
        if model.golden is not None:
            vectors, weights, tolerance = model.golden
            check_golden(backend, weights, vectors, tolerance)
        return backend.infer(params, test)
    except ImportError:
        return NotServed(f"{name} is not installed")
    except (GraphError, BackendError, GoldenMismatch) as error:
        return NotServed(str(error))


def _int8(file: bytes, test: Rows, shape: tuple[int, ...], run: Interpreter) -> Int8 | NotServed:
    """The int8 file's outputs, by whoever can run it."""
    reason, found, reference = "", None, None
    try:
        found = run(file, test)
    except TfliteError as error:
        reason = str(error)
    try:
        image = read_image(image_from_tflite(file))
        reference = _by_channel(_reference(image, by_sample(test)), shape)
    except ModelImageError as error:
        reason = f"{reason}; {error}"
    if found is not None:
        unlike = None if reference is None else _unlike(found, reference)
        return Int8(found, len(file), "LiteRT", unlike)
    if reference is not None:
        return Int8(reference, len(file), "int8 reference", None)
    return NotServed(reason)


def _reference(image: Image, rows: Rows) -> Rows:
    """The gateway's int8 reference, float32 (N, numbers), for rows as devices order them."""
    parts = [
        dequantize_rows(image, run_image(image, quantize_rows(image, rows[at : at + _AT_ONCE])))
        for at in range(0, len(rows), _AT_ONCE)
    ]
    return np.concatenate(parts)


def _gated(file: bytes, golden: Rows, outputs: Rows, python: str) -> Passed:
    """Let the bridge's gate decide, as it would for the device.

    Raises:
      RefusedError: the model does not go to the device; says why.
    """
    offer = Offer(
        device="board",
        key=sha256(file).digest(),
        model=file,
        vectors=len(golden),
        rows=by_sample(golden).tobytes(),
        outputs=by_sample(outputs).tobytes(),
        bound_steps=_BOUND_STEPS,
        trial_s=1,
    )
    return asyncio.run(judge(offer, BOARD, python))


def _board(passed: Passed, test: Rows, shape: tuple[int, ...], most: int) -> Board | NotServed:
    """Run what passed on the emulated board."""
    missing = missing_tools(CHECK_ON_BOARD)
    if missing:
        return NotServed(f"not installed: {', '.join(missing)}")
    data = image_of(passed.content)
    image = read_image(data)
    with kernels_on_board() as board:
        opened = board.open(data)
        if opened.code:
            return NotServed(f"the board refuses the image with code {opened.code}")
        numbers, products = _BOARD_NUMBERS // opened.input_numbers, _BOARD_PRODUCTS
        count = max(_LEAST_BOARD_ROWS, min(most, numbers, products // max(1, opened.products)))
        rows = np.unique(np.linspace(0, len(test) - 1, count).astype(np.int64))
        given = by_sample(test[rows])
        outputs = np.concatenate([_on_board(board, row) for row in given])
    return Board(
        rows=rows,
        outputs=_by_channel(outputs, shape),
        unlike=_unlike(outputs, _reference(image, given)),
        content_bytes=len(passed.content),
        arena_bytes=opened.arena_bytes,
        judges=passed.judges,
    )


def _on_board(board: Kernels, row: Rows) -> Rows:
    """One row's real outputs, (1, numbers), the board doing all of it."""
    code, stored = board.quantize(row)
    if code:
        return np.full((1, len(board.dequantize(stored))), np.nan, np.float32)
    return board.dequantize(board.run(stored[None])[0])[None]


def _unlike(one: Rows, other: Rows) -> int:
    """How many rows differ in any bit."""
    flat = [each.reshape(len(each), -1).view(np.uint32) for each in (one, other)]
    return int((flat[0] != flat[1]).any(axis=1).sum())


def _by_channel(flat: Rows, shape: tuple[int, ...]) -> Rows:
    """Outputs as devices order them, (N, numbers), as ONNX does: (N, *shape)."""
    if len(shape) < 2:
        return flat.reshape(len(flat), *shape)
    last = flat.reshape(len(flat), *shape[1:], shape[0])
    return np.ascontiguousarray(np.moveaxis(last, -1, 1))
