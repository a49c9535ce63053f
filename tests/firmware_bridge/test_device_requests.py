"""What the C library answers, and when it keeps silent (FRAMING.md, 'Requests', 'Addresses')."""

import random

import pytest

from firmware_bridge import messages
from firmware_bridge.frames import Address, Decoder, Frame, encode
from firmware_bridge.messages import Refusal, Request, Status
from shopfloor.microcontroller import INFER, End, Microcontroller
from tests.firmware_bridge.host_device import SMALL, Content, Gateway, content, library

_LOG = 0x03
_HELLO = 0x01
SIZES = {
    Request.CONNECT: 2,
    Request.TIME: 8,
    Request.POLL: 2,
    Request.SLOTS: 0,
    Request.BEGIN: 36,
    Request.VERIFY: 0,
    Request.TEST: 0,
    Request.ACTIVATE: 36,
    Request.CONFIRM: 32,
    Request.ROLLBACK: 32,
    Request.RESET: 4,
}


def a_device(address: int = 0) -> Microcontroller:
    identity = b"0123456789abcdef"
    return Microcontroller(library(SMALL), address=address, identity=identity, chip=SMALL)


def a_gateway() -> Gateway:
    return Gateway(a_device())


def hear(device: Microcontroller) -> list[Frame]:
    return [each for each in Decoder().feed(device.take()) if isinstance(each, Frame)]


def test_a_device_alone_on_its_line_greets_at_once_and_says_what_it_is() -> None:
    device = a_device()
    device.boot(77)
    (hello,) = hear(device)
    assert (hello.type, hello.address) == (_HELLO, Address.FROM_DEVICE)
    assert messages.parse_hello(hello.payload) == messages.Hello(1, 1, 77)
    device.receive(encode(Frame(Request.CONNECT, 9, messages.connect())), 0)
    (answer,) = hear(device)
    parsed = messages.parse_answer(answer.payload)
    assert parsed is not None
    connected = messages.parse_connected(parsed.body)
    assert connected is not None
    assert connected.id == b"0123456789abcdef"
    assert (connected.boot, connected.largest, connected.firmware) == (77, 512, "host 1")
    assert (connected.has_slots, connected.polls_only) == (True, False)
    assert connected.slot_bytes == SMALL.slot_bytes


def test_a_device_without_connect_answers_not_connected_to_everything_else() -> None:
    device = a_device()
    device.boot(1)
    device.take()
    sizes = {int(kind): size for kind, size in SIZES.items()}
    for kind in range(Request.CONNECT + 1, 0x60):
        device.receive(encode(Frame(kind, 5, bytes(sizes.get(kind, 40)))), 0)
        (answer,) = hear(device)
        assert (answer.type, answer.sequence) == (kind + messages.ANSWER, 5)
        assert answer.payload == bytes([Status.NOT_CONNECTED])


def test_a_gateway_of_another_version_is_refused_and_stays_unconnected() -> None:
    device = a_device()
    device.boot(1)
    device.take()
    for low, high in ((2, 9), (0, 0)):
        device.receive(encode(Frame(Request.CONNECT, 1, bytes((low, high)))), 0)
        (answer,) = hear(device)
        assert answer.payload == bytes([Status.REFUSED, Refusal.VERSION])
    device.receive(encode(Frame(Request.SLOTS, 2, b"")), 0)
    assert hear(device)[0].payload == bytes([Status.NOT_CONNECTED])
    device.receive(encode(Frame(Request.CONNECT, 3, bytes((0, 9)))), 0)
    assert hear(device)[0].payload[:2] == bytes([Status.OK, 1])


def test_a_request_of_the_wrong_size_is_malformed_and_an_unknown_one_unknown() -> None:
    gateway = a_gateway()
    for kind, size in SIZES.items():
        for wrong in {size + 1, size - 1, 0, 512} - {size, -1}:
            assert gateway.ask(kind, bytes(wrong)).status is Status.MALFORMED, (kind, wrong)
    for unknown in range(Request.RESET + 1, 0x60):
        assert gateway.ask(unknown).status is Status.UNKNOWN
    gateway.begin(content(1))
    for wrong in (0, 3, 4, 4 + 31, 4 + 33):
        assert gateway.ask(Request.WRITE, bytes(wrong)).status is Status.MALFORMED
    assert gateway.ask(Request.ACTIVATE, bytes(36)).status is Status.MALFORMED  # trial of 0 s


def test_types_that_are_no_requests_and_frames_for_others_are_passed_over() -> None:
    gateway = a_gateway()
    others = [Frame(kind, 1, b"") for kind in (*range(0x40), *range(0x60, 0x100))]
    others += [Frame(Request.SLOTS, 1, b"", address) for address in range(1, 0x100)]
    for frame in others:
        assert gateway.exchange(frame) == []


