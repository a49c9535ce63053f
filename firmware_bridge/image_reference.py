"""What a model image computes, in numpy: the gateway's own int8 reference.

Responsible for the same integers as `device/jm_int8.c` and TensorFlow Lite Micro, bit for bit,
for many rows at once and without any runtime installed: golden vectors are made with it, and the
scores that devices send are compared with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_layers import Image, Layer, Operation, Window

Integers = NDArray[np.int64]


def quantize_rows(image: Image, rows: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return rows as the image takes them, int8 (N, numbers).

    Args:
      image: the model.
      rows: float32, (N, ...) in the image's order: sample by sample.

    Raises:
      ValueError: they have another size, or a number is NaN.
    """
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] != image.input_numbers or np.isnan(flat).any():
        raise ValueError(f"rows {rows.shape} with {image.input_numbers} numbers each, none NaN")
    steps = np.rint(flat.astype(np.float32) / np.float32(image.input_scale))
    zero = image.layers[0].window.in_zero
    stored: NDArray[np.int8] = np.clip(np.clip(steps, -512, 512) + zero, -128, 127).astype(np.int8)
    return stored


def dequantize_rows(image: Image, stored: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return stored outputs (N, numbers) as real ones, float32."""
    zero = np.float32(image.layers[-1].window.out_zero)
    return (stored.astype(np.float32) - zero) * np.float32(image.output_scale)


def run_image(image: Image, stored: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the outputs, int8 (N, numbers), for stored rows, int8 (N, ...).

    Raises:
      ValueError: the rows have another size.
    """
    if stored.dtype != np.int8 or stored[:1].size not in (0, image.input_numbers):
        raise ValueError(f"rows {stored.dtype} {stored.shape}, must be {image.input_numbers} int8")
    values = stored.astype(np.int64)
    for layer in image.layers:
        window = layer.window
        values = values.reshape(len(stored), window.in_length, window.in_channels)
        values = _OPERATIONS[layer.operation](layer, values)
    return values.reshape(len(stored), -1).astype(np.int8)


def _convolve(layer: Layer, values: Integers) -> Integers:
    """Slide over the samples, padded with the stored zero, which the bias expects."""
    window = layer.window
    sums = np.zeros((len(values), window.out_length, window.out_channels), np.int64)
    for tap in range(window.taps):
        seen = _tap(window, values, tap, window.in_zero)
        sums += seen @ layer.weights[:, tap].astype(np.int64).T
    return _scaled(layer, sums + layer.bias)


def _spread(layer: Layer, values: Integers) -> Integers:
    """Add every sample's share to the positions that it reaches; keep those wanted."""
    window = layer.window
    whole = (window.in_length - 1) * window.stride + window.taps
    size = max(whole, window.before + window.out_length)
    sums = np.zeros((len(values), size, window.out_channels), np.int64)
    for tap in range(window.taps):
        share = (values - window.in_zero) @ layer.weights[:, tap].astype(np.int64).T
        sums[:, tap : tap + window.in_length * window.stride : window.stride][
            :, : window.in_length
        ] += share
    kept = sums[:, window.before : window.before + window.out_length]
    return _scaled(layer, kept + layer.bias)


def _max_pool(layer: Layer, values: Integers) -> Integers:
    window = layer.window
    largest = np.full((len(values), window.out_length, window.out_channels), -128, np.int64)
    for tap in range(window.taps):
        largest = np.maximum(largest, _tap(window, values, tap, -128))
    return np.clip(largest, window.low, window.high)


def _average_pool(layer: Layer, values: Integers) -> Integers:
    """Halves are rounded away from zero; padding does not count."""
    window = layer.window
    sums = np.zeros((len(values), window.out_length, window.out_channels), np.int64)
    counts = np.zeros((1, window.out_length, 1), np.int64)
    ones = np.ones((1, window.in_length, 1), np.int64)
    for tap in range(window.taps):
        sums += _tap(window, values, tap, 0)
        counts += _tap(window, ones, tap, 0)
    means = np.sign(sums) * ((np.abs(sums) + counts // 2) // counts)
    kept: Integers = np.clip(means, window.low, window.high)
    return kept


def _rescale(layer: Layer, values: Integers) -> Integers:
    return _scaled(layer, values - layer.window.in_zero)


def _tap(window: Window, values: Integers, tap: int, padding: int) -> Integers:
    """Return what one tap sees at every position, (N, out length, in channels)."""
    places = np.arange(window.out_length) * window.stride - window.before + tap
    inside = (places >= 0) & (places < window.in_length)
    seen = values[:, np.where(inside, places, 0)]
    seen[:, ~inside] = padding
    return seen


def _scaled(layer: Layer, sums: Integers) -> Integers:
    """Return sums at the output's scale, kept within its bounds.

    Rounded twice, halves upwards and then away from zero. Source:
    SaturatingRoundingDoublingHighMul and RoundingDivideByPOT of gemmlowp's fixedpoint.h.
    """
    shift = layer.shift.astype(np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    shifted = ((sums << left) + (1 << 31)) % (1 << 32) - (1 << 31)  # int32, as on the device
    products = shifted * layer.multiplier.astype(np.int64)
    high = (products + (1 << 30)) >> 31
    mask = (1 << right) - 1
    rounded = (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))
    window = layer.window
    kept: Integers = np.clip(rounded + window.out_zero, window.low, window.high)
    return kept


_OPERATIONS = {
    Operation.CONV: _convolve,
    Operation.TRANSPOSED_CONV: _spread,
    Operation.MAX_POOL: _max_pool,
    Operation.AVERAGE_POOL: _average_pool,
    Operation.RESCALE: _rescale,
}
