"""Turning and mirroring of images while they are trained on.

A board, a casting or a weld seam shows the same defect whichever way it lies, so each image stands
for two or eight.  Which of them a step sees is drawn for each row: more images for the cost of a
copy (L. Perez and J. Wang, "The Effectiveness of Data Augmentation in Image Classification using
Deep Learning", arXiv:1712.04621, compare ways; these leave every value as it was measured).

Pure, and deterministic by its generator.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wire.manifest import Symmetry

WAYS: Final[dict[Symmetry, tuple[int, ...]]] = {
    "none": (0,),
    "mirror": (0, 4),
    "square": (0, 1, 2, 3, 4, 5, 6, 7),
}
"""Of the dihedral group of the square: `way % 4` quarter turns, then from 4 on mirrored."""


def moved(
    x: NDArray[np.float32], symmetry: Symmetry, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Put each row into one of the positions that its label allows, all equally likely.

    Args:
      x: images, float32 (N, C, H, W); `square` needs H = W.
      symmetry: which positions.
      rng: draws one for each row.

    Returns:
      float32, the shape of `x`.
    """
    ways = WAYS[symmetry]
    drawn = rng.choice(ways, len(x))
    result = np.empty_like(x)
    for way in ways:
        rows = drawn == way
        result[rows] = placed(x[rows], way)
    return result


def placed(x: NDArray[np.float32], way: int) -> NDArray[np.float32]:
    """Images (N, C, H, W) after `way % 4` quarter turns, mirrored left to right from 4 on."""
    turned = np.rot90(x, way % 4, axes=(2, 3))
    return turned[..., ::-1] if way >= 4 else turned
