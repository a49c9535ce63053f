"""Means and deviations of all sites' rows, from sums alone."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.signals.features import measure
from coordinator.site_statistics import combine, missing_sites, problem_of
from wire.bundle import Level
from wire.errors import MalformedError
from wire.messages import Statistics
from wire.standards import write_standard

BUNDLE = bytes(range(32))


def told(x: NDArray[np.float32]) -> Statistics:
    """What a site with these inputs, (N, F), would report."""
    moments = measure([Level(channel=str(at)) for at in range(x.shape[1])], x)
    sums, squares = tuple(moments.sums.tolist()), tuple(moments.squares.tolist())
    return Statistics(bundle=BUNDLE, count=moments.count, sums=sums, squares=squares)


def sites(mean: float, deviation: float, seed: int = 1) -> list[NDArray[np.float32]]:
    """Inputs of five sites of very different sizes and levels, three columns each."""
    random = np.random.default_rng(seed)
    return [
        (mean + deviation * random.normal(random.normal(), 1.0, (rows, 3))).astype(np.float32)
        for rows in (1, 10, 1000, 20_000, 300)
    ]


@pytest.mark.parametrize(
    ("mean", "deviation", "allowed"),
    [
        (0.0, 1.0, 1e-12),
        (-5.0, 1e-3, 1e-8),
        (300.0, 2.0, 1e-10),
        (1e6, 1.0, 2e-3),  # 2^-50 (mean / deviation)^2 is 0.9e-3
        (1e-30, 1e-30, 1e-12),
    ],
)
def test_sums_of_sites_give_what_their_pooled_rows_would(
    mean: float, deviation: float, allowed: float
) -> None:
    rows = sites(mean, deviation)
    together = combine({str(at): told(each) for at, each in enumerate(rows)}, BUNDLE, 3)
    pooled = np.concatenate(rows).astype(np.float64)
    assert np.allclose(together.mean, pooled.mean(axis=0), rtol=1e-14, atol=1e-14 * deviation)
    assert np.allclose(together.deviation, pooled.std(axis=0), rtol=allowed, atol=0)


@given(st.permutations(range(5)))
def test_the_order_in_which_sites_report_does_not_change_a_byte(order: list[int]) -> None:
    reports = {str(at): told(each) for at, each in enumerate(sites(1e5, 3.0))}
    turned = {str(at): reports[str(at)] for at in order}
    assert write_standard(combine(turned, BUNDLE, 3)) == write_standard(combine(reports, BUNDLE, 3))


@pytest.mark.parametrize("value", [0.0, 1e6, -273.15, 1e-30, 123456.78])
def test_a_column_that_never_changes_anywhere_has_deviation_1(value: float) -> None:
    x = np.full((70_001, 2), value, np.float32)
    x[:, 1] = np.arange(70_001)
    together = combine({"a": told(x), "b": told(x[:7])}, BUNDLE, 2)
    assert together.deviation[0] == 1.0
    assert together.deviation[1] > 1.0
    assert together.mean[0] == pytest.approx(float(np.float32(value)), rel=1e-15)


def test_a_column_that_is_constant_at_each_site_but_not_the_same_is_scaled() -> None:
    reports = {"a": told(np.full((10, 1), 2.0, np.float32)), "b": told(np.full((30, 1), 6.0, "f4"))}
    together = combine(reports, BUNDLE, 1)
    assert together.mean.tolist() == [5.0]
    assert together.deviation.tolist() == [math.sqrt(3.0)]


GOOD = told(sites(0.0, 1.0)[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sums": GOOD.sums[:2]}, "2 sums and 3 squares, the bundle's features make 3 columns"),
        ({"sums": GOOD.sums[:2], "squares": GOOD.squares[:2]}, "2 sums and 2 squares"),
        ({"bundle": bytes(32)}, "another bundle"),
        ({"count": 0}, "about no rows"),
        ({"sums": (0.0, math.nan, 0.0)}, "not finite"),
        ({"squares": (1.0, 1.0, math.inf)}, "not finite"),
        ({"squares": (1e3, -1.0, 1e3)}, "column 1: no rows have this sum"),
        ({"sums": (1e3, 0.0, 0.0)}, "column 0: no rows have this sum"),
    ],
)
def test_what_can_not_be_sums_over_rows_is_refused_with_the_name_of_who_sent_it(
    changes: dict[str, object], reason: str
) -> None:
    wrong = msgspec.structs.replace(GOOD, **changes)
    assert problem_of(GOOD, BUNDLE, 3) == ""
    assert reason in problem_of(wrong, BUNDLE, 3)
    with pytest.raises(MalformedError, match=r"^gateway-7: "):
        combine({"gateway-1": GOOD, "gateway-7": wrong}, BUNDLE, 3)


def test_nothing_can_not_be_combined() -> None:
    with pytest.raises(MalformedError, match="no site"):
        combine({}, BUNDLE, 3)


@pytest.mark.parametrize(
    ("reported", "quorum", "k_min", "missing"),
    [
        ([], 1, 1, 1),
        (["a"], 1, 1, 0),
        (["a", "a", "a"], 2, 1, 1),
        (["a", "b"], 2, 3, 1),
        (["a", "b", "c", "d"], 2, 3, 0),
        ([], 0, 0, 0),
    ],
)
def test_statistics_need_as_many_distinct_sites_as_both_rules_want(
    reported: list[str], quorum: int, k_min: int, missing: int
) -> None:
    assert missing_sites(reported, quorum, k_min) == missing
