"""Turns on a line, against a clock that only the test moves."""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sensors.modbus.schedule import Ask, Pass, Patience, Schedule, Wait

TIMEOUT_S = 0.25
ANSWER_S = 0.01
LONGEST_S = 30.0


@dataclass
class Line:
    """Runs a schedule; units in `absent` cost a whole timeout, others ANSWER_S."""

    jobs: dict[str, tuple[int, float]]
    absent: set[int] = field(default_factory=set)
    retries: int = 2
    seed: int = 1
    now_s: float = 0.0
    is_open: bool = True
    asked: list[tuple[float, str]] = field(default_factory=list)
    answered: list[tuple[float, str, int]] = field(default_factory=list)
    bad: list[tuple[float, str, int]] = field(default_factory=list)
    scripted: deque[bool] = field(default_factory=deque)

    def __post_init__(self) -> None:
        units = {unit for unit, _ in self.jobs.values()}
        patience = dict.fromkeys(units, Patience(self.retries, TIMEOUT_S))
        self.schedule: Schedule[str] = Schedule(patience, LONGEST_S, random.Random(self.seed))
        for job, (unit, interval_s) in self.jobs.items():
            self.schedule.add(job, unit, interval_s, 0.0)

    def run_until(self, end_s: float) -> None:
        while self.now_s < end_s:
            turn = self.schedule.next(self.now_s, is_open=self.is_open)
            match turn:
                case Wait(until_s):
                    assert until_s > self.now_s
                    self.now_s = min(until_s, end_s)
                case Pass(job, missed):
                    self.bad.append((self.now_s, job, missed))
                case Ask(job, _):
                    self._ask(turn, job)

    def _ask(self, ask: Ask[str], job: str) -> None:
        self.asked.append((self.now_s, job))
        is_answered = self.scripted.popleft() if self.scripted else not self._is_absent(job)
        if is_answered:
            self.now_s += ANSWER_S
            missed = self.schedule.answered(ask, self.now_s)
            self.answered.append((self.now_s, job, missed))
        else:
            self.now_s += TIMEOUT_S
            over = self.schedule.silent(ask, self.now_s)
            if over is not None:
                self.bad.append((self.now_s, job, over.missed))

    def _is_absent(self, job: str) -> bool:
        return self.jobs[job][0] in self.absent

    def polls(self, job: str, lines: Iterable[tuple[float, str, int]]) -> int:
        """How many polls of a job are accounted for, missed ones included."""
        return sum(1 + missed for _, name, missed in lines if name == job)


@pytest.mark.parametrize("absent", [1, 2, 10])
def test_absent_units_delay_the_others_by_less_than_300_ms(absent: int) -> None:
    jobs = {"live": (1, 1.0)} | {f"absent {at}": (100 + at, 1.0) for at in range(absent)}
    line = Line(jobs, set(range(100, 100 + absent)))
    line.run_until(600.0)
    due_s = 0.0
    worst_s = 0.0
    for at, job, missed in line.answered:
        assert job == "live"
        assert missed == 0 or at < 3.0
        worst_s = max(worst_s, at - due_s) if at > 3.0 else worst_s
        due_s += (1 + missed) * 1.0
    assert len([1 for _, _, missed in line.answered]) >= 597
    assert 0 < worst_s <= TIMEOUT_S + 2 * ANSWER_S < 0.3


def test_an_absent_unit_delays_the_first_poll_by_one_timeout() -> None:
    line = Line({"absent": (9, 1.0), "live": (1, 1.0)}, {9})
    line.run_until(1.0)
    assert line.asked[:2] == [(0.0, "absent"), (TIMEOUT_S, "live")]
    assert line.answered == [(TIMEOUT_S + ANSWER_S, "live", 0)]


def test_two_units_that_do_not_answer_are_never_asked_one_after_the_other() -> None:
    line = Line({"live": (1, 0.1), "a": (8, 0.1), "b": (9, 0.1), "c": (10, 0.1)}, {8, 9, 10})
    line.run_until(60.0)
    first_live = [job for _, job in line.asked].index("live")
    absent = [job != "live" for _, job in line.asked[first_live:]]
    assert any(absent)
    assert not any(one and two for one, two in pairwise(absent))


def test_silence_is_tried_again_as_often_as_configured_and_then_quarantined() -> None:
    line = Line({"a": (9, 10.0)}, {9}, retries=2)
    line.run_until(9.0)
    assert [at for at, _ in line.asked] == [0.0, TIMEOUT_S, 2 * TIMEOUT_S]
    assert line.bad == [(3 * TIMEOUT_S, "a", 0)]


def test_a_quarantined_unit_is_probed_ever_more_rarely_but_for_ever() -> None:
    line = Line({"a": (9, 0.1)}, {9}, retries=0)
    line.run_until(3600.0)
    times = [at for at, _ in line.asked]
    waits = [late - early for early, late in pairwise(times)]
    assert waits[0] < 4.0
    assert max(waits) < LONGEST_S + 1
    assert 3600 / LONGEST_S <= len(times) < 700
    assert times[-1] > 3560


