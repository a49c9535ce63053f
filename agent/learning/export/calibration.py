"""The range of every value of a model over representative rows.

Responsible for choosing ranges: of the input and the output what was seen, because extremes are
what a machine is watched for; of values between them the range with the least expected square
error, which gives up rare extremes for finer steps. Refuses no rows and values that are not
finite. Source of the error model: Banner et al., arXiv:1810.05723 (clipping plus rounding
noise), evaluated on a histogram instead of a fitted distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.export.observe import watch
from agent.learning.ir import Graph, GraphError

_BINS = 2048
_STEPS = 255  # between the smallest and the largest int8
_SHRINKS = np.linspace(1.0, 0.3, 71)
"""Fractions of the seen extremes that are tried as ends of a range."""


@dataclass(frozen=True)
class Range:
    """The real numbers from `low` to `high`; always includes 0, which must be exact (padding)."""

    low: float
    high: float


def calibrate(
    forward: Graph, rows: NDArray[np.float32], names: Collection[str], whole: Collection[str]
) -> Mapping[str, Range]:
    """Choose the range of values of a forward graph.

    Args:
      forward: the model, with its trained parameters.
      rows: representative rows, float32, (N, ...).
      names: the values wanted.
      whole: those of `names` whose range must hold everything seen.

    Raises:
      GraphError: a value is not finite, or ONNX Runtime refuses the graph.
      ValueError: `rows` do not fit the model.
    """
    wanted = sorted(names)
    seen = dict.fromkeys(wanted, Range(0.0, 0.0))
    for chunk in watch(forward, rows, wanted):
        for name in wanted:
            low, high = float(chunk[name].min()), float(chunk[name].max())
            if not np.isfinite((low, high)).all():
                raise GraphError(f"value {name!r}", "is not finite over the representative rows")
            seen[name] = Range(min(low, seen[name].low), max(high, seen[name].high))
    inner = [name for name in wanted if name not in whole and seen[name].low < seen[name].high]
    counts = {name: np.zeros(_BINS, np.int64) for name in inner}
    for chunk in watch(forward, rows, inner):
        for name in inner:
            ends = (seen[name].low, seen[name].high)
            counts[name] += np.histogram(chunk[name], _BINS, ends)[0]
    return {
        name: least_error(seen[name], counts[name]) if name in counts else seen[name]
        for name in wanted
    }


def least_error(seen: Range, counts: NDArray[np.int64]) -> Range:
    """Return the range inside `seen` whose int8 numbers have the least expected square error.

    Args:
      seen: the smallest and the largest value.
      counts: (bins,), how many values lie in each of equal parts of `seen`.

    The two ends cost independently when they clip, and together through the step between two
    integers: error = clipped below + clipped above + n * step ** 2 / 12.
    """
    edges = np.linspace(seen.low, seen.high, len(counts) + 1)
    centers = (edges[1:] + edges[:-1]) / 2
    lows, highs = seen.low * _SHRINKS, seen.high * _SHRINKS
    below = np.maximum(lows[:, None] - centers, 0.0) ** 2 @ counts
    above = np.maximum(centers - highs[:, None], 0.0) ** 2 @ counts
    step = (highs[None, :] - lows[:, None]) / _STEPS
    error = below[:, None] + above[None, :] + counts.sum() * step**2 / 12
    low, high = np.unravel_index(int(error.argmin()), error.shape)
    return Range(float(lows[low]), float(highs[high]))
