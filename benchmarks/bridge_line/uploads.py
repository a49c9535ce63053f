"""Models brought to a device whose line is cut, whose power fails, and whose gateway restarts.

The device is the C library over its flash model: a cut of the power in the middle of an erase or of
a programmed unit leaves behind what a real flash might.  Everything is looked at from outside:

    always     the model that the firmware runs is whole: byte by byte the old one or the new one
    resumed    what the device has goes back by one sector at most, never to the beginning
    in the end confirmed and running, or rolled back and the old one running
"""

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bridge_line.world import World
from firmware_bridge.upload import Stage, Upload
from shopfloor.microcontroller import DEFAULT_CHIP, Microcontroller

_BAUDRATE = 115_200
_SMALLEST, _LARGEST = 4_000, 40_000
_TRIAL_S = 60
_BETWEEN_US = 1.2e6
_LONGEST_CUT_US = 1.5e6
_OPERATIONS = 600
_LOST_BYTES = DEFAULT_CHIP.sector_bytes + 64
"""What a torn unit may cost: its sector, and what of the last WRITE was not whole."""
_LONGEST_US = 600e6
_KINDS = ("cut", "reset", "torn", "gateway")


@dataclass
class Outcome:
    """What was counted.

    Attributes:
      uploads: that came to an end.
      confirmed: of those.
      rolled_back: of those.
      failed: of those, with their reasons.
      wrong_model: times that the firmware ran anything but the old or the new model, whole.
      restarted: times that an upload began again although the device had more than a sector.
      interruptions: by kind.
      sent_share: bytes of content that were sent, by those that had to be.
      violations: of the flash's rules.
      virtual_s: time that it took.
    """

    uploads: int = 0
    confirmed: int = 0
    rolled_back: int = 0
    failed: list[str] = field(default_factory=list)
    wrong_model: int = 0
    restarted: int = 0
    interruptions: dict[str, int] = field(default_factory=dict)
    sent_share: float = 0.0
    violations: int = 0
    virtual_s: float = 0.0


class _Trouble:
    """One upload after the other, and what comes between."""

    def __init__(self, world: World, uploads: int) -> None:
        self._world, self._wanted = world, uploads
        self._rng = random.Random(world.rng.randrange(1 << 32))
        self.outcome = Outcome()
        self._old: bytes | None = None
        self._sent_bytes = self._size_bytes = 0
        self._begin()
        self._interrupt_later()

    def _begin(self) -> None:
        rng = self._rng
        size = rng.randint(_SMALLEST, _LARGEST) // 16 * 16
        self._new = struct.pack("<IHHHHI", size - 16, 0, 0, 0, 0, 0) + rng.randbytes(size - 16)
        self._wish = rng.choices(("confirm", "leave", "forget"), (8, 1, 1))[0]
        self._most = 0
        self._was_on_trial = False
        self._begun_us = self._world.agenda.now_us
        self._deploy()

    def _deploy(self) -> None:
        self._upload = Upload(self._new, _TRIAL_S)
        self._world.device.deploy(self._upload)

    def _interrupt_later(self) -> None:
        wait_us = self._rng.expovariate(1 / _BETWEEN_US)
        self._world.agenda.at(self._world.agenda.now_us + wait_us, self._interrupt)

    def _interrupt(self, now_us: float) -> None:
        rng, world = self._rng, self._world
        kind = rng.choice(_KINDS)
        if kind == "gateway" and self._was_on_trial and self._wish != "confirm":
            kind = "cut"  # nobody asks anew for a model that failed
        counted = self.outcome.interruptions
        counted[kind] = counted.get(kind, 0) + 1
        if kind == "cut":
            world.cut(now_us, rng.uniform(5e4, _LONGEST_CUT_US))
        elif kind == "reset":
            world.reset(now_us)
        elif kind == "torn":
            world.controller.cut_at(rng.randint(1, _OPERATIONS), rng.randrange(1 << 32))
        else:
            self._sent_bytes += self._upload.sent_bytes
            world.start_gateway()
            self._deploy()
        self._interrupt_later()

    def is_done(self) -> bool:
        """Whether all uploads came to an end; looks at the device after everything that happens."""
        upload = self._upload
        self._check_model()
        self._check_progress()
        if upload.stage is Stage.ON_TRIAL:
            if self._wish == "confirm":
                self._world.device.confirm()
            elif self._wish == "leave":
                self._world.device.leave()
        if upload.has_ended or self._world.agenda.now_us - self._begun_us > _LONGEST_US:
            self._end()
        return self.outcome.uploads >= self._wanted

    def _check_model(self) -> None:
        if self._world.is_off:
            return
        model = self._world.controller.model
        content = None if model is None else model.content
        self._was_on_trial |= content == self._new
        if content not in (self._old, self._new):
            self.outcome.wrong_model += 1

    def _check_progress(self) -> None:
        received = self._upload.received_bytes
        if self._upload.stage is Stage.LOOKING:
            return  # a new run of the gateway, which knows nothing yet
        if self._upload.stage is Stage.BEGINNING:
            return
        if self._was_on_trial:
            self._most = 0  # a content whose trial failed is sent anew
        elif received < self._most - _LOST_BYTES:
            self.outcome.restarted += 1
            self._most = received
        self._most = max(self._most, received)

    def _end(self) -> None:
        upload, outcome, model = self._upload, self.outcome, self._world.controller.model
        outcome.uploads += 1
        self._sent_bytes += upload.sent_bytes
        self._size_bytes += upload.size_bytes
        running = None if model is None else model.content
        if upload.stage is Stage.CONFIRMED:
            outcome.confirmed += 1
            outcome.wrong_model += running != self._new
            self._old = self._new
        elif upload.stage is Stage.ROLLED_BACK:
            outcome.rolled_back += 1
            outcome.wrong_model += running != self._old
        else:
            outcome.failed.append(f"{upload.stage.value}: {upload.reason}")
        outcome.sent_share = self._sent_bytes / self._size_bytes
        self._begin()


def run(library: Path, uploads: int, seed: int, damaged_share: float) -> Outcome:
    """Bring so many models to a device.

    Args:
      library: of `build_library` for DEFAULT_CHIP.
      uploads: how many.
      seed: of all chances.
      damaged_share: of the frames.
    """
    controller = Microcontroller(library)
    world = World(controller, _BAUDRATE, seed, damaged_share)
    world.agenda.at(1000.0, world.boot)
    trouble = _Trouble(world, uploads)
    world.agenda.run(trouble.is_done)
    trouble.outcome.violations = controller.violations
    trouble.outcome.virtual_s = world.agenda.now_us / 1e6
    return trouble.outcome