def test_time_gives_back_the_number_and_when_the_request_came() -> None:
    gateway = a_gateway()
    gateway.device.set_time(1 << 40)
    number = 0xFEDCBA9876543210
    frame = Frame(Request.TIME, 3, messages.time(number))
    gateway.device.receive(encode(frame), (1 << 40) - 700)
    answer = messages.parse_answer(hear(gateway.device)[0].payload)
    assert answer is not None
    assert messages.parse_timed(answer.body) == messages.Timed(number, (1 << 40) - 700, 1 << 40)


def test_reset_is_answered_and_another_boot_than_its_own_resets_nothing() -> None:
    gateway = a_gateway()
    assert gateway.ask(Request.RESET, messages.reset(12345)).body == messages.reset(1)
    frame = Frame(Request.RESET, 4, messages.reset(1))
    assert gateway.device.receive(encode(frame), 0) is End.RESET
    (answer,) = hear(gateway.device)
    assert answer.payload == bytes([Status.OK]) + messages.reset(1)


def test_sensor_score_and_log_frames_carry_what_the_firmware_gave() -> None:
    gateway = a_gateway()
    model = content(3)
    gateway.insist(model)
    device = gateway.device
    device.sensor(2, 3, 1 << 33, 125, bytes(range(12)))
    device.score(2, (1 << 33) + 1, b"\x80\x7f")
    device.log("bearing: \N{DEGREE SIGN}C")
    sensor_frame, score_frame, log_frame = hear(device)
    sensor = messages.parse_sensor(sensor_frame.payload)
    assert sensor is not None
    assert (sensor.stream, sensor.time_us, sensor.period_us) == (2, 1 << 33, 125)
    assert sensor.values.tobytes() == bytes(range(12))
    assert sensor.values.shape == (2, 3)
    score = messages.parse_score(score_frame.payload)
    assert score is not None
    assert score.model == model.sha256[:8]
    assert (score.time_us, score.on_trial) == ((1 << 33) + 1, False)
    assert score.values.tolist() == [-128, 127]
    assert (log_frame.type, messages.parse_log(log_frame.payload)) == (_LOG, "bearing: °C")


def test_a_score_says_that_its_model_is_on_trial_and_without_a_model_there_is_none() -> None:
    gateway = a_gateway()
    gateway.device.score(0, 0, b"\1")
    assert hear(gateway.device) == []
    gateway.install(content(3))
    gateway.device.score(0, 0, b"\1")
    (frame,) = hear(gateway.device)
    score = messages.parse_score(frame.payload)
    assert score is not None
    assert score.on_trial


def test_samples_that_fill_a_frame_are_sent_and_one_more_is_not() -> None:
    gateway = a_gateway()
    gateway.device.sensor(0, 1, 0, 1, bytes(2 * 248))
    (frame,) = hear(gateway.device)
    assert len(frame.payload) == 512
    gateway.device.sensor(0, 1, 0, 1, bytes(2 * 249))
    assert hear(gateway.device) == []


def test_numbers_wrap_at_sixteen_bits_without_a_gap() -> None:
    gateway = a_gateway()
    for _ in range(700):
        for _ in range(100):
            gateway.device.log("")
        gateway.heard.feed(gateway.device.take())
    assert gateway.heard.counters.frames > 70_000
    assert (gateway.heard.counters.missing, gateway.heard.counters.restarts) == (0, 0)
    for number in range(10):
        gateway.device.log(str(number))
    line = gateway.device.take().split(b"\0")
    gateway.heard.feed(b"\0".join([*line[:3], *line[5:]]))
    assert gateway.heard.counters.missing == 2


def test_a_polled_device_says_nothing_until_it_is_polled_and_then_hello_first() -> None:
    device = a_device(address=5)
    device.boot(8)
    device.log("waits")
    assert device.take() == b""
    device.receive(encode(Frame(Request.CONNECT, 1, messages.connect(), 5)), 0)
    (answer,) = hear(device)
    assert answer.address == Address.FROM_DEVICE | 5
    device.receive(encode(Frame(Request.POLL, 2, messages.poll(600), 5)), 0)
    assert [each.type for each in hear(device)] == [_HELLO, _LOG, Request.POLL + messages.ANSWER]


