"""Selection: who trains next, among more candidates than slots."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.selection import (
    Candidate,
    SelectionSettings,
    choose,
    columns,
    loss_quantiles,
    may_train,
    quantiles,
    scores,
)

NO_WEIGHTS = SelectionSettings(samples=0, loss=0, novelty=0, link=0, energy=0)
BY_MERIT = SelectionSettings(random_share=0)
ONLY_SAMPLES = SelectionSettings(random_share=0, loss=0, novelty=0, link=0, energy=0)

CANDIDATE = st.builds(
    Candidate,
    agent=st.just(""),
    site=st.sampled_from(["a", "b", "c"]),
    examples=st.integers(0, 1 << 40),
    loss=st.none() | st.floats(0, 1e12),
    novelty=st.none() | st.floats(0, 1),
    uplink_s=st.floats(0, 1e12),
    power=st.sampled_from(["mains", "battery"]),
    battery=st.none() | st.floats(0, 1),
    temperature_c=st.none() | st.floats(-100, 300),
)
CANDIDATES = st.lists(CANDIDATE, max_size=25).map(
    lambda made: [replace(one, agent=f"agent-{at}") for at, one in enumerate(made)]
)
SETTINGS = st.builds(
    SelectionSettings,
    per_agent_cap=st.integers(1, 5),
    random_share=st.floats(0, 1),
    samples=st.floats(0, 100),
    loss=st.floats(0, 100),
    novelty=st.floats(0, 100),
    link=st.floats(0, 100),
    energy=st.floats(0, 100),
    loss_cap=st.floats(0, 1),
)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def fleet(agents: int, examples: int = 0, loss: float = 0, novelty: float = 0) -> list[Candidate]:
    """Agents of a site each; what is given is multiplied by an agent's number."""
    return [
        Candidate(f"agent-{at:03}", f"site-{at}", 1000 + examples * at, loss * at, novelty * at)
        for at in range(agents)
    ]


def chosen_how_often(
    candidates: list[Candidate], slots: int, setting: SelectionSettings, times: int
) -> Counter[str]:
    generator, table = rng(), columns(candidates)
    return Counter(
        agent for _ in range(times) for agent in choose(table, slots, setting, generator, {})
    )


