"""The noise of update-level privacy: all rows behind one update are hidden by it.

Pure but for the operating system's random bytes.  Rounding to integers and saturation come after
it and see nothing but the noised delta, so they cost nothing more.
"""

import numpy as np
from numpy.typing import NDArray

from agent.learning.noise import gaussian
from wire.messages import Policy
from wire.safeguards import own_deviation


def noised(clipped: NDArray[np.floating], policy: Policy) -> NDArray[np.floating]:
    """Add this site's noise to a delta, shape (P,), whose norm is at most the policy's clip_norm.

    Without update-level privacy it is returned as it is.
    """
    deviation = own_deviation(policy)
    if deviation == 0.0:
        return clipped
    result: NDArray[np.floating] = clipped + gaussian(len(clipped), deviation)
    return result
