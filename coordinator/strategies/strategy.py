"""What a strategy is: a frozen set of pure functions over the buffer, and how much it remembers.

    offer ─► admit ─► weight, or why not
    buffer, age ─► is_ready
    mean delta of the buffer ─► blend ─► pseudo-gradient for the server optimizer

A strategy's memory is a fixed number of vectors of the model's size, whatever the number of agents
and updates.  It sees who sends, from which version and with which weight; never the numbers of a
single update.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer, Member
from wire.messages import Policy

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Offer:
    """A client update that could enter the buffer.

    Attributes:
      agent, site: who sends it.
      weight: its training rows, at most the policy's cap.
      base_version: what it was trained from.
    """

    agent: str
    site: str
    weight: int
    base_version: int


@dataclass(frozen=True)
class Rejected:
    """Why an update does not count; the agent is told."""

    reason: str


@dataclass(frozen=True)
class Step:
    """A buffer that is about to become a version.

    Attributes:
      mean: weighted mean delta, after robust aggregation, float64 (P,).
      members: what it is the mean of.
      version: the newest version, which it is added to.
      params: its weights, float32 (P,).
      base: weights of the oldest version that a member was trained from, float32 (P,); None unless
        the strategy keeps bases, and when it is older than those that are kept.
      memory: the strategy's own vectors, float64 (M, P).
      population: sum of the last weights of all agents that ever took part.
    """

    mean: Vector
    members: tuple[Member, ...]
    version: int
    params: NDArray[np.float32]
    base: NDArray[np.float32] | None
    memory: NDArray[np.float64]
    population: int


Admit = Callable[[Offer, Buffer, int], int | Rejected]
"""`admit(offer, buffer, current version)`: an update's weight (positive), or why it is none."""


def as_it_is(step: Step) -> tuple[Vector, NDArray[np.float64]]:
    """The mean delta is the pseudo-gradient, and nothing is remembered."""
    return step.mean, step.memory


@dataclass(frozen=True)
class Strategy:
    """How a federation aggregates.

    Attributes:
      admit: see `Admit`.
      is_ready: `is_ready(buffer, its age in seconds)`: whether it becomes a version now.
      blend: the pseudo-gradient, float64 (P,), and the memory after it.
      memory: number of vectors that it remembers.
      kept_bases: number of newest versions whose weights it needs.
    """

    admit: Admit
    is_ready: Callable[[Buffer, float], bool]
    blend: Callable[[Step], tuple[Vector, NDArray[np.float64]]] = as_it_is
    memory: int = 0
    kept_bases: int = 0


def stale_weight(weight: int, staleness: int, policy: Policy) -> int:
    """Undamped up to the cap, then weight x cap / staleness, never below the floor.

    Age alone never refuses an update; a week-old one still counts a little.  The floor never lifts
    an update above its own weight: a stale one would count more than a fresh one.
    """
    if staleness <= policy.staleness_cap:
        return weight
    damped = weight * max(policy.staleness_cap, 1) // staleness
    return max(min(policy.staleness_floor, weight), damped)
