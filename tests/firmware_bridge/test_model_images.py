"""Model images: what is written, what is refused, on the gateway and on the device."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from agent.learning import families
from firmware_bridge.image_format import read_image, write_image
from firmware_bridge.image_layers import Image, ModelImageError, Operation
from firmware_bridge.image_reference import run_image
from firmware_bridge.model_image import image_from_tflite
from firmware_bridge.slot_content import slot_content
from shopfloor.emulated_board import DEVICE, Kernels
from tests.agent.learning.export.export_models import CASES
from tests.firmware_bridge.inference_program import on_host
from tests.firmware_bridge.random_images import random_image
from tests.firmware_bridge.tflm_models import exported

TOO_LARGE_TO_TRY = 99
"""What the check program answers for an image that is whole but larger than its memory."""


@pytest.fixture(scope="module")
def device() -> Iterator[Kernels]:
    with on_host() as running:
        yield running


@pytest.fixture(scope="module")
def autoencoder_file() -> bytes:
    return exported(families.autoencoder((2, 12), 1, widths=(3, 4), kernel=3), 1)


def same(left: Image, right: Image) -> bool:
    return write_image(left) == write_image(right)


def test_an_image_read_back_is_the_image_that_was_written() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        image = random_image(random)
        back = read_image(write_image(image))
        assert [layer.window for layer in back.layers] == [layer.window for layer in image.layers]
        for one, other in zip(back.layers, image.layers, strict=True):
            assert np.array_equal(one.weights, other.weights)
        assert same(back, image)


def test_the_specifications_example_computes_what_it_says(device: Kernels) -> None:
    document = (DEVICE.parent / "MODEL_IMAGE.md").read_text(encoding="utf-8")
    data = bytes.fromhex("".join(document.split("```")[1].split()))
    image = read_image(data)
    assert write_image(image) == data
    assert device.open(data).code == 0
    rows = re.findall(r"\| `\((-?\d+), (-?\d+)\)` \| `\((-?\d+), (-?\d+)\)` \|", document)
    assert len(rows) == 4
    for row in np.array(rows, np.int64).astype(np.int8):
        assert np.array_equal(run_image(image, row[None, :2]), row[None, 2:])
        assert np.array_equal(device.run(row[None, :2]), row[None, 2:])


def test_device_and_gateway_refuse_the_same_damaged_images(device: Kernels) -> None:
    random = np.random.default_rng(2)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        data = bytearray(write_image(random_image(random)))
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(0, min(len(data), 140)))
            data[at] = int(random.choice([0, 1, 2, 127, 128, 255, data[at] ^ 1]))
        if random.random() < 0.1:
            data = data[: int(random.integers(0, len(data)))]
        try:
            read_image(bytes(data))
        except ModelImageError:
            opens = False
        else:
            opens = True
        assert (device.open(bytes(data)).code in (0, TOO_LARGE_TO_TRY)) == opens, bytes(data).hex()
        verdicts[opens] += 1
    assert min(verdicts.values()) > 200, verdicts


def test_a_damaged_file_gives_an_image_or_a_refusal_and_nothing_else(
    autoencoder_file: bytes,
) -> None:
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(1500):
        data = bytearray(autoencoder_file)
        for _ in range(int(random.integers(1, 5))):
            data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
        try:
            read_image(image_from_tflite(bytes(data)))
        except ModelImageError:
            refused += 1
    for size in range(0, len(autoencoder_file), 41):
        with pytest.raises(ModelImageError):
            image_from_tflite(autoencoder_file[:size])
    assert refused > 100


def test_padding_slices_and_reshapes_cost_the_device_nothing(autoencoder_file: bytes) -> None:
    image = read_image(image_from_tflite(autoencoder_file))
    kinds = [layer.operation for layer in image.layers]
    assert kinds == [
        *(Operation.CONV, Operation.CONV),
        *(Operation.TRANSPOSED_CONV, Operation.RESCALE, Operation.TRANSPOSED_CONV),
    ]
    assert image.layers[0].window.before == 1
    assert image.layers[-1].window.out_length == 12


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("mlp", "TANH.*cannot run on the device: its kernels are"),
        ("cnn2d", "only 1-D data is supported"),
        ("depthwise1d", "DEPTHWISE_CONV_2D.*its kernels are"),
        ("gru1d", "cannot run on the device"),
        ("pools2d", "only 1-D data is supported"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_operator_and_reason(
    case: str, reason: str
) -> None:
    graph = CASES[case]()
    with pytest.raises(ModelImageError, match=reason):
        image_from_tflite(exported(graph, 1))


def _layer(image: Image, **changes: int) -> Image:
    first = image.layers[0]
    return replace(
        image, layers=(replace(first, window=replace(first.window, **changes)), *image.layers[1:])
    )


CHANGES: dict[str, tuple[Callable[[Image], Image], str]] = {
    "stride": (lambda image: _layer(image, stride=0), "size 0 must be 1 to 65535"),
    "padding": (lambda image: _layer(image, before=9), "lies on padding alone"),
    "length": (lambda image: _layer(image, out_length=60_000), "lies on padding alone"),
    "numbers": (lambda image: _layer(image, in_length=65_535, in_channels=64), "numbers at once"),
    "bounds": (lambda image: _layer(image, low=5, high=4), "low before high"),
    "neighbours": (lambda image: _layer(image, out_zero=99), "that of the layer before 99"),
    "scale": (lambda image: replace(image, input_scale=0.0), "no positive normal float32"),
    "nothing": (lambda image: replace(image, layers=()), "0 layers"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_a_device_would_refuse_is_not_written(
    change: str, autoencoder_file: bytes
) -> None:
    image = read_image(image_from_tflite(autoencoder_file))
    changed, reason = CHANGES[change]
    with pytest.raises(ModelImageError, match=reason):
        write_image(changed(image))


def test_a_slots_content_has_the_image_and_vectors_where_the_device_looks(
    autoencoder_file: bytes,
) -> None:
    image = image_from_tflite(autoencoder_file)
    rows = np.random.default_rng(4).integers(-128, 128, (3, 24)).astype(np.int8)
    content = slot_content(image, rows)
    assert struct.unpack_from("<IHHH", content) == (len(image), 3, 24, 24)
    assert content[16 : 16 + len(image)] == image
    start = 16 + len(image) + -len(image) % 16
    assert len(content) == start + 3 * 48
    assert content[start : start + 24] == rows[0].tobytes()
    with pytest.raises(ModelImageError, match="0 golden vectors"):
        slot_content(image, rows[:0])
