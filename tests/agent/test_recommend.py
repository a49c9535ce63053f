"""Proposals from a surrogate: inside bounds, steps and region, and none without certainty."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.recommend.intervals import Bands, TooFewRowsError, calibrate, least_rows
from agent.recommend.proposal import Knowledge, Proposal, Surrogate, recommend
from agent.recommend.recipe import Recipe, SetPoint, problems
from agent.recommend.region import near_region, reach_region
from agent.recommend.search import halton, search

Values = NDArray[np.float64]
CHANNELS = ("heat", "speed", "load")
RECIPE = Recipe(
    label="energy",
    setpoint=(
        SetPoint(channel="heat", lowest=-3.0, highest=3.0),
        SetPoint(channel="speed", lowest=-3.0, highest=3.0),
    ),
    reach=5.0,
)


def bowl(inputs: NDArray[np.float32]) -> Values:
    """Best at heat = load / 2, speed = -1; 10 there."""
    heat, speed, load = inputs.astype(np.float64).T
    return np.asarray(10 + (heat - load / 2) ** 2 + 2 * (speed + 1) ** 2)


def knowing(
    *members: Callable[[NDArray[np.float32]], Values], reach: float = 5.0, band: float = 1.0
) -> Knowledge:
    surrogate = Surrogate(lambda values: values.astype(np.float32), members or (bowl,), floor=0.1)
    return Knowledge(surrogate, CHANNELS, Bands(band, band, 100, 0.9), reach_region(reach))


def with_recipe(**changes: object) -> Recipe:
    return msgspec.structs.replace(RECIPE, **changes)


def proposed(proposal: Proposal) -> list[float]:
    return [each.proposed for each in proposal.settings]


def test_the_best_set_points_for_the_conditions_are_found() -> None:
    for load in (-2.0, 0.5, 3.0):
        proposal = recommend(knowing(), RECIPE, np.array([2.5, 2.0, load]))
        assert proposal.reason == ""
        assert np.allclose(proposed(proposal), [load / 2, -1.0], atol=0.02)
        assert proposal.after is not None
        assert proposal.after.value == pytest.approx(10.0, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    now=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    step=st.floats(0.01, 4),
    reach=st.floats(0.5, 4),
    seed=st.integers(0, 1000),
)
def test_a_proposal_never_leaves_bounds_steps_or_region(
    now: list[float], step: float, reach: float, seed: int
) -> None:
    points = tuple(
        SetPoint(channel=name, lowest=-2.0, highest=1.5, max_step=step)
        for name in ("heat", "speed")
    )
    recipe = with_recipe(setpoint=points, seed=seed)
    row = np.array(now)
    proposal = recommend(knowing(reach=reach), recipe, row)
    if proposal.reason:
        assert proposed(proposal) == [now[0], now[1]]
        return
    found = np.array(proposed(proposal))
    assert (found >= -2.0).all()
    assert (found <= 1.5).all()
    assert (np.abs(found - row[:2]) <= step + 1e-9).all()
    assert (np.abs(np.append(found, row[2]).astype(np.float32)) <= np.float32(reach)).all()


def test_the_same_seed_gives_the_same_proposal() -> None:
    now = np.array([2.0, 2.0, 1.0])
    assert recommend(knowing(), RECIPE, now) == recommend(knowing(), RECIPE, now)


def test_a_gain_within_its_uncertainty_is_no_recommendation() -> None:
    now = np.array([0.5, 0.0, 1.0])  # 2 kWh above the best
    sure = recommend(knowing(band=10.0), RECIPE, now)  # +- 10 * 0.1 * sqrt(2)
    unsure = recommend(knowing(band=16.0), RECIPE, now)
    assert sure.reason == ""
    assert "within its uncertainty" in unsure.reason
    assert proposed(unsure) == [0.5, 0.0]
    assert unsure.effect is not None
    assert unsure.effect.low < -2.0 < 0.0 < unsure.effect.high


def test_where_versions_disagree_nothing_is_proposed_if_agreement_is_as_good() -> None:
    def flat(inputs: NDArray[np.float32]) -> Values:
        return np.where(np.abs(inputs[:, 0]) > 1.0, 0.0, 10.0)  # good on both sides

    def doubting(inputs: NDArray[np.float32]) -> Values:
        return flat(inputs) + np.where(inputs[:, 0] > 1.0, 5.0, 0.0)

    now = np.array([0.0, 0.0, 0.0])
    for seed in range(5):
        recipe = with_recipe(seed=seed)
        assert proposed(recommend(knowing(flat, doubting), recipe, now))[0] < -1.0
    doubted = recommend(knowing(flat, doubting), with_recipe(caution=0.0), np.array([2.0, 0, 0]))
    assert doubted.now is not None
    assert doubted.now.high - doubted.now.low == pytest.approx(2 * (0.1 + 5.0))


def test_maximizing_is_minimizing_the_negative() -> None:
    now = np.array([2.0, 2.0, 1.0])
    low = recommend(knowing(), RECIPE, now)
    high = recommend(knowing(lambda x: -bowl(x)), with_recipe(objective="maximize"), now)
    assert proposed(low) == proposed(high)
    assert low.effect is not None
    assert high.effect is not None
    assert high.effect.value == -low.effect.value > 0


def test_a_target_is_met_and_not_undercut() -> None:
    recipe = with_recipe(objective="target", target=14.0)
    proposal = recommend(knowing(), recipe, np.array([3.0, 3.0, 0.0]))
    assert proposal.reason == ""
    assert proposal.after is not None
    assert proposal.after.value == pytest.approx(14.0, abs=0.01)
    assert proposal.effect is not None
    assert proposal.effect.value == pytest.approx(-(10 + 9 + 32 - 14), abs=0.02)


def test_conditions_that_nobody_learned_from_get_no_recommendation() -> None:
    proposal = recommend(knowing(reach=2.0), RECIPE, np.array([0.0, 0.0, 2.5]))
    assert "close enough to what was learned from" in proposal.reason
    assert proposal.after is None


def test_a_set_point_far_outside_of_its_bounds_is_named() -> None:
    points = (SetPoint(channel="speed", lowest=0.0, highest=1.0, max_step=0.5),)
    proposal = recommend(knowing(), with_recipe(setpoint=points), np.array([0.0, 2.0, 0.0]))
    assert proposal.reason == "speed is farther from its bounds than one step may go"


def test_a_neighborhood_of_rows_follows_their_shape() -> None:
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 500)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    inside = near_region(ring, near=0.99)
    assert inside(np.array([[1.0, 0.0], [0.0, -1.0]])).all()
    assert not inside(np.array([[0.0, 0.0], [1.5, 0.0]])).any()  # the middle has no rows either


def test_intervals_hold_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    held, changed = [], []
    for seed in range(400):
        scales = random.uniform(0.5, 2.0, 101)
        errors = scales * random.standard_t(3, 101)  # heavy tails: no normal law is assumed
        bands = calibrate(errors[:99], scales[:99], 0.8, seed)
        held.append(abs(errors[-1]) <= bands.value * scales[-1])
        apart = abs(errors[-1] - errors[-2])
        changed.append(apart <= bands.change * np.hypot(scales[-1], scales[-2]))
    assert np.mean(held) == pytest.approx(0.8, abs=0.06)
    assert np.mean(changed) == pytest.approx(0.81, abs=0.06)


def test_the_half_width_is_the_score_of_the_right_rank() -> None:
    residuals = np.arange(1.0, 20.0)  # 19 rows: rank 18 for 90 %
    assert calibrate(residuals, np.ones(19), 0.5, 0).value == 10.0
    rows = least_rows(0.9)
    assert rows == 18
    calibrate(np.ones(rows), np.ones(rows), 0.9, 0)
    with pytest.raises(TooFewRowsError):
        calibrate(np.ones(rows - 1), np.ones(rows - 1), 0.9, 0)


def test_points_of_the_search_fill_the_cube_evenly() -> None:
    points = halton(1024, 4, seed=3)
    for column in points.T:
        counts = np.histogram(column, bins=16, range=(0.0, 1.0))[0]
        assert counts.min() >= 58  # 64 each; random points leave bins of 45
    assert not np.array_equal(points, halton(1024, 4, seed=4))


def test_a_search_without_an_accepted_point_finds_none() -> None:
    box = np.zeros(2), np.ones(2)
    assert search(lambda points: np.full(len(points), np.inf), *box, seed=0) is None
    corner = search(lambda points: points.sum(axis=1), *box, seed=0)
    assert corner is not None
    assert corner == pytest.approx([0.0, 0.0], abs=1e-3)


def test_a_recipe_with_contradictions_is_refused_by_key() -> None:
    twice = SetPoint(channel="heat", lowest=2.0, highest=1.0)
    recipe = Recipe(label="energy", objective="target", setpoint=(twice, twice))
    assert [key for key, _ in problems(recipe)] == [
        "target",
        "setpoint[0].highest",
        "setpoint[1].highest",
        "setpoint[1].channel",
    ]


def test_the_annotated_recipe_explains_every_key() -> None:
    text = (Path(__file__).parents[2] / "configs" / "recommend.toml").read_text()
    for name in (*Recipe.__struct_fields__, *SetPoint.__struct_fields__):
        assert name in text, name
