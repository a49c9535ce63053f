"""Sites that hold handwritten digits, and the updates that the product's own code makes of them.

Responsible for what is attacked, never for attacking: rows, models, and `sent`, which trains,
clips, noises and rounds with the functions that an agent uses.  Digits stand for a plant's rows
because everybody sees whether one was reconstructed; they are 1,797 images of 8 x 8 (Alpaydin and
Kaynak, UCI 80, as scikit-learn brings them), standardised pixel by pixel as features are.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from agent.learner import plan_for
from agent.learning.families import mlp
from agent.learning.ir import Params, initial_params
from agent.learning.losses import Loss
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.plan import TrainingPlan
from agent.learning.train import train
from agent.privacy.cost import private_plan
from agent.privacy.noising import noised
from wire.messages import Policy
from wire.tensors import clip, flatten, round_to_steps

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

PIXELS, CLASSES, HIDDEN = 64, 10, 64
FINEST = 2e-6
"""Scale of an update in a policy that an attacker chose: 16 bits hold a step of it and of .06."""


@dataclass(frozen=True)
class Digits:
    """Rows x, float32 (N, 64), standardised, and their classes y, int64 (N,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def drawn(self, count: int, rng: np.random.Generator) -> "Digits":
        """So many different rows at random."""
        chosen = rng.choice(len(self.y), count, replace=False)
        return Digits(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Victim:
    """A model and its runtime, as each site has them.

    Attributes:
      hidden: neurons of the one hidden layer.
      seed: of the initial weights.
    """

    hidden: int = HIDDEN
    seed: int = 0

    @cached_property
    def backend(self) -> NumpyBackend:
        """Runs the model."""
        graph = mlp(PIXELS, [self.hidden], CLASSES, self.seed)
        return NumpyBackend(graph, Loss.CROSS_ENTROPY)

    @cached_property
    def base(self) -> Params:
        """The published weights that training starts from, in the order of the wire."""
        return initial_params(mlp(PIXELS, [self.hidden], CLASSES, self.seed))

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the tensors, as a manifest has them."""
        return [(name, value.shape) for name, value in self.base.items()]

    def delta(self, base: Params, rows: Digits, plan: TrainingPlan) -> Vector:
        """Trained - base, float64 (P,), by the product's training."""
        result = train(self.backend, base, rows.x, rows.y, plan)
        return flatten(result.params).astype(np.float64) - flatten(base)


ONE_STEP = Policy(
    epochs=1, batch_size=4096, optimizer="sgd", learning_rate=0.1, min_rows=1, bits=16, scale=FINEST
)
"""What an attacker writes into a head: one step on all rows, rounded as finely as 16 bits allow."""
DEFAULT = Policy()
"""What the product does when nobody asks for anything."""


def plan_of(policy: Policy, seed: int) -> TrainingPlan:
    """How an agent trains by a policy; the seed is another one for each version."""
    return private_plan(plan_for(policy, "agent-0", seed, Loss.CROSS_ENTROPY), policy)


def sent(delta: Vector, policy: Policy, rng: np.random.Generator) -> NDArray[np.int64]:
    """Clip, noise and round as an agent does; integers at the policy's scale."""
    clipped = noised(clip(delta, policy.clip_norm), policy)
    integers, _ = round_to_steps(clipped, policy.scale, policy.bits, rng)
    return integers.astype(np.int64)


@cache
def digits() -> Digits:
    """All rows, standardised; a pixel that never changes is 0."""
    x, y = load_digits(return_X_y=True)
    deviation = x.std(axis=0)
    standardised = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return Digits(standardised.astype(np.float32), y.astype(np.int64))
