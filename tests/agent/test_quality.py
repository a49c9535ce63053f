"""Statistics of channels, compared with what numpy says of all samples at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.signals.block import EMPTY, ArraySample, Block, Gap, block_of
from agent.signals.quality import PERIOD_US, ChannelQuality, Quality

NOW_US = 1_763_800_000_000_000 // PERIOD_US * PERIOD_US
SECOND = 1_000_000
BAD, UNCERTAIN = 0x80310000, 0x40000000


def samples(
    value: list[float], at_us: list[int], *, channel: int = 0, is_replayed: bool = False
) -> Block:
    count = len(value)
    return block_of([channel] * count, value, [0] * count, at_us, is_replayed=is_replayed)


def only(quality: Quality, now_us: int = NOW_US) -> ChannelQuality:
    return quality.summary(now_us)[0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_cut_into_blocks_gives_the_statistics_of_all_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, channels = int(rng.integers(1, 12_000)), int(rng.integers(1, 40))
    channel = rng.integers(0, channels, count)
    status = rng.choice([0, 0, 0, BAD, UNCERTAIN], count)
    value = rng.normal(1e6, 1.0, count)
    at_us = NOW_US + rng.integers(0, 1000, count)
    whole = block_of(channel, value, status, at_us)
    quality = Quality([f"c{at}" for at in range(channels)])
    cuts = np.sort(rng.integers(0, count, int(rng.integers(0, 50))))
    for part in np.split(np.arange(count), cuts):
        quality.note(
            Block(
                whole.channel[part],
                whole.value[part],
                whole.status[part],
                whole.source_timestamp_us[part],
            ),
            NOW_US,
        )
    for at, found in enumerate(quality.summary(NOW_US)):
        mine = channel == at
        assert found.name == f"c{at}"
        assert found.samples == mine.sum()
        assert found.bad == (mine & (status == BAD)).sum()
        assert found.uncertain == (mine & (status == UNCERTAIN)).sum()
        times = at_us[mine]
        newest = np.maximum.accumulate(times)
        assert found.out_of_order == (times[1:] < newest[:-1]).sum()
        assert found.source_timestamp_us == (times.max() if len(times) else None)
        usable = value[mine & (status != BAD)]
        if not len(usable):
            assert (found.last, found.mean, found.deviation, found.least) == (None,) * 4
            continue
        assert (found.least, found.most) == (usable.min(), usable.max())
        assert found.last == usable[-1]
        assert found.mean == pytest.approx(usable.mean(), rel=1e-12)
        assert found.deviation == pytest.approx(usable.std(), rel=1e-7, abs=1e-9)


def test_a_large_offset_does_not_eat_the_variance() -> None:
    quality = Quality(["a"])
    for first in range(0, 100_000, 1000):
        at = np.arange(first, first + 1000)
        quality.note(samples((1e9 + at % 2).tolist(), (NOW_US + at).tolist()), NOW_US)
    assert only(quality).deviation == pytest.approx(0.5, rel=1e-9)


def test_of_an_array_all_values_count_and_the_last_is_its_mean() -> None:
    quality = Quality(["a", "wave"])
    waves = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = [
        ArraySample(1, wave, status, NOW_US + at)
        for at, (wave, status) in enumerate(zip(waves, (0, UNCERTAIN, BAD), strict=True))
    ]
    quality.note(replace(EMPTY, arrays=tuple(arrays)), NOW_US)
    found = quality.summary(NOW_US)[1]
    assert (found.samples, found.bad, found.uncertain) == (3, 1, 1)
    assert (found.least, found.most, found.mean, found.last) == (0, 7, 3.5, 5.5)
    assert found.deviation == pytest.approx(np.arange(8).std())
    assert found.source_timestamp_us == NOW_US + 2
    assert quality.summary(NOW_US)[0].samples == 0


def test_gaps_and_what_they_lost_are_counted() -> None:
    quality = Quality(["a", "b"])
    gaps = (Gap(0, 1, 2, "cut", 5), Gap(0, 3, 4, "cut"), Gap(1, 1, 2, "queue overflow", 7))
    quality.note(replace(EMPTY, gaps=gaps), NOW_US)
    assert [(found.gaps, found.lost) for found in quality.summary(NOW_US)] == [(2, 5), (1, 7)]


def test_numbers_that_are_none_count_as_samples_and_not_in_the_statistics() -> None:
    quality = Quality(["a"])
    quality.note(samples([1.0, float("nan"), float("inf"), 3.0], [1, 2, 3, 4]), NOW_US)
    found = only(quality)
    assert (found.samples, found.bad) == (4, 0)
    assert (found.least, found.most, found.mean, found.last) == (1, 3, 2, 3)


def test_the_rate_is_that_of_the_last_whole_period_and_ends_with_the_samples() -> None:
    quality = Quality(["a"])
    for tick in range(250):
        at_us = NOW_US + tick * 100_000
        quality.note(samples([1.0, 2.0], [at_us, at_us + 1]), at_us)
    assert only(quality, NOW_US + 25 * SECOND).rate_hz == 20.0
    assert only(quality, NOW_US + 31 * SECOND).rate_hz == 10.0
    assert only(quality, NOW_US + 45 * SECOND).rate_hz == 0.0


def feed(quality: Quality, offset_us: int, *, channel: int = 0, from_s: int = 0) -> None:
    """A minute of samples whose source's clock is behind by so much, sent with delays."""
    rng = np.random.default_rng(1)
    for second in range(from_s, from_s + 60):
        now_us = NOW_US + second * SECOND
        delay_us = int(rng.integers(1000, 3_000_000))
        block = samples([1.0], [now_us - delay_us - offset_us], channel=channel)
        quality.note(block, now_us)


