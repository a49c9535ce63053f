"""Regret of proposals on the simulated line, whose best set-points are known.

Each site records its rows, learns, and asks for proposals under conditions drawn evenly from their
ranges, from where its people run the line now.  One proposal may go anywhere within the bounds.
Regret is the true energy at the proposal, or at the present set-points where nothing is proposed,
over that at the best set-points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Site
from agent.recommend.proposal import Interval, Knowledge, bands_of, recommend
from agent.recommend.recipe import Recipe, SetPoint
from agent.recommend.region import Region, reach_region
from agent.recommend.situation import surrogate_of
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
from shopfloor.line import (
    CONDITIONS,
    LABEL,
    NOISE_KWH_T,
    SETTINGS,
    SITES,
    Line,
    draw_conditions,
    generate,
    optimum,
    truth,
)
from wire.standards import Standard
from wire.tensors import Params

RECIPE = Recipe(
    label=LABEL,
    setpoint=tuple(
        SetPoint(channel=name, lowest=low, highest=high) for name, (low, high) in SETTINGS.items()
    ),
)
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


@dataclass(frozen=True)
class _Arm:
    versions: list[Params]
    standard: Standard
    region: Region


def outcomes(job: Job, sizes: Sizes, seed: int) -> list[Outcome]:
    """Let five sites learn, and judge what each would be told."""
    lines = [generate(site, sizes.rows + sizes.future, seed) for site in range(SITES)]
    raw = [
        site_of(job, f"site {at}", _first(line, sizes.rows), seed) for at, line in enumerate(lines)
    ]
    moments = [moments_of(job, site) for site in raw]
    common = reduce(add, moments).standard
    sites = [scaled(job, site, common) for site in raw]
    near = reach_region(RECIPE.reach)
    federated = _Arm(together(job, sites, sizes.rounds, sizes.kept, seed), common, near)
    everything = alone(job, pooled(sites), sizes.rounds, seed)
    found = []
    for at, (line, site) in enumerate(zip(lines, raw, strict=True)):
        own = moments[at].standard
        local = alone(job, scaled(job, site, own), sizes.rounds, seed)
        arms = {
            "alone": _Arm([local], own, near),
            "alone, no region": _Arm([local], own, _anywhere),
            "federated": federated,
            "pooled": _Arm([everything], common, near),
        }
        found.append(_judged(job, arms, _Asked(line, site, sizes, seed)))
    return found


@dataclass(frozen=True)
class _Asked:
    """A site: all that it records, what it learns from, and how much is asked."""

    line: Line
    site: Site
    sizes: Sizes
    seed: int

    @property
    def values(self) -> Values:
        """All rows, float64 (N, 8)."""
        return np.concatenate([self.line.settings, self.line.conditions], axis=1)

    @property
    def calibration(self) -> NDArray[np.int64]:
        """Numbers of the held-out rows."""
        return self.site.held_out.first.astype(np.int64)


def _judged(job: Job, arms: Mapping[str, _Arm], asked: _Asked) -> Outcome:
    line, rows = asked.line, asked.sizes.rows
    conditions = draw_conditions(asked.sizes.conditions, asked.seed)
    best = optimum(conditions)[1]
    present = line.settings[rows : rows + len(conditions)]
    regret = {"as it is": float((truth(present, conditions) - best).mean())}
    proposed = {"as it is": 0.0}
    hits: list[bool] = []
    for name, arm in arms.items():
        knowledge = _knowledge(job, arm, asked, asked.calibration)
        told = [
            _told(knowledge, np.concatenate(row)) for row in zip(present, conditions, strict=True)
        ]
        energies = truth(np.array([settings for settings, _ in told]), conditions)
        regret[name] = float((energies - best).mean())
        proposed[name] = float(np.mean([after is not None for _, after in told]))
        if name == "federated":
            noise = np.random.default_rng([asked.seed, 1]).normal(0.0, NOISE_KWH_T, len(best))
            hits = [
                after.low <= read <= after.high
                for (_, after), read in zip(told, energies + noise, strict=True)
                if after is not None
            ]
    held = float(np.mean(hits)) if hits else None
    return Outcome(regret, proposed, *_coverage(job, arms["federated"], asked), held)


def _told(knowledge: Knowledge, now: Values) -> tuple[list[float], Interval | None]:
    """The set-points that a site runs afterwards, and what it was promised, if it moved."""
    proposal = recommend(knowledge, RECIPE, now)
    settings = [setting.proposed for setting in proposal.settings]
    return settings, None if proposal.reason else proposal.after


def _knowledge(job: Job, arm: _Arm, asked: _Asked, at: NDArray[np.int64]) -> Knowledge:
    """What an arm knows when these rows of the site calibrate it."""
    surrogate = surrogate_of(job.model, arm.standard, arm.versions)
    bands = bands_of(surrogate, asked.values[at], asked.line.energy[at], RECIPE)
    return Knowledge(surrogate, [*SETTINGS, *CONDITIONS], bands, arm.region)


def _coverage(job: Job, arm: _Arm, asked: _Asked) -> tuple[float, float, float]:
    """Of values at the same time, of later ones, and of changes at the same time."""
    half = _knowledge(job, arm, asked, asked.calibration[::2])
    rest = asked.calibration[1::2]
    errors, scales = _errors(half, asked, rest)
    pairs = np.random.default_rng(asked.seed).permutation(len(rest))
    one, other = pairs[: len(rest) // 2], pairs[len(rest) - len(rest) // 2 :]
    changes = np.abs(errors[one] - errors[other]) / np.hypot(scales[one], scales[other])
    whole = _knowledge(job, arm, asked, asked.calibration)
    later, later_scales = _errors(whole, asked, np.arange(asked.sizes.rows, len(asked.line)))
    return (
        float((np.abs(errors) <= half.bands.value * scales).mean()),
        float((np.abs(later) <= whole.bands.value * later_scales).mean()),
        float((changes <= half.bands.change).mean()),
    )


def _errors(knowledge: Knowledge, asked: _Asked, at: NDArray[np.int64]) -> tuple[Values, Values]:
    """Measured - predicted and scales of rows."""
    predicted, scales = knowledge.surrogate.predict(asked.values[at])
    return asked.line.energy[at] - predicted, scales


def _first(line: Line, rows: int) -> dict[str, Values]:
    return {name: column[:rows] for name, column in line.columns.items()}


def _anywhere(inputs: Values) -> NDArray[np.bool_]:
    return np.ones(len(inputs), np.bool_)


def mean_of(found: Sequence[Outcome], arm: str) -> float:
    """Mean regret over sites and seeds, kWh/t."""
    return float(np.mean([each.regret[arm] for each in found]))
