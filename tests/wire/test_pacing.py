"""Pacing: a rate holds whatever the order of requests, and the window follows the link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.pacing import BulkWindow, TokenBucket


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3)), min_size=1, max_size=60),
    st.floats(10, 1e6),
)
def test_no_stretch_of_time_carries_more_than_the_rate_and_one_burst(
    requests: list[tuple[int, float]], rate: float
) -> None:
    bucket, burst = TokenBucket(rate, rate / 4), rate / 4
    now_s, sent = 0.0, []
    for count, pause_s in requests:
        now_s += pause_s
        now_s += bucket.reserve(count, now_s)  # the sender sleeps that long
        sent.append((now_s, count))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            carried = sum(count for _, count in sent[first : last + 1])
            room = rate * (sent[last][0] - sent[first][0]) + burst + sent[first][1]
            assert carried <= room * (1 + 1e-9)


def test_a_token_bucket_keeps_its_rate_after_its_burst() -> None:
    bucket = TokenBucket(rate_bytes_s=1_000, burst_bytes=250)
    clock_s = 0.0
    for _ in range(100):
        clock_s += bucket.reserve(100, clock_s)
    assert clock_s == pytest.approx((100 * 100 - 250) / 1_000)


def test_a_token_bucket_saves_no_more_than_its_burst() -> None:
    bucket = TokenBucket(rate_bytes_s=1_000, burst_bytes=250)
    assert bucket.reserve(250, 0.0) == 0.0
    assert bucket.reserve(250, 1_000.0) == 0.0
    assert bucket.reserve(100, 1_000.0) == pytest.approx(0.1)


def test_without_a_rate_nothing_waits() -> None:
    assert TokenBucket(0.0, 0.0).reserve(10**9, 0.0) == 0.0


def test_the_window_opens_for_prompt_and_closes_for_slow_acknowledgments() -> None:
    window = BulkWindow(12)
    sizes = []
    for after_s in [0.01] * 20:
        window.acknowledged(after_s)
        sizes.append(window.size)
    assert sizes[:3] == [3, 4, 5]
    assert sizes[-1] == 12
    window.acknowledged(2.0)  # neither prompt nor slow: it stays
    assert window.size == 12
    for _ in range(6):
        window.acknowledged(3.0)
    assert window.size == 1


@pytest.mark.parametrize("most", [1, 2])
def test_a_small_window_stays_small(most: int) -> None:
    window = BulkWindow(most)
    for _ in range(5):
        window.acknowledged(0.0)
    assert window.size == most
