"""Strategies: which updates enter with which weight, and when a version is made."""

import msgspec
import pytest

from coordinator.aggregate import Buffer, empty
from coordinator.strategy import (
    Rejected,
    StrategySettings,
    make_strategy,
    staleness_coefficient,
)
from tests.coordinator.small_federation import Site
from wire.chunks import describe
from wire.messages import Policy, UpdateHeader, VersionRef

POLICY = Policy(staleness_cap=4, staleness_floor=2)
BASE = VersionRef(version=0, content=describe(b"weights"))


def header(base_version: int, agent: str = "press-1", weight: int = 100) -> UpdateHeader:
    made = Site(agent).update(BASE, weight=weight).header
    return msgspec.structs.replace(made, base_version=base_version)


def buffer_of(*agents: str) -> Buffer:
    return Buffer(empty(1).total, len(agents), agents)


def test_fedbuff_admits_an_update_of_any_age() -> None:
    strategy = make_strategy(StrategySettings(name="fedbuff"), POLICY)
    for base in (0, 5, 99, 100):
        admitted = strategy.admit(header(base), empty(1), 100)
        assert isinstance(admitted, int)
        assert admitted >= 1


@pytest.mark.parametrize(
    ("staleness", "coefficient"), [(0, 100), (4, 100), (5, 80), (8, 50), (200, 2), (10_000, 2)]
)
def test_staleness_damps_beyond_the_cap_down_to_the_floor(staleness: int, coefficient: int) -> None:
    assert staleness_coefficient(100, staleness, POLICY) == coefficient


def test_the_floor_never_lifts_a_stale_update_above_a_fresh_one() -> None:
    assert staleness_coefficient(1, 0, POLICY) == 1
    assert staleness_coefficient(1, 50, POLICY) == 1


def test_a_cap_of_zero_damps_from_the_second_version_on() -> None:
    policy = Policy(staleness_cap=0)
    assert [staleness_coefficient(90, age, policy) for age in (0, 1, 2, 3)] == [90, 90, 45, 30]


def test_fedbuff_makes_a_version_at_its_goal_or_at_its_deadline() -> None:
    settings = StrategySettings(name="fedbuff", goal=3, deadline_s=60)
    strategy = make_strategy(settings, POLICY)
    assert not strategy.is_ready(buffer_of("a", "a"), 59.9)
    assert strategy.is_ready(buffer_of("a", "a", "b"), 0.0)
    assert strategy.is_ready(buffer_of("a"), 60.0)


def test_fedavg_ends_a_round_with_all_clients_or_at_its_deadline() -> None:
    settings = StrategySettings(name="fedavg", clients=2, deadline_s=60)
    strategy = make_strategy(settings, POLICY)
    assert not strategy.is_ready(buffer_of("a"), 59.9)
    assert strategy.is_ready(buffer_of("a", "b"), 0.0)
    assert strategy.is_ready(buffer_of("a"), 60.0)


def test_fedavg_refuses_a_late_update_and_a_second_one() -> None:
    strategy = make_strategy(StrategySettings(name="fedavg"), POLICY)
    late = strategy.admit(header(6), empty(1), 7)
    second = strategy.admit(header(7), buffer_of("press-1"), 7)
    assert isinstance(late, Rejected)
    assert late.reason == "late: round 6 is closed, now in round 7"
    assert isinstance(second, Rejected)
    assert second.reason == "second update of press-1 in round 7"
    assert strategy.admit(header(7), buffer_of("press-2"), 7) == 100