@pytest.mark.parametrize(
    ("offset_s", "is_skewed"), [(0, False), (4, False), (6, True), (-4, False), (-6, True)]
)
def test_a_clock_that_is_far_off_is_flagged_whatever_the_delays(
    offset_s: int, is_skewed: bool
) -> None:
    quality = Quality(["a"])
    feed(quality, offset_s * SECOND)
    found = only(quality, NOW_US + 60 * SECOND)
    assert found.skew_s == pytest.approx(offset_s, abs=0.3)
    assert found.is_skewed == is_skewed


def test_a_clock_that_was_set_right_is_not_flagged_any_more() -> None:
    quality = Quality(["a"])
    feed(quality, -3600 * SECOND)
    assert only(quality, NOW_US + 60 * SECOND).is_skewed
    feed(quality, 0, from_s=60 + 3600)
    found = only(quality, NOW_US + (120 + 3600) * SECOND)
    assert not found.is_skewed
    assert found.skew_s is not None
    assert abs(found.skew_s) < 1


def test_every_channel_of_a_source_is_flagged_and_no_other() -> None:
    quality = Quality(["a", "b", "c"], sources=[0, 1, 1])
    feed(quality, 0, channel=0)
    feed(quality, -10 * SECOND, channel=1)
    found = quality.summary(NOW_US + 60 * SECOND)
    assert [each.is_skewed for each in found] == [False, True, True]
    assert found[2].skew_s is None


def test_old_values_queues_and_replays_say_nothing_about_a_clock() -> None:
    quality = Quality(["a", "b"])
    old = NOW_US - 86_400 * SECOND
    quality.note(samples([1.0], [old]), NOW_US)
    quality.note(samples([1.0], [old]), NOW_US)
    quality.note(samples([1.0] * 5, [old + at for at in range(5)], is_replayed=True), NOW_US)
    quality.note(samples([1.0], [old], channel=1), NOW_US)
    assert [each.skew_s for each in quality.summary(NOW_US)] == [None, None]
    quality.note(samples([1.0, 2.0], [old + 9, NOW_US - 1000], channel=1), NOW_US)
    found = quality.summary(NOW_US)[1]
    assert found.skew_s == 0.001
    assert not found.is_skewed


def test_replayed_samples_are_not_out_of_order() -> None:
    quality = Quality(["a"])
    quality.note(samples([1.0, 2.0], [NOW_US, NOW_US + 10]), NOW_US)
    quality.note(samples([1.0, 2.0], [NOW_US + 3, NOW_US + 4], is_replayed=True), NOW_US)
    assert only(quality).out_of_order == 0
    quality.note(samples([1.0, 2.0, 3.0], [NOW_US + 9, NOW_US + 10, NOW_US + 8]), NOW_US)
    found = only(quality)
    assert (found.out_of_order, found.samples) == (2, 7)
    assert found.source_timestamp_us == NOW_US + 10


def test_a_gateway_whose_clock_is_set_back_goes_on() -> None:
    quality = Quality(["a"])
    feed(quality, 0)
    feed(quality, 0, from_s=-7200)
    found = only(quality, NOW_US - 7140 * SECOND)
    assert found.samples == 120
    assert found.rate_hz == 1.0
