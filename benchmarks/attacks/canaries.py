"""Membership: was this row, or this site's update, behind what was published?

The attacker knows everything but the answer: the base, the policy, all other rows or updates, and
the canary itself, a row far from all others with a wrong label, or an update in a random direction
(canaries: Nasr et al., arXiv:2101.04535; random directions: Andrew et al., arXiv:2302.03098).  It
computes what would be published without noise in both cases and asks how far along the line between
them the real thing lies, which is the best test there is for one release with Gaussian noise.

Every trial trains, clips, noises and rounds anew with the product's own code.
"""

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.attacks.victims import Digits, Vector, Victim, digits, plan_of, sent
from wire.messages import Policy

BY_RECORD = Policy(
    epochs=4,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.5,
    min_rows=1,
    bits=16,
    scale=1e-4,
    privacy="record",
    noise_multiplier=4.0,
)
"""Four steps on all rows at once."""
SAMPLED = msgspec.structs.replace(BY_RECORD, batch_size=6, epochs=3, noise_multiplier=2.0)
"""Twelve steps, each on a quarter of the rows."""
BY_UPDATE = Policy(
    bits=16, scale=1e-3, clip_norm=1.0, weight_cap=1, privacy="update", noise_multiplier=2.0
)
"""One release of a whole update."""
SHARED = msgspec.structs.replace(BY_UPDATE, protection="masked", noise_sites=10)
"""Ten sites in a masked sum share that noise."""
ROWS = 23
"""Without the canary: with and without it, an epoch has as many batches."""
_PARAMETERS = 300
_OUTLIER = 8.0


@dataclass(frozen=True)
class Scores:
    """Of trials with the canary and of trials without it, (N,) each."""

    members: Vector
    others: Vector


def position(published: Vector, without: Vector, with_canary: Vector) -> float:
    """How far a published vector is on the way from one expected vector to the other.

    Args:
      published: what the attacker saw, float64 (P,).
      without: what it expects without the canary.
      with_canary: what it expects with it.
    """
    line = with_canary - without
    return float((published - without) @ line / max(float(line @ line), 1e-30))


def record_scores(policy: Policy, trials: int, seed: int) -> Scores:
    """Scores of trainings with and without one row more.

    Args:
      policy: with `privacy = "record"`; its noise is the product's.
      trials: of each kind.
      seed: of the site's rows.
    """
    victim, rng = Victim(hidden=16), np.random.default_rng(seed)
    rows = digits().drawn(ROWS, rng)
    more = _with_canary(rows, rng)
    expected = [_expected(victim, policy, held, seed) for held in (rows, more)]

    def score(held: Digits, trial: int) -> float:
        delta = victim.delta(victim.base, held, plan_of(policy, trial))
        published = sent(delta, policy, rng) * np.float64(policy.scale * len(held.y))
        return position(published, expected[0], expected[1])

    return Scores(
        np.array([score(more, trial) for trial in range(trials)]),
        np.array([score(rows, trial) for trial in range(trials)]),
    )


def _expected(victim: Victim, policy: Policy, held: Digits, seed: int) -> Vector:
    """What training without noise would publish, times the rows, whose number is no secret."""
    rows = len(held.y)
    steps = policy.epochs * math.ceil(rows / policy.batch_size)
    silent = msgspec.structs.replace(policy, noise_multiplier=0.0, batch_size=rows, epochs=steps)
    return victim.delta(victim.base, held, plan_of(silent, seed)) * rows


def update_scores(policy: Policy, trials: int, seed: int, betraying: int = 0) -> Scores:
    """Scores of sums with and without one site's update.

    Args:
      policy: with `privacy = "update"`; `noise_sites` of it are in each sum.
      trials: of each kind.
      seed: of the canary's direction.
      betraying: how many of the other sites tell the attacker what they sent.
    """
    rng = np.random.default_rng(seed)
    canary = rng.normal(size=_PARAMETERS)
    canary *= policy.clip_norm / np.linalg.norm(canary)
    nothing = np.zeros(_PARAMETERS)
    unknown = policy.noise_sites - betraying

    def score(own: Vector) -> float:
        total = sent(own, policy, rng)
        for _ in range(unknown - 1):  # what they trained is known, and taken off already
            total = total + sent(nothing, policy, rng)
        return position(total * np.float64(policy.scale), nothing, canary)

    return Scores(
        np.array([score(canary) for _ in range(trials)]),
        np.array([score(nothing) for _ in range(trials)]),
    )


def _with_canary(rows: Digits, rng: np.random.Generator) -> Digits:
    """One row more: another row, reflected and stretched, under a label that it has not."""
    other = digits().drawn(1, rng)
    x = (-_OUTLIER * other.x).astype(np.float32)
    return Digits(np.concatenate([rows.x, x]), np.append(rows.y, (other.y + 5) % 10))
