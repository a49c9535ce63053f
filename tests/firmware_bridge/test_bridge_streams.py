"""From devices' samples to what agents get: scale, names, UTC, gaps; what a slow agent misses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.events import Sampled
from firmware_bridge.mailbox import Mailbox
from firmware_bridge.messages import Sensor
from firmware_bridge.settings import ChannelTable, DeviceTable, StreamTable
from firmware_bridge.streams import StreamMaker
from firmware_bridge.utc import UtcDifference
from wire.bridge import Deployment, FromBridge, Gap, Samples, from_bridge

TABLE = DeviceTable(
    name="spindle",
    stream=(
        StreamTable(
            number=1,
            name="slow",
            channel=(ChannelTable(name="a", scale=0.5, offset=-1.0), ChannelTable(name="b")),
        ),
    ),
)
EPOCH_US = 1_700_000_000_000_000


def maker() -> StreamMaker:
    return StreamMaker(TABLE, UtcDifference(EPOCH_US, 0))


def sampled(
    first_us: float, rows: int = 2, *, stream: int = 1, channels: int = 2, after_loss: bool = False,
    after_reset: bool = False, period_us: float = 100.0,
) -> Sampled:  # fmt: skip
    values = np.arange(rows * channels, dtype="<i2").reshape(rows, channels)
    sensor = Sensor(stream, 0, int(period_us), values)
    return Sampled(sensor, first_us, period_us, after_loss, after_reset)


def one(seconds: float, rows: int = 10) -> Samples:
    first_us = EPOCH_US + int(seconds * 1e6)
    return Samples("spindle", "slow", first_us, 100.0, rows, 1, bytes(4 * rows))


def test_samples_are_scaled_named_and_in_utc() -> None:
    (samples,) = maker().take(sampled(5_000.4))
    assert isinstance(samples, Samples)
    assert (samples.device, samples.stream) == ("spindle", "slow")
    assert samples.timestamps_us.tolist() == [EPOCH_US + 5_000, EPOCH_US + 5_100]
    assert samples.array.tolist() == [[-1.0, 1.0], [0.0, 3.0]]


def test_lost_frames_are_a_gap_with_the_number_of_samples() -> None:
    made = maker()
    made.take(sampled(0))
    gap, samples = made.take(sampled(1_000, after_loss=True))
    assert isinstance(gap, Gap)
    assert isinstance(samples, Samples)
    assert (gap.from_us, gap.until_us) == (EPOCH_US + 100, EPOCH_US + 1_000)
    assert gap.lost == 8
    assert made.lost == 8


def test_frames_that_another_stream_lost_are_no_gap_here() -> None:
    made = maker()
    made.take(sampled(0))
    (samples,) = made.take(sampled(200, after_loss=True))
    assert isinstance(samples, Samples)


def test_a_reset_is_a_gap_of_unknown_size() -> None:
    made = maker()
    made.take(sampled(0))
    gap, _ = made.take(sampled(1_000, after_reset=True))
    assert isinstance(gap, Gap)
    assert gap.lost is None
    assert gap.reason == "device was reset"


def test_source_timestamps_rise_even_when_the_fit_steps_back() -> None:
    made = maker()
    (first,) = made.take(sampled(1_000))
    (second,) = made.take(sampled(1_050))
    assert isinstance(first, Samples)
    assert isinstance(second, Samples)
    assert second.first_us == first.timestamps_us[-1] + 1


def test_what_is_not_configured_is_counted_and_dropped() -> None:
    made = maker()
    assert made.take(sampled(0, stream=2)) == []
    assert made.take(sampled(0, channels=3)) == []
    assert (made.unknown, made.misshapen, made.samples) == (1, 1, 0)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40)), min_size=1, max_size=200),
    st.integers(1, 5),
)
def test_a_slow_client_gets_every_sample_or_a_gap_that_counts_it(
    steps: list[tuple[bool, int]], room: int
) -> None:
    mailbox, stream = Mailbox(room * 600), from_bridge()
    taken: list[FromBridge] = []
    pushed = 0
    for at, (pops, rows) in enumerate(steps):
        mailbox.push(one(at, rows))
        pushed += rows
        if pops:
            taken += stream.feed(mailbox.pop())
    mailbox.push(one(len(steps), 1))
    while packed := mailbox.pop():
        taken += stream.feed(packed)
    got = sum(each.count for each in taken if isinstance(each, Samples))
    lost = sum(each.lost or 0 for each in taken if isinstance(each, Gap))
    assert got + lost == pushed + 1
    assert mailbox.dropped == lost
    ends_us = [0]
    for each in taken:
        if isinstance(each, Gap):
            assert each.from_us >= ends_us[-1] or len(ends_us) == 1
            assert each.reason == "this client was too slow"
        elif isinstance(each, Samples):
            assert each.first_us > ends_us[-1]
            ends_us.append(int(each.timestamps_us[-1]))


def test_samples_are_pushed_out_and_what_a_deployment_says_is_not() -> None:
    mailbox = Mailbox(2_000)
    mailbox.push(Deployment("spindle", bytes(32), "failed", 0, 10, "flash"))
    for at in range(50):
        mailbox.push(one(at, 100))
    (first,) = from_bridge().feed(mailbox.pop())
    assert isinstance(first, Deployment)
