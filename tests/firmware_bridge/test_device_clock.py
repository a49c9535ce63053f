"""Offset and drift out of exchanges whose ways are late by chance."""

import random
import struct

import pytest

from firmware_bridge.clock import EXCHANGES_A_GROUP, DeviceClock, Exchange
from firmware_bridge.frames import Frame, FrameType
from firmware_bridge.heard import Heard
from firmware_bridge.place import Figures
from firmware_bridge.utc import UtcDifference


class Simulated:
    """A device clock that is off, and exchanges with it whose ways are late by chance."""

    def __init__(self, drift: float, seed: int) -> None:
        self._drift, self._rng = drift, random.Random(seed)
        self.now_us = 1_000_000.0

    def device_us(self, true_us: float) -> int:
        return round((true_us - 500_000) * (1 + self._drift))

    def exchange(self, wait_us: float) -> Exchange:
        self.now_us += wait_us
        sent_us = self.now_us
        received_us = sent_us + 40 + self._late_us()
        answered_us = received_us + 200
        arrived_us = answered_us + 40 + self._late_us()
        return Exchange(
            sent_us, self.device_us(received_us), self.device_us(answered_us), arrived_us
        )

    def _late_us(self) -> float:
        is_busy = self._rng.random() < 0.2
        return self._rng.uniform(0, 20_000) if is_busy else self._rng.expovariate(1 / 300)


@pytest.mark.parametrize("drift", [0.0, 43e-6, -90e-6, 5e-3])
def test_times_are_right_within_a_millisecond_soon_and_within_a_fifth_of_it_later(
    drift: float,
) -> None:
    simulated, clock = Simulated(drift, 7), DeviceClock()
    errors_us = []
    for at in range(300):
        wait_us = 50_000 if at < 16 else 200_000 if at < 64 else 1_000_000
        assert clock.add(simulated.exchange(wait_us))
        then_us = simulated.now_us + 100_000
        told_us = clock.to_gateway_us(simulated.device_us(then_us))
        errors_us.append(abs(told_us - then_us) if told_us is not None else 0.0)
    assert max(errors_us[4 * EXCHANGES_A_GROUP :]) < 1000
    assert max(errors_us[150:]) < 200
    assert clock.drift_ppm == pytest.approx(drift * 1e6, abs=5)


def test_nothing_is_told_before_the_first_group_is_whole() -> None:
    simulated, clock = Simulated(0.0, 1), DeviceClock()
    for _ in range(EXCHANGES_A_GROUP - 1):
        clock.add(simulated.exchange(1000))
    assert clock.to_gateway_us(0) is None
    assert clock.error_us is None
    clock.add(simulated.exchange(1000))
    assert clock.to_gateway_us(0) is not None


def test_a_clock_that_begins_anew_is_another_clock_and_a_late_answer_is_not() -> None:
    simulated, clock = Simulated(20e-6, 3), DeviceClock()
    for _ in range(2 * EXCHANGES_A_GROUP):
        clock.add(simulated.exchange(100_000))
    good = simulated.exchange(100_000)
    late = Exchange(good.sent_us, good.received_us, good.answered_us, good.arrived_us + 3_000_000)
    assert clock.add(late)
    reset = Exchange(good.sent_us, 1000, 1200, good.arrived_us)
    assert not clock.add(reset)


def test_utc_follows_a_clock_set_forward_at_once_and_never_runs_backwards() -> None:
    difference = UtcDifference(1_000_000, 0)
    difference.look(5_000_000, 100)
    assert difference.utc_us(100) == 5_000_000
    last_us = difference.utc_us(100)
    for steady_us in range(1000, 20_000, 1000):
        difference.look(steady_us - 5_000_000, steady_us)
        now_us = difference.utc_us(steady_us)
        assert last_us < now_us <= last_us + 1000
        last_us = now_us


def test_samples_from_the_future_or_the_far_past_are_refused_and_harm_nothing() -> None:
    simulated, clock, figures = Simulated(0.0, 5), DeviceClock(), Figures()
    for _ in range(EXCHANGES_A_GROUP):
        clock.add(simulated.exchange(50_000))
    heard, now_us = Heard(figures), simulated.now_us

    def take(time_us: int, period_us: int = 0) -> object:
        payload = struct.pack("<BBBBQIhh", 1, 1, 1, 2, time_us, period_us, 3, 4)
        return heard.take(Frame(FrameType.SENSOR, 0, payload, 0x80), now_us, clock)

    assert take(simulated.device_us(now_us - 1e5)) is not None
    assert take((1 << 64) - 1) is None
    assert take(simulated.device_us(now_us), 1 << 31) is None
    assert take(simulated.device_us(now_us + 5e6)) is None
    assert figures.malformed == 3
    assert take(simulated.device_us(now_us)) is not None


def test_a_reset_that_nobody_told_shows_in_times_or_numbers_that_go_back() -> None:
    simulated, clock = Simulated(0.0, 5), DeviceClock()
    for _ in range(EXCHANGES_A_GROUP):
        clock.add(simulated.exchange(50_000))
    then_us = simulated.device_us(simulated.now_us)

    def jumps(numbers: tuple[int, int], times_us: tuple[int, int]) -> bool:
        heard = Heard(Figures())
        for number, time_us in zip(numbers, times_us, strict=True):
            payload = struct.pack("<BBBBQIh", 1, 1, 1, 1, time_us, 0, 3)
            frame = Frame(FrameType.SENSOR, number, payload, 0x80)
            heard.count(frame)
            heard.take(frame, simulated.now_us, clock)
        return heard.has_jumped

    assert not jumps((5, 9), (then_us - 1000, then_us))
    assert jumps((5, 6), (then_us, 4000))
    assert jumps((500, 2), (then_us - 1000, then_us))
