"""The `[strategy]` table, and the strategy that it names."""

from typing import Annotated, Literal

import msgspec

from coordinator.strategies.calibrated import calibrated
from coordinator.strategies.fedasync import FedAsyncSettings, fedasync
from coordinator.strategies.fedavg import fedavg
from coordinator.strategies.fedbuff import fedbuff
from coordinator.strategies.own import own
from coordinator.strategies.strategy import Strategy
from wire.messages import Policy
from wire.settings import Settings

StrategyName = Literal["fedbuff", "fedavg", "fedasync", "calibrated", "own"]


class StrategySettings(Settings, frozen=True, kw_only=True):
    """The `[strategy]` table.

    Attributes:
      name: `fedbuff`: a version after `goal` updates; `fedavg`: synchronous rounds; `fedasync`: a
        version for each update; `calibrated`: fedbuff in which absent agents count with what they
        sent before; `own`: fedbuff with a rule of yours.
      goal: updates that make a version (fedbuff, calibrated, own).
      clients: updates that make a round (fedavg).
      over_selection: share of agents more than `clients` that a round is granted to (fedavg).
      deadline_s: a buffer or round that waits this long becomes a version with what it has.
      function: `module:name` of the operator's own rule (own).
    """

    name: StrategyName = "fedbuff"
    goal: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    clients: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 3
    over_selection: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.3
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 600.0
    function: str = ""
    fedasync: FedAsyncSettings = FedAsyncSettings()

    @property
    def members(self) -> int:
        """Updates that a full buffer has."""
        return {"fedavg": self.clients, "fedasync": 1}.get(self.name, self.goal)


def make_strategy(settings: StrategySettings, policy: Policy) -> Strategy:
    """Return the strategy that the settings name.

    Raises:
      StrategyError: the operator's own function can not be used.
    """
    match settings.name:
        case "fedavg":
            return fedavg(settings.clients, settings.deadline_s)
        case "fedasync":
            return fedasync(settings.fedasync, policy)
        case "calibrated":
            return calibrated(settings.goal, settings.deadline_s, policy)
        case "own":
            return own(settings.function, settings.goal, settings.deadline_s, policy)
        case _:
            return fedbuff(settings.goal, settings.deadline_s, policy)
