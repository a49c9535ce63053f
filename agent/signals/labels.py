"""From the values of a label's channel to what a loss learns from.

Pure.  A row without a label (NaN) teaches nothing and is left out.  So is one whose value is not
the number of a class that the bundle names: a new defect code at one site must neither be learned
as another class nor stop the training, so such rows are counted instead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire.manifest import REGRESSION, Label, Manifest

_TRUE_FROM = 0.5
"""Of a flag: some controllers send booleans as scaled numbers."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of those rows that have one.

    Attributes:
      known: bool (N,), which rows these are.
      values: of the K known rows, as `agent.learning.losses.Loss` takes them: float32 (K, 1) for
        two classes and for numbers, int64 (K,) for classes, float32 (K, 0) for reconstruction.
      unknown: rows left out because their class is none of the bundle's.
    """

    known: NDArray[np.bool_]
    values: NDArray[Any]
    unknown: int = 0


def no_labels(rows: int) -> Labels:
    """Labels of rows from which a model learns to give back its own input."""
    return Labels(np.ones(rows, np.bool_), np.empty((rows, 0), np.float32))


def read_labels(manifest: Manifest, label: Label, values: NDArray[np.float64]) -> Labels:
    """Labels for the loss of a manifest.

    Args:
      manifest: one that passed `check_manifest`.
      label: its label.
      values: of the label's channel, float64 (N,), in its unit; NaN where a row has none.
    """
    finite = np.isfinite(values)
    if manifest.loss in REGRESSION:
        return Labels(finite, standardised(label, values[finite]))
    if manifest.loss == "cross_entropy":
        named = finite & (values == np.floor(values)) & (values >= 0)
        known = named & (values < len(label.classes))
        unknown = int(finite.sum()) - int(known.sum())
        return Labels(known, values[known].astype(np.int64), unknown)
    flags = values[finite] >= _TRUE_FROM
    return Labels(finite, flags.astype(np.float32).reshape(-1, 1))


def standardised(label: Label, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """What a regression learns: (clip(value) - mean) / std, float32 (N, 1)."""
    lowest = -np.inf if label.lowest is None else label.lowest
    highest = np.inf if label.highest is None else label.highest
    scaled = (np.clip(values, lowest, highest) - label.mean) / label.std
    largest = float(np.finfo(np.float32).max)
    return np.clip(scaled, -largest, largest).astype(np.float32).reshape(-1, 1)


def in_unit(label: Label, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """The number that a regression's output (N, 1) stands for, in the label's unit: (N,)."""
    return outputs.astype(np.float64).reshape(-1) * label.std + label.mean
