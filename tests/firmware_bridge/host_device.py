"""The C device library on this machine, and a gateway that insists, for the tests beside this."""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware_bridge import messages
from firmware_bridge.frames import Address, Decoder, Frame, FrameError, encode
from firmware_bridge.messages import Answer, Request, Slots, SlotState, Status
from shopfloor.microcontroller import Chip, End, Microcontroller, build_library

SMALL = Chip(sector_bytes=256, slot_bytes=2048)
"""Few operations, so that the power can be cut in each of them."""


class PowerCutError(Exception):
    """The device stopped before it answered."""


@functools.cache
def library(chip: Chip) -> Path:
    """Compile the device once for each chip and test process."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: run tests/install.sh .venv/bin/python as root")
    return build_library(_folder(), chip)


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jm-device-")


def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_root().name))


@dataclass(frozen=True)
class Content:
    """What goes into a slot."""

    data: bytes

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.data).digest()


def content(seed: int, image_bytes: int = 1200) -> Content:
    """Random bytes behind a header that agrees with their size."""
    rng = random.Random(seed)
    image = rng.randbytes(image_bytes)
    vectors = rng.randbytes(3 * (10 + 2))
    padding = bytes(-len(image) % 16)
    header = struct.pack("<IHHHHI", len(image), 3, 10, 2, 0, 0)
    return Content(header + image + padding + vectors)


class Gateway:
    """Asks one device; starts it again when the power was cut.

    Attributes:
      frames: what the device sent of itself.
      heard: everything that it sent, decoded by the gateway's own codec.
    """

    def __init__(self, device: Microcontroller, address: int = Address.POINT_TO_POINT) -> None:
        self.device = device
        self.frames: list[Frame] = []
        self.heard = Decoder()
        self._address = address
        self._number = 65_500  # near the end of 16 bits
        self._boot = 0
        self.start()

    def start(self) -> None:
        """Reset the device until it runs, and connect."""
        while True:
            if self.boot() is not End.RUNS:
                continue
            self.device.take()
            self.heard = Decoder()
            try:
                answer = self.ask(Request.CONNECT, messages.connect())
            except PowerCutError:
                continue
            assert answer.status is Status.OK
            return

    def boot(self) -> End:
        """Reset the device."""
        self._boot += 1
        return self.device.boot(self._boot)

    def exchange(self, frame: Frame) -> list[Frame]:
        """Send a frame; return all that the device sends before it is silent again."""
        end = self.device.receive(encode(frame), 0)
        items = self.heard.feed(self.device.take())
        if end is End.CUT:
            raise PowerCutError
        assert not any(isinstance(each, FrameError) for each in items)
        return [each for each in items if isinstance(each, Frame)]

    def ask(self, kind: Request | int, payload: bytes = b"") -> Answer:
        """Ask once."""
        self._number = (self._number + 1) % 65_536
        got = self.exchange(Frame(kind, self._number, payload, self._address))
        answers = [each for each in got if each.type == kind + messages.ANSWER]
        self.frames += [each for each in got if each.type < Request.CONNECT]
        assert [each.sequence for each in answers] == [self._number]
        answer = messages.parse_answer(answers[0].payload)
        assert answer is not None
        return answer

    def slots(self) -> Slots:
        answer = self.ask(Request.SLOTS)
        slots = messages.parse_slots(answer.body)
        assert slots is not None
        return slots

    def active(self) -> bytes | None:
        """SHA-256 of the model that the device says it runs."""
        slots = self.slots()
        return None if slots.active is None else slots.slots[slots.active].sha256

    def begin(self, what: Content) -> int:
        """Begin, or go on with, an upload; return how much is there."""
        answer = self.ask(Request.BEGIN, messages.begin(len(what.data), what.sha256))
        assert answer.status is Status.OK, answer
        received = messages.parse_begun(answer.body)
        assert received is not None
        return received

    def write(self, what: Content, offset: int, size: int = 480) -> int:
        """Write one piece; return how much is there."""
        answer = self.ask(Request.WRITE, messages.write(offset, what.data[offset : offset + size]))
        if answer.status is Status.ORDER:
            return answer.received
        assert answer.status is Status.OK, answer
        received = messages.parse_written(answer.body)
        assert received is not None
        return received

    def upload(self, what: Content) -> None:
        """Begin and write until all is there."""
        at = self.begin(what)
        while at < len(what.data):
            at = self.write(what, at)

    def install(self, what: Content, trial_s: int = 60) -> None:
        """Bring a model there and let it run on trial."""
        self.upload(what)
        for kind, payload in (
            (Request.VERIFY, b""),
            (Request.TEST, b""),
            (Request.ACTIVATE, messages.activate(trial_s, what.sha256)),
        ):
            answer = self.ask(kind, payload)
            assert answer.status is Status.OK, (kind, answer)

    def confirm(self, what: Content) -> None:
        assert self.ask(Request.CONFIRM, what.sha256).status is Status.OK

    def insist(self, what: Content) -> None:
        """Install and confirm, through as many power cuts as there are."""
        while True:
            try:
                slots = self.slots()
                active = None if slots.active is None else slots.slots[slots.active]
                if active is None or active.sha256 != what.sha256:
                    self.install(what)
                elif active.state is SlotState.CONFIRMED:
                    return
                self.confirm(what)
            except PowerCutError:
                self.start()

    def insist_on_leaving(self, what: Content) -> None:
        """Roll back, through as many power cuts as there are."""
        while True:
            try:
                assert self.ask(Request.ROLLBACK, what.sha256).status is Status.OK
            except PowerCutError:
                self.start()
            else:
                return
