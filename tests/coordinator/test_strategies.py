"""Strategies: who enters with which weight, when a version is made, and the pseudo-gradient.

All numbers are by hand or in plain Python; where floats are powers of two they are exact.
"""

import math
import sys
import types
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.aggregate import MAX_WEIGHT_SUM, Buffer, Member, empty
from coordinator.strategies.choice import StrategyName, StrategySettings, make_strategy
from coordinator.strategies.fedasync import FedAsyncSettings, staleness_function
from coordinator.strategies.own import StrategyError
from coordinator.strategies.strategy import Offer, Rejected, Step, Strategy, stale_weight
from wire.messages import Policy

POLICY = Policy(staleness_cap=4, staleness_floor=2)
NOTHING = np.zeros((0, 2))


def offer(base_version: int, agent: str = "press-1", weight: int = 100) -> Offer:
    return Offer(agent, "L", weight, base_version)


def member(agent: str, weight: int = 1, base_version: int = 0) -> Member:
    return Member(
        agent=agent, site=agent, base_version=base_version, weight=weight, coefficient=weight
    )


def buffer_of(*agents: str) -> Buffer:
    return Buffer(empty(1).summed, tuple(member(agent) for agent in agents), len(agents))


def chosen(name: StrategyName, policy: Policy = POLICY, **settings: object) -> Strategy:
    return make_strategy(StrategySettings(name=name, **settings), policy)  # type: ignore[arg-type]


# Admission


def test_fedbuff_admits_an_update_of_any_age() -> None:
    for base, weight in ((0, 4), (92, 50), (95, 80), (96, 100), (100, 100)):
        assert chosen("fedbuff").admit(offer(base), empty(1), 100) == weight


@pytest.mark.parametrize(
    ("staleness", "coefficient"), [(0, 100), (4, 100), (5, 80), (8, 50), (200, 2), (10_000, 2)]
)
def test_staleness_damps_beyond_the_cap_down_to_the_floor(staleness: int, coefficient: int) -> None:
    assert stale_weight(100, staleness, POLICY) == coefficient


def test_the_floor_never_lifts_a_stale_update_above_a_fresh_one() -> None:
    assert stale_weight(1, 0, POLICY) == 1
    assert stale_weight(1, 50, POLICY) == 1


def test_a_cap_of_zero_damps_from_the_second_version_on() -> None:
    policy = Policy(staleness_cap=0)
    assert [stale_weight(90, age, policy) for age in (0, 1, 2, 3)] == [90, 90, 45, 30]


@given(st.integers(1, 1 << 20), st.integers(0, 10_000), st.integers(0, 100), st.integers(1, 16))
def test_a_stale_weight_is_positive_and_never_grows_with_age(
    weight: int, age: int, cap: int, floor: int
) -> None:
    policy = Policy(staleness_cap=cap, staleness_floor=floor)
    older = stale_weight(weight, age + 1, policy)
    assert 1 <= older <= stale_weight(weight, age, policy) <= weight


def test_fedavg_refuses_a_late_update_and_a_second_one() -> None:
    strategy = chosen("fedavg")
    late = strategy.admit(offer(6), empty(1), 7)
    second = strategy.admit(offer(7), buffer_of("press-1"), 7)
    assert late == Rejected("late: round 6 is closed, now in round 7")
    assert second == Rejected("second update of press-1 in round 7")
    assert strategy.admit(offer(7), buffer_of("press-2"), 7) == 100


@pytest.mark.parametrize("name", ["fedasync", "calibrated"])
def test_what_treats_staleness_in_its_step_admits_in_full(name: StrategyName) -> None:
    assert chosen(name).admit(offer(0), empty(1), 1000) == 100


# Readiness


@pytest.mark.parametrize("name", ["fedbuff", "calibrated"])
def test_a_buffer_becomes_a_version_at_its_goal_or_at_its_deadline(name: StrategyName) -> None:
    strategy = chosen(name, goal=3, deadline_s=60)
    assert not strategy.is_ready(buffer_of("a", "a"), 59.9)
    assert strategy.is_ready(buffer_of("a", "a", "b"), 0.0)
    assert strategy.is_ready(buffer_of("a"), 60.0)