@given(CANDIDATES, SETTINGS, st.integers(-1, 30), st.data(), st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_nobody_is_chosen_twice_or_above_a_cap_or_a_limit_and_no_slot_stays_empty(
    candidates: list[Candidate],
    setting: SelectionSettings,
    slots: int,
    data: st.DataObject,
    seed: int,
) -> None:
    names = [candidate.agent for candidate in candidates]
    recent = data.draw(st.dictionaries(st.sampled_from([*names, "gone"]), st.integers(0, 6)))
    k_min = data.draw(st.integers(1, 4))
    found = choose(columns(candidates), slots, setting, rng(seed), recent, k_min=k_min)

    def is_able(candidate: Candidate) -> bool:
        charge = 1.0 if candidate.battery is None else candidate.battery
        is_empty = candidate.power == "battery" and charge < setting.least_battery
        is_hot = (candidate.temperature_c or 0) > setting.hottest_c
        return not (is_empty or is_hot or recent.get(candidate.agent, 0) >= setting.per_agent_cap)

    able = {candidate.agent for candidate in candidates if is_able(candidate)}
    assert len(found) == len(set(found)) == max(0, min(slots, len(able)))
    assert set(found) <= able


@given(CANDIDATES, SETTINGS, st.integers(0, 10), st.randoms(), st.integers(0, 1 << 30))
@settings(max_examples=40)
def test_the_order_of_candidates_does_not_matter(
    candidates: list[Candidate],
    setting: SelectionSettings,
    slots: int,
    shuffling: random.Random,
    seed: int,
) -> None:
    shuffled = list(candidates)
    shuffling.shuffle(shuffled)
    once = choose(columns(candidates), slots, setting, rng(seed), {}, k_min=2)
    assert choose(columns(shuffled), slots, setting, rng(seed), {}, k_min=2) == once


@given(CANDIDATES, SETTINGS)
@settings(max_examples=30)
def test_scores_are_shares_whatever_the_agents_claim(
    candidates: list[Candidate], setting: SelectionSettings
) -> None:
    table = columns(candidates)
    found = scores(table, may_train(table, setting), setting)
    assert np.all((found >= 0) & (found <= 1))


@given(CANDIDATES, st.integers(-9, 9), st.integers(-9, 9))
@settings(max_examples=30)
def test_the_units_of_loss_and_link_do_not_matter(
    candidates: list[Candidate], loss_power: int, link_power: int
) -> None:
    plain = [
        # Rounded: what is next to no number at all loses digits when it is halved.
        replace(one, loss=round((one.loss or 0) % 1000, 6), uplink_s=round(one.uplink_s % 3600, 6))
        for one in candidates
    ]
    scaled = [
        replace(
            one, loss=(one.loss or 0) * 2.0**loss_power, uplink_s=one.uplink_s * 2.0**link_power
        )
        for one in plain
    ]
    setting = SelectionSettings()
    found = choose(columns(plain), 5, setting, rng(), {})
    assert choose(columns(scaled), 5, setting, rng(), {}) == found


def test_with_all_weights_zero_the_choice_is_uniform() -> None:
    counted = chosen_how_often(fleet(20, examples=1, loss=1), 3, NO_WEIGHTS, 4000)
    expected = 4000 * 3 / 20
    # Sum of squared deviations in units of variance: chi-squared with 19 degrees, .9999 quantile.
    squares = sum((counted[f"agent-{at:03}"] - expected) ** 2 for at in range(20))
    assert squares / (expected * (1 - 3 / 20)) < 52


def test_who_is_the_worst_in_everything_gets_the_random_share() -> None:
    candidates = fleet(50, examples=10, loss=0.1, novelty=0.01)
    counted = chosen_how_often(candidates, 1, SelectionSettings(random_share=0.25), 4000)
    least = 4000 * 0.25 / 50
    assert set(counted) == {candidate.agent for candidate in candidates}
    assert min(counted.values()) > least / 3
    assert counted["agent-049"] > 30 * least


def test_without_a_random_share_the_last_would_starve() -> None:
    counted = chosen_how_often(fleet(50, examples=10), 1, ONLY_SAMPLES, 200)
    assert counted == {"agent-049": 200}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"examples": 2000}, {"examples": 1000}),
        ({"loss": 0.7}, {"loss": 0.3}),
        ({"novelty": 0.2}, {"novelty": 0.1}),
        ({"uplink_s": 3.0}, {"uplink_s": 60.0}),
        ({"power": "mains"}, {"power": "battery", "battery": 1.0}),
        ({"power": "battery", "battery": 0.9}, {"power": "battery", "battery": 0.4}),
    ],
)
def test_of_two_that_differ_in_one_thing_the_better_is_chosen(
    better: dict[str, object], worse: dict[str, object]
) -> None:
    alike = {"examples": 1000}
    pair = [
        Candidate("worse", "b", **(alike | worse)),  # type: ignore[arg-type]
        Candidate("better", "a", **(alike | better)),  # type: ignore[arg-type]
    ]
    assert choose(columns(pair), 1, BY_MERIT, rng(), {}) == ["better"]


def test_what_is_not_told_counts_neither_for_nor_against() -> None:
    found = quantiles(np.array([3.0, np.nan, 1.0, 2.0]))
    assert found.tolist() == pytest.approx([5 / 6, 0.5, 1 / 6, 0.5])


