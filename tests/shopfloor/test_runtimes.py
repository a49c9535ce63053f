"""What one model makes of the same rows in every place that serves it."""

import re
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.authoring import build_draft, read_bundle_settings
from agent.learning.litert import TfliteError
from agent.model import Model, prepare
from benchmarks.runtimes_table import NOT_FOR_INT8, Line, reasons, told
from firmware_bridge.image_layers import Operation
from shopfloor.emulated_board import CHECK_ON_BOARD, DEVICE, missing_tools
from shopfloor.jobs.choice import NAMES
from shopfloor.jobs.served_on import BOARD, Board, Int8, NotServed, Places, Rows, served_on
from shopfloor.jobs.task import JOBS, Metric, Task
from wire.bundle import Bundle, read_draft

PORT = DEVICE / "ports" / "mps2_an385"
needs_board = pytest.mark.skipif(
    bool(missing_tools(CHECK_ON_BOARD)), reason="the emulated board's tools are not installed"
)


@cache
def prepared(name: str, **sizes: tuple[int, ...]) -> tuple[Model, Bundle]:
    path = JOBS / f"{name}.toml"
    settings = read_bundle_settings(path)
    if sizes and settings.family is not None:
        family = msgspec.structs.replace(settings.family, **sizes)
        settings = msgspec.structs.replace(settings, family=family)
    bundle = read_draft(build_draft(path, settings))[0]
    return prepare(bundle), bundle


def rows_for(bundle: Bundle, count: int) -> Rows:
    channels = bundle.manifest.channels
    shape = channels[0].shape or (len(bundle.manifest.features),)
    random = np.random.default_rng(0)
    return np.asarray(random.normal(size=(count, *shape)), np.float32)


def no_interpreter(_file: bytes, _rows: Rows) -> Rows:
    raise TfliteError("no TFLite runtime is installed")


@cache
def served() -> Places:
    model, bundle = prepared("ai4i")
    rows = rows_for(bundle, 300)
    return served_on(
        model, bundle.weights, rows, rows[200:], interpreter=no_interpreter, board_rows=12
    )


def number(file: Path, name: str) -> int:
    found = re.search(rf"#define {name} (\d+)U?\b", file.read_text())
    assert found is not None
    return int(found[1])


def test_float_runtimes_agree_and_int8_stays_near_them() -> None:
    places = served()
    assert isinstance(places.onnxruntime, np.ndarray)
    assert isinstance(places.numpy, np.ndarray)
    np.testing.assert_allclose(places.numpy, places.onnxruntime, atol=1e-5)
    assert isinstance(places.int8, Int8)
    apart = np.abs(places.int8.outputs - places.onnxruntime)
    assert 0 < apart.max() < 0.05 * np.ptp(places.onnxruntime)


def test_without_litert_the_int8_reference_serves_and_says_so() -> None:
    int8 = served().int8
    assert isinstance(int8, Int8)
    assert int8.judges == "int8 reference"
    assert int8.unlike is None


def test_litert_is_compared_with_the_int8_reference_bit_for_bit() -> None:
    model, bundle = prepared("ai4i")
    rows = rows_for(bundle, 300)
    known = served().int8
    assert isinstance(known, Int8)

    def off_by_a_bit(_file: bytes, _rows: Rows) -> Rows:
        outputs = known.outputs.copy()
        outputs[7] = np.nextafter(outputs[7], np.float32(np.inf))
        return outputs

    found = served_on(
        model, bundle.weights, rows, rows[200:], interpreter=off_by_a_bit, board_rows=1
    ).int8
    assert isinstance(found, Int8)
    assert (found.judges, found.unlike) == ("LiteRT", 1)


@needs_board
def test_the_board_gives_the_references_bits_for_rows_spread_over_all() -> None:
    board, int8 = served().board, served().int8
    assert isinstance(board, Board)
    assert isinstance(int8, Int8)
    assert board.unlike == 0
    assert np.array_equal(board.outputs, int8.outputs[board.rows])
    assert (board.rows[0], board.rows[-1], len(board.rows)) == (0, 99, 12)
    assert 3000 < board.content_bytes < BOARD.slot_bytes
    assert 0 < board.arena_bytes < BOARD.arena_bytes


def test_a_model_of_images_is_named_as_one_that_the_board_does_not_take() -> None:
    model, bundle = prepared("board", widths=(2,))
    rows = rows_for(bundle, 10)
    places = served_on(model, bundle.weights, rows[:8], rows[8:], interpreter=no_interpreter)
    assert isinstance(places.numpy, np.ndarray)
    assert isinstance(places.board, NotServed)
    assert "only 1-D data is supported" in places.board.reason
    assert isinstance(places.int8, NotServed)
    assert "no TFLite runtime is installed" in places.int8.reason


def test_a_model_that_is_larger_than_a_slot_is_refused_by_the_gate() -> None:
    model, bundle = prepared("ai4i", hidden=(256, 256))
    rows = rows_for(bundle, 120)
    places = served_on(
        model, bundle.weights, rows[:100], rows[100:], interpreter=no_interpreter, board_rows=1
    )
    assert isinstance(places.int8, Int8)
    assert isinstance(places.board, NotServed)
    assert "room for 65536" in places.board.reason


def test_the_boards_limits_are_those_of_its_firmware() -> None:
    assert BOARD.slot_bytes == number(DEVICE / "journeyman.h", "JM_SLOT_BYTES")
    assert BOARD.arena_bytes == number(PORT / "main.c", "ARENA_BYTES")
    assert all(BOARD.ops >> operation & 1 for operation in Operation)


def line_of(
    metric: Metric, given: float, made: float, *, unlike: int = 0, name: str = "job"
) -> Line:
    outputs = np.zeros((1, 1), np.float32)
    places = Places(
        outputs, outputs, Int8(outputs, 5000, "LiteRT", unlike), NotServed("it is too large")
    )
    task = Task(name, "", "ai4i", metric, lambda _: [], lambda *_: [])
    return Line(task, 1, places, {"onnxruntime": given, "numpy": given, "int8": made}, 0.0, 1e-3)


def test_a_loss_is_positive_where_int8_is_worse_whatever_the_metric() -> None:
    assert line_of("pr_auc", 0.75, 0.5).loss == 25.0
    assert line_of("rmse", 10.0, 11.0).loss == pytest.approx(10.0)
    assert line_of("rmse", 10.0, 9.0).loss == pytest.approx(-10.0)


def test_an_allowance_judges_every_job_but_those_named_as_not_for_int8() -> None:
    assert set(NOT_FOR_INT8) < set(NAMES)
    assert line_of("rmse", 10.0, 11.0).share == pytest.approx(2.0)
    assert line_of("accuracy", 0.9, 0.89).share == pytest.approx(0.5)
    for name, reason in NOT_FOR_INT8.items():
        line = line_of("rmse", 10.0, 11.0, name=name)
        assert line.share is None
        assert "+10.00 %" in told(line)
        assert f"{name}: not for int8: {reason}" in reasons([line])


def test_a_job_that_differs_by_one_row_is_not_exact_and_the_table_says_where() -> None:
    exact, wrong = line_of("accuracy", 0.5, 0.5), line_of("accuracy", 0.5, 0.5, unlike=1)
    assert exact.is_exact
    assert not wrong.is_exact
    assert "+0.00 points" in told(exact)
    assert reasons([exact]) == ["job: not on board: it is too large"]
    assert "job: LiteRT DIFFERS from the reference, 1 rows" in reasons([wrong])
