"""The clock of samples that bring no time of their own."""

from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.steady_clock import SteadyClock


class TwoClocks:
    """A wall clock that somebody sets, and the monotonic one behind it; nanoseconds."""

    def __init__(self) -> None:
        self.wall = self.steady = 1_000_000_000_000

    def pass_s(self, seconds: float) -> None:
        self.wall += int(seconds * 1e9)
        self.steady += int(seconds * 1e9)


def test_stamps_follow_the_wall_clock_and_its_steps_forward() -> None:
    clocks = TwoClocks()
    clock = SteadyClock(lambda: clocks.wall, lambda: clocks.steady)
    assert clock.now_us() == clocks.wall // 1000
    clocks.pass_s(1)
    assert clock.now_us() == clocks.wall // 1000
    clocks.wall += int(3600e9)
    assert clock.now_us() == clocks.wall // 1000


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-5000, 5000)), max_size=30))
def test_stamps_rise_whatever_is_done_to_the_wall_clock(steps: list[tuple[float, float]]) -> None:
    clocks = TwoClocks()
    clock = SteadyClock(lambda: clocks.wall, lambda: clocks.steady)
    last = clock.now_us()
    for passed_s, set_by_s in steps:
        clocks.pass_s(passed_s)
        clocks.wall += int(set_by_s * 1e9)
        now = clock.now_us()
        assert now > last
        last = now


def test_a_clock_that_was_set_back_is_caught_up_with_at_half_speed() -> None:
    clocks = TwoClocks()
    clock = SteadyClock(lambda: clocks.wall, lambda: clocks.steady)
    before = clock.now_us()
    clocks.wall -= int(60e9)
    clocks.pass_s(60)
    assert clock.now_us() == before + 30_000_000
    clocks.pass_s(60)
    assert clock.now_us() == clocks.wall // 1000
