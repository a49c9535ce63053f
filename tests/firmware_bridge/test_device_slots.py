"""The model slots in C, over a flash model that tears writes and erases at any moment."""

import random

import pytest

from firmware_bridge import messages
from firmware_bridge.messages import Refusal, Request, SlotState, Status
from shopfloor.microcontroller import Chip, End, Microcontroller
from tests.firmware_bridge.host_device import (
    SMALL,
    Content,
    Gateway,
    PowerCutError,
    content,
    library,
)

OLD, NEW = content(1), content(2, image_bytes=1500)
CHIPS = (
    SMALL,
    Chip(unit_bytes=4, sector_bytes=512, slot_bytes=2048),
    Chip(unit_bytes=32, sector_bytes=256, slot_bytes=2048, ecc=True),
)
BLOCK = 32


def a_gateway(chip: Chip = SMALL) -> Gateway:
    return Gateway(Microcontroller(library(chip), chip=chip))


def running(device: Microcontroller) -> Content | None:
    return None if device.model is None else Content(device.model.content)


def story(gateway: Gateway) -> None:
    """OLD runs already: bring NEW, confirm it, and go back."""
    gateway.insist(NEW)
    gateway.insist_on_leaving(NEW)


class Watching(Gateway):
    """Notes how far uploads had come, and compares when they go on.

    Attributes:
      resumed: uploads that went on behind their beginning.
    """

    resumed = 0
    _reached: tuple[bytes, int] = (b"", 0)

    def write(self, what: Content, offset: int, size: int = 96) -> int:
        received = super().write(what, offset, size)
        self._reached = (what.sha256, received)
        return received

    def begin(self, what: Content) -> int:
        states = {each.sha256: each.state for each in self.slots().slots}
        if states.get(what.sha256) is SlotState.REJECTED:
            self._reached = (b"", 0)  # it is sent anew
        sha256, reached = self._reached
        received = super().begin(what)
        if sha256 == what.sha256:
            sector = self.device.chip.sector_bytes
            assert received >= reached // sector * sector - BLOCK
            assert received <= len(what.data)
            self.resumed += received > 0
        self._reached = (what.sha256, received)
        return received

    def start(self) -> None:
        super().start()
        assert self.device.violations == 0


def test_a_new_device_runs_nothing_and_has_two_empty_slots() -> None:
    gateway = a_gateway()
    slots = gateway.slots()
    assert (slots.active, slots.left_s) == (None, 0)
    assert [each.state for each in slots.slots] == [SlotState.EMPTY] * 2
    assert gateway.device.model is None


def test_a_slot_goes_through_its_states_in_their_order() -> None:
    gateway = a_gateway()

    def state() -> SlotState:
        return gateway.slots().slots[0].state

    gateway.begin(OLD)
    assert state() is SlotState.RECEIVING
    gateway.upload(OLD)
    assert state() is SlotState.RECEIVED
    assert gateway.ask(Request.VERIFY).body == b"\0"
    assert state() is SlotState.VERIFIED
    assert gateway.device.model is None
    assert gateway.ask(Request.TEST).body == b"\0\3\0"  # slot A, three vectors
    assert state() is SlotState.TESTED
    assert gateway.ask(Request.ACTIVATE, messages.activate(60, OLD.sha256)).body == b"\0"
    assert (state(), gateway.slots().left_s) == (SlotState.ON_TRIAL, 60)
    assert running(gateway.device) == OLD
    gateway.confirm(OLD)
    slots = gateway.slots()
    assert (slots.active, slots.left_s, slots.slots[0].state) == (0, 0, SlotState.CONFIRMED)