def test_equal_values_share_their_place() -> None:
    assert quantiles(np.array([7.0, 1.0, 7.0, 9.0])).tolist() == [0.5, 0.125, 0.5, 0.875]
    assert quantiles(np.full(5, 3.0)).tolist() == [0.5] * 5
    assert quantiles(np.full(3, np.nan)).tolist() == [0.5] * 3
    assert quantiles(np.zeros(0)).tolist() == []


def test_the_highest_losses_count_alike() -> None:
    found = loss_quantiles(np.arange(1.0, 21.0), 0.9)
    assert found[:18].tolist() == pytest.approx([(at + 0.5) / 20 for at in range(18)])
    assert found[18:].tolist() == [0.9, 0.9]


def test_a_site_on_which_the_model_diverged_is_not_preferred_for_it() -> None:
    losses = np.r_[np.linspace(0.5, 1.0, 20), 40.0]
    found = loss_quantiles(losses, 0.9)
    assert found[-1] == 0.5
    assert found[-2] > 0.85
    few = loss_quantiles(np.array([0.5, 0.6, 40.0]), 0.9)
    assert few[-1] > few[1]  # three losses do not tell what is usual


def test_a_diverged_site_is_chosen_no_more_often_than_others() -> None:
    setting = SelectionSettings(samples=0, novelty=0, link=0, energy=0)
    sites = [replace(one, loss=0.5 + at / 100) for at, one in enumerate(fleet(40))]
    sites[7] = replace(sites[7], loss=1e9)
    counted = chosen_how_often(sites, 4, setting, 500)
    assert counted["agent-007"] < 500 * 4 / 40


def test_an_agent_at_its_cap_rests_even_when_nobody_else_is_there() -> None:
    setting = SelectionSettings(per_agent_cap=2)
    pair = columns(fleet(2))
    assert choose(pair, 2, setting, rng(), {"agent-000": 2, "agent-001": 1}) == ["agent-001"]
    assert choose(pair, 2, setting, rng(), {"agent-000": 3, "agent-001": 2}) == []


@pytest.mark.parametrize(
    ("state", "is_able"),
    [
        ({"power": "battery", "battery": 0.29}, False),
        ({"power": "battery", "battery": 0.3}, True),
        ({"power": "battery", "battery": None}, True),
        ({"power": "mains", "battery": 0.1}, True),
        ({"temperature_c": 80.5}, False),
        ({"temperature_c": 80.0}, True),
    ],
)
def test_who_is_too_empty_or_too_hot_does_not_train(
    state: dict[str, object], is_able: bool
) -> None:
    candidate = Candidate("press-1", "site-a", 1000, **state)  # type: ignore[arg-type]
    assert choose(columns([candidate]), 1, SelectionSettings(), rng(), {}) == (
        ["press-1"] if is_able else []
    )


def test_a_further_site_goes_first_while_too_few_are_at_work() -> None:
    rich = [Candidate(f"rich-{at}", "rich", 9000 + at) for at in range(8)]
    poor = [Candidate("poor", "poor", 100), Candidate("poorest", "poorest", 10)]
    table = columns([*rich, *poor])
    assert set(choose(table, 3, ONLY_SAMPLES, rng(), {}, k_min=3)) == {"rich-7", "poor", "poorest"}
    assert set(choose(table, 3, ONLY_SAMPLES, rng(), {}, k_min=2)) == {"rich-7", "rich-6", "poor"}
    assert choose(table, 1, ONLY_SAMPLES, rng(), {}, k_min=2, held=["rich"]) == ["poor"]
    assert choose(table, 1, ONLY_SAMPLES, rng(), {}, k_min=2, held=["rich", "x"]) == ["rich-7"]


def test_ten_thousand_candidates_are_no_other_case_than_ten() -> None:
    many = fleet(10_000, examples=1, loss=1e-4)
    found = choose(columns(many), 500, ONLY_SAMPLES, rng(), {"agent-9999": 10}, k_min=3)
    assert set(found) == {f"agent-{at}" for at in range(9499, 9999)}
