"""What a device says of its own accord: samples, scores, texts; with its time, and what is missing.

Pure.  Samples of a device whose clock is not known yet are counted and dropped: without a time they
would be wrong, and the first exchanges take a fraction of a second.

A device whose reset nobody told (its HELLO was lost) would be taken for one long ago: so when its
numbers or a stream's times go back, `has_jumped` says that it has to be connected again.

Invariant: each loss and each reset is marked once in every stream that was heard before it, at the
first samples behind it.
"""

from typing import Final

from firmware_bridge import messages
from firmware_bridge.clock import DeviceClock
from firmware_bridge.events import Event, Said, Sampled, Scored
from firmware_bridge.frames import Frame, FrameType, Numbering
from firmware_bridge.place import Figures

_AHEAD_US: Final = 1_000_000.0
_BEHIND_US: Final = 3_600_000_000.0
"""Samples from the future, or older than any device's queue: the firmware counts wrongly."""


class Heard:
    """The frames of one device that nobody asked for.

    Args:
      figures: of the device.

    Attributes:
      has_jumped: numbers or times went back; until `connected`.
    """

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._numbering = Numbering()
        self._last_us: dict[int, int] = {}  # device time, by stream
        self.has_jumped = False
        self._after_loss: set[int] = set()
        self._after_reset: set[int] = set()

    def reset(self) -> None:
        """The device was reset."""
        self._figures.resets += 1
        self._after_reset |= set(self._last_us)

    def connected(self) -> None:
        """Whether it was reset is known now; its times may begin anywhere."""
        self.has_jumped = False
        self._last_us = dict.fromkeys(self._last_us, 0)

    def count(self, frame: Frame) -> None:
        """Compare the frame's number with the last; to be called with each of them."""
        self._figures.frames += 1
        skipped = self._numbering.skipped(frame)
        self.has_jumped |= skipped is None
        if skipped:
            self._figures.missing += skipped
            self._after_loss |= set(self._last_us)

    def take(self, frame: Frame, arrived_us: float, clock: DeviceClock | None) -> Event | None:
        """The event of a frame, if it is one.

        Args:
          frame: of the device.
          arrived_us: when its last byte came.
          clock: None where the device is not connected.
        """
        if frame.type == FrameType.LOG:
            return Said(messages.parse_log(frame.payload))
        if frame.type == FrameType.SENSOR:
            return self._sensor(frame, arrived_us, clock)
        if frame.type == FrameType.SCORE:
            return self._score(frame, arrived_us, clock)
        return None

    def _sensor(self, frame: Frame, arrived_us: float, clock: DeviceClock | None) -> Sampled | None:
        sensor = messages.parse_sensor(frame.payload)
        if sensor is None:
            self._figures.malformed += 1
            return None
        if clock is None or clock.fit is None:
            self._figures.untimed += 1
            return None
        stream, count = sensor.stream, len(sensor.values)
        if self.has_jumped or sensor.time_us < self._last_us.get(stream, 0):
            self.has_jumped = True
            self._figures.untimed += 1
            return None
        first_us = clock.fit.gateway_us(sensor.time_us)
        last_us = first_us + (count - 1) * sensor.period_us
        if first_us < arrived_us - _BEHIND_US or last_us > arrived_us + _AHEAD_US:
            self._figures.malformed += 1
            return None
        sampled = Sampled(
            sensor,
            first_us,
            sensor.period_us * clock.fit.rate,
            is_after_loss=stream in self._after_loss,
            is_after_reset=stream in self._after_reset,
        )
        self._last_us[stream] = sensor.time_us
        self._after_loss.discard(stream)
        self._after_reset.discard(stream)
        return sampled

    def _score(self, frame: Frame, arrived_us: float, clock: DeviceClock | None) -> Scored | None:
        score = messages.parse_score(frame.payload)
        if score is None:
            self._figures.malformed += 1
            return None
        if clock is None or clock.fit is None:
            self._figures.untimed += 1
            return None
        at_us = clock.fit.gateway_us(score.time_us)
        if not arrived_us - _BEHIND_US <= at_us <= arrived_us + _AHEAD_US:
            self._figures.malformed += 1
            return None
        return Scored(score, at_us)
