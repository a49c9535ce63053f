"""What fills a model slot: an image and golden vectors (FRAMING.md, 'Model slots').

Responsible for the bytes; `device/jm_content.c` reads them. Refuses what the device could not
test. Invariant: the vectors' outputs are the reference's, so a device whose self-test passes
computes what the gateway computes.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_format import read_image
from firmware_bridge.image_layers import ModelImageError
from firmware_bridge.image_reference import run_image

_HEADER = struct.Struct("<IHHHHI")
_ALIGNMENT = 16
_LARGEST_U16 = 65535


def slot_content(image: bytes, inputs: NDArray[np.int8]) -> bytes:
    """Return a slot's content: header, image, golden vectors.

    Args:
      image: as `image_from_tflite` gives it.
      inputs: the golden inputs as the image stores them, int8 (N, ...), N >= 1.

    Raises:
      ModelImageError: the image is none, or there are no inputs, or too many or too large ones.
    """
    model = read_image(image)
    sizes = (len(inputs), model.input_numbers, model.output_numbers)
    if min(sizes) < 1 or max(sizes) > _LARGEST_U16:
        raise ModelImageError(f"{sizes[0]} golden vectors of {sizes[1]} and {sizes[2]} numbers")
    outputs = run_image(model, inputs)
    content = bytearray(_HEADER.pack(len(image), *sizes, 0, 0) + image)
    content += bytes(-len(content) % _ALIGNMENT)
    for given, expected in zip(inputs, outputs, strict=True):
        content += given.tobytes() + expected.tobytes()
    return bytes(content)


def image_of(content: bytes) -> bytes:
    """Return the image in a slot's content.

    Raises:
      ModelImageError: the content ends before its image does.
    """
    end = _HEADER.size + (_HEADER.unpack_from(content)[0] if len(content) >= _HEADER.size else 0)
    if not _HEADER.size < end <= len(content):
        raise ModelImageError(f"a slot's content of {len(content)} bytes holds no image")
    return content[_HEADER.size : end]
