"""Robust rules: clipping, radius, buckets and what combines them, by hand and by properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.aggregate import Buffer, Member, bucket_means, empty, fold
from coordinator.robust import (
    FAR,
    UNIT,
    RobustSettings,
    bucket_of,
    clipped,
    combined,
    distance,
    geometric_median,
    is_within,
    joined,
    next_radius,
    problem_with,
    sum_of_squares,
    trimmed_mean,
)

Points = NDArray[np.float64]


def member(site: str, bucket: int = 0, *, away: float = 0.0, coefficient: int = UNIT) -> Member:
    return Member(
        agent=f"{site}-1",
        site=site,
        base_version=0,
        weight=UNIT,
        coefficient=coefficient,
        distance=away,
        bucket=bucket,
    )


def buffer_of(*members: Member, buckets: int = 4) -> Buffer:
    buffer = empty(1, buckets)
    for number, one in enumerate(members):
        buffer = fold(buffer, np.array([1 << number], np.int8), one)
    return buffer


# Distances


@settings(max_examples=40)
@given(
    st.sampled_from([1, 2, 3, 17, 1000, 131_071, 131_072, 131_073, 300_001]),
    st.sampled_from([np.int8, np.int16]),
    st.integers(0, 2**32),
)
def test_a_sum_of_squares_is_exact(
    parameters: int, dtype: type[np.signedinteger], seed: int
) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    delta = rng.integers(info.min, info.max, parameters, endpoint=True).astype(dtype)
    delta[rng.random(parameters) < 0.2] = info.min
    assert sum_of_squares(delta) == int(np.square(delta.astype(np.int64)).sum())


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_the_most_negative_integer_is_counted_as_what_it_is(dtype: type[np.signedinteger]) -> None:
    low = np.iinfo(dtype).min
    delta = np.full(300_000, low, dtype)
    assert sum_of_squares(delta) == 300_000 * low**2
    assert not is_within(delta, 1.0, 0.999 * -low * math.sqrt(300_000))
    assert is_within(delta, 1.0, 1.001 * -low * math.sqrt(300_000))


def test_a_distance_is_in_the_parameters_unit() -> None:
    delta = np.array([3, 4], np.int8)
    assert distance(delta, 0.5) == 2.5
    assert distance(delta, 0.5, np.array([1.5, -1.0])) == 3.0


@settings(max_examples=60)
@given(
    st.integers(1, 200),
    st.sampled_from([1.0, 20.0, 127.0]),
    st.floats(0.1, 3.0),
    st.integers(0, 2**32),
)
def test_the_cheap_bound_never_decides_otherwise_than_the_distance(
    parameters: int, size: float, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    delta = np.clip(np.round(rng.normal(0, size, parameters)), -128, 127).astype(np.int8)
    exact = distance(delta, 1e-3)
    for bound in (share * exact, exact):
        assert is_within(delta, 1e-3, bound) == (exact <= bound)


# Clipping


@given(st.integers(1, 10_000), st.floats(1e-3, 1e3), st.floats(0, 20))
def test_clipping_leaves_a_distance_of_the_radius_within_a_step_of_the_coefficient(
    weight: int, radius: float, ratio: float
) -> None:
    away = radius * ratio
    coefficient = clipped(weight, away, radius)
    if away <= radius:
        assert coefficient == weight * UNIT
    elif away > FAR * radius:
        assert coefficient == 0
    else:
        left = away * coefficient / (weight * UNIT)
        step = away / (weight * UNIT)
        assert radius - step * (1 + 1e-9) <= left <= radius * (1 + 1e-9)
        assert coefficient > 0


@given(
    st.lists(st.tuples(st.integers(-127, 127), st.integers(-127, 127)), min_size=1, max_size=8),
    st.lists(st.integers(1, 500), min_size=8, max_size=8),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(0.05, 2.0),
)
def test_a_mean_of_clipped_updates_is_what_clipping_each_one_gives(
    deltas: list[tuple[int, int]],
    weights: list[int],
    middle: tuple[float, float],
    radius: float,
) -> None:
    scale, centre = 0.01, np.array(middle)
    buffer, kept, whole = empty(2), np.zeros(2), 0
    for delta, weight in zip(deltas, weights, strict=False):
        integers = np.array(delta, np.int8)
        away = distance(integers, scale, centre)
        coefficient = clipped(weight, away, radius)
        one = Member(
            agent="a", site="a", base_version=0, weight=weight * UNIT, coefficient=coefficient
        )
        buffer = fold(buffer, integers, one)
        if coefficient:
            share = coefficient / (weight * UNIT)
            kept += weight * (centre + share * (scale * integers - centre))
            whole += weight
    expected = kept / whole if whole else np.zeros(2)
    means, _ = bucket_means(buffer, scale, centre)
    assert means[0] == pytest.approx(expected, abs=1e-12)
    if whole:
        assert math.dist(means[0], centre) <= radius * (1 + 1e-9)


# The radius


def test_the_first_radius_is_the_lower_median_of_the_distances() -> None:
    clip = RobustSettings(clip="norm")
    for distances, radius in (([3.0], 3.0), ([9.0, 1.0], 1.0), ([5.0, 100.0, 1.0, 2.0], 2.0)):
        members = [member("a", away=away) for away in distances]
        assert next_radius(clip, 0.0, members) == radius


@pytest.mark.parametrize(("within", "factor"), [(0, 0.15), (1, 0.075), (2, 0.0), (4, -0.15)])
def test_the_radius_moves_by_how_many_were_within_it(within: int, factor: float) -> None:
    clip = RobustSettings(clip="centred")
    members = [member("a", away=2.0 if at < within else 2.001) for at in range(4)]
    assert next_radius(clip, 2.0, members) == pytest.approx(2.0 * math.exp(factor), rel=1e-15)


def test_the_radius_settles_at_the_median_of_the_distances() -> None:
    rng = np.random.default_rng(6)
    clip, radius = RobustSettings(clip="norm"), 100.0
    settled = []
    for _ in range(400):
        members = [member("a", away=float(away)) for away in rng.lognormal(0.5, 0.7, 10)]
        radius = next_radius(clip, radius, members)
        settled.append(radius)
    assert np.median(settled[100:]) == pytest.approx(math.exp(0.5), rel=0.1)


def test_a_fifth_of_liars_can_not_drive_the_radius_away() -> None:
    clip = RobustSettings(clip="norm")
    for lie in (0.0, 1e9):
        radius = 1.0
        for _ in range(300):
            members = [member("a", away=0.5 + at / 8) for at in range(8)]
            radius = next_radius(clip, radius, [*members, *[member("x", away=lie)] * 2])
        assert 0.5 <= radius <= 1.4


def test_a_given_radius_stays_and_without_clipping_there_is_none() -> None:
    members = [member("a", away=7.0)]
    assert next_radius(RobustSettings(clip="norm", radius=2.5), 2.5, members) == 2.5
    assert next_radius(RobustSettings(), 0.0, members) == 0.0
    assert next_radius(RobustSettings(clip="norm"), 4.0, []) == 0.0


# Buckets


def test_a_site_stays_in_its_bucket_and_a_new_one_goes_where_the_fewest_are() -> None:
    buffer = buffer_of(member("a", 0), member("b", 1), member("a", 0), buckets=3)
    assert [bucket_of(buffer, site) for site in ("a", "b", "c")] == [0, 1, 2]
    fuller = buffer_of(member("a", 0), member("b", 1), member("c", 2), buckets=3)
    assert bucket_of(fuller, "d") == 0
    assert bucket_of(empty(1), "a") == 0


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30), st.integers(2, 5))
def test_one_site_is_in_one_bucket_and_buckets_have_as_many_sites(
    sites: list[str], buckets: int
) -> None:
    buffer = empty(1, buckets)
    for site in sites:
        buffer = fold(buffer, np.array([1], np.int8), member(site, bucket_of(buffer, site)))
    of_site: dict[str, set[int]] = {}
    for one in buffer.members:
        of_site.setdefault(one.site, set()).add(one.bucket)
    assert all(len(found) == 1 for found in of_site.values())
    sizes = [sum(bucket in found for found in of_site.values()) for bucket in range(buckets)]
    assert max(sizes) - min(sizes) <= 1


def test_buckets_that_are_large_enough_are_left_alone() -> None:
    buffer = buffer_of(member("a", 0), member("b", 1), member("c", 0), member("d", 1))
    assert joined(buffer, 2) is buffer
    assert joined(buffer, 1) is buffer


def test_buckets_below_k_min_are_joined_smallest_first() -> None:
    # Sites: bucket 0 a, bucket 1 b, bucket 2 c d e; the integers are 1, 2, 4, 8, 16.
    buffer = buffer_of(member("a"), member("b", 1), *[member(site, 2) for site in "cde"])
    two = joined(buffer, 2)
    assert two.total[:, 0].tolist() == [0, 3 * UNIT, 28 * UNIT, 0]
    assert [one.bucket for one in two.members] == [1, 1, 2, 2, 2]
    one = joined(buffer, 3)
    assert one.total[:, 0].tolist() == [0, 0, 31 * UNIT, 0]
    assert {item.bucket for item in one.members} == {2}
    assert (one.weight, one.agents) == (buffer.weight, buffer.agents)


def test_a_site_that_does_not_count_makes_no_crowd() -> None:
    buffer = buffer_of(member("a"), member("b", coefficient=0), member("c", 1), member("d", 1))
    assert [one.bucket for one in joined(buffer, 2).members if one.coefficient] == [1, 1, 1]


def test_a_sum_of_fewer_sites_than_k_min_is_not_looked_at() -> None:
    buffer = buffer_of(member("a"), member("a"), member("b", 1, coefficient=0))
    silenced = joined(buffer, 2)
    assert not silenced.total.any()
    assert [one.coefficient for one in silenced.members] == [0, 0, 0]
    means, _ = bucket_means(silenced, 1.0, np.array([5.0]))
    assert means.tolist() == [[0.0]]
    assert joined(buffer, 1) is buffer


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=7),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_no_bucket_that_is_looked_at_has_fewer_than_k_min_sites(
    sites: list[tuple[str, bool]], buckets: int, k_min: int
) -> None:
    buffer = empty(1, buckets)
    for number, (site, counts) in enumerate(sites):
        one = member(site, bucket_of(buffer, site), coefficient=UNIT if counts else 0)
        buffer = fold(buffer, np.array([1 << number], np.int8), one)
    together = joined(buffer, k_min)
    seen: dict[int, set[str]] = {}
    for one in together.members:
        if one.coefficient:
            seen.setdefault(one.bucket, set()).add(one.site)
    assert all(len(found) >= k_min for found in seen.values())
    enough = len({site for site, counts in sites if counts}) >= k_min
    assert together.total.sum() == (buffer.total.sum() if enough else 0)


# What combines them


def test_the_geometric_median_of_numbers_is_their_median() -> None:
    points = np.array([[7.0], [-3.0], [1.0], [100.0], [0.0]])
    assert geometric_median(points, np.ones(5)) == pytest.approx([1.0], abs=1e-3)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    # Isosceles, apex (0, 2): 120 degrees between the sides from (0, 1/sqrt(3)).
    points = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = geometric_median(points, np.ones(3))
    assert found == pytest.approx([0.0, 1 / math.sqrt(3)], abs=1e-6)


def test_a_corner_of_120_degrees_or_more_is_the_geometric_median() -> None:
    points = np.array([[-2.0, 0.1], [2.0, 0.1], [0.0, 0.0]])
    assert geometric_median(points, np.ones(3)) == pytest.approx([0.0, 0.0], abs=1e-4)


def test_the_geometric_median_of_a_convex_quadrilateral_is_where_its_diagonals_cross() -> None:
    points = np.array([[0.0, 0.0], [4.0, 4.0], [0.0, 3.0], [3.0, 0.0]])
    assert geometric_median(points, np.ones(4)) == pytest.approx([1.5, 1.5], abs=1e-6)


def test_more_than_half_of_the_weight_is_the_geometric_median() -> None:
    points = np.array([[1.0, 1.0], [5.0, 2.0], [-4.0, 9.0]])
    assert geometric_median(points, np.array([9.0, 4.0, 4.0])) == pytest.approx([1, 1], abs=1e-4)
    alike = np.array([[1.0, 2.0]] * 4 + [[9.0, 9.0]])
    assert geometric_median(alike, np.ones(5)) == pytest.approx([1.0, 2.0], abs=1e-4)
    assert geometric_median(alike[:4], np.ones(4)).tolist() == [1.0, 2.0]


def cost(point: Points, points: Points, weights: Points) -> float:
    return float((weights * np.sqrt(np.square(points - point).sum(axis=1))).sum())


@settings(max_examples=50)
@given(st.integers(3, 9), st.integers(1, 20), st.integers(0, 2**32))
def test_no_step_in_any_direction_is_noticeably_nearer_to_all_points(
    count: int, parameters: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    points, weights = rng.normal(size=(count, parameters)), rng.uniform(1, 5, count)
    found = geometric_median(points, weights)
    least = cost(found, points, weights)
    for size in (1e-3, 0.1, 1.0):
        for direction in rng.normal(size=(20, parameters)):
            step = size * direction / np.linalg.norm(direction)
            assert cost(found + step, points, weights) >= least * (1 - 1e-4)


@settings(max_examples=100)
@given(st.integers(3, 30), st.floats(0, 2), st.integers(1, 20), st.integers(0, 2**32))
def test_points_on_a_line_have_their_weighted_median_wherever_the_search_starts(
    count: int, spread: float, parameters: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    along, weights = np.sort(rng.normal(size=count)), 10 ** rng.uniform(-spread, spread, count)
    points = np.outer(along, rng.normal(size=parameters))
    best = points[np.searchsorted(np.cumsum(weights), weights.sum() / 2)]
    found = geometric_median(points, weights)
    assert cost(found, points, weights) <= cost(best, points, weights) * (1 + 1e-4)


@pytest.mark.parametrize("excess", [1.01, 1.1, 1.5])
def test_a_start_on_a_point_that_is_not_the_median_is_left(excess: float) -> None:
    # 0 is the median by number, but what lies to its right weighs more than all the rest.
    points = np.array([[-2.0], [-1.0], [0.0], [5.0], [7.0]])
    weights = np.array([1.0, 1.0, 1.0, 3.0 * excess, 0.1])
    found = geometric_median(points, weights)
    assert found == pytest.approx([5.0], abs=1e-3)


def test_a_trimmed_mean_leaves_out_both_ends_of_each_coordinate() -> None:
    points = np.array([[1.0, 50.0], [2.0, 10.0], [9.0, 20.0], [4.0, 30.0], [-90.0, 40.0]])
    assert trimmed_mean(points, 0.2).tolist() == [(1 + 2 + 4) / 3, 30.0]
    assert trimmed_mean(points, 0.4).tolist() == [2.0, 30.0]
    assert trimmed_mean(points, 0.0).tolist() == [(1 + 2 + 4) / 3, 30.0]
    assert trimmed_mean(points[:2], 0.4).tolist() == [1.5, 30.0]
    assert trimmed_mean(points[:3], 0.1).tolist() == [2.0, 20.0]


def test_the_rules_are_chosen_by_name() -> None:
    means = np.array([[0.0, 4.0], [2.0, 5.0], [10.0, 90.0]])
    weights = np.array([1.0, 2.0, 1.0])
    by_name = {
        name: combined(RobustSettings(combine=name, buckets=3), means, weights).tolist()
        for name in ("mean", "median", "trimmed_mean")
    }
    assert by_name == {"mean": [3.5, 26.0], "median": [2.0, 5.0], "trimmed_mean": [2.0, 5.0]}
    rule = RobustSettings(combine="geometric_median", buckets=3)
    assert combined(rule, means, weights).tobytes() == geometric_median(means, weights).tobytes()
    assert combined(rule, means[:1], weights[:1]).tolist() == [0.0, 4.0]


@settings(max_examples=60)
@given(
    st.sampled_from(["geometric_median", "median", "trimmed_mean"]),
    st.integers(5, 15),
    st.floats(1, 1e12),
    st.integers(0, 2**32),
)
def test_a_minority_of_buckets_can_not_carry_the_result_away(
    name: str, buckets: int, away: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    hostile = int(0.3 * buckets)
    points = rng.normal(size=(buckets, 6))
    points[:hostile] = away * rng.normal(size=(hostile, 6))
    rule = RobustSettings(combine=name, buckets=buckets, trim=0.35)  # type: ignore[arg-type]
    found = combined(rule, points, np.ones(buckets))
    honest = points[hostile:]
    middle = honest.mean(axis=0)
    spread = float(np.sqrt(np.square(honest - middle).sum(axis=1)).max())
    # A share a < 1/2 moves a geometric median by at most 2 (1 - a) / (1 - 2 a) spreads.
    assert math.dist(found, middle) <= 2 * 0.7 / 0.4 * spread + math.sqrt(6) * spread


@settings(max_examples=30)
@given(st.floats(1, 1e9), st.integers(0, 2**32))
def test_the_plain_mean_has_no_such_bound(away: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(10, 6))
    points[0] = 1e4 * away
    found = combined(RobustSettings(), points, np.ones(10))
    assert np.abs(found).min() > 100 * away


# The table


@pytest.mark.parametrize(
    ("table", "goal", "k_min", "words"),
    [
        (RobustSettings(), 10, 1, ""),
        (RobustSettings(buckets=2), 10, 1, "no meaning for the mean"),
        (RobustSettings(combine="median", buckets=2), 10, 1, "fewer than 3 buckets"),
        (RobustSettings(combine="median", buckets=5), 10, 3, "need more updates than the 10"),
        (RobustSettings(combine="median", buckets=5), 10, 2, ""),
    ],
)
def test_a_table_that_contradicts_itself_is_told_in_words(
    table: RobustSettings, goal: int, k_min: int, words: str
) -> None:
    found = problem_with(table, goal, k_min)
    assert words in found
    assert bool(found) == bool(words)
