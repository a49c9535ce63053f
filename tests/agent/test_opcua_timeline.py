"""Gaps are marked once, where they are, and a repetition is dropped only where one is expected."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.timeline import OVERFLOW, Timeline
from agent.sensors.source import SourceReport
from agent.signals.block import EMPTY, ArraySample, Block, Gap, block_of


def place(
    timeline: Timeline, *samples: tuple[int, int], overflowed: tuple[int, ...] = ()
) -> list[Block]:
    """Place (channel, time) samples; those whose positions are in `overflowed` carry the bit."""
    channel, at_us = zip(*samples, strict=True)
    status = [OVERFLOW if at in overflowed else 0 for at in range(len(samples))]
    return timeline.place(
        np.array(channel, np.uint32),
        np.array(at_us, np.float64),
        np.array(status, np.uint32),
        np.array(at_us, np.int64),
    )


def gaps(blocks: list[Block]) -> list[Gap]:
    return [gap for block in blocks for gap in block.gaps]


def times(blocks: list[Block]) -> list[int]:
    return [int(each) for block in blocks for each in block.source_timestamp_us]


def test_a_gap_reaches_from_the_last_sample_before_to_the_first_one_after() -> None:
    timeline = Timeline(2)
    assert not gaps(place(timeline, (0, 10), (1, 11), (0, 20)))
    timeline.open_gaps([0, 1], "connection lost")
    assert gaps(place(timeline, (0, 50), (0, 60))) == [Gap(0, 20, 50, "connection lost")]
    assert gaps(place(timeline, (0, 70), (1, 71))) == [Gap(1, 11, 71, "connection lost")]
    assert not gaps(place(timeline, (0, 80), (1, 81)))


def test_a_channel_that_gave_nothing_yet_misses_nothing() -> None:
    timeline = Timeline(1)
    timeline.open_gaps([0], "connection lost")
    assert not gaps(place(timeline, (0, 50)))


def test_an_open_gap_keeps_its_first_reason() -> None:
    timeline = Timeline(1)
    place(timeline, (0, 10))
    timeline.open_gaps([0], "first")
    timeline.open_gaps([0], "second")
    assert [gap.reason for gap in gaps(place(timeline, (0, 20)))] == ["first"]


def test_a_repetition_is_dropped_where_it_is_expected_and_closes_the_gap() -> None:
    timeline = Timeline(2)
    place(timeline, (0, 10), (1, 10))
    timeline.open_gaps([0, 1], "connection lost")
    timeline.expect_repetition([0, 1])
    blocks = place(timeline, (0, 10), (1, 15), (0, 30), (0, 30))
    assert times(blocks) == [15, 30, 30]
    assert gaps(blocks) == [Gap(1, 10, 15, "connection lost")]


def test_a_machine_whose_clock_stands_still_or_goes_back_is_not_silent() -> None:
    timeline = Timeline(1)
    blocks = place(timeline, (0, 100)) + place(timeline, (0, 100)) + place(timeline, (0, 3))
    assert times(blocks) == [100, 100, 3]
    timeline.open_gaps([0], "connection lost")
    timeline.expect_repetition([0])
    assert gaps(place(timeline, (0, 1))) == [Gap(0, 3, 1, "connection lost")]


def test_an_overflowed_queue_is_a_gap_and_begins_a_block_of_its_own() -> None:
    timeline = Timeline(2)
    place(timeline, (0, 10))
    blocks = place(timeline, (0, 30), (1, 30), (0, 90), (1, 90), overflowed=(0, 2))
    assert [len(block) for block in blocks] == [2, 2]
    assert [(gap.from_us, gap.until_us) for gap in blocks[0].gaps] == [(10, 30)]
    assert [(gap.from_us, gap.until_us) for gap in blocks[1].gaps] == [(30, 90)]


def test_arrays_have_gaps_and_repetitions_too() -> None:
    timeline = Timeline(1)
    first, second = (ArraySample(0, np.zeros(2, np.float32), 0, at) for at in (10, 20))
    assert timeline.place_array(first)
    timeline.open_gaps([0], "connection lost")
    timeline.expect_repetition([0])
    assert not timeline.place_array(first)
    timeline.open_gaps([0], "connection lost")
    assert timeline.place_array(second)[0].gaps == (Gap(0, 10, 20, "connection lost"),)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=30),
)
def test_no_sample_is_lost_and_each_overflow_is_one_gap_before_its_channels_samples(
    drawn: list[tuple[int, bool]],
) -> None:
    timeline = Timeline(3)
    samples = [(channel, at) for at, (channel, _) in enumerate(drawn)]
    overflowed = tuple(at for at, (_, bit) in enumerate(drawn) if bit)
    blocks = place(timeline, *samples, overflowed=overflowed)
    assert times(blocks) == [at for _, at in samples]
    assert sorted(gap.until_us for gap in gaps(blocks)) == list(overflowed)
    for block in blocks:
        for gap in block.gaps:
            of_channel = block.source_timestamp_us[block.channel == gap.channel]
            assert gap.until_us == of_channel[0]


def test_a_consumer_that_is_slow_loses_the_oldest_and_is_told_which() -> None:
    async def scenario() -> None:
        report = SourceReport("opcua")
        pending = Pending(2, 10, report)
        pending.put(block_of([0], [0], [0], [5]))
        assert len(await pending.get()) == 1
        for at in range(6, 12):
            pending.put(block_of([0, 0, 1], [at] * 3, [0] * 3, [10 * at, 10 * at + 1, 10 * at]))
        first, *rest = [await pending.get() for _ in range(3)]
        assert first.gaps[0] == Gap(0, 5, 90, first.gaps[0].reason, 6)
        assert first.gaps[1] == Gap(1, 90, 90, first.gaps[1].reason, 3)
        assert not any(block.gaps for block in rest)
        assert report.counters["dropped_samples"] == 9

    asyncio.run(scenario())


def test_signs_of_life_do_not_pile_up() -> None:
    async def scenario() -> None:
        pending = Pending(1, 10, SourceReport("opcua"))
        for _ in range(1000):
            pending.put(EMPTY)
        pending.close()
        assert len(await pending.get()) == 0
        with pytest.raises(EOFError):
            await pending.get()

    asyncio.run(scenario())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 12))
def test_samples_put_are_samples_taken_and_samples_marked_lost(
    sizes: list[int], capacity: int
) -> None:
    async def scenario() -> None:
        pending = Pending(1, capacity, SourceReport("opcua"))
        at = 0
        for size in sizes:
            pending.put(block_of([0] * size, [0] * size, [0] * size, range(at, at + size)))
            at += size
        pending.put(block_of([0], [0], [0], [at]))
        pending.close()
        taken, lost = 0, 0
        while True:
            try:
                block = await pending.get()
            except EOFError:
                break
            taken += len(block)
            lost += sum(gap.lost or 0 for gap in block.gaps)
        assert taken + lost == at + 1

    asyncio.run(scenario())
