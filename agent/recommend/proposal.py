"""From a surrogate, the present row and a recipe to a proposal, or the reason why there is none.

Pure.  Refuses to propose what is outside bounds, steps or region, and what is an improvement only
if the model errs in the right direction.  Nothing here knows of a machine, let alone writes to one.

The first member of a surrogate is what the site serves, and its prediction counts.  The others are
further versions at hand: how far they are from the first says where the data do not decide, which
widens the intervals and counts as a disadvantage in the search.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.recommend.intervals import Bands, calibrate
from agent.recommend.recipe import Recipe
from agent.recommend.region import Region
from agent.recommend.search import search

Values = NDArray[np.float64]
Inputs = NDArray[np.float32]


@dataclass(frozen=True)
class Surrogate:
    """A model that predicts the label, and other versions of it.

    Attributes:
      inputs: from channel values, float64 (N, C), to standardized inputs, float32 (N, F).
      members: from such inputs to the label in its unit, float64 (N,); the served model first.
      floor: scale of a prediction on which all members agree, in the label's unit, positive; fixed
        before any residual is seen.
    """

    inputs: Callable[[Values], Inputs]
    members: tuple[Callable[[Inputs], Values], ...]
    floor: float

    def predict(self, values: Values) -> tuple[Values, Values]:
        """Predict rows of channel values (N, C).

        Returns:
          Predictions and scales in the label's unit, float64 (N,): `floor` more than the root of
          the mean squared distance of the other members from the first.
        """
        inputs = self.inputs(values)
        first, *others = (member(inputs) for member in self.members)
        if not others:
            return first, np.full(len(first), self.floor)
        distances = np.stack([other - first for other in others])
        return first, self.floor + np.sqrt((distances**2).mean(axis=0))


@dataclass(frozen=True)
class Setting:
    """One set-point: where it is, what is proposed, and where the proposal had to lie."""

    channel: str
    now: float
    proposed: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Interval:
    """A prediction with the interval of the recipe's coverage, in the label's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Proposal:
    """What is proposed.

    Attributes:
      settings: in the recipe's order; as they are where there is no proposal.
      reason: why nothing is proposed; empty where something is.
      now: the label that is predicted for the row as it is; None where it is not known.
      after: for the proposal; also where its effect was too uncertain to propose it.
      effect: the change of the label, or of its distance to the target; below 0 it falls.
      rows: that the intervals are from.
      coverage: of the intervals.
      members: versions at hand.
    """

    settings: tuple[Setting, ...]
    reason: str
    now: Interval | None
    after: Interval | None
    effect: Interval | None
    rows: int
    coverage: float
    members: int


@dataclass(frozen=True)
class Knowledge:
    """What a proposal rests on.

    Attributes:
      surrogate: predicts.
      channels: names of the columns of rows, in order.
      bands: from rows that were not learned from.
      region: of the surrogate's inputs.
    """

    surrogate: Surrogate
    channels: Sequence[str]
    bands: Bands
    region: Region


def bands_of(surrogate: Surrogate, values: Values, labels: Values, recipe: Recipe) -> Bands:
    """Intervals from rows (N, C) with labels (N,) that were not learned from.

    Raises:
      TooFewRowsError: there are too few for the recipe's coverage.
    """
    predicted, scales = surrogate.predict(values)
    return calibrate(
        labels - predicted,
        scales,
        recipe.coverage,
        recipe.seed,
        to_target=recipe.objective == "target",
    )


def recommend(knowledge: Knowledge, recipe: Recipe, now: Values) -> Proposal:
    """Propose set-points for the conditions of a row.

    Args:
      knowledge: what is known.
      recipe: that fits its channels (`agent.recommend.recipe.check_fits`).
      now: the present row, float64 (C,), finite.
    """
    columns = [knowledge.channels.index(each.channel) for each in recipe.setpoint]
    low, high = _box(recipe, now[columns])
    if (low > high).any():
        at = int(np.flatnonzero(low > high)[0])
        name = recipe.setpoint[at].channel
        reason = f"{name} is farther from its bounds than one step may go"
        return _nothing(knowledge, recipe, now[columns], reason)

    def cost(points: Values) -> Values:
        rows = _with(now, columns, points)
        costs = np.full(len(points), np.inf)
        inside = knowledge.region(knowledge.surrogate.inputs(rows).astype(np.float64))
        if inside.any():
            value, scale = knowledge.surrogate.predict(rows[inside])
            disagreement = scale - knowledge.surrogate.floor
            costs[inside] = _worth(recipe, value) + recipe.caution * disagreement
        return costs

    found = search(cost, low, high, recipe.seed)
    if found is None:
        reason = "no set-points within bounds and steps are close enough to what was learned from"
        return _nothing(knowledge, recipe, now[columns], reason)
    return _judged(knowledge, recipe, now, columns, found)


def _judged(
    knowledge: Knowledge, recipe: Recipe, now: Values, columns: list[int], found: Values
) -> Proposal:
    """The proposal, if its effect is certain enough."""
    rows = np.concatenate([now[np.newaxis], _with(now, columns, found[np.newaxis])])
    values, scales = knowledge.surrogate.predict(rows)
    bands = knowledge.bands
    before, after = (
        Interval(float(value), float(value - half), float(value + half))
        for value, half in zip(values, bands.value * scales, strict=True)
    )
    change = float(values[1] - values[0])
    if recipe.target is not None:
        change = abs(float(values[1]) - recipe.target) - abs(float(values[0]) - recipe.target)
    half = bands.change * float(np.hypot(*scales))
    effect = Interval(change, change - half, change + half)
    is_certain = effect.low > 0 if recipe.objective == "maximize" else effect.high < 0
    reason = "" if is_certain else "the best change that was found is within its uncertainty"
    proposed = found if is_certain else now[columns]
    return Proposal(
        settings=_settings(recipe, now[columns], proposed),
        reason=reason,
        now=before,
        after=after,
        effect=effect,
        rows=bands.rows,
        coverage=bands.coverage,
        members=len(knowledge.surrogate.members),
    )


def _nothing(knowledge: Knowledge, recipe: Recipe, now: Values, reason: str) -> Proposal:
    return Proposal(
        settings=_settings(recipe, now, now),
        reason=reason,
        now=None,
        after=None,
        effect=None,
        rows=knowledge.bands.rows,
        coverage=knowledge.bands.coverage,
        members=len(knowledge.surrogate.members),
    )


def _settings(recipe: Recipe, now: Values, proposed: Values) -> tuple[Setting, ...]:
    return tuple(
        Setting(each.channel, float(one), float(other), each.lowest, each.highest)
        for each, one, other in zip(recipe.setpoint, now, proposed, strict=True)
    )


def _box(recipe: Recipe, now: Values) -> tuple[Values, Values]:
    """Bounds and steps together, float64 (D,) each; low above high where they share nothing."""
    low = np.array([each.lowest for each in recipe.setpoint])
    high = np.array([each.highest for each in recipe.setpoint])
    steps = np.array([each.max_step or np.inf for each in recipe.setpoint])
    return np.maximum(low, now - steps), np.minimum(high, now + steps)


def _with(now: Values, columns: list[int], points: Values) -> Values:
    """The present row with other set-points: float64 (N, C)."""
    rows = np.repeat(now[np.newaxis], len(points), axis=0)
    rows[:, columns] = points
    return rows


def _worth(recipe: Recipe, value: Values) -> Values:
    """What is to be small."""
    if recipe.target is not None:
        return np.abs(value - recipe.target)
    return -value if recipe.objective == "maximize" else value
