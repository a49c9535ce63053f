"""Rows are cut on source timestamps: what arrives when must not matter."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.signals.rows import CLOCK_STEP_US, Row, RowCutter
from agent.signals.sample import Sample

GOOD, UNCERTAIN, BAD = 0x0000_0000, 0x4000_0000, 0x8000_0000
TRIGGER = 0
NEVER_S = 1e9


def sample(channel: int, at_us: int, value: float = 1.0, status: int = GOOD) -> Sample:
    return Sample(channel, value, status, at_us)


def cutter(grace_s: float = NEVER_S) -> RowCutter:
    return RowCutter(channels=3, trigger=TRIGGER, grace_s=grace_s)


def expected(streams: list[list[Sample]]) -> list[Row]:
    """Rows by definition: one for each trigger sample that every channel has reached."""
    reached = min((stream[-1].source_timestamp_us for stream in streams if stream), default=-1)
    if not all(streams):
        return []
    rows = []
    for trigger in streams[TRIGGER]:
        at = trigger.source_timestamp_us
        if at > reached:
            break
        before = [[s for s in stream if s.source_timestamp_us <= at] for stream in streams]
        rows.append(Row(at, tuple(held[-1].value if held else math.nan for held in before)))
    return rows


def shown(rows: list[Row]) -> list[tuple[int, tuple[str, ...]]]:
    """Rows as text, because NaN is not equal to itself."""
    return [(row.source_timestamp_us, tuple(map(repr, row.values))) for row in rows]


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
    rows = [row for channel in turns for row in machine.push([next(waiting[channel])], now_s=0.0)]
    assert shown(rows) == shown(expected(streams))
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
    rows: list[Row] = []
    for start in range(0, len(arriving), size):
        rows += machine.push(arriving[start : start + size], now_s=0.0)
    assert shown(rows) == shown(expected(streams))


def test_a_row_waits_for_a_channel_within_the_grace_time_and_holds_its_value_after_it() -> None:
    machine = cutter(grace_s=5.0)
    assert machine.push([sample(1, 10, 7.0), sample(2, 20, 8.0), sample(0, 20)], now_s=100.0) == []
    assert machine.push([], now_s=104.9) == []
    assert machine.push([], now_s=105.0) == [Row(20, (1.0, 7.0, 8.0))]


def test_a_value_that_came_after_its_row_is_counted_and_held_by_the_next_row() -> None:
    machine = cutter(grace_s=1.0)
    machine.push([sample(1, 10, 7.0), sample(2, 10, 8.0), sample(0, 20)], now_s=0.0)
    assert machine.push([], now_s=1.0) == [Row(20, (1.0, 7.0, 8.0))]
    assert machine.push([sample(1, 15, 9.0)], now_s=1.1) == []
    assert machine.late == 1
    rows = machine.push([sample(2, 30, 8.5), sample(0, 30)], now_s=1.2)
    rows += machine.push([], now_s=2.2)
    assert rows == [Row(30, (1.0, 9.0, 8.5))]


def test_a_late_trigger_makes_no_second_row() -> None:
    machine = cutter(grace_s=0.0)
    first = machine.push([sample(1, 20), sample(2, 20), sample(0, 20)], now_s=0.0)
    again = machine.push([sample(0, 20), sample(1, 20), sample(2, 20)], now_s=1.0)
    assert [row.source_timestamp_us for row in first] == [20]
    assert again == []
    assert machine.late == 3


def test_a_bad_value_makes_its_row_incomplete_and_only_that_row() -> None:
    machine = cutter()
    rows = machine.push(
        [
            sample(1, 10, 7.0),
            sample(1, 20, 0.0, BAD),
            sample(1, 30, 9.0),
            *(sample(2, at) for at in (10, 20, 30)),
            *(sample(0, at) for at in (10, 20, 30)),
        ],
        now_s=0.0,
    )
    assert [row.is_complete for row in rows] == [True, False, True]
    assert math.isnan(rows[1].values[1])


def test_an_uncertain_value_is_used() -> None:
    rows = cutter().push([sample(1, 10, 7.0, UNCERTAIN), sample(2, 10), sample(0, 10)], now_s=0.0)
    assert rows == [Row(10, (1.0, 7.0, 1.0))]


def test_a_bad_trigger_makes_no_row() -> None:
    assert cutter().push([sample(1, 10), sample(2, 10), sample(0, 10, 1.0, BAD)], now_s=0.0) == []


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_makes_its_row_incomplete(value: float) -> None:
    assert not Row(1, (1.0, value)).is_complete


def test_a_placeholder_before_the_first_value_does_not_stop_the_rows() -> None:
    now_us = 1_700_000_000_000_000
    machine = cutter()
    machine.push([sample(channel, now_us, 0.0, BAD) for channel in range(3)], now_s=0.0)
    rows = machine.push([sample(channel, 10, 5.0) for channel in (1, 2, 0)], now_s=0.0)
    assert rows == [Row(10, (5.0, 5.0, 5.0))]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2)])
def test_rows_go_on_after_the_clock_was_set_back(order: tuple[int, ...]) -> None:
    old, new = 10 * CLOCK_STEP_US, 2 * CLOCK_STEP_US
    machine = cutter()
    before = machine.push([sample(channel, old, 1.0) for channel in (1, 2, 0)], now_s=0.0)
    after = [row for c in order for row in machine.push([sample(c, new, 2.0)], now_s=0.0)]
    assert before == [Row(old, (1.0, 1.0, 1.0))]
    assert after == [Row(new, (2.0, 2.0, 2.0))]


def test_memory_is_bounded_when_the_trigger_never_comes() -> None:
    machine = cutter()
    machine.push((sample(1, at) for at in range(200_000)), now_s=0.0)
    assert len(machine._samples[1]) == 100_000  # noqa: SLF001  the bound itself
