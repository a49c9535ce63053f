"""The same kernels as firmware on an emulated Cortex-M3: the same bits, and what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from firmware_bridge.image_format import write_image
from firmware_bridge.image_reference import run_image
from shopfloor.emulated_board import COUNTING, TICKS_PER_INSTRUCTION
from tests.firmware_bridge.inference_program import on_cortex_m3
from tests.firmware_bridge.random_images import random_image
from tests.firmware_bridge.tflm_models import exported, graphs, judged


def test_the_emulated_cortex_m3_gives_what_the_microcontrollers_interpreter_gives(
    tmp_path: Path,
) -> None:
    families = ("mlp-7", "cnn-max-7", "autoencoder-7")  # the host's tests have all
    files = {name: exported(graphs(7)[name], 7) for name in families}
    with on_cortex_m3() as device:
        for name, case in judged(files, tmp_path, 20).items():
            assert device.open(case.image).code == 0, name
            assert np.array_equal(device.run(case.rows), case.outputs), name


def test_the_emulated_cortex_m3_runs_images_that_no_exporter_writes() -> None:
    random = np.random.default_rng(8)
    with on_cortex_m3() as device:
        for number in range(60):
            image = random_image(random)
            rows = random.integers(-128, 128, (2, image.input_numbers)).astype(np.int8)
            assert device.open(write_image(image)).code == 0
            assert np.array_equal(device.run(rows), run_image(image, rows)), (number, image)


def test_counted_instructions_repeat_and_grow_with_the_products() -> None:
    random = np.random.default_rng(9)
    images = [random_image(random) for _ in range(6)]
    counts = []
    with on_cortex_m3(COUNTING) as device:
        for image in images:
            opened = device.open(write_image(image))
            rows = np.zeros((3, image.input_numbers), np.int8)
            ticks = device.run_counted(rows)[1]
            assert max(ticks) - min(ticks) <= 2, "equal rows take equally many instructions"
            counts.append((opened.products, ticks[0] / TICKS_PER_INSTRUCTION))
    assert all(instructions > 3 * products for products, instructions in counts)