def test_a_poll_brings_whole_frames_within_its_bytes_and_says_what_waits() -> None:
    device = a_device(address=5)
    device.boot(8)
    device.receive(encode(Frame(Request.CONNECT, 1, messages.connect(), 5)), 0)
    device.take()
    for text in ("first", "second", "third"):
        device.log(text)
    waiting = [len(encode(Frame(_HELLO, 0, bytes(6))))]
    waiting += [len(encode(Frame(_LOG, 1, text))) for text in (b"first", b"second", b"third")]
    frames: list[Frame] = []
    for budget, sent in ((waiting[0] - 1, 0), (sum(waiting[:3]) - 1, 2), (600, 2), (600, 0)):
        device.receive(encode(Frame(Request.POLL, 2, messages.poll(budget), 5)), 0)
        *some, answer = hear(device)
        frames += some
        assert len(some) == sent
        parsed = messages.parse_answer(answer.payload)
        assert parsed is not None
        assert messages.parse_polled(parsed.body) == (sum(waiting[len(frames) :]), 0)
    assert [each.payload for each in frames[1:]] == [b"first", b"second", b"third"]


def test_what_the_queue_cannot_keep_is_counted_by_the_device_and_missed_by_the_gateway() -> None:
    device = a_device(address=5)
    device.boot(8)
    device.receive(encode(Frame(Request.CONNECT, 1, messages.connect(), 5)), 0)
    device.take()
    decoder = Decoder()
    sent = 1000
    dropped = 0
    for number in range(sent):
        device.log(f"line {number}")
        if number % 70 == 0 or number == sent - 1:
            device.receive(encode(Frame(Request.POLL, 2, messages.poll(5000), 5)), 0)
            *_, answer = (e for e in decoder.feed(device.take()) if isinstance(e, Frame))
            parsed = messages.parse_answer(answer.payload)
            assert parsed is not None
            polled = messages.parse_polled(parsed.body)
            assert polled is not None
            dropped = polled[1]
    device.log("last")
    device.receive(encode(Frame(Request.POLL, 2, messages.poll(5000), 5)), 0)
    decoder.feed(device.take())
    assert 100 < dropped < 900
    assert decoder.counters.missing == dropped


def test_on_a_shared_pair_the_echo_and_the_neighbors_are_passed_over() -> None:
    device = a_device(address=5)
    device.boot(8)
    echo = b""
    for number, frame in enumerate(
        (
            Frame(Request.CONNECT, 1, messages.connect(), 5),
            Frame(Request.POLL, 2, messages.poll(600), 5),
            Frame(Request.SLOTS, 3, b"", 5),
        )
    ):
        neighbor = encode(Frame(Request.SLOTS, number, b"", 6))
        neighbor += encode(Frame(Request.SLOTS + messages.ANSWER, number, bytes(88), 0x86))
        device.receive(echo + neighbor + encode(frame), 0)
        echo = device.take()
        answers = [e for e in Decoder().feed(echo) if isinstance(e, Frame) and e.type >= 0x60]
        assert [each.type for each in answers] == [frame.type + messages.ANSWER]


def test_nothing_is_answered_to_all_devices_at_once() -> None:
    device = a_device(address=5)
    device.boot(8)
    for kind, size in SIZES.items():
        device.receive(encode(Frame(kind, 1, bytes(size), Address.BROADCAST)), 0)
    assert device.take() == b""


@pytest.mark.parametrize("seed", range(3))
def test_a_story_comes_out_the_same_with_every_request_repeated_and_answers_lost(
    seed: int,
) -> None:
    rng = random.Random(seed)

    class Repeating(Gateway):
        def exchange(self, frame: Frame) -> list[Frame]:
            for _ in range(rng.randrange(3)):  # asked, and the answer lost
                super().exchange(frame)
            return super().exchange(frame)

    gateway = Repeating(a_device())
    for number in range(3):
        gateway.insist(content(number))
    gateway.insist_on_leaving(content(2))
    assert gateway.active() == content(1).sha256
    model = gateway.device.model
    assert model is not None
    assert Content(model.content) == content(1)
    assert gateway.device.violations == 0


def test_a_window_of_writes_with_one_lost_goes_on_from_what_was_received() -> None:
    gateway = a_gateway()
    what = content(5, image_bytes=1900)
    assert gateway.begin(what) == 0
    line = b"".join(
        encode(Frame(Request.WRITE, n, messages.write(480 * n, what.data[480 * n : 480 * n + 480])))
        for n in (0, 1, 3, 4)
    )
    gateway.device.receive(line, 0)
    answers = [messages.parse_answer(each.payload) for each in hear(gateway.device)]
    assert [each.status for each in answers if each] == [Status.OK] * 2 + [Status.ORDER] * 2
    assert {each.received for each in answers[2:] if each} == {960}
    gateway.upload(what)
    assert gateway.ask(Request.VERIFY).status is Status.OK


def test_the_self_test_of_the_golden_vectors_refuses_what_is_no_model() -> None:
    gateway = a_gateway()
    gateway.device.set_self_test(INFER)
    gateway.upload(content(6))
    answer = gateway.ask(Request.TEST)
    assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.IMAGE_NOT_VALID)
