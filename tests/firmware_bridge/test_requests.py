"""The window of open requests: numbers, repeats, and what an answer says of those before it."""

import random

from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.frames import Frame
from firmware_bridge.messages import ANSWER, Request, Status
from firmware_bridge.requests import Requests

OK = bytes((Status.OK,))


def answer_to(frame: Frame, payload: bytes = OK) -> Frame:
    return Frame(frame.type + ANSWER, frame.sequence, payload, frame.address | 0x80)


def test_an_answer_is_taken_once_and_only_for_its_number_and_type() -> None:
    requests = Requests(3, 65_535)
    frame = requests.ask(Request.SLOTS, b"", 0, 1000)
    assert (frame.address, frame.sequence) == (3, 65_535)
    assert requests.take(Frame(Request.TEST + ANSWER, 65_535, OK), 10) is None
    assert requests.take(Frame(Request.SLOTS + ANSWER, 0, OK), 10) is None
    taken = requests.take(answer_to(frame), 10)
    assert taken is not None
    assert taken.asked.type is Request.SLOTS
    assert requests.take(answer_to(frame), 11) is None
    assert requests.unexpected == 3
    assert requests.ask(Request.SLOTS, b"", 20, 1000).sequence == 0


def test_a_request_is_repeated_with_its_number_and_twice_the_time() -> None:
    requests = Requests(0, 5)
    frame = requests.ask(Request.VERIFY, b"", 0, 1000)
    assert requests.repeat(999) is None
    assert requests.repeat(1000) == frame
    assert requests.repeat(2999) is None
    assert requests.repeat(3000) == frame
    assert requests.unanswered == 2
    assert requests.take(answer_to(frame), 3100) is not None
    assert requests.unanswered == 0


def test_an_answer_says_that_writes_before_it_were_lost() -> None:
    requests = Requests(0, 0)
    writes = [requests.ask(Request.WRITE, bytes((at,)), at, 10_000) for at in range(4)]
    taken = requests.take(answer_to(writes[2]), 50)
    assert taken is not None
    assert [each.number for each in taken.lost] == [0, 1]
    assert len(requests) == 1


def test_a_repeatable_request_before_an_answer_is_due_at_once() -> None:
    requests = Requests(0, 0)
    slots = requests.ask(Request.SLOTS, b"", 0, 1_000_000)
    time = requests.ask(Request.TIME, bytes(8), 1, 1_000_000)
    assert requests.repeat(100) is None
    assert requests.take(answer_to(time), 100) is not None
    assert requests.repeat(100) == slots


def test_writes_whose_time_is_over_are_asked_anew_and_never_repeated() -> None:
    requests = Requests(0, 0)
    requests.ask(Request.WRITE, b"", 0, 100)
    requests.ask(Request.TIME, bytes(8), 0, 500)
    assert [each.type for each in requests.overdue(100)] == [Request.WRITE]
    assert requests.repeat(100) is None
    assert len(requests) == 1


@given(
    st.lists(st.sampled_from((Request.WRITE, Request.SLOTS, Request.TIME)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_every_request_ends_answered_or_lost(
    kinds: list[Request], rng: random.Random
) -> None:
    requests = Requests(0, 0)
    sent, ended, now_us = [], 0, 0
    for kind in kinds:
        sent.append(requests.ask(kind, b"", now_us, 1000))
        now_us += 1
    waiting = list(sent)
    for _ in range(100):
        now_us += 400
        if waiting and rng.random() < 0.5:
            frame = waiting.pop(0)
            if rng.random() < 0.7 and (taken := requests.take(answer_to(frame), now_us)):
                ended += 1 + len(taken.lost)
        ended += len(requests.overdue(now_us))
        if again := requests.repeat(now_us):
            waiting.append(again)
        if not len(requests):
            break
    for _ in range(50):  # a line that is whole again
        now_us += 5_000_000
        ended += len(requests.overdue(now_us))
        if (again := requests.repeat(now_us)) and (
            taken := requests.take(answer_to(again), now_us)
        ):
            ended += 1 + len(taken.lost)
    assert len(requests) == 0
    assert ended == len(kinds)
