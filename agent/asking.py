"""When an agent that could train asks for leave, trains, or waits.

    policy.admission   link   unused grant   what
    open               up     -              train
    granted            up     yes            train
    granted            up     no             ask, every 10 s
    open               down   -              train, if the policy has `offline_training`
    granted            down   yes            the same
    granted            down   no             the same, after `OFFLINE_AFTER_S` without a word

`Policy.offline_training` lets a site that is cut off go on with the last version that it holds;
its updates are always taken, with their staleness (`coordinator/strategies`).  A grant is used up
by the update that was made under it: the coordinator repeats a grant as long as it waits for that
update, and the same number again is no new leave.  Whether there are rows and a model to train from
is decided elsewhere (`agent/learner.py`).

Nothing here reads a clock or draws but what is passed in.
"""

import random
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.conditions import Conditions
from wire.messages import NOVELTY_BINS, Count, Digest, Policy, Readiness, Unit
from wire.novelty import EPSILON, histogram

ASK_EVERY_S = 10.0
OFFLINE_AFTER_S = 900.0
"""A coordinator that is updated or a router that restarts is back by then."""

_HISTOGRAM_EVERY = 6
"""Asks: a histogram is two thirds of an ask, and a coordinator that restarts forgets it."""
_LEAST_ROWS = 256
"""Below, the noise hides everything (`wire/novelty.py`, `distance_by_chance`)."""
_LARGEST_LOSS = 1e12


@dataclass(frozen=True)
class Standing:
    """What an agent knows about its leave to train.

    Attributes:
      is_linked: the broker is connected and the coordinator's state there is `online`.
      silent_s: since the coordinator was last heard of; while linked it does not count.
      granted: number of the newest grant, 0 before the first.
      used: number of the grant under which the last update was made, 0 for none.
      due_s: seconds until the next ask; 0 or less when it is due, as after connecting.
    """

    is_linked: bool
    silent_s: float = 0.0
    granted: int = 0
    used: int = 0
    due_s: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What to do now, and while it is `wait`, why.

    Attributes:
      grant: number under which to train, to be remembered as used when the update is made; 0 when
        it is trained without.
    """

    action: Literal["train", "ask", "wait"]
    reason: str = ""
    grant: int = 0


def decide(
    policy: Policy, standing: Standing, offline_after_s: float = OFFLINE_AFTER_S
) -> Decision:
    """What an agent does that has rows and a version to train from."""
    if not standing.is_linked and not policy.offline_training:
        return Decision("wait", "waiting for the link: the policy forbids training without one")
    if policy.admission == "open":
        return Decision("train")
    if standing.granted > standing.used:
        return Decision("train", grant=standing.granted)
    if not standing.is_linked:
        return _decide_alone(offline_after_s - standing.silent_s)
    if standing.due_s > 0:
        return Decision("wait", "asked to train, waiting for a turn")
    return Decision("ask")


def _decide_alone(left_s: float) -> Decision:
    if left_s > 0:
        return Decision("wait", f"waiting for the link: training without one in {left_s:.0f} s")
    return Decision("train")


def next_ask_s(rng: random.Random) -> float:
    """Seconds until the next ask, spread so that a fleet that connected at once drifts apart."""
    return ASK_EVERY_S * rng.uniform(0.8, 1.2)


class Shown(msgspec.Struct, frozen=True):
    """A histogram as it was noised once, to be kept over restarts with the bundle it is of.

    Attributes:
      bundle: SHA-256 of the bundle.
      rows: training rows that this agent had taken in by then, since ever; those that the history
        has dropped count.
      behind: training rows that the histogram was made of.
      shares: `wire/novelty.py`.
    """

    bundle: Digest
    rows: Count
    behind: Count
    shares: Annotated[tuple[Unit, ...], msgspec.Meta(max_length=NOVELTY_BINS)]


def is_due(shown: Shown | None, bundle: bytes, rows: int) -> bool:
    """Whether the data has really changed: as many fresh rows as are in the last histogram.

    Fresh noise on the same rows would average away, so a histogram is told again as it is.  By
    this rule a row of a full history is in two histograms at most; while a history of 200,000 rows
    fills, the first rows are in ten.
    """
    if rows < _LEAST_ROWS:
        return False
    return shown is None or shown.bundle != bundle or rows - shown.rows >= shown.behind


def next_shown(bundle: bytes, rows: int, inputs: NDArray[np.floating], rng: random.Random) -> Shown:
    """A newly noised histogram; to be durable before it is told, or a restart makes another.

    Args:
      bundle: SHA-256 of the bundle.
      rows: training rows taken in since ever.
      inputs: standardized inputs of the training rows there are, (N, ...).
      rng: of cryptographic quality: `random.SystemRandom()`.
    """
    return Shown(bundle, rows, len(inputs), histogram(inputs, bundle, EPSILON, rng))


def readiness(
    base_version: int,
    examples: int,
    conditions: Conditions,
    *,
    loss: float | None = None,
    uplink_s: float = 0.0,
    shown: Shown | None = None,
    asks: int = 0,
) -> Readiness:
    """The question itself.

    Args:
      base_version: what the agent would train from.
      examples: training rows.
      conditions: what feeds the gateway.
      loss: mean loss of that version on them; it goes out with two digits, which rank a site among
        others and say little about any row of it.  Not when it is no number: the model diverged.
      uplink_s: from made to committed, of the last updates.
      shown: the noised histogram; it goes with the first ask of a connection and every sixth.
      asks: made on this connection so far.
    """
    return Readiness(
        base_version=base_version,
        examples=examples,
        loss=_two_digits(loss) if loss is not None and 0 <= loss <= _LARGEST_LOSS else None,
        novelty=shown.shares if shown is not None and asks % _HISTOGRAM_EVERY == 0 else (),
        uplink_s=round(uplink_s, 1),
        power=conditions.power,
        battery=None if conditions.battery is None else round(conditions.battery, 2),
        temperature_c=conditions.temperature_c and float(round(conditions.temperature_c)),
    )


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
