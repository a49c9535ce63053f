"""The average of the versions: what is judged and served.

Single versions of asynchronous training wander with whoever was online; their average does not.
Polynomial-decay averaging (Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth
Optimization", ICML 2013, section 4) keeps one vector and weighs version t about as t**decay, so
that early versions fade without a window to store.
"""

import numpy as np
from numpy.typing import NDArray


def add_version(
    average: NDArray[np.float64], params: NDArray[np.float32], count: int, decay: float
) -> NDArray[np.float64]:
    """Average after one more version.

    Args:
      average: float64 (P,), the average of the `count - 1` versions before.
      params: float32 (P,), the new version.
      count: 1 for the first version.
      decay: 0 is the plain mean; the larger, the shorter the memory.
    """
    share = (decay + 1.0) / (decay + count)
    return (1.0 - share) * average + share * params.astype(np.float64)
