"""Held-out rows by group and by time."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.split import split_by_group, split_by_time

NAMES = st.lists(st.text(max_size=8), min_size=2, max_size=40, unique=True)
SEEDS = st.integers(0, 2**32)


@given(NAMES, st.floats(0.01, 0.99), SEEDS, st.randoms(use_true_random=False))
def test_a_group_is_wholly_on_one_side_and_both_sides_have_one(
    names: list[str], share: float, seed: int, random: Random
) -> None:
    rows = names * 3
    random.shuffle(rows)
    groups = np.array(rows)
    held_out = split_by_group(groups, share, seed)
    assert held_out.shape == groups.shape
    assert 0 < held_out.sum() < len(groups)
    assert not set(groups[held_out]) & set(groups[~held_out])


@given(st.sets(st.integers(-(2**40), 2**40), min_size=60, max_size=80), SEEDS)
def test_a_group_stays_on_its_side_when_others_appear(numbers: set[int], seed: int) -> None:
    groups = np.array(sorted(numbers))
    fewer = groups[::2]
    some, all_ = split_by_group(fewer, 0.5, seed), split_by_group(groups, 0.5, seed)
    assert np.array_equal(some, all_[::2])  # 30 groups on one side: a chance of 2^-29


def test_the_share_of_the_groups_is_about_the_one_asked_for_and_the_seed_chooses() -> None:
    groups = np.arange(4000)
    for share in (0.1, 0.3, 0.8):
        held_out = split_by_group(groups, share, 7)
        assert abs(held_out.mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
        assert np.array_equal(held_out, split_by_group(groups, share, 7))
        assert not np.array_equal(held_out, split_by_group(groups, share, 8))


def test_group_splits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="1 group: need at least 2"):
        split_by_group(np.array(["press"] * 9), 0.2, 0)
    with pytest.raises(ValueError, match="0 group"):
        split_by_group(np.array([], np.int64), 0.2, 0)
    with pytest.raises(ValueError, match=r"share = 1\.0"):
        split_by_group(np.arange(9), 1.0, 0)


@given(
    rows=st.integers(200, 400),
    length=st.integers(1, 12),
    stride=st.integers(1, 15),
    share=st.floats(0.05, 0.95),
    blocks=st.integers(2, 6),
    gap=st.integers(0, 10),
    seed=SEEDS,
)
def test_overlapping_windows_never_straddle(
    rows: int, length: int, stride: int, share: float, blocks: int, gap: int, seed: int
) -> None:
    """Windows are cut from rows at irregular times; no row may serve both sides, nor come near."""
    steps = np.random.default_rng(seed).choice([0, 1, 2, 3, 70], rows)
    times = np.cumsum(steps)
    first_row = np.arange(0, rows - length, stride)
    last_row = first_row + length - 1
    try:
        split = split_by_time(
            times[first_row], times[last_row], share, seed=seed, blocks=blocks, gap=gap
        )
    except ValueError as error:
        assume("need longer blocks" not in str(error))
        raise

    def rows_of(side: NDArray[np.bool_]) -> set[int]:
        return {
            row
            for first, last in zip(first_row[side], last_row[side], strict=True)
            for row in range(first, last + 1)
        }

    trained, judged = rows_of(split.train), rows_of(split.held_out)
    assert trained
    assert judged
    assert not trained & judged
    near = times[sorted(trained)][:, None] - times[sorted(judged)][None, :]
    assert np.abs(near).min() > gap


def test_windows_that_reach_across_a_border_are_purged_and_the_others_are_used() -> None:
    first = np.arange(0, 1000, 5)
    split = split_by_time(first, first + 29, 0.2, seed=3)
    assert 0.1 < split.held_out.mean() < 0.2
    assert 0.6 < split.train.mean() < 0.8
    purged = ~(split.train | split.held_out)
    assert 0 < purged.sum() <= 2 * 2 * 5  # two blocks, two borders each, 5 windows across each
    lone = split_by_time(first, first, 0.2, seed=3)
    assert (lone.train | lone.held_out).all()
    assert lone.held_out.sum() == 40
    again = split_by_time(first, first, 0.2, seed=3)
    assert np.array_equal(lone.held_out, again.held_out)
    others = {split_by_time(first, first, 0.2, seed=s).held_out.tobytes() for s in range(9)}
    assert len(others) > 1


def test_a_gap_moves_training_windows_away_from_held_out_blocks() -> None:
    first = np.arange(1000)
    near = split_by_time(first, first, 0.1, seed=0)
    far = split_by_time(first, first, 0.1, seed=0, gap=50)
    assert np.array_equal(near.held_out, far.held_out)
    distance = np.abs(first[far.train][:, None] - first[far.held_out][None, :]).min()
    assert distance == 51
    assert near.train.sum() > far.train.sum()


def test_time_splits_that_cannot_be_are_refused() -> None:
    first = np.arange(100)
    with pytest.raises(ValueError, match=r"of 100 windows in 10 blocks, .* 0 are held out"):
        split_by_time(first, first + 500, 0.2, seed=0)
    with pytest.raises(ValueError, match="blocks = 1"):
        split_by_time(first, first, 0.2, seed=0, blocks=1)
    with pytest.raises(ValueError, match="ends before it begins"):
        split_by_time(first, first - 1, 0.2, seed=0)
    with pytest.raises(ValueError, match="need two"):
        split_by_time(first, first[:50], 0.2, seed=0)
    with pytest.raises(ValueError, match="share = 0"):
        split_by_time(first, first, 0, seed=0)
