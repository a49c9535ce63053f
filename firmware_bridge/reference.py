"""What a device's model should have said: the int8 reference beside a device's scores.  Pure.

A score names its row by the device's own time, and so do samples; both are whole microseconds of
one clock, so the row is found without doubt or not at all.  A score may come before the last
samples of its row do, which a firmware sends by the frame: it waits for them.

Refuses to guess: a score whose row is not whole here, or whose model nobody brought since this
program started, goes on without a reference.
Invariant: scores leave in the order in which they came; memory is bounded by the largest row.
"""

import hashlib
from collections import deque
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image_format import read_image
from firmware_bridge.image_layers import Image, ModelImageError
from firmware_bridge.image_reference import quantize_rows, run_image
from firmware_bridge.messages import Score, Sensor
from firmware_bridge.slot_content import image_of
from wire.bridge import Scores

_MODELS: Final = 2
"""A device has two slots."""
_WAITING: Final = 32
_SPARE: Final = 2048
"""Samples kept beyond one row: scores may come late by some frames."""


class _Recent:
    """The newest samples of one stream."""

    def __init__(self) -> None:
        self._frames: deque[tuple[NDArray[np.int64], NDArray[np.float32]]] = deque()
        self._count = 0
        self.period_us = 0

    def add(self, times_us: NDArray[np.int64], values: NDArray[np.float32], most: int) -> None:
        self._frames.append((times_us, values))
        self._count += len(values)
        while self._count - len(self._frames[0][1]) >= most:
            self._count -= len(self._frames.popleft()[1])

    @property
    def newest_us(self) -> int:
        return int(self._frames[-1][0][-1]) if self._frames else -1

    def row(self, last_us: int, numbers: int) -> NDArray[np.float32] | None:
        """The samples of so many numbers that end at a time; None if one is missing."""
        if not self._frames:
            return None
        times_us = np.concatenate([times for times, _ in self._frames])
        values = np.concatenate([values for _, values in self._frames])
        length = numbers // values.shape[1]
        end = int(np.searchsorted(times_us, last_us)) + 1
        if length * values.shape[1] != numbers or end < length or end > len(times_us):
            return None
        seen_us = times_us[end - length : end]
        if seen_us[-1] != last_us or (length > 1 and (np.diff(seen_us) != self.period_us).any()):
            return None
        return np.ascontiguousarray(values[end - length : end])


class Reference:
    """The reference of one device."""

    def __init__(self) -> None:
        self._images: dict[bytes, Image] = {}
        self._recent: dict[int, _Recent] = {}
        self._waiting: deque[tuple[Score, Scores]] = deque()

    def learn(self, content: bytes) -> None:
        """Take the content of a slot; one that holds no image is not an error here."""
        try:
            image = read_image(image_of(content))
        except ModelImageError:
            return
        self._images.pop(key := hashlib.sha256(content).digest()[:8], None)
        self._images[key] = image
        while len(self._images) > _MODELS:
            self._images.pop(next(iter(self._images)))

    def sampled(
        self, sensor: Sensor, values: NDArray[np.float32], *, is_after_reset: bool
    ) -> list[Scores]:
        """Take samples, (count, channels) in the stream's units; give the scores they complete."""
        given: list[Scores] = []
        if is_after_reset:
            given = [scores for _, scores in self._waiting]
            self._waiting.clear()
            self._recent.clear()
        if not self._images:
            return given
        recent = self._recent.setdefault(sensor.stream, _Recent())
        times_us = sensor.time_us + sensor.period_us * np.arange(len(values), dtype=np.int64)
        recent.period_us = sensor.period_us
        longest = max(image.input_numbers for image in self._images.values())
        recent.add(times_us, values, longest // values.shape[1] + _SPARE)
        return given + self._ready()

    def scored(self, score: Score, scores: Scores) -> list[Scores]:
        """Take a score; give those that are complete, or can not be."""
        self._waiting.append((score, scores))
        return self._ready()

    def _ready(self) -> list[Scores]:
        given: list[Scores] = []
        while self._waiting:
            score, scores = self._waiting[0]
            recent = self._recent.get(score.stream)
            is_early = recent is not None and recent.newest_us < score.time_us
            if score.model in self._images and is_early and len(self._waiting) <= _WAITING:
                break
            self._waiting.popleft()
            given.append(self._beside(score, scores, recent))
        return given

    def _beside(self, score: Score, scores: Scores, recent: _Recent | None) -> Scores:
        image = self._images.get(score.model)
        if image is None or recent is None or scores.kind != "i8":
            return scores
        row = recent.row(score.time_us, image.input_numbers)
        if row is None or not np.isfinite(row).all():
            return scores
        stored = quantize_rows(image, row.reshape(1, -1))
        expected = run_image(image, stored)[0]
        return msgspec.structs.replace(
            scores,
            row=row.astype("<f4").tobytes(),
            expected=tuple(float(each) for each in expected),
            scale=float(image.output_scale),
            zero=image.layers[-1].window.out_zero,
            is_clipped=_is_clipped(image, row),
        )


def _is_clipped(image: Image, row: NDArray[np.float32]) -> bool:
    """Whether a number is beyond the ends of int8, by more than its rounding."""
    steps = row / np.float32(image.input_scale) + image.layers[0].window.in_zero
    return bool((steps < -128.5).any() or (steps > 127.5).any())