def test_fedavg_ends_a_round_with_all_clients_or_at_its_deadline() -> None:
    strategy = chosen("fedavg", clients=2, deadline_s=60)
    assert not strategy.is_ready(buffer_of("a"), 59.9)
    assert strategy.is_ready(buffer_of("a", "b"), 0.0)
    assert strategy.is_ready(buffer_of("a"), 60.0)


def test_fedasync_makes_a_version_of_each_update() -> None:
    strategy = chosen("fedasync")
    assert not strategy.is_ready(empty(1), 1e9)
    assert strategy.is_ready(buffer_of("a"), 0.0)


@pytest.mark.parametrize(
    ("name", "members"), [("fedbuff", 7), ("calibrated", 7), ("own", 7), ("fedavg", 4)]
)
def test_the_settings_know_how_many_updates_fill_a_buffer(name: StrategyName, members: int) -> None:
    assert StrategySettings(name=name, goal=7, clients=4).members == members


def test_one_update_fills_the_buffer_of_fedasync() -> None:
    assert StrategySettings(name="fedasync", goal=7, clients=4).members == 1


# FedAvg and FedBuff: the mean delta is the step


@pytest.mark.parametrize("name", ["fedbuff", "fedavg"])
def test_the_mean_delta_is_the_pseudo_gradient(name: StrategyName) -> None:
    strategy = chosen(name)
    mean = np.array([0.25, -3.0])
    params = np.zeros(2, np.float32)
    gradient, memory = strategy.blend(Step(mean, (member("a"),), 0, params, None, NOTHING, 1))
    assert gradient.tobytes() == mean.tobytes()
    assert (memory.shape, strategy.memory, strategy.kept_bases) == ((0, 2), 0, 0)


# FedAsync


@pytest.mark.parametrize(
    ("staleness", "by_age"),
    [
        ("constant", {0: 1.0, 3: 1.0, 99: 1.0}),
        ("polynomial", {0: 1.0, 3: 0.5, 15: 0.25, 99: 0.1}),
        ("hinge", {0: 1.0, 4: 1.0, 5: 1 / 11, 6: 1 / 21, 14: 1 / 101}),
    ],
)
def test_staleness_functions_are_those_of_the_paper(
    staleness: str, by_age: dict[int, float]
) -> None:
    # arXiv:1903.03934, section 5.2, with the paper's exponent 0.5, slope 10 and bend 4.
    s = staleness_function(FedAsyncSettings(staleness=staleness))  # type: ignore[arg-type]
    assert {age: s(age) for age in by_age} == by_age


def fedasync_params(age: int, base: list[float] | None, **settings: object) -> list[float]:
    """The next weights of FedAsync from weights (4, -8), with a delta of (1, 2)."""
    table = FedAsyncSettings(**settings)  # type: ignore[arg-type]
    strategy = make_strategy(StrategySettings(name="fedasync", fedasync=table), POLICY)
    params = np.array([4.0, -8.0], np.float32)
    kept = None if base is None else np.array(base, np.float32)
    members = (member("a", 50, base_version=30 - age),)
    step = Step(np.array([1.0, 2.0]), members, 30, params, kept, NOTHING, 50)
    gradient, _ = strategy.blend(step)
    return [float(value) for value in params + gradient]


def test_fedasync_mixes_the_clients_model_into_the_global_one() -> None:
    # base (2, 0) + delta (1, 2) = client's model (3, 2); a = 1/2 * (1 + 3)**-1/2 = 1/4.
    mixed = fedasync_params(3, [2.0, 0.0], mixing=0.5)
    assert mixed == [0.75 * 4.0 + 0.25 * 3.0, 0.75 * -8.0 + 0.25 * 2.0]


def test_fedasync_at_mixing_one_and_a_fresh_update_takes_the_clients_model() -> None:
    assert fedasync_params(0, [4.0, -8.0], mixing=1.0) == [5.0, -6.0]


