"""Rows are cut on source timestamps: what arrives when must not matter."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.signals.block import ArraySample, Block, Gap, block_of
from agent.signals.cutting import CLOCK_STEP_US, MAX_PENDING, Cutting, RowCutter
from agent.signals.rows import Rows

GOOD, UNCERTAIN, BAD = 0x0000_0000, 0x4000_0000, 0x8000_0000
TRIGGER = 0
NEVER_S = 1e9
Sample = tuple[int, int, float, int]
Shown = list[tuple[int, tuple[str, ...]]]


def sample(channel: int, at_us: int, value: float = 1.0, status: int = GOOD) -> Sample:
    return channel, at_us, value, status


def block(*samples: Sample, gaps: tuple[Gap, ...] = ()) -> Block:
    return block_of(
        [channel for channel, *_ in samples],
        [value for _, _, value, _ in samples],
        [status for *_, status in samples],
        [at_us for _, at_us, *_ in samples],
        gaps=gaps,
    )


def cutter(grace_s: float = NEVER_S, **more: object) -> RowCutter:
    return RowCutter(Cutting(channels=3, trigger=TRIGGER, grace_s=grace_s, **more))  # type: ignore[arg-type]


def every(period_us: int, channels: int = 2, grace_s: float = 1.0) -> RowCutter:
    return RowCutter(Cutting(channels=channels, period_us=period_us, grace_s=grace_s))


def expected(streams: list[list[Sample]]) -> Shown:
    """Complete rows by definition: one for each trigger sample that every channel has reached."""
    reached = min((stream[-1][1] for stream in streams if stream), default=-1)
    if not all(streams):
        return []
    rows = []
    for trigger in streams[TRIGGER]:
        at = trigger[1]
        if at > reached:
            break
        before = [[s for s in stream if s[1] <= at] for stream in streams]
        if all(before):
            rows.append((at, tuple(repr(held[-1][2]) for held in before)))
    return rows


def shown(rows: Rows) -> Shown:
    """Source timestamps and values."""
    return [
        (int(at), tuple(repr(float(value)) for value in values))
        for at, values in zip(rows.source_timestamp_us, rows.values, strict=True)
    ]


def row(at_us: int, *values: float) -> tuple[int, tuple[str, ...]]:
    return at_us, tuple(map(repr, values))


stamps = st.lists(st.integers(0, 60), max_size=12, unique=True).map(sorted)


@given(st.tuples(stamps, stamps, stamps), st.randoms(use_true_random=False), st.data())
def test_the_order_of_arrival_between_channels_cannot_change_a_row(
    times: tuple[list[int], list[int], list[int]], order_of: object, data: st.DataObject
) -> None:
    streams = [
        [sample(channel, at, value=100.0 * channel + at) for at in channel_times]
        for channel, channel_times in enumerate(times)
    ]
    labels = [channel for channel, stream in enumerate(streams) for _ in stream]
    turns = data.draw(st.permutations(labels))
    waiting = [iter(stream) for stream in streams]
    machine = cutter()
    rows = [
        found
        for channel in turns
        for found in shown(machine.push(block(next(waiting[channel])), now_s=0.0))
    ]
    assert rows == expected(streams)
    assert machine.late == 0


@given(st.tuples(stamps, stamps, stamps), st.integers(1, 10))
def test_the_size_of_batches_cannot_change_a_row(
    times: tuple[list[int], list[int], list[int]], size: int
) -> None:
    streams = [
        [sample(channel, at, value=float(at)) for at in channel_times]
        for channel, channel_times in enumerate(times)
    ]
    arriving = [item for stream in streams for item in stream]
    machine = cutter()
    rows: Shown = []
    for start in range(0, len(arriving), size):
        rows += shown(machine.push(block(*arriving[start : start + size]), now_s=0.0))
    assert rows == expected(streams)


def test_a_row_waits_for_a_channel_within_the_grace_time_and_holds_its_value_after_it() -> None:
    machine = cutter(grace_s=5.0)
    first = block(sample(1, 10, 7.0), sample(2, 20, 8.0), sample(0, 20))
    assert not len(machine.push(first, now_s=100.0))
    assert not len(machine.cut(now_s=104.9))
    assert shown(machine.cut(now_s=105.0)) == [row(20, 1.0, 7.0, 8.0)]


def test_a_value_that_came_after_its_row_is_counted_and_held_by_the_next_row() -> None:
    machine = cutter(grace_s=1.0)
    machine.push(block(sample(1, 10, 7.0), sample(2, 10, 8.0), sample(0, 20)), now_s=0.0)
    assert shown(machine.cut(now_s=1.0)) == [row(20, 1.0, 7.0, 8.0)]
    assert not len(machine.push(block(sample(1, 15, 9.0)), now_s=1.1))
    assert machine.late == 1
    rows = shown(machine.push(block(sample(2, 30, 8.5), sample(0, 30)), now_s=1.2))
    rows += shown(machine.cut(now_s=2.2))
    assert rows == [row(30, 1.0, 9.0, 8.5)]


def test_a_late_value_older_than_the_one_that_is_held_changes_nothing() -> None:
    machine = cutter(grace_s=1.0)
    machine.push(block(sample(1, 18, 7.0), sample(2, 10), sample(0, 20)), now_s=0.0)
    machine.cut(now_s=1.0)
    machine.push(block(sample(1, 15, 9.0)), now_s=1.1)
    machine.push(block(sample(2, 30), sample(0, 30)), now_s=1.2)
    assert shown(machine.cut(now_s=2.2)) == [row(30, 1.0, 7.0, 1.0)]


def test_a_late_trigger_makes_no_second_row() -> None:
    machine = cutter(grace_s=0.0)
    first = machine.push(block(sample(1, 20), sample(2, 20), sample(0, 20)), now_s=0.0)
    again = machine.push(block(sample(0, 20), sample(1, 20), sample(2, 20)), now_s=1.0)
    assert first.source_timestamp_us.tolist() == [20]
    assert not len(again)
    assert machine.late == 3


def three(*seconds: Sample) -> Block:
    """Channel 1 as given; the others at 10, 20 and 30."""
    others = [sample(channel, at) for channel in (2, 0) for at in (10, 20, 30)]
    return block(*seconds, *others)


def test_a_bad_value_leaves_out_its_row_and_only_that_row_and_breaks_the_run() -> None:
    machine = cutter()
    rows = machine.push(
        three(sample(1, 10, 7.0), sample(1, 20, 0.0, BAD), sample(1, 30, 9.0)), now_s=0.0
    )
    assert shown(rows) == [row(10, 1.0, 7.0, 1.0), row(30, 1.0, 9.0, 1.0)]
    assert rows.follows.tolist() == [False, False]
    assert machine.incomplete == 1
    assert machine.lacking.tolist() == [False, True, False]
    machine.push(block(*(sample(channel, 40) for channel in range(3))), now_s=0.0)
    assert not machine.lacking.any()


def test_a_bad_value_can_leave_the_last_one_standing() -> None:
    machine = cutter(hold_bad=True)
    rows = machine.push(
        three(sample(1, 10, 7.0), sample(1, 20, 0.0, BAD), sample(1, 30, 9.0)), now_s=0.0
    )
    assert [values[1] for values in rows.values.tolist()] == [7.0, 7.0, 9.0]
    assert rows.follows.tolist() == [False, True, True]


@pytest.mark.parametrize(("is_bad", "kept"), [(False, [10, 20, 30]), (True, [10, 30])])
def test_an_uncertain_value_is_used_unless_the_policy_says_otherwise(
    is_bad: bool,
    kept: list[int],
) -> None:
    machine = cutter(uncertain_is_bad=is_bad)
    rows = machine.push(
        three(sample(1, 10), sample(1, 20, 8.0, UNCERTAIN), sample(1, 30)), now_s=0.0
    )
    assert rows.source_timestamp_us.tolist() == kept


def test_a_bad_trigger_makes_no_row() -> None:
    machine = cutter()
    assert not len(
        machine.push(block(sample(1, 10), sample(2, 10), sample(0, 10, 1.0, BAD)), now_s=0.0)
    )


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_leaves_out_its_row(value: float) -> None:
    machine = cutter()
    rows = machine.push(block(sample(1, 10, value), sample(2, 10), sample(0, 10)), now_s=0.0)
    assert not len(rows)
    assert machine.incomplete == 1


def test_rows_of_a_gap_are_left_out_and_the_run_is_broken_there() -> None:
    machine = cutter()
    machine.push(three(*(sample(1, at) for at in (10, 20))), now_s=0.0)
    gap = Gap(1, 20, 40, "cut")
    rows = machine.push(block(sample(1, 40), gaps=(gap,)), now_s=0.0)
    assert not len(rows)  # the row of 30 lies in the gap
    later = [sample(channel, at) for channel in range(3) for at in (40, 50)]
    rows = machine.push(block(*later), now_s=0.0)
    assert rows.source_timestamp_us.tolist() == [40, 50]
    assert rows.follows.tolist() == [False, True]


def test_a_gap_of_the_trigger_breaks_the_run_although_no_row_is_incomplete() -> None:
    machine = cutter(hold_gaps=True)
    machine.push(block(*(sample(channel, 10) for channel in range(3))), now_s=0.0)
    gaps = tuple(Gap(channel, 10, 30, "cut") for channel in range(3))
    later = [sample(channel, at) for channel in range(3) for at in (30, 40)]
    rows = machine.push(block(*later, gaps=gaps), now_s=0.0)
    assert rows.source_timestamp_us.tolist() == [30, 40]
    assert rows.follows.tolist() == [False, True]


def test_a_gap_can_leave_the_last_value_standing() -> None:
    machine = cutter(hold_gaps=True)
    machine.push(block(*(sample(channel, 10, 3.0) for channel in range(3))), now_s=0.0)
    later = [sample(channel, at) for channel in (0, 2) for at in (20, 30)]
    rows = machine.push(block(sample(1, 30, 4.0), *later, gaps=(Gap(1, 10, 30, "cut"),)), now_s=0.0)
    assert shown(rows) == [row(20, 1.0, 3.0, 1.0), row(30, 1.0, 4.0, 1.0)]
    assert rows.follows.all()


def test_a_channel_that_changes_can_end_a_run() -> None:
    machine = cutter(group=1)
    orders = [sample(1, at, float(at > 20)) for at in (10, 20, 30)]
    assert machine.push(three(*orders), now_s=0.0).follows.tolist() == [False, True, False]


def test_rows_of_a_period_hold_the_last_value_of_every_channel() -> None:
    machine = every(10)
    fast = [sample(0, at, float(at)) for at in range(1, 41)]
    slow = [sample(1, at, float(at)) for at in (5, 25, 45)]
    rows = machine.push(block(*fast, *slow), now_s=0.0)
    expected_rows = [row(10, 10.0, 5.0), row(20, 20.0, 5.0), row(30, 30.0, 25.0)]
    assert shown(rows) == [*expected_rows, row(40, 40.0, 25.0)]
    assert rows.follows.tolist() == [False, True, True, True]


def test_a_period_in_which_nothing_changed_has_a_row_too_within_the_grace_time() -> None:
    machine = every(100_000, channels=1)
    rows = machine.push(block(sample(0, 100_000), sample(0, 400_000, 2.0)), now_s=0.0)
    assert [values[0] for values in rows.values.tolist()] == [1.0, 1.0, 1.0, 2.0]
    assert rows.follows.tolist() == [False, True, True, True]


def test_a_silence_longer_than_the_grace_time_breaks_the_run_and_makes_no_rows() -> None:
    machine = every(100_000, channels=1)
    rows = machine.push(block(sample(0, 100_000), sample(0, 9_000_000_000)), now_s=0.0)
    assert rows.source_timestamp_us.tolist() == [100_000, 9_000_000_000]
    assert rows.follows.tolist() == [False, False]


def test_samples_out_of_order_are_sorted_in_while_their_row_waits() -> None:
    machine = cutter()
    machine.push(block(sample(1, 20, 2.0), sample(1, 10, 1.0)), now_s=0.0)
    rows = machine.push(
        block(sample(1, 30), *(sample(c, at) for c in (0, 2) for at in (10, 20, 30))), now_s=0.0
    )
    assert [values[1] for values in rows.values.tolist()] == [1.0, 2.0, 1.0]
    assert machine.late == 0


def test_an_array_is_held_like_a_number() -> None:
    how = Cutting(channels=2, trigger=0, shapes={1: (2,)})
    machine = RowCutter(how)

    def wave(at_us: int, *values: float) -> ArraySample:
        return ArraySample(1, np.array(values, np.float32), GOOD, at_us)

    arrays = (wave(5, 1, 2), wave(25, 3, 4), wave(40, 5, 6))
    triggers = block_of([0, 0, 0], [7, 8, 9], [0] * 3, [10, 20, 30], arrays=arrays)
    rows = machine.push(triggers, now_s=0.0)
    assert rows.arrays[1].tolist() == [[1, 2], [1, 2], [3, 4]]
    assert rows.values.tolist() == [[7, 0], [8, 0], [9, 0]]
    rows = machine.push(block(sample(0, 40)), now_s=0.0)
    assert rows.arrays[1].tolist() == [[5, 6]]


def test_an_array_of_another_shape_and_a_bad_one_leave_out_their_rows() -> None:
    machine = RowCutter(Cutting(channels=2, trigger=0, shapes={1: (2,)}))
    wrong = ArraySample(1, np.zeros(3, np.float32), GOOD, 10)
    bad = ArraySample(1, np.zeros(2, np.float32), BAD, 20)
    triggers = block_of([0, 0], [1, 1], [0, 0], [10, 20], arrays=(wrong, bad))
    assert not len(machine.push(triggers, now_s=0.0))
    assert machine.incomplete == 2


def test_a_placeholder_before_the_first_value_does_not_stop_the_rows() -> None:
    now_us = 1_700_000_000_000_000
    machine = cutter()
    machine.push(block(*(sample(channel, now_us, 0.0, BAD) for channel in range(3))), now_s=0.0)
    rows = machine.push(block(*(sample(channel, 10, 5.0) for channel in (1, 2, 0))), now_s=0.0)
    assert shown(rows) == [row(10, 5.0, 5.0, 5.0)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2)])
def test_rows_go_on_after_the_clock_was_set_back(order: tuple[int, ...]) -> None:
    old, new = 10 * CLOCK_STEP_US, 2 * CLOCK_STEP_US
    machine = cutter()
    before = machine.push(block(*(sample(channel, old) for channel in (1, 2, 0))), now_s=0.0)
    after = [
        found
        for channel in order
        for found in shown(machine.push(block(sample(channel, new, 2.0)), now_s=0.0))
    ]
    assert shown(before) == [row(old, 1.0, 1.0, 1.0)]
    assert after == [row(new, 2.0, 2.0, 2.0)]


def test_a_clock_set_back_within_one_block_loses_no_row() -> None:
    old, new = 10 * CLOCK_STEP_US, 2 * CLOCK_STEP_US
    both = block(*(sample(channel, at) for at in (old, new) for channel in (1, 2, 0)))
    assert cutter().push(both, now_s=0.0).source_timestamp_us.tolist() == [old, new]


def test_replayed_samples_are_no_clock_set_back() -> None:
    old, new = 2 * CLOCK_STEP_US, 10 * CLOCK_STEP_US
    machine = cutter()
    machine.push(block(*(sample(channel, new, 2.0) for channel in (1, 2))), now_s=0.0)
    late = block_of([1, 2, 0], [5.0] * 3, [0] * 3, [old] * 3, is_replayed=True)
    rows = shown(machine.push(late, now_s=0.0))
    rows += shown(machine.push(block(sample(0, new)), now_s=0.0))
    assert rows == [row(old, 5.0, 5.0, 5.0), row(new, 1.0, 2.0, 2.0)]


def test_memory_is_bounded_when_the_trigger_never_comes() -> None:
    machine = cutter()
    many = 600_000
    for start in (0, many):
        stamps = np.arange(start, start + many)
        machine.push(block_of(np.ones(many), stamps, np.zeros(many), stamps), now_s=0.0)
    assert machine.dropped == 2 * many - MAX_PENDING
