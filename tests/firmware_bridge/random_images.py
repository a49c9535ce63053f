"""Model images that no exporter would write: any window, bound, scale and zero point."""

from __future__ import annotations

import numpy as np

from firmware_bridge.image_layers import Image, Layer, Operation, Window


def random_image(random: np.random.Generator) -> Image:
    """One to four layers that the device opens."""
    length, channels = (int(size) for size in random.integers(1, 12, 2))
    zero = int(random.integers(-128, 128))
    layers = []
    for _ in range(int(random.integers(1, 5))):
        layer = _layer(random, length, channels, zero)
        layers.append(layer)
        window = layer.window
        length, channels, zero = window.out_length, window.out_channels, window.out_zero
        if random.random() < 0.3:
            length, channels = 1, length * channels
    scales = (2.0 ** random.uniform(-9, 3, 2)).astype(np.float32)
    return Image(float(scales[0]), float(scales[1]), tuple(layers))


def _layer(random: np.random.Generator, length: int, channels: int, zero: int) -> Layer:
    operation = Operation(int(random.integers(1, 6)))
    taps, stride = (int(size) for size in random.integers(1, 5, 2))
    made = int(random.integers(1, 9))
    before = int(random.integers(0, taps))
    most = (length + before - 1) // stride + 1
    if operation is Operation.TRANSPOSED_CONV:
        before, most = int(random.integers(0, 20)), 24
    count = int(random.integers(1, most + 1))
    low, high = sorted(int(bound) for bound in random.integers(-128, 128, 2))
    if random.random() < 0.7:
        low, high = -128, 127
    out_zero = int(random.integers(-128, 128))
    if operation is Operation.RESCALE:
        taps, stride, before, count, made = 1, 1, 0, length, channels
    elif operation in (Operation.MAX_POOL, Operation.AVERAGE_POOL):
        made, out_zero = channels, zero
    window = Window(length, channels, count, made, taps, stride, before, zero, out_zero, low, high)
    return Layer(operation, window, *_numbers(random, operation, window))


def _numbers(random: np.random.Generator, operation: Operation, window: Window) -> tuple:  # type: ignore[type-arg]
    """Bias, multiplier, shift and weights."""
    weighted = operation in (Operation.CONV, Operation.TRANSPOSED_CONV)
    count = window.out_channels if weighted else int(operation is Operation.RESCALE)
    spread = int(random.choice([10, 1000, 1 << 20, (1 << 30) - 1]))
    bias = random.integers(-spread, spread + 1, count if weighted else 0).astype(np.int32)
    multiplier = random.integers(1 << 30, 1 << 31, count).astype(np.int32)
    multiplier[random.random(count) < 0.05] = 0
    wide = random.random() < 0.2
    shift = random.integers(-31 if wide else -12, 31 if wide else 1, count).astype(np.int8)
    shape = (window.out_channels, window.taps, window.in_channels) if weighted else (0, 0, 0)
    weights = random.integers(-128, 128, shape).astype(np.int8)
    return bias, multiplier, shift, weights
