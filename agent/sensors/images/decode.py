"""From the bytes of a file or frame to a picture: netpbm by ourselves, the others through Pillow.

Responsible for caps before memory is taken, and for the few formats of `Image.open`: every further
one would be a parser that strangers' bytes reach.
"""

import importlib
import io
import struct
import zlib
from typing import Any

import numpy as np

from agent.sensors.images.netpbm import decode_netpbm
from agent.sensors.images.picture import Picture, PictureError
from agent.sensors.images.settings import PILLOW_MISSING

_PILLOW_FORMATS = ("PNG", "JPEG", "BMP")
_GRAY = ("1", "L", "LA")


def decode_picture(data: bytes, max_pixels: int) -> tuple[Picture, tuple[str, ...]]:
    """Decode a picture of any format that is read, and the comments of a netpbm header.

    Raises:
      PictureError: it is none, is damaged, or has more pixels than allowed.
    """
    if data[:2] in (b"P5", b"P6"):
        return decode_netpbm(data, max_pixels)
    return _with_pillow(data, max_pixels), ()


def _with_pillow(data: bytes, max_pixels: int) -> Picture:
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise PictureError(PILLOW_MISSING) from None
    try:
        with pillow.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            return _picture(image, max_pixels)
    except pillow.UnidentifiedImageError:
        raise PictureError(f"none of netpbm, PNG, JPEG, BMP: {data[:8]!r}") from None
    except PictureError:
        raise
    # Pillow's decoders let through what they meet in damaged bytes.
    except (
        ValueError,
        OSError,
        SyntaxError,
        EOFError,
        IndexError,
        OverflowError,
        struct.error,
        zlib.error,
        pillow.DecompressionBombError,
    ) as error:
        raise PictureError(f"can not decode the picture: {error}") from None


def _picture(image: Any, max_pixels: int) -> Picture:  # noqa: ANN401  Pillow is optional
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels"
        raise PictureError(f"{size}; at most {max_pixels} are allowed")
    mode: str = image.mode
    if mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16)[:, :, None], 65_535)
    if mode in ("I", "F"):
        raise PictureError(f"pictures of mode {mode} have no known full brightness")
    converted = image.convert("L" if mode in _GRAY else "RGB")
    pixels = np.asarray(converted, np.uint8)
    return Picture(pixels.reshape(*pixels.shape[:2], -1), 255)
