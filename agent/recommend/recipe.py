"""The recipe of proposals: which channels may be set, how far, and what is better.

One strict TOML file (`configs/recommend.toml` is annotated).  Refuses bounds that are none, a
set-point that is named twice, and what does not fit the bundle's manifest: a label of another name,
an unknown channel, a channel of arrays, a model of windows or without a number as its answer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.recommend.search import MAX_DIMENSIONS
from wire.errors import SettingsError
from wire.manifest import REGRESSION, Manifest
from wire.messages import Finite, Name, NonNegative
from wire.settings import Settings, read_settings, settings_error

Objective = Literal["minimize", "maximize", "target"]
RegionName = Literal["federation", "site"]


class SetPoint(Settings, frozen=True, kw_only=True):
    """`[[setpoint]]`: a channel that people may change.

    Attributes:
      channel: the federation's name of it.
      lowest, highest: absolute bounds, in its unit.
      max_step: farthest from the present value, in its unit; 0: the bounds alone.
    """

    channel: Name
    lowest: Finite
    highest: Finite
    max_step: NonNegative = 0.0


class Recipe(Settings, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
      label: the bundle's label, so that a recipe is not used with another model by mistake.
      objective: what is better; `target`: as close to the number `target` as possible.
      target: in the label's unit.
      coverage: share of rows whose true value the intervals shall hold.
      region: what proposals may not leave: `federation`: `reach` deviations of the standardized
        inputs; `site`: the neighborhood of this site's own rows.
      reach: in standard deviations of each input.
      near: share of this site's rows that are as close to others as proposals have to be.
      caution: deviations of the versions at hand that count as a disadvantage.
      seed: of the search.
      setpoint: what may be proposed.
    """

    label: Name
    setpoint: Annotated[tuple[SetPoint, ...], msgspec.Meta(min_length=1, max_length=MAX_DIMENSIONS)]
    objective: Objective = "minimize"
    target: Finite | None = None
    coverage: Annotated[float, msgspec.Meta(ge=0.5, le=0.99)] = 0.9
    region: RegionName = "federation"
    reach: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 2.0
    near: Annotated[float, msgspec.Meta(ge=0.5, le=1.0)] = 0.99
    caution: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    recipe = read_settings(path, Recipe)
    for key, reason in problems(recipe):
        raise settings_error(path, key, reason)
    return recipe


def problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for everything that is wrong with a recipe of the right types."""
    if (recipe.objective == "target") != (recipe.target is not None):
        yield "target", 'goes together with objective = "target"'
    seen: set[str] = set()
    for at, each in enumerate(recipe.setpoint):
        key = f"setpoint[{at}]"
        if each.lowest >= each.highest:
            yield f"{key}.highest", f"{each.highest:g} is not above lowest, {each.lowest:g}"
        if each.channel in seen:
            yield f"{key}.channel", f"{each.channel!r} is used twice"
        seen.add(each.channel)


def check_fits(path: Path, recipe: Recipe, manifest: Manifest) -> None:
    """Check that a recipe is for this bundle.

    Raises:
      SettingsError: names file, line and key.
    """
    for key, reason in _misfits(recipe, manifest):
        raise settings_error(path, key, f"bundle {manifest.name}: {reason}")
    if manifest.window is not None or manifest.loss not in REGRESSION:
        reason = f"bundle {manifest.name}: proposals need a model that predicts a number from rows"
        raise SettingsError(str(path), None, None, f"{reason}, without a [window]")


def _misfits(recipe: Recipe, manifest: Manifest) -> Iterator[tuple[str, str]]:
    label = manifest.label.channel if manifest.label is not None else ""
    if recipe.label != label:
        yield "label", f"its label is {label!r}, not {recipe.label!r}"
    shapes = {channel.name: channel.shape for channel in manifest.channels}
    for at, each in enumerate(recipe.setpoint):
        if each.channel not in shapes:
            reason = f"has no channel {each.channel!r} (it has: {', '.join(shapes)})"
            yield f"setpoint[{at}].channel", reason
    shaped = [name for name, shape in shapes.items() if shape]
    if shaped:
        yield "setpoint", f"channel {shaped[0]!r} holds arrays, proposals need plain numbers"
    if recipe.region == "federation" and manifest.standardise == "local":
        yield "region", 'its inputs are standardized by each site: give region = "site"'
