"""Sums of masked reports through rows, helpers and masks, against a fold that shares no code."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.secagg import exact
from benchmarks.secagg.exact import K_MIN, Case, run_case
from coordinator.secure.sums import Opened


@pytest.mark.parametrize(
    "case",
    [Case(5, 10_000, 16, seed=0), Case(50, 10_000, 16, seed=1), Case(1_000, 10_000, 32, seed=2)],
    ids=lambda case: f"{case.members}-without-{case.down}",
)
def test_sums_are_exact_with_one_helper_down_and_all_agents_gone(
    tmp_path: Path, case: Case
) -> None:
    found = run_case(case, tmp_path)
    assert found.wrong == 0
    assert 0 < found.overhead_bytes <= 600


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.integers(K_MIN + 2, 30),
    count=st.integers(1, 400),
    ring=st.sampled_from([16, 32]),
    buckets=st.integers(1, 6),
    seed=st.integers(0, 1 << 30),
)
def test_sums_of_any_shape_in_any_buckets_are_exact(
    tmp_path_factory: pytest.TempPathFactory,
    members: int,
    count: int,
    ring: Literal[16, 32],
    buckets: int,
    seed: int,
) -> None:
    case = Case(members, count, ring, buckets, seed)
    found = run_case(case, tmp_path_factory.getbasetemp())
    assert (found.wrong, found.overhead_bytes <= 600) == (0, True)


def test_the_fold_notices_one_integer_that_is_off_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = exact.wrong_integers

    def off_by_one(case: Case, opened: Opened) -> int:
        opened.sums[0, 17] += 1
        return compare(case, opened)

    monkeypatch.setattr(exact, "wrong_integers", off_by_one)
    assert run_case(Case(5, 100, 16), tmp_path).wrong == 1
