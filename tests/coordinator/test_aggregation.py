"""The pure core: from offers to versions, and the same versions again from what was recorded."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.aggregate import Member, settled
from coordinator.aggregation import (
    Diverged,
    Model,
    Rules,
    advance,
    begin,
    is_ready,
    norm_bound,
    take,
)
from coordinator.robust import UNIT, RobustSettings, combined
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategyName, StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy

P, SCALE = 40, 2**-7
OFF = RobustSettings()
Delta = NDArray[np.int8]


def rules(
    robust: RobustSettings = OFF,
    name: StrategyName = "fedbuff",
    *,
    goal: int = 6,
    clip_norm: float = 100.0,
    k_min: int = 1,
    optimizer: str = "sgd",
) -> Rules:
    policy = Policy(clip_norm=clip_norm, scale=SCALE, calibration=float(name == "calibrated"))
    strategy = make_strategy(StrategySettings(name=name, goal=goal, clients=goal), policy)
    made = make_server_optimizer(ServerOptimizerSettings(name=optimizer))  # type: ignore[arg-type]
    return Rules(strategy, robust, made, clip_norm, k_min)


def start(parameters: int = P) -> NDArray[np.float32]:
    return np.linspace(-1, 1, parameters, dtype=np.float32)


def offered(rules: Rules, model: Model, delta: Delta, agent: str = "a", weight: int = 10) -> Model:
    taken = take(rules, model, Offer(agent, agent.upper(), weight, model.version), delta, SCALE)
    assert isinstance(taken, Model), taken
    return taken


@dataclass(frozen=True)
class Recorded:
    """A version: its members as recorded, and the integers that each sent."""

    members: tuple[Member, ...]
    deltas: dict[str, Delta]
    params: NDArray[np.float32]


def run(rules: Rules, versions: int, seed: int, *, late_settling: bool = False) -> list[Recorded]:
    """Versions from random updates of eight agents of six sites, one of them ten times as far."""
    rng, model, made = np.random.default_rng(seed), begin(rules, start()), []
    for _ in range(versions):
        deltas: dict[str, Delta] = {}
        for number in rng.permutation(8).tolist():
            size = 120 if number == 0 else 12
            delta = rng.integers(-size, size + 1, P).astype(np.int8)
            offer = Offer(f"agent-{number}", f"site-{number % 6}", 20 + 31 * number, model.version)
            taken = take(rules, model, offer, delta, SCALE)
            assert isinstance(taken, Model)
            model, deltas[offer.agent] = taken, delta
            if not late_settling:
                model = replace(model, buffer=settled(model.buffer))
            if is_ready(rules, model, 0.0):
                break
        members = model.buffer.members
        model = advance(rules, model, SCALE)
        made.append(Recorded(members, deltas, model.params))
    return made


RULES = {
    "off": OFF,
    "norm": RobustSettings(clip="norm"),
    "fixed radius": RobustSettings(clip="norm", radius=0.4),
    "centred": RobustSettings(clip="centred"),
    "median": RobustSettings(combine="median", buckets=5),
    "trimmed": RobustSettings(combine="trimmed_mean", buckets=5),
    "default": RobustSettings(clip="centred", combine="geometric_median", buckets=4),
}


def folded_again(robust: RobustSettings, made: list[Recorded]) -> list[NDArray[np.float32]]:
    """Every version from nothing but records and bytes, with sums of Python's own integers."""
    params, centre, found = start(), np.zeros(P), []
    for version in made:
        sums: dict[int, list[int]] = defaultdict(lambda: [0] * P)
        weights: dict[int, int] = defaultdict(int)
        taken: dict[int, int] = defaultdict(int)
        for one in reversed(version.members):
            if one.coefficient == 0:
                continue
            delta = version.deltas[one.agent].tolist()
            sums[one.bucket] = [
                total + one.coefficient * step
                for total, step in zip(sums[one.bucket], delta, strict=True)
            ]
            weights[one.bucket] += one.weight
            taken[one.bucket] += one.coefficient
        means = []
        for bucket in sorted(sums):
            mean = np.array(sums[bucket], np.float64) * (SCALE / weights[bucket])
            if robust.clip == "centred" and taken[bucket] != weights[bucket]:
                mean = mean + centre * (1.0 - taken[bucket] / weights[bucket])
            means.append(mean)
        by_bucket = np.array([weights[bucket] for bucket in sorted(sums)], np.float64)
        mean = combined(robust, np.array(means), by_bucket)
        params = (params.astype(np.float64) + mean).astype(np.float32)
        centre = mean
        found.append(params)
    return found


@pytest.mark.parametrize("name", RULES)
def test_recorded_members_folded_again_give_the_same_bytes(name: str) -> None:
    made = run(rules(RULES[name]), 8, seed=1)
    again = folded_again(RULES[name], made)
    assert [version.params.tobytes() for version in made] == [one.tobytes() for one in again]


