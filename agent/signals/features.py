"""The bundle's feature pipeline: raw channel values in, the graph's inputs out.

A closed set of declared transforms (`wire/manifest.py`), so that every site computes the same
features from differently named nodes.  The features' constants are the bundle's; only a bundle
that asks for `local` or `federated` standardising uses statistics of rows, and `Moments` are what
such a federation would add up.

Pure: float64 in, float32 out.  Invariant: finite values give finite inputs, also for a window that
never changes, and no numpy warning is raised on the way; what is beyond float32 saturates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.manifest import (
    BandEnergy,
    CrestFactor,
    Difference,
    Feature,
    Kurtosis,
    Level,
    Mean,
    OneHot,
    Product,
    Rms,
    Std,
    band_bins,
    columns,
)
from wire.standards import Standard, standard_of

Values = NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)


def apply_features(
    features: Sequence[Feature], channels: Sequence[str], values: Values
) -> NDArray[np.float32]:
    """Compute the inputs of a model whose rows stand for themselves.

    Args:
      features: features of numbers; F columns in all.
      channels: C channel names, the columns of `values`.
      values: float64, shape (N, C), in the channels' units.

    Returns:
      float32, shape (N, F), scaled by the bundle's constants.
    """
    return compute_inputs(features, {name: values[:, i] for i, name in enumerate(channels)}, {})


def compute_inputs(
    features: Sequence[Feature], values: Mapping[str, Values], rates_hz: Mapping[str, float]
) -> NDArray[np.float32]:
    """Compute the graph's inputs.

    Args:
      features: of a manifest that passed `check_manifest`.
      values: of each channel, float64 (N, ...): (N,) numbers, (N, L) series, or arrays.
      rates_hz: values per second along a channel's series, for the channels that have a rate.

    Returns:
      float32, shape (N, *`wire.manifest.input_shape`), scaled by the bundle's constants.
    """
    computed = [
        (raw - feature.mean) / feature.std
        for feature in features
        for raw in _raw(feature, values, rates_hz)
    ]
    if len(computed) == 1 and computed[0].ndim >= 3:
        return _as_float32(computed[0])
    result = np.empty((len(computed[0]), len(computed), *computed[0].shape[1:]), np.float32)
    for index, column in enumerate(computed):
        result[:, index] = _as_float32(column)
    return result


def _raw(
    feature: Feature, values: Mapping[str, Values], rates_hz: Mapping[str, float]
) -> list[Values]:
    """A feature's columns before its constants; several for a one-hot."""
    if isinstance(feature, Difference):
        return [values[feature.a] - values[feature.b]]
    if isinstance(feature, Product):
        return [values[feature.a] * values[feature.b]]
    x = values[feature.channel]
    if isinstance(feature, Level):
        return [x]
    if isinstance(feature, OneHot):
        return [(x == value).astype(np.float64) for value in feature.values]
    if isinstance(feature, BandEnergy):
        bins = band_bins(feature, rates_hz[feature.channel], x.shape[-1])
        return [band_energy(x, *bins)]
    return [_SUMMARIES[type(feature)](x)]


def mean(x: Values) -> Values:
    """Arithmetic mean over the last axis: sum(x) / L."""
    first = x[..., :1]
    return np.asarray(first[..., 0] + (x - first).mean(axis=-1))


def std(x: Values) -> Values:
    """Population standard deviation over the last axis: sqrt(m2), m2 = sum((x - mean)^2) / L.

    Exactly 0 for a series that never changes.
    """
    return np.asarray(np.sqrt((_deviations(x) ** 2).mean(axis=-1)))


def rms(x: Values) -> Values:
    """Root mean square over the last axis: sqrt(sum(x^2) / L)."""
    peak = np.abs(x).max(axis=-1)
    scaled = x / _or_one(peak)[..., np.newaxis]
    return np.asarray(peak * np.sqrt((scaled**2).mean(axis=-1)))


def kurtosis(x: Values) -> Values:
    """Excess kurtosis over the last axis: m4 / m2^2 - 3, with m_k = sum((x - mean)^k) / L.

    Fisher's definition (0 for a normal distribution) with population moments, without correction
    for small samples: g2 of D. N. Joanes and C. A. Gill, "Comparing measures of sample skewness
    and kurtosis", The Statistician 47 (1998).  0 for a series that never changes.
    """
    deviations = _deviations(x)
    largest = np.abs(deviations).max(axis=-1)
    scaled = deviations / _or_one(largest)[..., np.newaxis]  # so that no fourth power vanishes
    second = (scaled**2).mean(axis=-1)
    fourth = (scaled**4).mean(axis=-1)
    return np.where(largest > 0, fourth / _or_one(second) ** 2 - 3.0, 0.0)


