"""The layout of model images, `JMM1` (MODEL_IMAGE.md): layers to bytes and back.

Responsible for bytes. Invariants: `read_image(write_image(image)) == image`; an image is written,
and taken, only if the device would open it.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_layers import (
    WEIGHTED,
    Image,
    Layer,
    ModelImageError,
    Operation,
    Window,
    problem_of,
)

_MAGIC = b"JMM1"
_VERSION = 1
_HEADER = struct.Struct("<4sHHIffI")
_RECORD = struct.Struct("<B3x4b7H2xII")
_LARGEST_IMAGE = 1 << 24


def write_image(image: Image) -> bytes:
    """Return an image's bytes.

    Raises:
      ModelImageError: the device would refuse it.
    """
    problem = problem_of(image)
    if problem:
        raise ModelImageError(problem)
    start = _HEADER.size + _RECORD.size * len(image.layers)
    records, parameters = bytearray(), bytearray()
    for layer in image.layers:
        added = _parameters(layer)
        window = layer.window
        records += _RECORD.pack(
            layer.operation,
            *(window.in_zero, window.out_zero, window.low, window.high),
            *(window.in_length, window.in_channels, window.out_length, window.out_channels),
            *(window.taps, window.stride, window.before),
            *(start + len(parameters), len(added)),
        )
        parameters += added
    size = start + len(parameters)
    if size > _LARGEST_IMAGE:
        raise ModelImageError(f"the image would have {size} bytes, at most {_LARGEST_IMAGE}")
    scales = image.input_scale, image.output_scale
    header = _HEADER.pack(_MAGIC, _VERSION, len(image.layers), size, *scales, 0)
    return header + bytes(records) + bytes(parameters)


def read_image(data: bytes) -> Image:
    """Return the image that `data` holds.

    Raises:
      ModelImageError: it holds none that a device would open.
    """
    if len(data) < _HEADER.size:
        raise ModelImageError(f"has {len(data)} bytes, the header alone has {_HEADER.size}")
    magic, version, count, size, *scales, reserved = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ModelImageError(f"begins with {magic!r} and version {version}, not JMM1 and 1")
    if size != len(data) or reserved:
        raise ModelImageError(f"says it has {size} bytes, has {len(data)}, reserved {reserved}")
    offset = _HEADER.size + _RECORD.size * count
    if offset > size:
        raise ModelImageError(f"ends within its {count} records")
    layers = []
    for number in range(count):
        layer, offset = _read_layer(data, number, offset)
        layers.append(layer)
    if offset != size:
        raise ModelImageError(f"has {size - offset} bytes behind its last layer")
    image = Image(scales[0], scales[1], tuple(layers))
    problem = problem_of(image)
    if problem:
        raise ModelImageError(problem)
    return image


def _parameters(layer: Layer) -> bytes:
    """Return what lies behind the records for one layer, a multiple of four bytes."""
    if layer.operation is Operation.RESCALE:
        return struct.pack("<ii", int(layer.multiplier[0]), int(layer.shift[0]))
    parts = (
        layer.bias.astype("<i4").tobytes(),
        layer.multiplier.astype("<i4").tobytes(),
        layer.shift.tobytes(),
        layer.weights.tobytes(),
    )
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def _read_layer(data: bytes, number: int, offset: int) -> tuple[Layer, int]:
    """Return a layer and where its parameters end."""
    place = _HEADER.size + _RECORD.size * number
    kind, *numbers, found, size = _RECORD.unpack_from(data, place)
    if kind not in set(Operation):
        raise ModelImageError(f"layer {number}: operation {kind} is not known")
    if any(data[place + k] for k in (1, 2, 3, 22, 23)):
        raise ModelImageError(f"layer {number}: reserved bytes are not 0")
    operation, window = Operation(kind), Window(*numbers[4:], *numbers[:4])
    wanted = _wanted_bytes(operation, window)
    if (found, size) != (offset, wanted) or offset + size > len(data):
        raise ModelImageError(
            f"layer {number}: parameters of {size} bytes at {found}, must be {wanted} at {offset}"
        )
    part = data[offset : offset + size]
    if operation is Operation.RESCALE:
        factor = np.frombuffer(part, "<i4").astype(np.int32)
        if not -31 <= factor[1] <= 30:
            raise ModelImageError(f"layer {number}: a shift is outside -31 to 30")
        return _unweighted(operation, window, factor[:1], factor[1:].astype(np.int8)), offset + 8
    if operation not in WEIGHTED:
        none = np.zeros(0, np.int32)
        return _unweighted(operation, window, none, none.astype(np.int8)), offset
    count = window.out_channels
    words = np.frombuffer(part, "<i4", 2 * count).astype(np.int32)
    shift = np.frombuffer(part, np.int8, count, 8 * count)
    shape = (count, window.taps, window.in_channels)
    start = 8 * count + count + -count % 4
    weights = np.frombuffer(part, np.int8, math.prod(shape), start).reshape(shape)
    layer = Layer(operation, window, words[:count], words[count:], shift, weights)
    return layer, offset + size


def _unweighted(
    operation: Operation, window: Window, multiplier: NDArray[np.int32], shift: NDArray[np.int8]
) -> Layer:
    weights = np.zeros((0, 0, 0), np.int8)
    return Layer(operation, window, np.zeros(0, np.int32), multiplier, shift, weights)


def _wanted_bytes(operation: Operation, window: Window) -> int:
    if operation is Operation.RESCALE:
        return 8
    if operation not in WEIGHTED:
        return 0
    count = window.out_channels
    weights = count * window.taps * window.in_channels
    return 8 * count + (count + -count % 4) + (weights + -weights % 4)