def test_each_refusal_says_why() -> None:
    gateway = a_gateway()

    def refused(kind: Request, payload: bytes = b"") -> Refusal:
        answer = gateway.ask(kind, payload)
        assert answer.status is Status.REFUSED
        return Refusal(answer.reason)

    def begin(what: Content) -> bytes:
        return messages.begin(len(what.data), what.sha256)

    too_large = messages.begin(SMALL.slot_bytes + 1, bytes(32))
    assert refused(Request.BEGIN, too_large) is Refusal.TOO_LARGE
    assert refused(Request.BEGIN, messages.begin(0, bytes(32))) is Refusal.TOO_LARGE
    assert refused(Request.WRITE, messages.write(0, bytes(32))) is Refusal.NOTHING_BEGUN
    assert refused(Request.VERIFY) is Refusal.NOTHING_BEGUN
    gateway.begin(OLD)
    assert refused(Request.VERIFY) is Refusal.NOT_ALL_RECEIVED
    activate = messages.activate(9, OLD.sha256)
    assert refused(Request.ACTIVATE, activate) is Refusal.NOT_TESTED
    assert refused(Request.CONFIRM, OLD.sha256) is Refusal.ANOTHER_CONTENT
    gateway.upload(OLD)
    gateway.device.set_self_test(Refusal.ARENA_TOO_SMALL)
    assert refused(Request.TEST) is Refusal.ARENA_TOO_SMALL
    assert refused(Request.ACTIVATE, activate) is Refusal.NOT_TESTED
    gateway.device.set_self_test(0)
    assert gateway.ask(Request.TEST).status is Status.OK
    assert refused(Request.ACTIVATE, messages.activate(9, bytes(32))) is Refusal.ANOTHER_CONTENT
    assert gateway.ask(Request.ACTIVATE, activate).status is Status.OK
    assert refused(Request.BEGIN, begin(NEW)) is Refusal.A_TRIAL_IS_RUNNING
    assert refused(Request.BEGIN, begin(OLD)) is Refusal.ALREADY_ACTIVE
    gateway.confirm(OLD)
    assert refused(Request.ROLLBACK, OLD.sha256) is Refusal.NO_OTHER_MODEL
    assert refused(Request.ROLLBACK, NEW.sha256) is Refusal.ANOTHER_CONTENT


def test_content_with_another_hash_is_rejected_and_can_be_sent_anew() -> None:
    gateway = a_gateway()
    liar = Content(OLD.data[:-1] + b"?")
    size = len(OLD.data)
    assert gateway.ask(Request.BEGIN, messages.begin(size, liar.sha256)).status is Status.OK
    at = 0
    while at < size:
        at = gateway.write(OLD, at)
    for _ in range(2):
        answer = gateway.ask(Request.VERIFY)
        assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.SHA256_DIFFERS)
        assert gateway.slots().slots[0].state is SlotState.REJECTED
    assert gateway.begin(liar) == 0
    gateway.install(liar)
    assert running(gateway.device) == liar


