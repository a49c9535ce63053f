"""Times as people and historians write them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.signals.time_text import END_OF_TIME_US, epoch_us, instant_us, read_zone, time_reader

T0 = 1_700_000_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20.000000",
        "2023-11-15T00:13:20+02:00",
        "1700000000",
        " 1700000000.0 ",
        "1700000000000",
        "1700000000000000",
        "1700000000000000000",
        "1.7e9",
    ],
)
def test_one_moment_written_in_many_ways_is_one_moment(text: str) -> None:
    assert time_reader()(text) == T0


@pytest.mark.parametrize(
    "text",
    ["", "now", "20231114221320", "20231114", "-1", "nan", "inf", "1e400", "5" * 70, "0001-01-01"],
)
def test_what_could_be_another_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        time_reader()(text)


@given(st.integers(0, END_OF_TIME_US - 1))
def test_microseconds_survive_every_way_of_writing(micros: int) -> None:
    moment = datetime.fromtimestamp(0, UTC) + np.timedelta64(micros, "us").astype(object)
    assert instant_us(moment) == micros
    assert time_reader("iso8601")(moment.isoformat()) == micros
    assert time_reader("us")(str(micros)) == micros
    assert time_reader("s")(f"{micros // 10**6}.{micros % 10**6:06d}") == micros
    assert time_reader("ns")(f"{micros}000") == micros
    assert epoch_us(np.array([micros]), "us")[0][0] == micros


@given(st.integers(1_000_000_000, 4_199_999_999), st.sampled_from(["s", "ms", "us", "ns"]))
def test_many_numbers_are_read_like_one(seconds: int, unit: str) -> None:
    number = seconds * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    micros, bad = epoch_us(np.array([number, -1]), "auto")
    assert bad.tolist() == [False, True]
    assert micros[0] == time_reader()(str(number)) == seconds * 10**6


def test_numbers_that_are_no_times_are_marked() -> None:
    micros, bad = epoch_us(np.array([np.nan, np.inf, -1.0, 1e300, 5.5]), "s")
    assert bad.tolist() == [True, True, True, True, False]
    assert micros[4] == 5_500_000


def test_a_pattern_and_a_zone_say_what_a_time_means() -> None:
    read = time_reader("%d.%m.%Y %H:%M:%S", ZoneInfo("Europe/Berlin"))
    assert read("14.11.2023 23:13:20") == T0
    with pytest.raises(ValueError, match="does not match"):
        read("2023-11-14")
    with pytest.raises(ValueError, match="is not a time zone"):
        read_zone("../etc/passwd")
