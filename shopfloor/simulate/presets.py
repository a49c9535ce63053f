"""Settings of each strategy that do well on the simulated task, for who brings none.

Found by `benchmarks/asynchrony.py` and by hand, on seeds that it does not report, for 500 agents
whose links are down half of the time and whose speed goes with their data.  So a comparison of
presets is one of tuned strategies, there; elsewhere it says less.
"""

import msgspec

from coordinator.selection import SelectionSettings
from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategies.choice import StrategyName, StrategySettings
from shopfloor.simulate.settings import Tables

PRESETS: tuple[StrategyName, ...] = ("fedbuff", "fedavg", "fedasync", "calibrated")
"""Strategies that have one, the default first."""
BY_LOT = SelectionSettings(random_share=1.0, per_agent_cap=1_000_000)
"""Everybody who waits has the same chance."""

_SLOTS = 50
_STALENESS_CAP = 1000
"""With versions of two updates, an agent that was away for an hour is hundreds behind."""
_CALIBRATION = 0.3


def preset(strategy: StrategyName) -> Tables:
    """The five tables for one strategy.

    Raises:
      ValueError: one's own strategy is not known here.
    """
    match strategy:
        case "fedbuff":
            return _tables(StrategySettings(name=strategy, goal=2), _sgd(0.65))
        case "calibrated":
            tables = _tables(StrategySettings(name=strategy, goal=2), _sgd(0.5))
            policy = msgspec.structs.replace(tables.policy, calibration=_CALIBRATION)
            return msgspec.structs.replace(tables, policy=policy)
        case "fedasync":
            return _tables(StrategySettings(name=strategy), _sgd(1.0))
        case "fedavg":
            rounds = StrategySettings(
                name=strategy, clients=20, over_selection=1.0, deadline_s=120.0
            )
            step = ServerOptimizerSettings(name="momentum", learning_rate=1.2, momentum=0.8)
            # A lease ends with its round: nobody is asked to step in.
            return _tables(rounds, step, lease_s=rounds.deadline_s)
        case _:
            raise ValueError(f"no preset for {strategy!r}; give the coordinator's file as --config")


def _sgd(learning_rate: float) -> ServerOptimizerSettings:
    return ServerOptimizerSettings(learning_rate=learning_rate)


def _tables(
    strategy: StrategySettings, optimizer: ServerOptimizerSettings, lease_s: float = 3600.0
) -> Tables:
    selection = msgspec.structs.replace(BY_LOT, concurrency=_SLOTS, lease_s=lease_s)
    policy = msgspec.structs.replace(Tables().policy, staleness_cap=_STALENESS_CAP)
    return Tables(strategy=strategy, server_optimizer=optimizer, selection=selection, policy=policy)
