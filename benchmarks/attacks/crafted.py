"""Weights that a hostile coordinator publishes instead of a model, to read what trains on them.

`bins`: all neurons of the first layer measure the same thing against rising thresholds, so that the
difference of two adjacent ones holds only the rows between theirs (Fowl et al., "Robbing the Fed",
arXiv:2110.13057; Boenisch et al., arXiv:2112.02918).

`dead`: no neuron of the first layer ever fires, so its gradient is zero for every row, and a sum
with the updates of sites that got it is that of the site that got something else (Pasquini,
Francati and Ateniese, "Eluding secure aggregation", arXiv:2111.07380).
"""

import numpy as np

from agent.learning.ir import Params
from benchmarks.attacks.victims import CLASSES, PIXELS, Digits, Matrix, Vector

_NEVER = -1e4


def bins(public: Digits, hidden: int, seed: int) -> Params:
    """Weights whose neurons cut rows into bins of equal probability.

    Args:
      public: rows of the kind that the victim has, of anybody's.
      hidden: neurons.
      seed: of the direction that is measured.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=PIXELS) / np.sqrt(PIXELS)
    shares = (np.arange(hidden) + 0.5) / hidden
    thresholds = np.quantile(public.x @ direction, shares)
    weight = np.tile(direction, (hidden, 1))
    heads = np.tile(rng.normal(size=(CLASSES, 1)) / hidden, (1, hidden))
    return _params(weight, -thresholds, heads)


def dead(hidden: int, seed: int) -> Params:
    """Weights whose first layer no gradient reaches."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(-1, 1, (hidden, PIXELS)) / np.sqrt(PIXELS)
    return _params(weight, np.full(hidden, _NEVER), rng.normal(size=(CLASSES, hidden)) / hidden)


def _params(weight: Matrix, bias: Vector, heads: Matrix) -> Params:
    tensors = {
        "dense0.weight": weight,
        "dense0.bias": bias,
        "dense1.weight": heads,
        "dense1.bias": np.zeros(CLASSES),
    }
    return {name: value.astype(np.float32) for name, value in tensors.items()}