def test_fedasync_adds_the_delta_alone_when_the_base_is_gone() -> None:
    assert fedasync_params(3, None, mixing=0.5, staleness="constant") == [4.5, -7.0]


def test_fedasync_keeps_as_many_bases_as_the_staleness_cap() -> None:
    assert chosen("fedasync").kept_bases == POLICY.staleness_cap


# Calibrated


@dataclass
class Cached:
    """CA2FL as the paper has it: the server remembers the last delta of each client.

    v = mean of all h + weighted mean of (delta - h) over the buffer;  h <- delta of each member.
    """

    weights: dict[str, int]
    remembered: dict[str, list[Fraction]] = field(default_factory=dict)

    def step(self, buffer: dict[str, list[int]]) -> list[Fraction]:
        """The pseudo-gradient for these members' deltas."""
        known = set(self.remembered) | set(buffer)
        everyone = sum(self.weights[agent] for agent in known)
        inside = sum(self.weights[agent] for agent in buffer)
        gradient = []
        for at in range(2):
            mean = Fraction(0)
            for agent in self.remembered:
                mean += self.weights[agent] * self.remembered[agent][at] / everyone
            for agent, delta in buffer.items():
                before = self.remembered.get(agent, [Fraction(0)] * 2)[at]
                mean += self.weights[agent] * (delta[at] - before) / inside
            gradient.append(mean)
        for agent, delta in buffer.items():
            self.remembered[agent] = [Fraction(value) for value in delta]
        return gradient


SEQUENCE = [
    {"a": [8, -4], "b": [2, 6]},
    {"c": [-6, 2], "a": [4, 4]},
    {"b": [0, -2], "c": [10, 12]},
    {"a": [-8, 8], "b": [16, 2]},
    {"d": [6, 6], "c": [2, -2]},
    {"d": [-4, 0], "a": [12, 8]},
]


@dataclass
class Agents:
    """Our half and the agents': the server's one vector, and what each agent remembers."""

    weights: dict[str, int]
    beta: float
    memory: NDArray[np.float64] = field(default_factory=lambda: np.zeros((1, 2)))
    remembered: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def step(self, buffer: dict[str, list[int]]) -> NDArray[np.float64]:
        """The strategy's pseudo-gradient for these members' deltas."""
        strategy = chosen("calibrated", Policy(calibration=self.beta))
        sent = {
            agent: np.array(delta, np.float64) - self.remembered.setdefault(agent, np.zeros(2))
            for agent, delta in buffer.items()
        }
        inside = sum(self.weights[agent] for agent in buffer)
        mean = sum((self.weights[agent] * sent[agent] for agent in sent), np.zeros(2)) / inside
        population = sum(self.weights[agent] for agent in self.remembered)
        members = tuple(member(agent, self.weights[agent]) for agent in buffer)
        params = np.zeros(2, np.float32)
        gradient, self.memory = strategy.blend(
            Step(mean, members, 0, params, None, self.memory, population)
        )
        for agent, delta in sent.items():
            self.remembered[agent] = self.remembered[agent] + self.beta * delta
        return gradient


@pytest.mark.parametrize(
    "weights", [dict.fromkeys("abcd", 10), {"a": 16, "b": 48, "c": 8, "d": 56}], ids=str
)
def test_with_beta_one_calibration_is_ca2fl(weights: dict[str, int]) -> None:
    ours, theirs = Agents(weights, 1.0), Cached(weights)
    for buffer in SEQUENCE:
        gradient, expected = ours.step(buffer), theirs.step(buffer)
        assert gradient == pytest.approx([float(value) for value in expected], abs=1e-12)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_servers_vector_is_the_sum_of_what_the_agents_remember(beta: float) -> None:
    ours = Agents({"a": 16, "b": 48, "c": 8, "d": 56}, beta)
    for buffer in SEQUENCE:
        ours.step(buffer)
        summed = sum((ours.weights[agent] * h for agent, h in ours.remembered.items()), np.zeros(2))
        assert ours.memory[0] == pytest.approx(summed, abs=1e-9)


