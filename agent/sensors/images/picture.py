"""Pictures, and how they become what a model takes: cut, averaged over areas, scaled to 0..1.

Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)
"""Gray from red, green and blue (ITU-R BT.601-7, 2.5.1)."""


class PictureError(ValueError):
    """Bytes that are no picture, or none that can be used; the message says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
      pixels: uint8 or uint16 (H, W, 1) gray or (H, W, 3) red, green, blue.
      maximum: what full brightness is; 255 in most.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    maximum: int


def to_channel(
    picture: Picture, shape: tuple[int, int, int], crop: tuple[int, ...] = ()
) -> NDArray[np.float32]:
    """One picture as a channel wants it.

    Each number is the mean of the area that its pixel covers, with the shares of the pixels at its
    border, so that a scratch between two pixels does not vanish.

    Args:
      picture: of any size.
      shape: 1 or 3, height, width.
      crop: left, top, width, height in pixels of the picture; empty for all of it.

    Returns:
      float32 of `shape`, 0 to 1.

    Raises:
      PictureError: the picture is smaller than what is to be cut from it.
    """
    pixels = picture.pixels
    if crop:
        left, top, width, height = crop
        if left + width > pixels.shape[1] or top + height > pixels.shape[0]:
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise PictureError(f"the crop {list(crop)} reaches beyond a picture of {size} pixels")
        pixels = pixels[top : top + height, left : left + width]
    colors, height, width = shape
    rows = _averaged(pixels, height)
    small = _averaged(rows.swapaxes(0, 1), width).swapaxes(0, 1) / np.float32(picture.maximum)
    if colors == 1 and small.shape[2] == 3:
        small = (small @ np.array(LUMA, np.float32))[:, :, None]
    if colors == 3 and small.shape[2] == 1:
        small = small.repeat(3, axis=2)
    return np.ascontiguousarray(np.clip(small, 0, 1).transpose(2, 0, 1))


def _averaged(
    pixels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Means over areas of the first axis: (N, M, C) to (count, M, C).

    A band at a time: a frame of 12 megapixels as float32 would take 144 MB.
    """
    have = pixels.shape[0]
    if have == count:
        return pixels.astype(np.float32)
    result = np.empty((count, *pixels.shape[1:]), np.float32)
    edges = np.arange(count + 1) * have / count
    for at in range(count):
        low, high = edges[at], edges[at + 1]
        first, last = int(low), min(int(np.ceil(high)), have)
        covered = np.minimum(np.arange(first, last) + 1, high) - np.maximum(
            np.arange(first, last), low
        )
        share = (covered / covered.sum()).astype(np.float32)
        band = pixels[first:last].astype(np.float32).reshape(last - first, -1)
        result[at] = (share @ band).reshape(pixels.shape[1:])
    return result