def crest_factor(x: Values) -> Values:
    """Crest factor over the last axis: max |x| / sqrt(sum(x^2) / L).

    1 for a constant series, and so by continuity for one of zeros; sqrt(2) for a sine (R. B.
    Randall, Vibration-based Condition Monitoring, 2011).
    """
    peak = np.abs(x).max(axis=-1)
    return np.where(peak > 0, peak / _or_one(rms(x)), 1.0)


def band_energy(x: Values, first: int, end: int) -> Values:
    """Mean square of what a series has in bins `first` to `end` - 1 of its spectrum.

    The modified periodogram (P. D. Welch, IEEE Trans. Audio Electroacoust. 15, 1967, with one
    segment; normalised as G. Heinzel, A. Rüdiger and R. Schilling, "Spectrum and spectral density
    estimation by the DFT", 2002, section 9, do a spectral density), summed over the band:

        X_k = sum_n (x_n - mean) w_n exp(-2 pi i k n / L),  w_n = (1 - cos(2 pi n / L)) / 2  (Hann)
        energy = sum_k c_k |X_k|^2 / (L sum_n w_n^2),       c_k = 1 at k = 0 and L / 2, else 2

    All bins together give the variance of the windowed series (Parseval); the unit is that of the
    channel, squared.

    Args:
      x: float64 (..., L), L >= 4.
      first: first bin of the band.
      end: one past its last bin, at most L // 2 + 1.
    """
    length = x.shape[-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    spectrum = np.fft.rfft(_deviations(x) * hann, axis=-1)[..., first:end]
    sides = np.full(length // 2 + 1, 2.0)
    sides[0] = 1.0
    if length % 2 == 0:
        sides[-1] = 1.0
    power = (spectrum.real**2 + spectrum.imag**2) * sides[first:end]
    return np.asarray(power.sum(axis=-1) / (length * (hann**2).sum()))


_SUMMARIES = {Mean: mean, Std: std, Rms: rms, Kurtosis: kurtosis, CrestFactor: crest_factor}


@dataclass(frozen=True)
class Moments:
    """Sums of the inputs' columns that add across rows and across sites.

    Attributes:
      count: numbers in each column.
      sums: float64 (F,), of each column.
      squares: float64 (F,), of each column's squares.
    """

    count: int
    sums: Values
    squares: Values

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of rows together."""
        return Moments(
            self.count + other.count, self.sums + other.sums, self.squares + other.squares
        )

    @property
    def standard(self) -> Standard:
        """The means and deviations of these rows."""
        return standard_of(self.count, self.sums, self.squares)


def measure(features: Sequence[Feature], inputs: NDArray[np.float32]) -> Moments:
    """Moments of rows that `compute_inputs` made; all numbers of a series or array go together.

    Summed about the columns' means, so that a sum of squares is off by a few roundings of itself
    however many rows there are: a variance is the small rest of two large numbers.
    """
    x = _by_column(features, inputs).astype(np.float64)
    count = x.shape[0] * x.shape[2]
    middle = x.sum(axis=(0, 2)) / max(1, count)
    x -= middle[:, np.newaxis]
    rest, squares = x.sum(axis=(0, 2)), (x * x).sum(axis=(0, 2))
    return Moments(
        count, count * middle + rest, count * middle**2 + (squares + 2.0 * middle * rest)
    )


def standardise(
    features: Sequence[Feature], inputs: NDArray[np.float32], moments: Moments
) -> NDArray[np.float32]:
    """Scale each column to mean 0 and standard deviation 1 over the rows of `moments`.

    A column that never changes there is only shifted.
    """
    return apply_standard(features, inputs, moments.standard)


def apply_standard(
    features: Sequence[Feature], inputs: NDArray[np.float32], standard: Standard
) -> NDArray[np.float32]:
    """Shift each column by its mean and divide it by its deviation, in float64."""
    x = _by_column(features, inputs) - standard.mean[:, np.newaxis]
    x /= standard.deviation[:, np.newaxis]
    return _as_float32(x.reshape(inputs.shape))


def _by_column(features: Sequence[Feature], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """View inputs as (N, F, numbers)."""
    number = sum(columns(feature) for feature in features)
    size = int(np.prod(inputs.shape[1:], dtype=np.int64)) // number
    return inputs.reshape(len(inputs), number, size)


def _deviations(x: Values) -> Values:
    """Deviations from the mean over the last axis; exactly 0 for a series that never changes.

    The first value is taken off before the mean: a mean of equal values can be off by a rounding,
    and a small oscillation on a large offset keeps its digits.
    """
    shifted = x - x[..., :1]
    return np.asarray(shifted - shifted.mean(axis=-1, keepdims=True))


def _or_one(x: Values) -> Values:
    return np.where(x > 0, x, 1.0)


def _as_float32(x: Values) -> NDArray[np.float32]:
    return np.clip(x, -_LARGEST, _LARGEST).astype(np.float32)
