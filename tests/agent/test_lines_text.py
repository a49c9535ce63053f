import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.lines.checksums import ChecksumName, checksum
from agent.sensors.lines.parse import number, time_of
from agent.sensors.lines.readings import NO_TIME, Readings
from agent.sensors.lines.settings import (
    DelimitedChannel,
    DelimitedSettings,
    KeyValueChannel,
    KeyValueSettings,
    RegexChannel,
    RegexSettings,
)
from agent.sensors.lines.text import TextDecoder


def table(*channels: DelimitedChannel, **more: Any) -> DelimitedSettings:
    plain = tuple(DelimitedChannel(name=str(at), column=at) for at in range(2))
    return DelimitedSettings(device="/dev/null", channel=channels or plain, **more)


def pairs(**more: Any) -> KeyValueSettings:
    channel = tuple(KeyValueChannel(name=key, key=key) for key in ("T", "P"))
    return KeyValueSettings(device="/dev/null", channel=channel, **more)


def read(settings: DelimitedSettings | KeyValueSettings | RegexSettings, data: bytes) -> Readings:
    """What these lines say; the terminator before them ends a line that nobody heard begin."""
    return TextDecoder(settings).push(settings.terminator.encode() + data)


def rows(readings: Readings) -> list[list[float | None]]:
    """Values; None where Bad, and 'absent' as -1."""
    return [
        [
            (None if math.isnan(value) else value) if there else -1
            for value, there in zip(row, is_there, strict=True)
        ]
        for row, is_there in zip(readings.values.tolist(), readings.is_present, strict=True)
    ]


def test_columns_are_scaled_and_texts_have_numbers() -> None:
    settings = table(
        DelimitedChannel(name="t", column=2, scale=0.1, offset=-40),
        DelimitedChannel(name="s", column=0, states={"RUN": 1, "STOP": 0}),
        delimiter=";",
    )
    readings = read(settings, b" RUN ; x ; 650 \nSTOP;x;-1e1\nidle;x;0\r\n")
    assert rows(readings) == [[25.0, 1.0], [-41.0, 0.0], [-40.0, None]]


def test_a_channel_with_a_shape_takes_columns_and_is_bad_as_a_whole() -> None:
    settings = table(DelimitedChannel(name="w", column=1, shape=(2, 2), scale=2), columns=5)
    readings = read(settings, b"x,1,2,3,4\nx,1,2,nan,4\n")
    assert readings.arrays[0].shape == (2, 2, 2)
    assert readings.arrays[0][0].tolist() == [[2, 4], [6, 8]]
    assert np.isnan(readings.arrays[0][1]).all()


def test_blanks_as_the_delimiter_may_be_many() -> None:
    assert rows(read(table(delimiter=" "), b"  1   2\t 3\n")) == [[1, 2]]


def test_a_tab_as_the_delimiter_leaves_empty_columns_where_they_are() -> None:
    assert rows(read(table(delimiter="\t", columns=3), b"\t5\t\n")) == [[None, 5]]


def test_lines_with_too_few_or_too_many_columns_are_refused_and_counted() -> None:
    readings = read(table(columns=2), b"1,2\n1\n1,2,3\n3,4\n")
    assert rows(readings) == [[1, 2], [3, 4]]
    assert readings.counters == {"frames": 2, "refused_lines": 2}
    assert readings.is_after_loss.tolist() == [False, True]
    assert readings.complaint.startswith("3 columns instead of 2: b'1,2,3'")


def test_keys_come_in_any_order_and_may_be_missing() -> None:
    readings = read(pairs(), b"T=21.5;P=1.2\nP = 3 ; X=7; T = 4;\nT=5\nP=bad\n")
    assert rows(readings) == [[21.5, 1.2], [4, 3], [5, -1], [-1, None]]


def test_two_lines_that_became_one_are_refused_where_keys_repeat() -> None:
    readings = read(pairs(), b"T=1;P=2;T=3;P=4\nT=1;P\nT=5;P=6\n")
    assert rows(readings) == [[5, 6]]
    assert readings.counters["refused_lines"] == 2


def test_named_groups_are_channels_and_absent_ones_say_nothing() -> None:
    settings = RegexSettings(
        device="/dev/null",
        pattern=r"W (?P<w>[-0-9.]+)(?: t(?P<t>\d+))?",
        channel=(RegexChannel(name="w", group="w"), RegexChannel(name="t", group="t")),
    )
    readings = read(settings, b"W 1.5 t3\nW 2\nW 3 t\nW 1.2.3\n")
    assert rows(readings) == [[1.5, 3], [2, -1], [None, -1]]


def test_the_checksum_of_nmea_lets_only_whole_sentences_pass() -> None:
    # The example sentence of many GPS manuals; its checksum is 47.
    sentence = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n"
    settings = table(
        DelimitedChannel(name="height", column=9), start="$", checksum="xor8", columns=15
    )
    damaged = sentence.replace(b"545", b"546")
    readings = read(settings, b"545.4,M*47\r\n" + sentence[9:] + damaged + b"~~" + sentence)
    assert rows(readings) == [[545.4]]
    assert readings.counters == {"frames": 1, "bad_checksums": 1, "refused_lines": 2}


