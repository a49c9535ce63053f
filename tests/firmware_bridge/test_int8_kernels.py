"""The device's int8 kernels beside TensorFlow Lite Micro and beside the gateway's reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from agent.learning.litert import Port
from firmware_bridge.image_format import read_image, write_image
from firmware_bridge.image_layers import Image
from firmware_bridge.image_reference import dequantize_rows, quantize_rows, run_image
from shopfloor.emulated_board import Kernels
from tests.firmware_bridge.inference_program import on_host
from tests.firmware_bridge.random_images import random_image
from tests.firmware_bridge.tflm_models import Judged, exported, graphs, judged

NOT_FINITE = 8  # JM_MODEL_NOT_FINITE


@pytest.fixture(scope="module")
def device() -> Iterator[Kernels]:
    with on_host() as running:
        yield running


@pytest.fixture(scope="module")
def in_tflm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    """Every family as TFLM has it; the benchmark compares many more."""
    files = {name: exported(graph, 1) for name, graph in graphs(1).items()}
    return judged(files, tmp_path_factory.mktemp("tflm"), 40)


def test_the_kernels_give_what_the_microcontrollers_interpreter_gives(
    device: Kernels, in_tflm: dict[str, Judged]
) -> None:
    for name, case in in_tflm.items():
        assert device.open(case.image).code == 0, name
        assert np.array_equal(device.run(case.rows), case.outputs), name
        assert len(np.unique(case.outputs)) > 2, f"{name}: outputs that say nothing"


def test_the_gateways_reference_gives_what_the_microcontrollers_interpreter_gives(
    in_tflm: dict[str, Judged],
) -> None:
    for name, case in in_tflm.items():
        assert np.array_equal(run_image(read_image(case.image), case.rows), case.outputs), name


def test_the_kernels_and_the_reference_agree_on_images_that_no_exporter_writes(
    device: Kernels,
) -> None:
    random = np.random.default_rng(11)
    for number in range(300):
        image = random_image(random)
        rows = random.integers(-128, 128, (4, image.input_numbers)).astype(np.int8)
        opened = device.open(write_image(image))
        assert opened.code == 0, (number, image)
        assert opened.arena_bytes == image.arena_bytes
        assert np.array_equal(device.run(rows), run_image(image, rows)), (number, image)


def port(image: Image) -> Port:
    """The gateway's quantizer of rows at the image's input."""
    shape = (image.input_numbers,)
    zero = image.layers[0].window.in_zero
    return Port("x", shape, (1, *shape), np.dtype(np.int8), image.input_scale, zero)


def test_rows_are_quantized_as_the_gateway_does_halves_to_even(device: Kernels) -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        image = random_image(random)
        device.open(write_image(image))
        steps = random.integers(-300, 300, image.input_numbers) / 2
        noise = random.choice([0.0, 1e-3], image.input_numbers)
        row = ((steps + noise) * image.input_scale).astype(np.float32)
        code, stored = device.quantize(row)
        assert code == 0
        assert np.array_equal(stored, port(image).encode(row[None])[0])
        assert np.array_equal(stored, quantize_rows(image, row[None])[0])


def test_huge_and_infinite_numbers_are_clipped_and_nan_is_refused(device: Kernels) -> None:
    random = np.random.default_rng(4)
    image = random_image(random)
    device.open(write_image(image))
    for value, wanted in ((np.inf, 127), (-np.inf, -128), (3e38, 127), (-3e38, -128)):
        row = np.full(image.input_numbers, value, np.float32)
        code, stored = device.quantize(row)
        assert (code, set(stored.tolist())) == (0, {wanted})
    row[-1] = np.nan
    assert device.quantize(row)[0] == NOT_FINITE
    with pytest.raises(ValueError, match="NaN"):
        quantize_rows(image, row[None])


def test_outputs_become_the_real_numbers_that_the_gateway_makes_of_them(device: Kernels) -> None:
    random = np.random.default_rng(5)
    for _ in range(10):
        image = random_image(random)
        device.open(write_image(image))
        stored = random.integers(-128, 128, image.output_numbers).astype(np.int8)
        assert np.array_equal(device.dequantize(stored), dequantize_rows(image, stored[None])[0])
