"""Which of the agents that are ready train next, when there are more than slots.

What is taken from where:

- A site's loss says how much there is to learn from it (power-of-choice: Cho, Wang and Joshi,
  "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection
  Strategies", arXiv:2010.01243, section 3).
- Loss, samples and speed make one figure; the highest losses are clipped, some slots are drawn
  at random, and an agent that was picked often enough rests (Oort: Lai et al., "Efficient
  Federated Learning via Guided Participant Selection", arXiv:2010.06081, sections 4.2 and 4.4).

Oort multiplies figures with units.  Here each criterion is a quantile among those who are ready, so
that neither the loss's kind nor the fleet's links need tuning, and the score is the weighted mean
of quantiles.  Ties are broken by lot; with all weights zero the whole choice is one.

Keeps: an agent that may train at all is chosen with a probability of at least about
random_share / candidates at every slot, whatever the others say of themselves, so nobody starves.
An agent above its cap, or too hot or too empty to train, is never chosen.  The order in which
candidates come in changes nothing.  Pure: time, history and chance come from the caller.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.settings import Settings

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

Weight = Annotated[float, msgspec.Meta(ge=0, le=100)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

_UNKNOWN = 0.5
"""Quantile of a figure that is not known: neither a reason for nor against."""
_FENCE = 3.0
"""Interquartile ranges above the third quartile at which a loss is far out (Tukey's fence)."""
_FENCE_MIN = 8
"""Known losses below which quartiles say nothing."""


class SelectionSettings(Settings, frozen=True, kw_only=True):
    """The `[selection]` table; used with `policy.admission = "granted"`.

    Attributes:
      concurrency: agents that train at once; `fedavg` has its own number.
      per_agent_cap: updates of one agent in the last `window` versions beyond which it rests.
      window: versions that are looked back at.
      random_share: share of the slots that is drawn by lot.
      samples, loss, novelty, link, energy: weights of the criteria.
      loss_cap: quantile above which a higher loss earns nothing more.
      least_battery: charge below which an agent on battery does not train.
      hottest_c: temperature above which an agent does not train.
      lease_s: longest time that a slot waits for an update.
    """

    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    per_agent_cap: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    window: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    random_share: Share = 0.25
    samples: Weight = 1.0
    loss: Weight = 1.0
    novelty: Weight = 0.5
    link: Weight = 0.25
    energy: Weight = 0.25
    loss_cap: Share = 0.9
    least_battery: Share = 0.3
    hottest_c: Annotated[float, msgspec.Meta(ge=0, le=150)] = 80.0
    lease_s: Annotated[float, msgspec.Meta(ge=10, le=30 * 86_400)] = 3600.0


@dataclass(frozen=True)
class Candidate:
    """An agent that is ready to train.

    Attributes:
      examples: training rows.
      loss: mean loss of the current version on them; None while it is not known.
      novelty: how much its rows differ from those that were learned from; None if not told.
      uplink_s: seconds that its updates take to arrive; 0 before the first.
      battery: charge in [0, 1]; None on mains, and on a battery that does not tell.
      temperature_c: None where nothing measures it.
    """

    agent: str
    site: str
    examples: int
    loss: float | None = None
    novelty: float | None = None
    uplink_s: float = 0.0
    power: Literal["mains", "battery"] = "mains"
    battery: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Candidates:
    """Candidates as columns of one length N, sorted by agent; NaN stands for None.

    `columns` makes them.  Who builds them from arrays, such as a simulator, keeps the order.

    Attributes:
      agents, sites: names.
      examples, loss, novelty, uplink_s, battery, temperature_c: float64, (N,).
      on_battery: bool, (N,).
    """

    agents: Sequence[str]
    sites: Sequence[str]
    examples: Vector
    loss: Vector
    novelty: Vector
    uplink_s: Vector
    on_battery: Mask
    battery: Vector
    temperature_c: Vector


def columns(candidates: Iterable[Candidate]) -> Candidates:
    """Candidates in any order as columns in the one order that counts."""
    rows = sorted(candidates, key=attrgetter("agent"))

    def column(name: str) -> Vector:
        return np.array(list(map(attrgetter(name), rows)), dtype=np.float64)  # None becomes NaN

    return Candidates(
        agents=[row.agent for row in rows],
        sites=[row.site for row in rows],
        examples=column("examples"),
        loss=column("loss"),
        novelty=column("novelty"),
        uplink_s=column("uplink_s"),
        on_battery=np.array([row.power == "battery" for row in rows], dtype=np.bool_),
        battery=column("battery"),
        temperature_c=column("temperature_c"),
    )


def choose(
    candidates: Candidates,
    slots: int,
    settings: SelectionSettings,
    rng: np.random.Generator,
    recent: Mapping[str, int],
    *,
    k_min: int = 1,
    held: Collection[str] = (),
) -> list[str]:
    """Choose agents for the slots that are free; fewer where fewer may train.

    Args:
      candidates: who is ready.
      slots: how many to choose at most.
      settings: weights, caps and shares.
      rng: decides ties and the random share; the same state gives the same choice.
      recent: updates by agent over the last `window` versions; who is absent has made none.
      k_min: distinct sites that a version needs behind it.  While those at work are fewer, an
        agent of a further site goes first.  The random share does not look at sites.
      held: sites of the agents that are training now.
    """
    able = may_train(candidates, settings) & _below_cap(candidates, settings, recent)
    drawn: Rows = rng.permutation(np.flatnonzero(able))
    slots = max(0, min(slots, len(drawn)))
    by_lot = slots if slots == len(drawn) else int(rng.binomial(slots, settings.random_share))
    lucky, others = drawn[:by_lot], drawn[by_lot:]
    taken = {*held, *(candidates.sites[row] for row in lucky)}
    rows = [*lucky]
    if slots > by_lot:
        merit = scores(candidates, able, settings)[others]
        steps = np.rint((1 - merit) * 65535).astype(np.uint16)  # sorted ten times as fast as floats
        ranked = others[np.argsort(steps, kind="stable")]  # equal ones stay as they were drawn
        missing = min(slots - by_lot, k_min - len(taken))
        rows += _of_further_sites(ranked, candidates.sites, taken, missing)
        is_taken = np.zeros(len(able), dtype=np.bool_)
        is_taken[rows] = True
        rows += [*ranked[~is_taken[ranked]][: slots - len(rows)]]
    return [candidates.agents[row] for row in rows]


def may_train(candidates: Candidates, settings: SelectionSettings) -> Mask:
    """Who is neither too empty nor too hot, (N,); what is not measured does not count against."""
    empty = candidates.on_battery & (candidates.battery < settings.least_battery)
    mask: Mask = ~(empty | (candidates.temperature_c > settings.hottest_c))
    return mask


def scores(candidates: Candidates, among: Mask, settings: SelectionSettings) -> Vector:
    """Each candidate's weighted mean of quantiles in [0, 1], (N,); those not `among` have 0."""
    mains = 2.0  # above any charge
    charge = np.where(candidates.on_battery, np.nan_to_num(candidates.battery, nan=0.5), mains)
    uplink = np.where(candidates.uplink_s > 0, -candidates.uplink_s, np.nan)
    total = np.zeros(len(candidates.agents))
    weights = 0.0
    for weight, values, kind in (
        (settings.samples, candidates.examples, quantiles),
        (settings.loss, candidates.loss, lambda loss: loss_quantiles(loss, settings.loss_cap)),
        (settings.novelty, candidates.novelty, quantiles),
        (settings.link, uplink, quantiles),
        (settings.energy, charge, quantiles),
    ):
        if weight:
            total[among] += weight * kind(values[among])
            weights += weight
    return total / weights if weights else total


def loss_quantiles(loss: Vector, cap: float) -> Vector:
    """Quantiles of losses, (N,), with two guards against sites that are broken rather than rich.

    All above the quantile `cap` count alike, as in Oort.  A loss that is far out, beyond the third
    quartile by three interquartile ranges, is that of a model that has diverged there or of labels
    that mean something else: it counts as one that is not known.
    """
    earned = np.minimum(quantiles(loss), cap)
    known = np.sort(loss[~np.isnan(loss)])
    if len(known) >= _FENCE_MIN:
        first, third = known[len(known) // 4], known[len(known) * 3 // 4]
        earned[loss > third + _FENCE * (third - first)] = min(_UNKNOWN, cap)
    return earned


def quantiles(values: Vector) -> Vector:
    """Place of each value among all, in (0, 1), (N,); equal values share theirs, NaN gets 0.5."""
    result = np.full(len(values), _UNKNOWN)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0 or values[known].min() == values[known].max():
        return result
    order = known[np.argsort(values[known])]
    ordered = values[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[first, len(ordered)])
    result[order] = np.repeat(first + counts / 2, counts) / len(ordered)
    return result


def _below_cap(
    candidates: Candidates, settings: SelectionSettings, recent: Mapping[str, int]
) -> Mask:
    below = np.ones(len(candidates.agents), dtype=np.bool_)
    for agent, updates in recent.items():
        row = bisect_left(candidates.agents, agent)
        if row < len(below) and candidates.agents[row] == agent:
            below[row] = updates < settings.per_agent_cap
    return below


def _of_further_sites(
    ranked: Rows, sites: Sequence[str], seen: Collection[str], missing: int
) -> list[np.intp]:
    """The best of each site that is not `seen`, at most `missing` of them."""
    found: list[np.intp] = []
    known = set(seen)
    for row in ranked:
        if len(found) >= missing:
            break
        if sites[row] not in known:
            known.add(sites[row])
            found.append(row)
    return found
