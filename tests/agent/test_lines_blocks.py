"""Stamps, statuses and gaps: from readings to blocks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.lines.binary import BinaryDecoder
from agent.sensors.lines.blocks import BAD_DECODING_ERROR, BAD_NO_COMMUNICATION, BlockMaker
from agent.sensors.lines.readings import NO_TIME, Readings
from agent.sensors.lines.settings import BinaryChannel, BinarySettings
from agent.sensors.lines.stamps import Arrivals
from agent.signals.block import Gap

NAN = float("nan")


def readings(
    values: list[list[float]],
    *,
    present: list[list[bool]] | None = None,
    after_loss: list[int] | None = None,
    times_us: list[int] | None = None,
    is_loss_behind: bool = False,
) -> Readings:
    count = len(values)
    lost = np.zeros(count, np.bool_)
    lost[after_loss or []] = True
    return Readings(
        np.arange(count, dtype=np.int64),
        np.array(values, np.float64).reshape(count, -1),
        np.ones((count, len(values[0])), np.bool_) if present is None else np.array(present),
        lost,
        None if times_us is None else np.array(times_us, np.int64),
        is_loss_behind=is_loss_behind,
    )


def stamps(*times: int) -> "np.typing.NDArray[np.int64]":
    return np.array(times, np.int64)


def maker(channels: int = 2, *, has_own_times: bool = False) -> BlockMaker:
    return BlockMaker(((),) * channels, has_own_times=has_own_times)


def test_samples_stand_frame_by_frame_and_what_is_absent_is_no_sample() -> None:
    block = maker().block(
        readings([[1, 2], [3, NAN], [NAN, 6]], present=[[True, True], [True, False], [True, True]]),
        stamps(10, 20, 30),
    )
    assert block.channel.tolist() == [0, 1, 0, 0, 1]
    assert block.source_timestamp_us.tolist() == [10, 10, 20, 30, 30]
    assert block.status.tolist() == [0, 0, 0, BAD_DECODING_ERROR, 0]
    assert np.isnan(block.value[3])


def test_a_gap_lies_between_the_last_sample_before_a_loss_and_the_first_after() -> None:
    blocks = maker()
    blocks.block(readings([[1, 1]]), stamps(10))
    present = [[True, False], [True, True], [True, True]]
    block = blocks.block(
        readings([[2, NAN], [3, 3], [4, 4]], present=present, after_loss=[0]), stamps(20, 30, 40)
    )
    assert [(gap.channel, gap.from_us, gap.until_us) for gap in block.gaps] == [
        (0, 10, 20),
        (1, 10, 30),
    ]


def test_a_loss_is_kept_in_mind_until_the_channel_speaks_again() -> None:
    blocks = maker(1)
    blocks.block(readings([[1]], is_loss_behind=True), stamps(10))
    blocks.block(readings([[NAN]], present=[[False]]), stamps(20))
    assert len(blocks.block(readings([[2]]), stamps(30)).gaps) == 1
    assert blocks.block(readings([[3]]), stamps(40)).gaps == ()


def test_before_the_first_sample_there_is_no_gap() -> None:
    assert maker().block(readings([[1, 1]], after_loss=[0]), stamps(10)).gaps == ()


def test_an_outage_is_one_bad_sample_of_each_channel_and_one_gap_behind_it() -> None:
    blocks = BlockMaker(((), (3,)), has_own_times=False)
    first = readings([[1, NAN]], present=[[True, True]])
    blocks.block(first, stamps(10))
    lost = blocks.lost("connection lost", 50)
    assert lost.status.tolist() == [BAD_NO_COMMUNICATION]
    assert lost.source_timestamp_us.tolist() == [50]
    assert np.isnan(lost.arrays[0].value).all()
    assert lost.arrays[0].value.shape == (3,)
    block = blocks.block(first, stamps(90))
    assert block.gaps == tuple(Gap(at, 10, 90, "connection lost") for at in (0, 1))


def test_frames_own_times_are_kept_and_unreadable_ones_make_bad_samples() -> None:
    blocks = maker(1, has_own_times=True)
    block = blocks.block(readings([[1], [2]], times_us=[7, NO_TIME]), stamps(1000, 1010))
    assert block.source_timestamp_us.tolist() == [7, 1010]
    assert block.status.tolist() == [0, BAD_DECODING_ERROR]


def test_an_outage_is_stamped_by_the_clock_of_the_device_where_that_gives_the_times() -> None:
    blocks = maker(1, has_own_times=True)
    assert len(blocks.lost("no frame", 900)) == 0
    blocks.block(readings([[1]], times_us=[100]), stamps(1000))
    assert blocks.lost("no frame", 1500).source_timestamp_us.tolist() == [600]


def test_a_frame_is_stamped_when_its_last_byte_arrived() -> None:
    arrivals = Arrivals(bits_per_byte=10, baudrate=10_000)  # a byte takes 1 ms
    arrivals.note(10, 1_000_000)
    arrivals.note(20, 1_010_000)
    ends = np.array([10, 13, 20], np.int64)
    assert arrivals.stamps(ends).tolist() == [1_000_000, 1_003_000, 1_010_000]


def test_a_line_faster_than_its_baud_rate_is_never_stamped_before_the_reading_before() -> None:
    arrivals = Arrivals(bits_per_byte=10, baudrate=300)
    arrivals.note(10, 1_000_000)
    assert arrivals.stamps(np.array([10], np.int64)).tolist() == [1_000_000]
    arrivals.note(1000, 1_000_500)
    assert arrivals.stamps(np.array([20, 30, 1000], np.int64)).tolist() == [
        1_000_001,
        1_000_002,
        1_000_500,
    ]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5000)), min_size=1, max_size=30),
    st.integers(50, 4_000_000),
)
def test_stamps_of_one_source_always_rise(readings_of: list[tuple[int, int]], baud: int) -> None:
    arrivals = Arrivals(10, baud)
    offset, now_us, last_us = 0, 1_000_000, 0
    for size, pause_us in readings_of:
        now_us += pause_us
        ends = np.arange(offset + 1, offset + size + 1, 3)
        offset += size
        arrivals.note(offset, now_us)
        found = arrivals.stamps(ends)
        assert (np.diff(found, prepend=last_us) > 0).all()
        last_us = int(found[-1])
        arrivals.forget(offset)


def binary(**more: object) -> BinaryDecoder:
    channel = (BinaryChannel(name="v", field="v"),)
    return BinaryDecoder(
        BinarySettings(
            device="/dev/null",
            sync="AA",
            byte_order="big",
            checksum="none",
            channel=channel,
            **more,  # type: ignore[arg-type]
        )
    )


def test_fields_of_every_type_are_read_in_the_order_that_is_configured() -> None:
    decoder = binary(fields={"_": "x", "v": "h", "_more": "3x", "t": "I"}, end="0D")
    found = decoder.push(b"\xaa\x00\xff\xfe\x00\x00\x00\x00\x00\x00\x01\x0d" * 2)
    assert found.values.tolist() == [[-2], [-2]]


def test_a_float_that_is_none_is_bad() -> None:
    found = binary(fields={"v": "f"}).push(
        b"\xaa\x7f\xc0\x00\x00\xaa\x7f\x80\x00\x00\xaa\x3f\x80\0\0"
    )
    assert np.isnan(found.values[:2]).all()
    assert found.values[2, 0] == 1


def test_times_in_frames_are_exact_and_impossible_ones_are_none() -> None:
    decoder = binary(fields={"v": "B", "t": "Q"}, timestamp="t", timestamp_format="epoch_ms")
    frames = [b"\xaa\x01" + time_ms.to_bytes(8, "big") for time_ms in (1_717_243_200_123, 2**63)]
    found = decoder.push(b"".join(frames))
    assert found.times_us is not None
    assert found.times_us.tolist() == [1_717_243_200_123_000, NO_TIME]


def test_shorter_frames_are_passed_over_and_a_loss_before_them_is_not_forgotten() -> None:
    decoder = binary(fields={"v": "H"}, length_at=1, length_adds=2)
    whole, short = b"\xaa\x02\x00\x07", b"\xaa\x01\x00"
    found = decoder.push(whole + b"?" + short + whole + short)
    assert found.values.tolist() == [[7], [7]]
    assert found.is_after_loss.tolist() == [False, True]
    assert found.counters["short_frames"] == 2
    assert not found.is_loss_behind
    assert decoder.push(b"?" + short).is_loss_behind
