"""The gateway's side against the C library: clock, loss, resets, shared lines; in virtual time."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bridge_line import traffic, uploads
from benchmarks.bridge_line.world import World
from firmware_bridge.device import AWAY, CONNECTED, STRANGER, Device
from firmware_bridge.events import Deployed, Event, Said, Sampled, Scored, StateChanged
from firmware_bridge.link import Link
from firmware_bridge.place import Place
from firmware_bridge.upload import Stage, Upload
from shopfloor.microcontroller import Microcontroller, build_library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def large_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("large"), traffic.CHIP)


def content_of(size: int, seed: int) -> bytes:
    noise = np.random.default_rng(seed).bytes(size - 16)
    return struct.pack("<IHHHHI", size - 16, 0, 0, 0, 0, 0) + noise


def running(library: Path, damaged_share: float = 0.0) -> tuple[World, list[Event]]:
    """A world whose device sends a sample each time its line is free for it."""
    world = World(Microcontroller(library), 115_200, 1, damaged_share)
    events: list[Event] = []
    world.told = lambda told: events.append(told[1])
    world.agenda.at(1000.0, world.boot)
    return world, events


def after(world: World, wait_s: float) -> None:
    until_us = world.agenda.now_us + wait_s * 1e6
    world.agenda.run(lambda: world.agenda.now_us >= until_us)


def samples_of(world: World, period_us: int = 10_000) -> None:
    """Let the device send one sample of two channels every period, whatever is lost."""

    def sample(now_us: float) -> None:
        if not world.is_off:
            at_us = world.quartz.device_us(now_us)
            world.controller.set_time(at_us)
            world.controller.sensor(5, 2, at_us, period_us, struct.pack("<hh", 1, 2))
            world.agenda.at(now_us, world.send_taken)
        world.agenda.at(now_us + period_us, sample)

    world.agenda.at(world.agenda.now_us + period_us, sample)


@pytest.mark.parametrize("baudrate", [115_200, 921_600])
def test_a_full_bad_line_delivers_nothing_false_and_keeps_its_clock(
    large_library: Path, baudrate: int
) -> None:
    outcome = traffic.run(large_library, baudrate, 2_000, 3, 0.01)
    assert outcome.false == 0
    assert outcome.damaged_models == 0
    assert outcome.models >= 1
    assert outcome.clock_p99_us < 1000
    assert sum(outcome.damaged["up"].values()) > 5


def test_uploads_resume_through_cuts_resets_and_torn_writes(library: Path) -> None:
    outcome = uploads.run(library, 12, 5, 0.01)
    assert outcome.uploads == 12
    assert not outcome.failed
    assert outcome.wrong_model == 0
    assert outcome.restarted == 0
    assert outcome.violations == 0
    assert sum(outcome.interruptions.values()) > 12


def test_a_reset_is_seen_and_its_samples_are_marked(library: Path) -> None:
    world, events = running(library)
    samples_of(world)
    after(world, 3.0)
    before = [event for event in events if isinstance(event, Sampled)]
    assert len(before) > 100
    assert not any(event.is_after_reset or event.is_after_loss for event in before)
    events.clear()
    world.reset(world.agenda.now_us)
    after(world, 4.0)
    behind = [event for event in events if isinstance(event, Sampled)]
    marks = [event.is_after_reset for event in behind]
    assert marks.count(True) == 1
    assert marks.index(True) <= 1  # one more was on its way
    assert behind[0].first_us > before[-1].first_us
    assert world.device.figures.resets == 1
    assert [event.state for event in events if isinstance(event, StateChanged)] == [
        AWAY,
        CONNECTED,
    ]


def test_a_line_that_is_cut_loses_the_device_and_gets_it_back_with_its_clock(
    library: Path,
) -> None:
    world, events = running(library)
    samples_of(world)
    after(world, 3.0)
    clock = world.device.clock
    world.cut(world.agenda.now_us, 20e6)
    after(world, 15.0)
    assert world.device.state == AWAY
    events.clear()
    after(world, 15.0)
    assert world.device.state == CONNECTED
    assert world.device.clock is clock
    assert world.device.figures.resets == 0
    first = next(event for event in events if isinstance(event, Sampled))
    assert first.is_after_loss
    assert not first.is_after_reset


def test_texts_and_scores_come_through(library: Path) -> None:
    world, events = running(library)
    after(world, 2.0)
    upload = Upload(content_of(800, 1), 60)
    world.device.deploy(upload)
    after(world, 2.0)
    assert upload.stage is Stage.ON_TRIAL
    world.controller.log("oven \x1b[1mhot")
    world.controller.score(5, world.quartz.device_us(world.agenda.now_us), bytes((3, 253)))
    world.send_taken(world.agenda.now_us)
    after(world, 0.1)
    (text,) = (event for event in events if isinstance(event, Said))
    assert text.text == "oven \x1b[1mhot"
    (scored,) = (event for event in events if isinstance(event, Scored))
    assert scored.score.values.tolist() == [3, -3]
    assert scored.score.on_trial
    assert scored.score.model == upload.sha256[:8]
    stages = [event.stage for event in events if isinstance(event, Deployed)]
    assert stages[-1] is Stage.ON_TRIAL


def test_a_device_that_finds_a_wrong_golden_vector_keeps_its_model(library: Path) -> None:
    world, _ = running(library)
    after(world, 2.0)
    good, bad = Upload(content_of(3_200, 2), 60), Upload(content_of(4_800, 3), 60)
    world.device.deploy(good)
    world.device.confirm()
    after(world, 3.0)
    assert good.stage is Stage.CONFIRMED
    world.controller.set_self_test(8)
    world.device.deploy(bad)
    after(world, 3.0)
    assert bad.stage is Stage.FAILED
    assert bad.reason == "testing: refused: golden vector differs"
    model = world.controller.model
    assert model is not None
    assert hashlib.sha256(model.content).digest() == good.sha256


def test_going_back_to_the_model_before_sends_nothing_again(library: Path) -> None:
    world, _ = running(library)
    contents = [content_of(8_000, 6), content_of(6_400, 7)]
    sent = []
    for content in (*contents, contents[0]):
        upload = Upload(content, 60)
        world.device.deploy(upload)
        world.device.confirm()
        after(world, 4.0)
        assert upload.stage is Stage.CONFIRMED
        model = world.controller.model
        assert model is not None
        assert model.content == content
        sent.append(upload.sent_bytes)
    assert sent == [8_000, 6_400, 0]


def test_another_device_than_the_configured_one_is_refused(library: Path) -> None:
    world = World(Microcontroller(library, identity=b"A" * 16), 115_200, 1, 0.0)
    place = Place(id=b"B" * 16, byte_us=world.down.byte_us)
    world.device = Device(place, 0)
    world.link = Link({0: world.device}, place.byte_us)
    events: list[Event] = []
    world.told = lambda told: events.append(told[1])
    world.agenda.at(1000.0, world.boot)
    samples_of(world)
    after(world, 3.0)
    assert world.device.state == STRANGER
    assert [type(event) for event in events] == [StateChanged]


class SharedLine:
    """Several devices on one pair of wires, answering at once; time is counted in exchanges."""

    def __init__(self, library: Path, addresses: tuple[int, ...], absent: tuple[int, ...]) -> None:
        self.controllers = {at: Microcontroller(library, address=at) for at in addresses}
        for controller in self.controllers.values():
            controller.set_time(0)
            controller.boot(1)
        byte_us = 10e6 / 115_200
        devices = {at: Device(Place(at, byte_us=byte_us), 0) for at in (*addresses, *absent)}
        self.devices, self.link, self.now_us = devices, Link(devices, byte_us), 1_000_000
        self.events: list[tuple[Device, Event]] = []
        self.largest_open = 0

    def run(self, seconds: float) -> None:
        until_us = self.now_us + seconds * 1e6
        while self.now_us < until_us:
            if data := self.link.transmit(self.now_us):
                self.events += self.link.receive(data, self.now_us)  # the transceiver's echo
                self._answer(data)
            self.events += self.link.drain(self.now_us)
            opened = sum(device.has_open_request for device in self.devices.values())
            self.largest_open = max(self.largest_open, opened)
            self.now_us = max(self.now_us + 100, self.link.wake_us(self.now_us))

    def _answer(self, data: bytes) -> None:
        self.now_us += int(len(data) * 10e6 / 115_200) + 50
        for controller in self.controllers.values():
            controller.set_time(self.now_us - 500_000)
            controller.receive(data, self.now_us - 500_000)
            answer = controller.take()
            self.now_us += int(len(answer) * 10e6 / 115_200)
            self.events += self.link.receive(answer, self.now_us)


def test_devices_of_a_shared_line_are_asked_one_at_a_time_and_an_absent_one_stops_nobody(
    library: Path,
) -> None:
    line = SharedLine(library, (1, 2), absent=(9,))
    line.run(3.0)
    for number in range(20):
        for address, controller in line.controllers.items():
            raw = struct.pack("<h", 100 * address + number)
            controller.sensor(1, 1, line.now_us - 500_000, 0, raw)
        line.run(0.2)
    assert [device.state for device in line.devices.values()] == [CONNECTED, CONNECTED, AWAY]
    for address in (1, 2):
        got = [
            int(event.sensor.values[0, 0])
            for device, event in line.events
            if device is line.devices[address] and isinstance(event, Sampled)
        ]
        assert got == [100 * address + number for number in range(20)]
    assert line.largest_open == 1
    assert line.link.echoes > 100


def test_a_model_comes_to_one_device_of_a_shared_line_while_others_go_on(library: Path) -> None:
    line = SharedLine(library, (1, 2), absent=())
    line.run(2.0)
    upload = Upload(content_of(20_000, 4), 60)
    line.devices[2].deploy(upload)
    line.devices[2].confirm()
    for number in range(40):
        for controller in line.controllers.values():
            controller.sensor(1, 1, line.now_us - 500_000, 0, struct.pack("<h", number))
        line.run(0.2)
    assert upload.stage is Stage.CONFIRMED
    assert line.controllers[1].model is None
    counted = [
        sum(device is each and isinstance(event, Sampled) for device, event in line.events)
        for each in line.devices.values()
    ]
    assert counted == [40, 40]
