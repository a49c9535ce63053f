"""The state machine of one upload, by its answers alone."""

import struct

import pytest

from firmware_bridge.messages import Answer, Refusal, Request, SlotState, Status
from firmware_bridge.upload import Stage, Upload

CONTENT = bytes(range(256)) * 5
EMPTY = struct.pack("<BII32s", 0, 0, 0, bytes(32))


def ok(body: bytes = b"") -> Answer:
    return Answer(Status.OK, body)


def slots_with(upload: Upload, state: SlotState, received: int = 0) -> Answer:
    slot = struct.pack("<BII32s", state, upload.size_bytes, received, upload.sha256)
    active = 0 if state in (SlotState.ON_TRIAL, SlotState.CONFIRMED) else 255
    return ok(struct.pack("<BI", active, 0) + slot + EMPTY)


def asked(upload: Upload) -> Request | None:
    request = upload.next_request(512)
    return None if request is None else request[0]


def sending(received: int = 0) -> Upload:
    upload = Upload(CONTENT, 60)
    assert asked(upload) is Request.SLOTS
    upload.answered(Request.SLOTS, slots_with(upload, SlotState.RECEIVING))
    assert asked(upload) is Request.BEGIN
    upload.answered(Request.BEGIN, ok(struct.pack("<BI", 0, received)))
    return upload


def written(upload: Upload) -> None:
    """Send all that is left, without a loss."""
    while request := upload.next_request(512):
        _, payload = request
        received = int.from_bytes(payload[:4], "little") + len(payload) - 4
        upload.answered(Request.WRITE, ok(struct.pack("<I", received)))
        if upload.stage is not Stage.SENDING:
            break


def test_a_model_comes_to_a_device_step_by_step() -> None:
    upload = sending()
    written(upload)
    for request, body in (
        (Request.VERIFY, b"\0"),
        (Request.TEST, b"\0\1\0"),
        (Request.ACTIVATE, b"\0"),
    ):
        assert asked(upload) is request
        assert asked(upload) is None  # one at a time
        upload.answered(request, ok(body))
    assert not upload.has_ended
    upload.confirm()
    assert asked(upload) is Request.CONFIRM
    upload.answered(Request.CONFIRM, ok(b"\0"))
    assert upload.stage is Stage.CONFIRMED
    assert upload.sent_bytes == len(CONTENT)


def test_chunks_are_multiples_of_thirty_two_and_start_where_the_device_is() -> None:
    upload = sending(received=96)
    offsets = []
    while request := upload.next_request(64):
        _, payload = request
        offsets.append(int.from_bytes(payload[:4], "little"))
        assert len(payload) - 4 in (32, (len(CONTENT) - 96) % 32)
    assert offsets == list(range(96, len(CONTENT), 32))


def test_order_sends_from_what_the_device_has_also_when_that_is_less() -> None:
    upload = sending()
    upload.next_request(512)
    upload.answered(Request.WRITE, ok(struct.pack("<I", 480)))
    upload.next_request(512)
    upload.answered(Request.WRITE, Answer(Status.ORDER, received=32))
    request = upload.next_request(512)
    assert request is not None
    assert request[1][:4] == struct.pack("<I", 32)


@pytest.mark.parametrize(
    ("state", "then"),
    [
        (SlotState.EMPTY, Request.BEGIN),
        (SlotState.RECEIVING, Request.BEGIN),
        (SlotState.RECEIVED, Request.VERIFY),
        (SlotState.VERIFIED, Request.TEST),
        (SlotState.TESTED, Request.ACTIVATE),
        (SlotState.ON_TRIAL, None),
        (SlotState.CONFIRMED, None),
        (SlotState.REJECTED, Request.BEGIN),
    ],
)
def test_after_a_reset_it_goes_on_from_what_the_slot_says(
    state: SlotState, then: Request | None
) -> None:
    upload = Upload(CONTENT, 60)
    upload.next_request(512)
    upload.answered(Request.SLOTS, slots_with(upload, state))
    assert asked(upload) is then


def test_a_model_that_was_confirmed_once_and_does_not_run_is_begun_and_not_taken_for_running() -> (
    None
):
    upload = Upload(CONTENT, 60)
    upload.next_request(512)
    slot = struct.pack("<BII32s", SlotState.CONFIRMED, len(CONTENT), len(CONTENT), upload.sha256)
    other = struct.pack("<BII32s", SlotState.CONFIRMED, 100, 100, b"o" * 32)
    upload.answered(Request.SLOTS, ok(struct.pack("<BI", 1, 0) + slot + other))
    assert asked(upload) is Request.BEGIN
    upload.answered(Request.BEGIN, ok(struct.pack("<BI", 0, len(CONTENT))))
    assert asked(upload) is Request.VERIFY


def test_a_trial_that_the_device_ended_is_rolled_back_and_not_sent_again() -> None:
    upload = sending()
    written(upload)
    for request in (Request.VERIFY, Request.TEST, Request.ACTIVATE):
        upload.next_request(512)
        upload.answered(request, ok(b"\0"))
    upload.look_again()
    upload.next_request(512)
    upload.answered(Request.SLOTS, slots_with(upload, SlotState.REJECTED))
    assert upload.stage is Stage.ROLLED_BACK
    assert "trial" in upload.reason


def test_a_model_that_is_taken_back_before_it_runs_never_runs() -> None:
    upload = sending()
    upload.leave()
    assert upload.stage is Stage.ROLLED_BACK
    upload = Upload(CONTENT, 60)
    upload.next_request(512)
    upload.leave()
    upload.answered(Request.SLOTS, slots_with(upload, SlotState.TESTED))
    assert upload.stage is Stage.ROLLED_BACK


def test_a_refusal_ends_it_with_its_reason() -> None:
    upload = sending()
    written(upload)
    upload.next_request(512)
    upload.answered(Request.VERIFY, ok(b"\0"))
    upload.next_request(512)
    refusal = Answer(Status.REFUSED, reason=Refusal.GOLDEN_VECTOR_DIFFERS)
    upload.answered(Request.TEST, refusal)
    assert upload.stage is Stage.FAILED
    assert upload.reason == "testing: refused: golden vector differs"


def test_damage_on_the_way_is_sent_again_and_flash_that_stays_bad_is_given_up() -> None:
    upload = sending()
    for _ in range(2):
        written(upload)
        upload.next_request(512)
        damaged = Answer(Status.REFUSED, reason=Refusal.SHA256_DIFFERS)
        upload.answered(Request.VERIFY, damaged)
        assert asked(upload) is Request.BEGIN
        upload.answered(Request.BEGIN, ok(struct.pack("<BI", 0, 0)))
    written(upload)
    upload.next_request(512)
    upload.answered(Request.VERIFY, Answer(Status.FLASH))
    assert upload.stage is Stage.FAILED


def test_a_busy_device_is_asked_again() -> None:
    upload = Upload(CONTENT, 60)
    upload.next_request(512)
    assert upload.answered(Request.SLOTS, Answer(Status.BUSY))
    assert asked(upload) is Request.SLOTS


def test_a_model_that_the_device_does_not_have_can_not_be_confirmed() -> None:
    upload = Upload(b"", sha256=bytes(32))
    upload.confirm()
    upload.next_request(512)
    upload.answered(Request.SLOTS, ok(struct.pack("<BI", 255, 0) + EMPTY + EMPTY))
    assert upload.stage is Stage.FAILED