def test_polls_of_a_quarantined_unit_pass_and_none_is_left_out() -> None:
    line = Line({"a": (9, 0.5), "b": (9, 0.5)}, {9})
    line.run_until(100.0)
    for job in ("a", "b"):
        assert 199 <= line.polls(job, line.bad) <= 200
    assert not line.answered


def test_a_unit_that_comes_back_is_read_again_within_the_longest_wait() -> None:
    line = Line({"a": (9, 0.5)}, {9})
    line.run_until(300.0)
    line.absent.clear()
    line.run_until(300.0 + LONGEST_S + 1)
    assert line.answered
    line.answered.clear()
    line.run_until(400.0)
    assert 136 <= len(line.answered) <= 140
    assert {missed for _, _, missed in line.answered[2:]} == {0}


def test_one_silence_costs_one_retry_and_no_sample() -> None:
    line = Line({"a": (1, 1.0)})
    line.scripted.extend((True, False, True))
    line.run_until(3.5)
    assert line.bad == []
    assert [missed for _, _, missed in line.answered] == [0, 0, 0, 0]
    assert line.answered[1][0] == pytest.approx(1.0 + TIMEOUT_S + ANSWER_S)


def test_a_unit_that_has_just_been_well_is_tried_again_before_absent_ones() -> None:
    line = Line({"live": (1, 10.0), "a": (8, 10.0), "b": (9, 10.0)}, {8, 9})
    line.run_until(9.9)
    line.asked.clear()
    line.absent.add(1)
    line.run_until(12.0)
    assert [job for _, job in line.asked[:3]] == ["live"] * 3


def test_after_silence_the_same_request_is_repeated_and_a_late_answer_is_let_pass() -> None:
    # Answers carry no number over RTU: the answer to the first attempt may be taken for the
    # second's, and then the second's must not be taken for that of another request.
    line = Line({"a": (1, 0.1), "b": (1, 0.1)})
    line.scripted.extend((True, True, False, True))
    line.run_until(2.0)
    order = [job for _, job in line.asked]
    assert order[2] == order[3]
    resumed_s = line.asked[4][0]
    late_s = line.answered[2][0]
    first_s, last_s = line.asked[2][0], line.asked[3][0]
    assert resumed_s - late_s >= last_s - first_s + TIMEOUT_S - 1e-9


def test_a_line_with_too_much_to_do_serves_all_units_in_turn_and_says_what_it_left_out() -> None:
    jobs = {f"job {at}": (at, 0.1) for at in range(20)}
    line = Line(jobs)
    line.run_until(20.0)
    for job in jobs:
        times = [at for at, name, _ in line.answered if name == job]
        assert max(b - a for a, b in pairwise(times)) <= 20 * ANSWER_S + 0.1
        assert 198 <= line.polls(job, line.answered) <= 201


def test_while_the_line_is_closed_polls_pass_in_time() -> None:
    line = Line({"a": (1, 0.5), "b": (2, 1.0)}, is_open=False)
    line.run_until(10.0)
    assert [at for at, job, _ in line.bad if job == "a"] == [0.5 * at for at in range(20)]
    assert {missed for _, _, missed in line.bad} == {0}
    assert not line.asked


def test_a_retry_that_the_loss_of_the_line_prevents_passes_too() -> None:
    line = Line({"a": (1, 1.0)}, {1})
    line.run_until(TIMEOUT_S)
    line.is_open = False
    line.run_until(2.5)
    assert [(job, missed) for _, job, missed in line.bad] == [("a", 0), ("a", 0), ("a", 0)]


def test_a_request_that_the_loss_of_the_line_interrupts_is_one_bad_sample() -> None:
    line = Line({"a": (1, 1.0)}, {1})
    line.run_until(TIMEOUT_S)
    retry = line.schedule.next(line.now_s, is_open=True)
    assert isinstance(retry, Ask)
    assert line.schedule.lost(retry, 1.1) == Pass("a", 1)
    assert line.schedule.next(1.1, is_open=False) == Wait(2.0)


def test_a_line_that_was_opened_again_tries_its_quarantined_units_at_once() -> None:
    line = Line({"a": (9, 0.5)}, {9})
    line.run_until(200.0)
    asked = len(line.asked)
    line.schedule.reopened(line.now_s)
    line.run_until(200.6)
    assert len(line.asked) == asked + 1


@settings(max_examples=50, deadline=None)
@given(
    script=st.lists(st.booleans(), max_size=200),
    intervals=st.lists(st.sampled_from((0.1, 0.25, 1.0)), min_size=1, max_size=6),
    units=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_every_poll_is_answered_or_passed_or_counted_whatever_answers(
    script: list[bool], intervals: list[float], units: int, seed: int
) -> None:
    jobs = {f"job {at}": (at % units, each) for at, each in enumerate(intervals)}
    line = Line(jobs, seed=seed)
    line.scripted.extend(script)
    line.run_until(60.0)
    for job, (_, interval_s) in jobs.items():
        accounted = line.polls(job, line.answered) + line.polls(job, line.bad)
        due = line.now_s / interval_s
        # The last ones may be under way: waiting for a retry, a rest or their turn.
        assert due - 2.5 / interval_s <= accounted <= due + 1