def test_a_start_mark_saves_the_line_behind_a_lost_terminator() -> None:
    readings = read(table(start="$"), b"$1,2$3,4\n")
    assert rows(readings) == [[3, 4]]


def test_checksums_of_lines_are_hexadecimal_of_their_full_width() -> None:
    body = b" 1,2"
    names: tuple[ChecksumName, ...] = ("sum8", "crc16-ccitt", "crc32")
    for name in names:
        value, width = checksum(name).of(body), 2 * checksum(name).size
        good = b"%b*%0*X" % (body, width, value)
        readings = read(table(checksum=name), good + b" \n" + good[:-1] + b"\n" + b"1,2\n*\n")
        assert rows(readings) == [[1, 2]]
        assert readings.counters["bad_checksums"] == 3


def test_comments_empty_lines_and_the_echo_of_the_request_are_passed_over() -> None:
    settings = table(comment="#", request="READ?\r", columns=2, terminator="\r")
    decoder = TextDecoder(settings)
    readings = decoder.push(b"READ?\r\n# 1,2\r\n\r  \r1,2\r")
    assert rows(readings) == [[1, 2]]
    assert readings.counters == {"frames": 1}


def test_a_line_with_control_characters_or_foreign_bytes_is_refused() -> None:
    readings = read(table(encoding="utf-8"), b"1\x00,2\n1,2\xff\n1,2,\xc2\xb0C\n3,\t4\n")
    assert rows(readings) == [[1, 2], [3, 4]]
    assert readings.counters["refused_lines"] == 2


def test_a_line_that_is_too_long_is_dropped_wherever_it_is_cut() -> None:
    decoder = TextDecoder(table(max_line_bytes=8))
    first = decoder.push(b"\n1,1\n" + b"1," * 9)
    second = decoder.push(b"2\n3,3\n")
    assert rows(first) == [[1, 1]]
    assert rows(second) == [[3, 3]]
    assert second.counters["overlong_lines"] == 1
    assert second.is_after_loss.tolist() == [True]


def test_a_decimal_comma_is_a_point_and_a_point_is_then_no_number() -> None:
    assert rows(read(table(delimiter=";", decimal=","), b"1,5;-0,25\n1.5;1\n")) == [
        [1.5, -0.25],
        [None, 1],
    ]


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1e999", "1_000", "0x10", "1,5", "١٢", "1 2", "--1"]
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert math.isnan(number(text))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_as_it_was_written(value: float) -> None:
    assert number(f" {value!r}\r") == value


@given(st.binary(max_size=300))
def test_any_bytes_give_readings(data: bytes) -> None:
    decoders = [TextDecoder(table(start="$", checksum="xor8")), TextDecoder(pairs())]
    for decoder in decoders:
        readings = decoder.push(data + b"\n" + data)
        assert len(readings) == len(readings.values) == len(readings.is_after_loss)


@pytest.mark.parametrize(
    ("form", "zone", "text", "expected"),
    [
        ("iso", "UTC", "2024-06-01T12:00:00Z", 1_717_243_200_000_000),
        ("iso", "UTC", " 2024-06-01 12:00:00.000001 ", 1_717_243_200_000_001),
        ("iso", "Europe/Berlin", "2024-06-01T14:00:00", 1_717_243_200_000_000),
        ("iso", "Europe/Berlin", "2024-06-01T12:00:00+00:00", 1_717_243_200_000_000),
        ("iso", "UTC", "yesterday", NO_TIME),
        ("iso", "UTC", "9999-12-31T23:59:59-23:59", NO_TIME),
        ("iso", "UTC", "1969-12-31T23:59:59Z", NO_TIME),
        ("epoch_s", "UTC", "1717243200.5", 1_717_243_200_500_000),
        ("epoch_ms", "UTC", "1717243200500", 1_717_243_200_500_000),
        ("epoch_us", "UTC", "1717243200500001", 1_717_243_200_500_001),
        ("epoch_s", "UTC", "1e300", NO_TIME),
        ("epoch_s", "UTC", "1717243200500", NO_TIME),
        ("epoch_s", "UTC", "-1", NO_TIME),
        ("epoch_s", "UTC", "", NO_TIME),
    ],
)
def test_times_of_lines_are_read_or_refused(form: Any, zone: str, text: str, expected: int) -> None:
    assert time_of(form, zone)(text) == expected


def test_a_line_gives_its_time_beside_its_values() -> None:
    settings = table(DelimitedChannel(name="t", column=1), timestamp=0, timestamp_format="epoch_s")
    readings = read(settings, b"100,1\n?,2\n")
    assert readings.times_us is not None
    assert readings.times_us.tolist() == [100_000_000, NO_TIME]
