"""A full line in both directions: samples up, one model after the other down, frames damaged.

What is counted, each against bytes that the line could carry in the same time:

    up      payloads of SENSOR frames that came, and are what was sent
    down    contents of models that the device has, by the SHA-256 of its flash

A false accept is a frame that passed the receiver's checks and was never sent; every frame is
compared, in both directions (downwards by a second decoder on the same damaged bytes, and by the
SHA-256 over all that the device wrote).
"""

import struct
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.bridge_line.world import World
from firmware_bridge.events import Sampled
from firmware_bridge.frames import Decoder, Frame
from firmware_bridge.link import Told
from firmware_bridge.upload import Stage, Upload
from shopfloor.microcontroller import Chip, Microcontroller

CHIP = Chip(slot_bytes=1 << 20, sector_bytes=4096, unit_bytes=16)
"""Slots as large as a megabyte, so that the line is full of WRITE and not of what surrounds it."""
_CHANNELS, _ROWS, _PERIOD_US = 4, 62, 100
_HEADER_BYTES = 16
_TRIAL_S = 3600
_REMEMBERED = 64
_SETTLED_US = 10e6


@dataclass
class Outcome:
    """What was counted.

    Attributes:
      up_frames: samples sent by the device.
      up_accepted: of those, by the gateway.
      down_frames: frames sent by the gateway.
      false: accepted, but never sent; both directions.
      models: that were whole and verified on the device.
      damaged_models: whose SHA-256 was wrong on the device.
      goodput_up: share of the line rate.
      goodput_down: share of the line rate.
      clock_p99_us: error of source timestamps, 99th percentile of all.
      clock_worst_us: largest.
      damaged: frames damaged, by direction and kind.
      virtual_s: time that it took on the line.
    """

    up_frames: int
    up_accepted: int
    down_frames: int
    false: int
    models: int
    damaged_models: int
    goodput_up: float
    goodput_down: float
    clock_p99_us: float
    clock_worst_us: float
    damaged: dict[str, dict[str, int]]
    virtual_s: float


@dataclass
class _Traffic:
    """The run of one line."""

    world: World
    size_bytes: int
    frames: int
    sent: int = 0
    accepted: int = 0
    false: int = 0
    models: int = 0
    damaged_models: int = 0
    delivered_bytes: int = 0
    errors_us: list[float] = field(default_factory=list)
    _true_us: dict[int, float] = field(default_factory=dict)
    _down_sent: deque[Frame] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _begun_us: float = 0.0
    _begun_bytes: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        self._pattern = np.random.default_rng(1).integers(
            -30_000, 30_000, _CHANNELS * _ROWS, np.int16
        )
        self._whole, self._second = Decoder(), Decoder()
        world = self.world
        world.idle, world.told, world.arrived = self._sample, self._told, self._arrived
        self._next_model()

    def _values(self, number: int) -> bytes:
        values = self._pattern ^ np.int16(number & 0x7FFF)
        return struct.pack("<I", number) + values.astype("<i2").tobytes()[4:]

    def _sample(self, now_us: float) -> None:
        """The device has a frame of samples whenever the line is free."""
        number, world = self.sent, self.world
        self.sent += 1
        first_us = now_us - _ROWS * _PERIOD_US
        self._true_us[number] = first_us
        self._true_us.pop(number - 4 * _REMEMBERED, None)
        time_us = max(0, world.quartz.device_us(first_us))
        world.controller.sensor(1, _CHANNELS, time_us, _PERIOD_US, self._values(number))

    def _told(self, told: Told) -> None:
        _, event = told
        if isinstance(event, Sampled):
            raw = event.sensor.values.astype("<i2").tobytes()
            (number,) = struct.unpack_from("<I", raw)
            true_us = self._true_us.get(number)
            if true_us is None or raw != self._values(number):
                self.false += 1
                return
            self.accepted += 1
            self.errors_us.append(event.first_us - true_us)

    def _arrived(self, sent: bytes, came: bytes) -> None:
        """Compare what a receiver takes of the damaged bytes with what was sent."""
        self._down_sent.extend(item for item in self._whole.feed(sent) if isinstance(item, Frame))
        for item in self._second.feed(came):
            if isinstance(item, Frame) and item not in self._down_sent:
                self.false += 1

    def _next_model(self) -> None:
        content = self.world.rng.randbytes(self.size_bytes)
        header = struct.pack("<IHHHHI", (self.size_bytes - 16) // 16 * 16, 0, 0, 0, 0, 0)
        self._upload = Upload(header + content[16:], _TRIAL_S)
        self.world.device.deploy(self._upload)

    def is_done(self) -> bool:
        """Whether enough frames went both ways; keeps models coming until then."""
        upload, world = self._upload, self.world
        if upload.stage is Stage.ON_TRIAL:
            world.device.confirm()
        if upload.has_ended:
            is_right = upload.stage is Stage.CONFIRMED
            model = world.controller.model
            is_right = is_right and model is not None and model.content == upload.content
            self.models += is_right
            self.damaged_models += not is_right
            self.delivered_bytes += is_right * upload.size_bytes
            self._next_model()
        if not self._begun_us and world.agenda.now_us > _SETTLED_US:
            self._begun_us = world.agenda.now_us
            self._begun_bytes = self.accepted, self._delivered(), world.link.sent_frames
        return min(self.sent, world.link.sent_frames) >= self.frames

    def _delivered(self) -> int:
        upload = self._upload
        return self.delivered_bytes + (0 if upload.has_ended else upload.received_bytes)

    def outcome(self) -> Outcome:
        world = self.world
        took_us = world.agenda.now_us - self._begun_us
        carried = took_us / world.up.byte_us
        accepted, delivered, _ = self._begun_bytes
        payload = _HEADER_BYTES + 2 * _CHANNELS * _ROWS
        errors = np.abs(np.array(self.errors_us))
        return Outcome(
            self.sent,
            self.accepted,
            world.link.sent_frames,
            self.false,
            self.models,
            self.damaged_models,
            (self.accepted - accepted) * payload / carried,
            (self._delivered() - delivered) / carried,
            float(np.percentile(errors, 99)),
            float(errors.max()),
            {"up": world.up.damage.done, "down": world.down.damage.done},
            world.agenda.now_us / 1e6,
        )


def run(library: Path, baudrate: int, frames: int, seed: int, damaged_share: float) -> Outcome:
    """Fill a line until so many frames went each way.

    Args:
      library: of `build_library` for CHIP.
      baudrate: of the line.
      frames: in each direction, at least.
      seed: of all chances.
      damaged_share: of the frames.
    """
    world = World(Microcontroller(library, chip=CHIP), baudrate, seed, damaged_share)
    size_bytes = min(CHIP.slot_bytes, max(4096, frames * 480 // 4))
    traffic = _Traffic(world, size_bytes, frames)
    world.agenda.at(1000.0, world.boot)
    world.agenda.run(traffic.is_done)
    return traffic.outcome()
