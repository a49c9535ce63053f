"""What a proposal is made from, wherever it was read: a model, rows that judge it, the present row.

Pure.  Refuses to propose from fewer rows than the intervals of a recipe need.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.model import Model
from agent.recommend.intervals import TooFewRowsError, least_rows
from agent.recommend.proposal import Knowledge, Proposal, Surrogate, bands_of, recommend
from agent.recommend.recipe import Recipe
from agent.recommend.region import Region, near_region, reach_region
from agent.signals.labels import in_unit
from wire.manifest import Manifest
from wire.standards import Standard
from wire.tensors import Params

Values = NDArray[np.float64]
Inputs = NDArray[np.float32]

_FLOOR = 0.05
"""Of the label's deviation: scale of a prediction on which all versions agree."""


class UnusableError(Exception):
    """There is nothing to propose from; the message says what is missing."""


@dataclass(frozen=True)
class Situation:
    """Everything that a proposal rests on.

    Attributes:
      manifest: of the model's bundle.
      surrogate: predicts.
      values: rows that were not learned from, float64 (N, C), finite, in the order of the bundle's
        channels.
      labels: theirs, float64 (N,), finite.
      now: the present row, float64 (C,), finite.
      model: which model it is, in words.
      at: when the present row was recorded, in words.
    """

    manifest: Manifest
    surrogate: Surrogate
    values: Values
    labels: Values
    now: Values
    model: str
    at: str


def propose(situation: Situation, recipe: Recipe) -> Proposal:
    """Propose set-points for the present row.

    Raises:
      UnusableError: there are too few labelled rows for the recipe's coverage.
    """
    found, needed = len(situation.labels), least_rows(recipe.coverage)
    surrogate = situation.surrogate
    try:
        bands = bands_of(surrogate, situation.values, situation.labels, recipe)
    except TooFewRowsError:
        raise UnusableError(
            f"{found} labelled rows were not learned from; intervals of coverage "
            f"{recipe.coverage:g} need {needed}"
        ) from None
    channels = [channel.name for channel in situation.manifest.channels]
    knowledge = Knowledge(surrogate, channels, bands, _region(situation, recipe))
    return recommend(knowledge, recipe, situation.now)


def _region(situation: Situation, recipe: Recipe) -> Region:
    if recipe.region == "federation":
        return reach_region(recipe.reach)
    rows = situation.surrogate.inputs(situation.values)
    return near_region(rows.astype(np.float64), recipe.near)


def surrogate_of(
    model: Model,
    standard: Standard | None,
    versions: list[Params],
    served: Callable[[Inputs], Inputs] | None = None,
) -> Surrogate:
    """A surrogate of a model's versions.

    Args:
      model: a regression of rows.
      standard: what inputs are standardised by; None for the features' constants alone.
      versions: weights; those that are served first.
      served: inputs as the first version takes them, where it has a standard of its own.

    Raises:
      UnusableError: the bundle's label is none of a regression.
    """
    label = model.manifest.label
    if label is None:
        raise UnusableError(f"bundle {model.manifest.name} has no label to predict")

    def member(params: Params, taken: Callable[[Inputs], Inputs] | None) -> Callable[..., Values]:
        def predict(inputs: Inputs) -> Values:
            given = inputs if taken is None else taken(inputs)
            return in_unit(label, model.outputs(params, given))

        return predict

    first, *others = versions
    return Surrogate(
        inputs=lambda values: model.inputs(values, standard),
        members=(member(first, served), *(member(each, None) for each in others)),
        floor=_FLOOR * label.std,
    )
