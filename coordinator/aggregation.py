"""The pure core of the coordinator: a model, updates that enter its buffer, and the next version.

    offer, integers ─► norm bound ─► strategy.admit ─► clip ─► fold            (`take`)
    buffer ─► bucket means ─► combine ─► strategy.blend ─► server optimizer    (`advance`)

No I/O, no clock, no randomness: the store around it (`coordinator/federation.py`) makes it durable,
the simulator (`shopfloor/simulate/`) runs ten thousand agents through the same lines.

Memory is a fixed number of vectors of the model's size, whatever the number of agents and updates.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer, Member, bucket_means, empty, fold
from coordinator.robust import (
    UNIT,
    RobustSettings,
    bucket_of,
    clipped,
    combined,
    distance,
    is_within,
    joined,
    next_radius,
)
from coordinator.server_optimizer import ServerOptimizer, Vector
from coordinator.strategies.strategy import Offer, Rejected, Step, Strategy

FARTHEST_STEP = 100.0
"""A version this many times as far away from the one before as an honest update may be, without its
rounding, has diverged."""
_NOISE_TAIL = 7.0
"""The norm of P normal numbers exceeds sqrt(P) + t with a probability below exp(-t^2 / 2) (Laurent
and Massart, Ann. Stat. 28, 2000, lemma 1): one honest update in 4e10 is refused for its noise."""


class Diverged(Exception):  # noqa: N818 - states what happened
    """The buffer can not become a version: the weights would not be finite, or far away."""


@dataclass(frozen=True)
class Rules:
    """How a federation aggregates.

    Attributes:
      strategy: who enters, when, and the pseudo-gradient.
      robust: clipping and combining.
      optimizer: from the pseudo-gradient to weights.
      clip_norm: the policy's L2 bound of an update.
      k_min: least number of distinct sites behind any sum that is looked at.
      noise: standard deviation of the noise in each number of an update, 0 for none.
    """

    strategy: Strategy
    robust: RobustSettings
    optimizer: ServerOptimizer
    clip_norm: float
    k_min: int = 1
    noise: float = 0.0

    def reach(self, parameters: int) -> float:
        """Largest norm of an honest update before it is rounded: clipped, and noised for privacy.

        Of the noise nothing is known but its deviation, so a hostile site may use all of that room;
        in a mean it is as hard to see there as honest noise.
        """
        return self.clip_norm + self.noise * (math.sqrt(parameters) + _NOISE_TAIL)


@dataclass(frozen=True)
class Model:
    """All that the next version depends on.

    Attributes:
      version: number of the newest version.
      params: its weights, float32 (P,).
      optimizer: the server optimizer's state, float64 (S, P).
      memory: the strategy's, float64 (M, P).
      centre: what updates are clipped towards, float64 (P,); empty where nothing is.
      radius: the adaptive clipping radius, 0 before the first version.
      buffer: updates since the newest version.
    """

    version: int
    params: NDArray[np.float32]
    optimizer: Vector
    memory: Vector
    centre: Vector
    radius: float
    buffer: Buffer


def begin(rules: Rules, params: NDArray[np.float32], version: int = 0) -> Model:
    """A model that has learned nothing yet but these weights, float32 (P,)."""
    parameters = len(params)
    return Model(
        version=version,
        params=params,
        optimizer=rules.optimizer.init(parameters),
        memory=np.zeros((rules.strategy.memory, parameters)),
        centre=np.zeros(parameters if rules.robust.clip == "centred" else 0),
        radius=rules.robust.radius,
        buffer=empty(parameters, rules.robust.buckets),
    )


def norm_bound(reach: float, scale: float, parameters: int) -> float:
    """Largest norm of an honest update: after its `reach` each number is rounded, up to a step."""
    return reach + scale * math.sqrt(parameters)


def take(
    rules: Rules, model: Model, offer: Offer, delta: NDArray[np.signedinteger], scale: float
) -> Model | Rejected:
    """Put one update into the buffer, or say why not.

    Args:
      rules: how.
      model: into whose buffer.
      offer: whose it is.
      delta: trained - base in steps of the scale, int8 or int16, shape (P,).
      scale: value of one step, the same for all members of a buffer.
    """
    weight = rules.strategy.admit(offer, model.buffer, model.version)
    if isinstance(weight, Rejected):
        return weight
    bound = norm_bound(rules.reach(len(delta)), scale, len(delta))
    if not is_within(delta, scale, bound):
        norm = distance(delta, scale)
        allowed = "clip_norm, noise and rounding" if rules.noise else "clip_norm and rounding"
        return Rejected(f"norm {norm:.4g} exceeds {bound:.4g}, the policy's {allowed}")
    coefficient, divisor, away = weight, weight, 0.0
    if rules.robust.clip != "none":
        away = distance(delta, scale, model.centre if model.centre.size else None)
        coefficient = clipped(weight, away, model.radius or rules.reach(len(delta)))
        divisor = weight * UNIT
    member = Member(
        agent=offer.agent,
        site=offer.site,
        base_version=offer.base_version,
        weight=divisor,
        coefficient=coefficient,
        distance=away,
        bucket=bucket_of(model.buffer, offer.site),
    )
    return replace(model, buffer=fold(model.buffer, delta, member))


def is_ready(rules: Rules, model: Model, age_s: float) -> bool:
    """Whether the buffer, whose first member came `age_s` ago, becomes a version now."""
    buffer = model.buffer
    if not buffer.members or not rules.strategy.is_ready(buffer, age_s):
        return False
    return rules.k_min == 1 or len(buffer.sites) >= rules.k_min


def advance(
    rules: Rules,
    model: Model,
    scale: float,
    *,
    population: int = 0,
    base: NDArray[np.float32] | None = None,
) -> Model:
    """The next version, with an empty buffer.

    Args:
      rules: how.
      model: whose buffer has members.
      scale: value of one integer step of all of them.
      population: sum of the last weights of all agents that ever took part (`Step`).
      base: weights that the oldest member was trained from, where the strategy keeps bases.

    Raises:
      Diverged: the next weights would not be finite, or farther away than any sane step.
    """
    buffer = joined(model.buffer, rules.k_min)
    means, weights = bucket_means(buffer, scale, model.centre if model.centre.size else None)
    mean = combined(rules.robust, means, weights)
    pseudo_gradient, memory = rules.strategy.blend(
        Step(mean, buffer.members, model.version, model.params, base, model.memory, population)
    )
    optimizer, params = rules.optimizer.apply(pseudo_gradient, model.optimizer, model.params)
    _check_step(rules, model.params, params)
    return Model(
        version=model.version + 1,
        params=params,
        optimizer=optimizer,
        memory=memory,
        centre=mean if model.centre.size else model.centre,
        radius=next_radius(rules.robust, model.radius, buffer.members),
        buffer=empty(len(params), rules.robust.buckets),
    )


def _check_step(rules: Rules, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        moved = float(np.sqrt(np.square(after.astype(np.float64) - before).sum()))
    farthest = FARTHEST_STEP * rules.reach(len(after))
    if not moved <= farthest:  # also when it is NaN
        raise Diverged(
            f"a step of length {moved:.4g} is over {FARTHEST_STEP:g} times what an honest update "
            f"reaches, {farthest / FARTHEST_STEP:.4g}; lower the learning rates"
        )
