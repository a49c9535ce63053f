"""Set-points that a surrogate proposes for the simulated line, and their regret.

Proposals are the product's own (`agent.recommend`), one of which may go anywhere within the line's
bounds.  Regret is the true energy at the proposal, or at the present set-points where nothing is
proposed, over that at the best set-points (`shopfloor.line`).

Pure.  Invariant: all who are compared are asked under the same conditions, from the same present
set-points, and calibrated by the same rows, which none of them learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.model import Model
from agent.recommend.proposal import Interval, Knowledge, bands_of, recommend
from agent.recommend.recipe import Recipe, SetPoint
from agent.recommend.region import Region, reach_region
from agent.recommend.situation import surrogate_of
from shopfloor.line import CONDITIONS, LABEL, SETTINGS, optimum, truth
from wire.standards import Standard
from wire.tensors import Params

Values = NDArray[np.float64]
CHANNELS = (*SETTINGS, *CONDITIONS)
RECIPE = Recipe(
    label=LABEL,
    setpoint=tuple(
        SetPoint(channel=name, lowest=low, highest=high) for name, (low, high) in SETTINGS.items()
    ),
)
NEAR = reach_region(RECIPE.reach)


@dataclass(frozen=True, eq=False)
class Learned:
    """What proposals may be made from.

    Attributes:
      versions: weights, those that are served first.
      standard: what inputs are standardised by.
      region: where the model is believed.
    """

    versions: list[Params]
    standard: Standard | None
    region: Region = NEAR


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one site that were not learned from.

    Attributes:
      values: float64 (N, 8), as `CHANNELS`.
      energy: float64 (N,), kWh/t.
    """

    values: Values
    energy: Values


@dataclass(frozen=True, eq=False)
class Asked:
    """What a site asks.

    Attributes:
      present: set-points that its people run, float64 (K, 3), as `SETTINGS`.
      conditions: under which, float64 (K, 5), as `CONDITIONS`.
      best: energy at the best set-points, float64 (K,), kWh/t.
    """

    present: Values
    conditions: Values
    best: Values

    def regret(self, settings: Values) -> float:
        """Mean regret of set-points (K, 3), kWh/t."""
        return float((truth(settings, self.conditions) - self.best).mean())


@dataclass(frozen=True, eq=False)
class Told:
    """What a site is told.

    Attributes:
      settings: that it runs afterwards, float64 (K, 3): the present ones without a proposal.
      promised: of each proposal the energy that it is to have; None without one.
    """

    settings: Values
    promised: list[Interval | None]

    @property
    def share(self) -> float:
        """Of what was asked, what was answered with a proposal."""
        return float(np.mean([each is not None for each in self.promised]))


def asking(present: Values, conditions: Values) -> Asked:
    """Ask under conditions (K, 5) from present set-points (K, 3)."""
    return Asked(present, conditions, optimum(conditions)[1])


def knowing(model: Model, learned: Learned, rows: Rows) -> Knowledge:
    """What is known when these rows calibrate it.

    Raises:
      TooFewRowsError: there are too few for the recipe's coverage.
      UnusableError: the model's bundle has no label.
    """
    surrogate = surrogate_of(model, learned.standard, learned.versions)
    bands = bands_of(surrogate, rows.values, rows.energy, RECIPE)
    return Knowledge(surrogate, CHANNELS, bands, learned.region)


def tell(knowledge: Knowledge, asked: Asked) -> Told:
    """Answer everything that a site asks."""
    settings: list[Sequence[float]] = []
    promised: list[Interval | None] = []
    for row in zip(asked.present, asked.conditions, strict=True):
        proposal = recommend(knowledge, RECIPE, np.concatenate(row))
        settings.append([setting.proposed for setting in proposal.settings])
        promised.append(None if proposal.reason else proposal.after)
    return Told(np.array(settings).reshape(asked.present.shape), promised)