@pytest.mark.parametrize("end", [b"\xff", b"\0"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 55, 56, 63, 64, 65, 119, 120, 128, 2048])
def test_content_of_any_size_and_end_is_received_resumed_and_verified(
    size: int, end: bytes
) -> None:
    gateway = a_gateway()
    gateway.device.set_self_test(0)
    what = Content(content(size).data[: size // 2] + end * (size - size // 2))
    for _ in range(4):
        at = gateway.begin(what)
        while at < size * 2 // 3:
            at = gateway.write(what, at, size=BLOCK * 5)
        gateway.start()
        resumed = gateway.begin(what)
        assert at - BLOCK <= resumed <= at or (end == b"\xff" and resumed <= at)
    gateway.install(what)
    assert running(gateway.device) == what
    assert gateway.device.violations == 0


def test_a_trial_that_nobody_confirms_ends_after_its_time_with_the_old_model() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.install(NEW, trial_s=60)
    gateway.device.set_time(59_999_999)
    gateway.device.run()
    assert (running(gateway.device), gateway.slots().left_s) == (NEW, 1)
    gateway.device.set_time(60_000_000)
    gateway.device.run()
    assert running(gateway.device) == OLD
    slots = gateway.slots()
    assert (slots.active, slots.slots[1].state) == (0, SlotState.REJECTED)
    gateway.start()
    assert running(gateway.device) == OLD


def test_a_first_model_that_nobody_confirms_leaves_the_device_without_one() -> None:
    gateway = a_gateway()
    gateway.install(OLD, trial_s=1)
    gateway.device.set_time(1_000_000)
    gateway.device.run()
    assert gateway.device.model is None
    assert gateway.slots().active is None


def test_a_trial_survives_one_reset_and_ends_at_the_second() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.install(NEW, trial_s=60)
    gateway.start()
    assert (running(gateway.device), gateway.slots().left_s) == (NEW, 60)
    gateway.start()
    assert running(gateway.device) == OLD
    for _ in range(3):  # the resets of that trial count for no other model
        gateway.start()
        assert running(gateway.device) == OLD
    gateway.insist(NEW)
    for _ in range(3):
        gateway.start()
        assert running(gateway.device) == NEW


def test_rollback_goes_to_the_confirmed_model_and_back_again_without_sending_it() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.insist(NEW)
    for _ in range(2):
        answer = gateway.ask(Request.ROLLBACK, NEW.sha256)
        assert (answer.status, answer.body) == (Status.OK, b"\0")
    assert running(gateway.device) == OLD
    gateway.insist(NEW)  # rejected, so it is sent again
    assert gateway.begin(OLD) == len(OLD.data)  # confirmed once, so it is there
    gateway.install(OLD)
    gateway.confirm(OLD)
    assert running(gateway.device) == OLD


def test_a_model_that_decayed_in_flash_is_left_for_the_other_or_for_none() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.insist(NEW)
    device = gateway.device
    device.flip(device.slot_addresses[1] + 700, 0x10)
    gateway.start()
    assert running(device) == OLD
    device.flip(device.slot_addresses[0] + 100, 0x01)
    gateway.start()
    assert device.model is None
    gateway.insist(NEW)
    assert running(device) == NEW


def test_rollback_to_a_model_that_decayed_runs_none_rather() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.install(NEW)
    gateway.device.flip(gateway.device.slot_addresses[0] + 100, 0x01)
    assert gateway.ask(Request.ROLLBACK, NEW.sha256).body == bytes([messages.NO_SLOT])
    assert gateway.device.model is None


def test_the_records_wear_two_sectors_in_turn_and_the_newest_holds() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    first, second = set(), set()
    for turn in range(12):
        what = (NEW, OLD)[turn % 2]
        gateway.insist(what)
        gateway.start()
        assert running(gateway.device) == what
        sectors = gateway.device.flash[: 2 * SMALL.sector_bytes]
        first.add(sectors[: SMALL.sector_bytes])
        second.add(sectors[SMALL.sector_bytes :])
    assert min(len(first), len(second)) > 4  # both were erased and written again and again
    assert gateway.device.violations == 0


def test_worn_out_flash_is_said_and_leaves_the_running_model_alone() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    device = gateway.device
    device.wear_out(device.slot_addresses[1] + 512, 64)
    gateway.begin(NEW)
    answers = [
        gateway.ask(Request.WRITE, messages.write(at, NEW.data[at : at + 256]))
        for at in (0, 256, 512)
    ]
    assert [each.status for each in answers] == [Status.OK, Status.OK, Status.FLASH]
    device.wear_out(0, 2 * SMALL.sector_bytes)
    third = content(3)
    begin = messages.begin(len(third.data), third.sha256)
    assert gateway.ask(Request.BEGIN, begin).status is Status.FLASH
    assert gateway.active() == OLD.sha256
    gateway.start()
    assert running(device) == OLD


def test_a_trial_in_worn_out_records_ends_all_the_same_until_the_next_reset() -> None:
    gateway = a_gateway()
    gateway.insist(OLD)
    gateway.upload(NEW)
    gateway.ask(Request.TEST)
    gateway.device.wear_out(0, 2 * SMALL.sector_bytes)
    answer = gateway.ask(Request.ACTIVATE, messages.activate(5, NEW.sha256))
    assert answer.status is Status.FLASH
    assert (running(gateway.device), gateway.slots().left_s) == (OLD, 0)
    gateway.device.set_time(10**9)
    assert gateway.device.run() is End.RUNS
    assert running(gateway.device) == OLD


@pytest.mark.parametrize(("chip", "stride"), [(SMALL, 1), *((each, 11) for each in CHIPS[1:])])
def test_a_power_cut_in_every_operation_leaves_a_whole_model_and_the_story_goes_on(
    chip: Chip, stride: int
) -> None:
    device = Microcontroller(library(chip), chip=chip)
    gateway = Watching(device)
    gateway.insist(OLD)
    before = device.memory
    first = device.operations
    story(gateway)
    operations = device.operations - first
    assert operations > 100
    resumed = 0
    for cut in range(1, operations, stride):
        device.memory = before
        gateway = Watching(device)
        device.cut_at(cut, seed=cut)
        seen = set()
        try:
            gateway.install(NEW)
        except PowerCutError:
            gateway.start()
            seen.add(running(device))
        story(gateway)
        assert seen <= {OLD, NEW}
        assert running(device) == OLD
        resumed += gateway.resumed
    assert resumed > operations / stride / 4


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("seed", range(4))
def test_many_power_cuts_in_a_row_leave_a_whole_model_and_uploads_resume(
    chip: Chip, seed: int
) -> None:
    rng = random.Random(seed)

    class Cut(Watching):
        needs_model = False

        def boot(self) -> End:
            most = 20 + 1000 // chip.unit_bytes
            self.device.cut_at(rng.randrange(1, most), rng.getrandbits(31))
            end = super().boot()
            if end is End.RUNS:
                assert running(self.device) in {None, OLD, NEW}
                assert not self.needs_model or self.device.model is not None
            return end

    gateway = Cut(Microcontroller(library(chip), chip=chip))
    gateway.insist(OLD)
    gateway.needs_model = True
    for _ in range(3):
        story(gateway)
        assert running(gateway.device) == OLD
    assert gateway.resumed > 0
    assert gateway.device.violations == 0
