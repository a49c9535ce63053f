"""What the columns of a model's inputs are standardised by: a mean and a deviation for each.

Responsible for the arithmetic from sums to means and deviations, which sites and coordinator share,
and for the file in which a head names those of all sites (`Head.statistics`): a safetensors file of
two float32 tensors `mean` and `deviation`, each of shape (F,).  Refuses a file with another tensor,
another number of columns, a value that is not finite or a deviation that is not positive.

Invariant: a deviation is positive, so that standardising finite inputs never divides by zero.

Precision: each sum and sum of squares of `Moments` is off by a few roundings of float64, so a
variance is off by 2^-49 of the squared mean at most, and a deviation by the share
2^-50 (mean / deviation)^2: nothing to speak of for 300 K +- 2 (2e-11), 0.09 % for 1e6 +- 1.  The
mean in the file is a float32, as inputs are: off by 2^-24 |mean|, the same for all sites.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.tensors import read_safetensors, write_safetensors

Values = NDArray[np.float64]

_ROUNDING = 1e-7
"""A deviation below this share of the mean is that of a column that never changes: neighbours in
float32 are 6e-8 to 1.2e-7 of their value apart, and the sums of equal values give up to 4.1e-8."""
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Standard:
    """Of each column its mean and its deviation: float64 (F,), in the inputs' unit."""

    mean: Values
    deviation: Values


def standard_of(count: int, sums: Values, squares: Values) -> Standard:
    """Means and population deviations from sums.

    Args:
      count: numbers in each column; without any, means are 0 and deviations 1.
      sums: of each column, float64 (F,), finite.
      squares: sum of each column's squares, float64 (F,), finite.

    Returns:
      The standard; the deviation of a column that never changes is 1.
    """
    middle = sums / max(1, count)
    variance = np.maximum(squares / max(1, count) - middle**2, 0.0)
    deviation = np.sqrt(variance)
    is_constant = deviation <= np.maximum(_ROUNDING * np.abs(middle), _SMALLEST)
    return Standard(middle, np.where(is_constant, 1.0, deviation))


def write_standard(standard: Standard) -> bytes:
    """Encode a standard as a safetensors file, rounded to float32."""
    return write_safetensors(
        {
            "mean": standard.mean.astype(np.float32),
            "deviation": standard.deviation.astype(np.float32),
        }
    )


def read_standard(data: bytes, columns: int) -> Standard:
    """Decode the standard of a model whose features give `columns` columns.

    Raises:
      MalformedError: it is none, or of another number of columns.
      TooLargeError: over the caps of a safetensors file.
    """
    tensors = read_safetensors(data)  # whose float32 are finite
    found = {name[:40]: (tensor.dtype.kind, tensor.shape) for name, tensor in tensors.items()}
    if found != dict.fromkeys(("mean", "deviation"), ("f", (columns,))):
        reason = f"statistics: {str(found)[:200]} are not a mean and a deviation, float32, of the "
        raise MalformedError(f"{reason}{columns} columns that the features make")
    mean, deviation = (tensors[name].astype(np.float64) for name in ("mean", "deviation"))
    wrong = np.flatnonzero(deviation <= 0)
    if wrong.size:
        raise MalformedError(f"statistics: the deviation of column {wrong[0]} is not positive")
    return Standard(mean, deviation)
