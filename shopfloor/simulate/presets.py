"""Settings of each strategy that do well on the simulated task, for who brings none.

Found by `benchmarks/asynchrony.py` and by hand, on seeds that it does not report, for 500 agents
whose links are down half of the time and whose speed goes with their data.  So a comparison of
presets is one of tuned strategies, there; elsewhere it says less.
"""

import msgspec

from coordinator.selection import SelectionSettings
from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategies.choice import StrategyName, StrategySettings
from coordinator.strategies.fedasync import FedAsyncSettings
from shopfloor.simulate.settings import Tables

PRESETS: tuple[StrategyName, ...] = ("fedbuff", "fedavg", "fedasync", "calibrated")
"""Strategies that have one, the default first."""
BY_LOT = SelectionSettings(random_share=1.0, per_agent_cap=1_000_000)
"""Everybody who waits has the same chance."""

_STEP = ServerOptimizerSettings(name="momentum", learning_rate=0.2, momentum=0.8)


def preset(strategy: StrategyName) -> Tables:
    """The five tables for one strategy.

    Raises:
      ValueError: one's own strategy is not known here.
    """
    match strategy:
        case "fedbuff":
            return _tables(StrategySettings(name=strategy, goal=10), _STEP)
        case "fedavg":
            settings = StrategySettings(
                name=strategy, clients=100, over_selection=0.3, deadline_s=600.0
            )
            return _tables(settings, _STEP, lease_s=settings.deadline_s)
        case "fedasync":
            mixing = FedAsyncSettings(mixing=0.05)
            settings = StrategySettings(name=strategy, fedasync=mixing)
            return _tables(settings, ServerOptimizerSettings())
        case "calibrated":
            settings = StrategySettings(name=strategy, goal=10)
            tables = _tables(settings, ServerOptimizerSettings(learning_rate=0.5))
            policy = msgspec.structs.replace(tables.policy, calibration=0.5)
            return msgspec.structs.replace(tables, policy=policy)
        case _:
            raise ValueError(f"no preset for {strategy!r}; give the coordinator's file as --config")


def _tables(
    strategy: StrategySettings, optimizer: ServerOptimizerSettings, lease_s: float = 3600.0
) -> Tables:
    selection = msgspec.structs.replace(BY_LOT, lease_s=lease_s)
    return Tables(strategy=strategy, server_optimizer=optimizer, selection=selection)
