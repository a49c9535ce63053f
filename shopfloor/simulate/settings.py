"""How a simulated federation aggregates: the coordinator's own tables, from its own file.

Tables of `coordinator.toml` that are about files, brokers, judging and pages have nothing to say
here: they may be there and are not looked at.  A table or key that the coordinator does not know is
refused.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from coordinator.aggregation import Rules
from coordinator.config import CoordinatorSettings, PolicyTable
from coordinator.robust import RobustSettings
from coordinator.robust import problem_with as problem_with_robust
from coordinator.selection import SelectionSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategyName, StrategySettings, make_strategy
from coordinator.strategies.own import StrategyError
from shopfloor.simulate.network import Recipe
from wire.settings import Settings, read_settings, settings_error
from wire.sparse import problem_with as problem_with_sparse

_LEARNING_RATE = 0.1
"""Of the simulated task, unless the policy trains by "sgd" and so gives one for it."""


class Tables(Settings, frozen=True, kw_only=True):
    """The five tables that a simulation takes from a coordinator's file.

    The defaults differ from the coordinator's where they are about the task: clip_norm and scale
    fit the simulated network (its deltas have a norm of 1 to 1.4, all but one number in a
    thousand within 0.13), and agents are granted slots, as in a large federation.
    """

    strategy: StrategySettings = StrategySettings()
    server_optimizer: ServerOptimizerSettings = ServerOptimizerSettings()
    robust: RobustSettings = RobustSettings()
    selection: SelectionSettings = SelectionSettings()
    policy: PolicyTable = PolicyTable(
        epochs=2,
        batch_size=16,
        optimizer="sgd",
        learning_rate=_LEARNING_RATE,
        clip_norm=2.0,
        scale=0.0025,
        admission="granted",
        offline_training=False,
    )

    def rules(self) -> Rules:
        """What the coordinator would make of these tables; any number of sites may make a sum."""
        return Rules(
            strategy=make_strategy(self.strategy, self.policy),
            robust=self.robust,
            optimizer=make_server_optimizer(self.server_optimizer),
            clip_norm=self.policy.clip_norm,
        )

    def recipe(self) -> Recipe:
        """How the simulated agents train."""
        policy = self.policy
        rate = policy.learning_rate if policy.optimizer == "sgd" else _LEARNING_RATE
        return Recipe(policy.epochs, policy.batch_size, rate)


_TAKEN = tuple(field.name for field in msgspec.structs.fields(Tables))
_File = msgspec.defstruct(
    "_File",
    [
        (field.name, field.type if field.name in _TAKEN else object, None)
        for field in msgspec.structs.fields(CoordinatorSettings)
    ],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
)


def read_tables(path: Path, strategy: StrategyName | None = None) -> Tables:
    """Take the five tables out of a coordinator's file; a table that is missing has its defaults.

    Args:
      path: the file; paths and secrets that it names are not looked at.
      strategy: instead of the file's.

    Raises:
      SettingsError: names file, line and key of what is wrong.
    """
    file = read_settings(path, _File)
    found = {name: getattr(file, name) for name in _TAKEN if getattr(file, name) is not None}
    tables = Tables(**found)
    if strategy is not None:
        chosen = msgspec.structs.replace(tables.strategy, name=strategy)
        tables = msgspec.structs.replace(tables, strategy=chosen)
    for key, reason in contradictions(tables):
        raise settings_error(path, key, reason)
    return tables


def contradictions(tables: Tables) -> Iterator[tuple[str, str]]:
    """What the tables say against each other: key and words."""
    try:
        tables.rules()
    except StrategyError as error:
        yield "strategy.function", str(error)
    problem = problem_with_robust(tables.robust, tables.strategy.members, 1)
    if problem:
        yield "robust.buckets", problem
    problem = problem_with_sparse(tables.policy)
    if problem:
        yield "policy.kept_share", problem
    is_calibrated = tables.strategy.name == "calibrated"
    if is_calibrated != (tables.policy.calibration > 0):
        yield "policy.calibration", 'calibration above 0 and strategy "calibrated" go together'
    if is_calibrated and tables.policy.offline_training:
        yield "policy.offline_training", "an agent under calibration waits for outcomes: say false"
    robust = tables.robust
    if is_calibrated and (robust.clip, robust.combine) != ("none", "mean"):
        key = "clip" if robust.clip != "none" else "combine"
        yield f"robust.{key}", "under calibration agents remember what they sent, unclipped"