@pytest.mark.parametrize("name", RULES)
def test_when_sums_are_added_up_changes_no_bit(name: str) -> None:
    early = run(rules(RULES[name]), 4, seed=2)
    late = run(rules(RULES[name]), 4, seed=2, late_settling=True)
    assert [one.params.tobytes() for one in early] == [one.params.tobytes() for one in late]
    assert [one.members for one in early] == [one.members for one in late]


@settings(max_examples=30)
@given(st.permutations(range(6)), st.sampled_from(["off", "norm", "centred"]))
def test_the_order_of_arrival_changes_no_bit_of_a_version(order: list[int], name: str) -> None:
    def version(order: list[int]) -> bytes:
        model = begin(rules(RULES[name]), start())
        rng = np.random.default_rng(8)
        deltas = rng.integers(-30, 31, (2, 6, P)).astype(np.int8)
        for round_ in deltas:
            for at in order:
                model = offered(rules(RULES[name]), model, round_[at], f"agent-{at}", 10 + at)
            model = advance(rules(RULES[name]), model, SCALE)
        return model.params.tobytes()

    assert version(order) == version([*range(6)])


# Taking


def test_an_update_counts_its_weight_where_nothing_is_clipped() -> None:
    model = offered(rules(), begin(rules(), start()), np.ones(P, np.int8), weight=7)
    assert model.buffer.members == (
        Member(agent="a", site="A", base_version=0, weight=7, coefficient=7),
    )
    assert model.buffer.total.tolist() == [[7] * P]


def test_an_update_beyond_the_norm_bound_is_refused_with_both_numbers() -> None:
    # Sixteen steps of 64 at 1/128 each: norm 2; the bound is 1.5 + sqrt(16) / 128 = 1.53125.
    bounded = rules(clip_norm=1.5)
    model = begin(bounded, start(16))
    delta = np.full(16, 64, np.int8)
    answer = take(bounded, model, Offer("a", "A", 1, 0), delta, SCALE)
    reason = "norm 2 exceeds 1.531, the policy's clip_norm and rounding"
    assert answer == Rejected(reason)
    assert norm_bound(1.5, SCALE, 16) == 1.53125
    assert isinstance(take(bounded, model, Offer("a", "A", 1, 0), delta - 15, SCALE), Model)


def test_what_the_strategy_refuses_leaves_the_model_as_it_was() -> None:
    rounds = rules(name="fedavg")
    model = begin(rounds, start(), version=3)
    answer = take(rounds, model, Offer("a", "A", 1, 2), np.zeros(P, np.int8), SCALE)
    assert answer == Rejected("late: round 2 is closed, now in round 3")
    assert model.buffer.members == ()


def test_a_clipped_update_counts_less_and_one_far_away_not_at_all() -> None:
    clip = rules(RobustSettings(clip="norm", radius=1.0))
    model = begin(clip, start(16))
    for agent, steps in (("near", 32), ("clipped", 64), ("far", 127)):  # norms 1, 2 and 3.97
        model = offered(clip, model, np.full(16, steps, np.int8), agent, weight=10)
    coefficients = [one.coefficient for one in model.buffer.members]
    assert coefficients == [10 * UNIT, 5 * UNIT, 0]
    assert [one.weight for one in model.buffer.members] == [10 * UNIT] * 3
    assert [one.distance for one in model.buffer.members] == [1.0, 2.0, 127 / 32]
    after = advance(clip, model, SCALE)
    assert (after.params - model.params).tolist() == pytest.approx([0.25] * 16, abs=1e-7)


def test_centred_clipping_measures_from_the_last_mean() -> None:
    clip = rules(RobustSettings(clip="centred", radius=1.0))
    model = begin(clip, start(16))
    model = advance(clip, offered(clip, model, np.full(16, 32, np.int8)), SCALE)
    assert model.centre.tolist() == [0.25] * 16
    model = offered(clip, model, np.full(16, 96, np.int8), weight=10)  # 0.75: 2 from the centre
    (member,) = model.buffer.members
    assert (member.distance, member.coefficient) == (2.0, 5 * UNIT)
    after = advance(clip, model, SCALE)
    assert after.centre.tolist() == [0.5] * 16  # one radius, 1, from (0.25, ...)
    assert math.dist(after.centre, model.centre) == 1.0


def test_the_policys_bound_clips_until_there_is_a_radius() -> None:
    clip = rules(RobustSettings(clip="norm"), clip_norm=3.0)
    model = begin(clip, start(16))
    for agent, steps in (("a", 32), ("b", 64), ("c", 96)):
        model = offered(clip, model, np.full(16, steps, np.int8), agent)
    assert [one.coefficient for one in model.buffer.members] == [10 * UNIT] * 3
    model = advance(clip, model, SCALE)
    assert model.radius == 2.0
    model = offered(clip, model, np.full(16, 64, np.int8))
    assert advance(clip, model, SCALE).radius == 2.0 * math.exp(-0.15)


