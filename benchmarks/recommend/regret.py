"""Regret of proposals on the simulated line, whose best set-points are known.

Each site records its rows, learns, and asks for proposals under conditions drawn evenly from their
ranges, from where its people run the line now (`shopfloor.jobs.proposals` says what regret is).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Site
from agent.recommend.proposal import Knowledge
from benchmarks.recommend.consortium import (
    Job,
    Values,
    alone,
    moments_of,
    pooled,
    scaled,
    site_of,
    together,
)
from shopfloor.jobs.proposals import Learned, Rows, Told, asking, knowing, tell
from shopfloor.line import NOISE_KWH_T, SITES, Line, draw_conditions, generate, truth

ARMS = ("as it is", "alone", "alone, no region", "federated", "pooled")


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
      rows: of a site, a fifth of them held out.
      rounds: of averaging, and passes of the others.
      conditions: for which a site asks.
      future: rows after those, which tell whether intervals hold.
      kept: versions at hand.
    """

    rows: int = 1000
    rounds: int = 200
    conditions: int = 40
    future: int = 400
    kept: int = 4


@dataclass(frozen=True)
class Outcome:
    """Of one site and one seed.

    Attributes:
      regret: mean by arm, kWh/t.
      proposed: share of conditions with a proposal, by arm.
      covered: share of rows of the same time whose value lies in its interval, federated: every
        other held-out row calibrates, the rest judge.
      later: the same for rows that are later than all that was learned or calibrated from.
      changes: the same for changes between pairs of rows of the same time.
      at_proposals: share of what the meter would read at proposals that lies in the interval,
        federated; None where nothing was proposed.
    """

    regret: dict[str, float]
    proposed: dict[str, float]
    covered: float
    later: float
    changes: float
    at_proposals: float | None


def outcomes(job: Job, sizes: Sizes, seed: int) -> list[Outcome]:
    """Let five sites learn, and judge what each would be told."""
    lines = [generate(site, sizes.rows + sizes.future, seed) for site in range(SITES)]
    raw = [
        site_of(job, f"site {at}", _first(line, sizes.rows), seed) for at, line in enumerate(lines)
    ]
    moments = [moments_of(job, site) for site in raw]
    common = reduce(add, moments).standard
    sites = [scaled(job, site, common) for site in raw]
    federated = Learned(together(job, sites, sizes.rounds, sizes.kept, seed), common)
    everything = alone(job, pooled(sites), sizes.rounds, seed)
    found = []
    for at, (line, site) in enumerate(zip(lines, raw, strict=True)):
        own = moments[at].standard
        local = alone(job, scaled(job, site, own), sizes.rounds, seed)
        arms = {
            "alone": Learned([local], own),
            "alone, no region": Learned([local], own, _anywhere),
            "federated": federated,
            "pooled": Learned([everything], common),
        }
        found.append(_judged(job, arms, _Plant(line, site, sizes, seed)))
    return found


@dataclass(frozen=True)
class _Plant:
    """A site: all that it records, what it learns from, and how much is asked."""

    line: Line
    site: Site
    sizes: Sizes
    seed: int

    def rows(self, at: NDArray[np.int64]) -> Rows:
        """Rows by their numbers."""
        values = np.concatenate([self.line.settings[at], self.line.conditions[at]], axis=1)
        return Rows(values, self.line.energy[at])

    @property
    def calibration(self) -> NDArray[np.int64]:
        """Numbers of the held-out rows."""
        return self.site.held_out.first.astype(np.int64)


def _judged(job: Job, arms: Mapping[str, Learned], of: _Plant) -> Outcome:
    first = of.sizes.rows
    conditions = draw_conditions(of.sizes.conditions, of.seed)
    asked = asking(of.line.settings[first : first + len(conditions)], conditions)
    regret, proposed = {"as it is": asked.regret(asked.present)}, {"as it is": 0.0}
    held: float | None = None
    for name, arm in arms.items():
        told = tell(knowing(job.model, arm, of.rows(of.calibration)), asked)
        regret[name] = asked.regret(told.settings)
        proposed[name] = told.share
        if name == "federated":
            held = _held(told, conditions, of.seed)
    return Outcome(regret, proposed, *_coverage(job, arms["federated"], of), held)


def _held(told: Told, conditions: Values, seed: int) -> float | None:
    """Share of proposals at which the meter would read what was promised."""
    noise = np.random.default_rng([seed, 1]).normal(0.0, NOISE_KWH_T, len(conditions))
    readings = truth(told.settings, conditions) + noise
    hits = [
        promised.low <= reading <= promised.high
        for promised, reading in zip(told.promised, readings, strict=True)
        if promised is not None
    ]
    return float(np.mean(hits)) if hits else None


def _coverage(job: Job, arm: Learned, of: _Plant) -> tuple[float, float, float]:
    """Of values at the same time, of later ones, and of changes at the same time."""
    half = knowing(job.model, arm, of.rows(of.calibration[::2]))
    errors, scales = _errors(half, of.rows(of.calibration[1::2]))
    pairs = np.random.default_rng(of.seed).permutation(len(errors))
    one, other = pairs[: len(errors) // 2], pairs[len(errors) - len(errors) // 2 :]
    changes = np.abs(errors[one] - errors[other]) / np.hypot(scales[one], scales[other])
    whole = knowing(job.model, arm, of.rows(of.calibration))
    later, later_scales = _errors(whole, of.rows(np.arange(of.sizes.rows, len(of.line))))
    return (
        float((np.abs(errors) <= half.bands.value * scales).mean()),
        float((np.abs(later) <= whole.bands.value * later_scales).mean()),
        float((changes <= half.bands.change).mean()),
    )


def _errors(knowledge: Knowledge, rows: Rows) -> tuple[Values, Values]:
    """Measured - predicted and scales of rows."""
    predicted, scales = knowledge.surrogate.predict(rows.values)
    return rows.energy - predicted, scales


def _first(line: Line, rows: int) -> dict[str, Values]:
    return {name: column[:rows] for name, column in line.columns.items()}


def _anywhere(inputs: Values) -> NDArray[np.bool_]:
    return np.ones(len(inputs), np.bool_)


def mean_of(found: Sequence[Outcome], arm: str) -> float:
    """Mean regret over sites and seeds, kWh/t."""
    return float(np.mean([each.regret[arm] for each in found]))
