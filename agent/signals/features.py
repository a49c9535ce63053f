"""The bundle's feature pipeline: raw channel values in, the graph's inputs out.

A closed set of declared transforms (`wire/bundle.py`), so that every site computes the same
features from differently named nodes.  Constants are the bundle's: no statistic of a site's data
is needed, and none leaves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire.bundle import Difference, Feature, Level


def apply_features(
    features: Sequence[Feature], channels: Sequence[str], values: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Compute the model's inputs.

    Args:
      features: F features of the manifest.
      channels: C channel names, the columns of `values`.
      values: float64, shape (N, C), in the channels' units.

    Returns:
      float32, shape (N, F), standardized by the bundle's constants.
    """
    column = {name: values[:, index] for index, name in enumerate(channels)}
    computed = [(_raw(feature, column) - feature.mean) / feature.std for feature in features]
    return np.stack(computed, axis=1).astype(np.float32)


def _raw(feature: Feature, column: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    if isinstance(feature, Level):
        return column[feature.channel]
    if isinstance(feature, Difference):
        return column[feature.a] - column[feature.b]
    return column[feature.a] * column[feature.b]