def test_after_a_jump_of_all_distances_the_radius_grows_until_updates_count_again() -> None:
    clip = rules(RobustSettings(clip="norm"), clip_norm=50.0)
    model = begin(clip, start(16))
    for steps, versions in ((2, 3), (120, 40)):
        for _ in range(versions):
            model = advance(clip, offered(clip, model, np.full(16, steps, np.int8)), SCALE)
    counting = offered(clip, model, np.full(16, 120, np.int8))
    assert counting.buffer.members[0].coefficient > 0.8 * 10 * UNIT


# Advancing


def test_a_version_is_the_mean_delta_further_and_its_buffer_is_empty() -> None:
    model = begin(rules(), np.zeros(2, np.float32))
    for agent, delta, weight in (("a", [64, 0], 3), ("b", [-64, 32], 1)):
        model = offered(rules(), model, np.array(delta, np.int8), agent, weight)
    after = advance(rules(), model, SCALE)
    assert after.params.tolist() == [0.25, 0.0625]
    assert (after.version, after.buffer.members, after.buffer.weight) == (1, (), 0)
    assert not after.buffer.total.any()
    assert model.version == 0
    assert len(model.buffer.members) == 2


def test_fedasync_uses_the_base_and_the_memory_of_an_optimizer_goes_on() -> None:
    mixing = rules(name="fedasync", optimizer="momentum")
    model = begin(mixing, np.zeros(1, np.float32))
    model = advance(mixing, offered(mixing, model, np.array([64], np.int8)), SCALE, base=None)
    first = float(model.params[0])
    assert first == pytest.approx(0.6 * 0.5)
    base = np.zeros(1, np.float32)
    stale = take(mixing, model, Offer("a", "A", 10, 0), np.array([64], np.int8), SCALE)
    assert isinstance(stale, Model)
    model = advance(mixing, stale, SCALE, base=base)
    step = 0.6 / math.sqrt(2) * (0.5 + 0.0 - first)
    assert float(model.params[0]) == pytest.approx(first + 0.9 * first + step)


def test_calibration_keeps_one_vector_whoever_takes_part() -> None:
    calibrated = rules(name="calibrated")
    model = begin(calibrated, np.zeros(1, np.float32))
    model = offered(calibrated, model, np.array([64], np.int8), "a", 2)
    model = advance(calibrated, model, SCALE, population=2)
    assert (model.params.tolist(), model.memory.tolist()) == ([0.5], [[1.0]])
    model = offered(calibrated, model, np.array([32], np.int8), "b", 6)
    model = advance(calibrated, model, SCALE, population=8)
    # v = H / N + mean = 1/8 + 1/4;  H = 1 + 6/4.
    assert (model.params.tolist(), model.memory.tolist()) == ([0.875], [[2.5]])


@pytest.mark.parametrize(
    ("params", "words"), [([3e38, 0.0], "a step of length"), ([float("nan"), 0.0], "nan")]
)
def test_a_step_that_is_not_sane_is_no_version(params: list[float], words: str) -> None:
    wild = rules()
    optimizer = replace(
        wild.optimizer, apply=lambda _d, state, _p: (state, np.array(params, np.float32))
    )
    wild = replace(wild, optimizer=optimizer)
    model = offered(wild, begin(wild, np.zeros(2, np.float32)), np.ones(2, np.int8))
    with pytest.raises(Diverged, match=words):
        advance(wild, model, SCALE)


# Readiness and k_min


def test_a_buffer_waits_for_k_min_sites_whatever_its_strategy_says() -> None:
    private = rules(goal=2, k_min=3)
    model = begin(private, start())
    for agent in ("a", "a", "b", "b"):
        model = offered(private, model, np.ones(P, np.int8), agent)
        assert not is_ready(private, model, 1e9)
    model = offered(private, model, np.ones(P, np.int8), "c")
    assert is_ready(private, model, 0.0)
    assert not is_ready(private, begin(private, start()), 1e9)


def test_a_version_of_too_few_sites_that_count_is_the_one_before() -> None:
    private = rules(RobustSettings(clip="norm", radius=0.1), goal=2, k_min=2)
    model = begin(private, start())
    model = offered(private, model, np.ones(P, np.int8), "near")
    model = offered(private, model, np.full(P, 127, np.int8), "far")
    assert is_ready(private, model, 0.0)
    after = advance(private, model, SCALE)
    assert after.version == 1
    assert after.params.tobytes() == model.params.tobytes()


def test_memory_is_a_fixed_number_of_vectors() -> None:
    shapes: list[dict[str, Any]] = []
    for count in (2, 60):
        many = rules(RULES["default"], goal=count + 1)
        model = begin(many, start())
        for number in range(count):
            delta = np.ones(P, np.int8)
            model = offered(many, model, delta, f"agent-{number}")
        model = replace(model, buffer=settled(model.buffer))
        vectors: dict[str, NDArray[Any]] = {"memory": model.memory, "centre": model.centre}
        vectors |= {"optimizer": model.optimizer, "summed": model.buffer.summed}
        shapes.append({name: vector.shape for name, vector in vectors.items()})
        assert model.buffer.waiting == ()
    assert shapes[0] == shapes[1]