def test_with_beta_one_half_what_is_remembered_moves_half_way() -> None:
    agents = Agents({"a": 2, "b": 2}, 0.5)
    # a sends 8: v = 0/2 + 8, h = 4; b sends 4: v = 2*4/4 + 4, h = 2; a sends 8 - 4 = 4: v = 3 + 4.
    steps = [agents.step(buffer)[0] for buffer in ({"a": [8, 0]}, {"b": [4, 0]}, {"a": [8, 0]})]
    assert steps == [8.0, 6.0, 7.0]
    assert agents.memory[0, 0] == 2 * (4 + 2) + 2 * 2


def test_with_beta_zero_calibration_is_fedbuff_bit_by_bit() -> None:
    rng = np.random.default_rng(2)
    strategy, memory = chosen("calibrated", Policy(calibration=0.0)), np.zeros((1, 5))
    for _ in range(20):
        mean = rng.normal(size=5)
        members = (member("a", int(rng.integers(1, 100))),)
        step = Step(mean, members, 0, np.zeros(5, np.float32), None, memory, 1000)
        gradient, memory = strategy.blend(step)
        assert gradient.tobytes() == mean.tobytes()


def test_a_population_that_has_not_been_counted_is_at_least_the_buffer() -> None:
    strategy = chosen("calibrated", Policy(calibration=1.0))
    memory = np.array([[30.0, 60.0]])
    members = (member("a", 10), member("b", 20))
    step = Step(np.zeros(2), members, 0, np.zeros(2, np.float32), None, memory, 0)
    assert strategy.blend(step)[0].tolist() == [1.0, 2.0]


# One's own


@pytest.fixture
def plant_rules(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An installed module with an operator's functions."""

    def fresh_only(offer: Offer, _buffer: Buffer, current: int) -> int | Rejected:
        if current - offer.base_version > 3:
            return Rejected("more than three versions behind")
        return offer.weight // 2

    module = types.ModuleType("plant_rules")
    vars(module).update(
        fresh_only=fresh_only,
        half=lambda *_: 0.5,
        true=lambda *_: True,
        nothing=lambda *_: 0,
        huge=lambda *_: MAX_WEIGHT_SUM,
        number=7,
    )
    monkeypatch.setitem(sys.modules, "plant_rules", module)
    return module


@pytest.mark.usefixtures("plant_rules")
def test_an_operators_function_weighs_and_refuses() -> None:
    strategy = chosen("own", function="plant_rules:fresh_only", goal=2, deadline_s=60)
    assert strategy.admit(offer(7), empty(1), 10) == 50
    refused = strategy.admit(offer(6), empty(1), 10)
    assert refused == Rejected("more than three versions behind")
    assert strategy.is_ready(buffer_of("a", "b"), 0.0)
    assert strategy.is_ready(buffer_of("a"), 60.0)


@pytest.mark.usefixtures("plant_rules")
@pytest.mark.parametrize("function", ["half", "true", "nothing", "huge"])
def test_an_answer_that_is_no_weight_refuses_the_update_and_says_so(function: str) -> None:
    strategy = chosen("own", function=f"plant_rules:{function}")
    answer = strategy.admit(offer(0), empty(1), 0)
    assert isinstance(answer, Rejected)
    assert f"plant_rules:{function} answered" in answer.reason


@pytest.mark.usefixtures("plant_rules")
@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("", "not of the form"),
        ("plant_rules", "not of the form"),
        ("plant_rules:two words", "not of the form"),
        ("no_such_module:f", "can not be imported"),
        ("plant_rules:missing", "has no function missing"),
        ("plant_rules:number", "has no function number"),
    ],
)
def test_a_function_that_can_not_be_used_is_named_at_once(function: str, words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        chosen("own", function=function)


def test_polynomial_staleness_of_exponent_zero_is_constant() -> None:
    s = staleness_function(FedAsyncSettings(exponent=0.0))
    assert [s(age) for age in (0, 1, 1000)] == [1.0, 1.0, 1.0]
    assert math.isclose(staleness_function(FedAsyncSettings(exponent=2.0))(9), 0.01)
