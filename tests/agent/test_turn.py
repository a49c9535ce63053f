"""An agent's turn: what it asks, what it was told, and the histogram that is noised only once."""

import asyncio
import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.conditions import Conditions
from agent.turn import Turn
from shopfloor.faults.shim import Control, ShimError, build, environment
from wire.messages import NOVELTY_BINS, Grant, Policy, Readiness

GRANTED = Policy(admission="granted")
MAINS = Conditions()
BUNDLE, OTHER = bytes(32), bytes([7] * 32)
ROWS = 300


def inputs_of(number: int) -> Callable[[], NDArray[np.float32]]:
    return lambda: np.random.default_rng(number).normal(size=(number, 5)).astype(np.float32)


def turn_in(directory: Path, taken: int = ROWS, seed: int = 0) -> Turn:
    return Turn(directory, taken, asyncio.Event(), rng=random.Random(seed))


def wishing(turn: Turn, *, bundle: bytes = BUNDLE, version: int = 3) -> Turn:
    """A turn of an agent that is linked since second 0 and would train from a version."""
    turn.on_link(is_up=True, now_s=0.0)
    turn.wish(version, ROWS, bundle, inputs_of(ROWS))
    return turn


def asked(turn: Turn, now_s: float = 0.0) -> Readiness:
    found = turn.next_ask(MAINS, now_s)
    assert found is not None
    return found


def grant(turn: Turn, number: int) -> None:
    turn.on_grant(Grant(number=number, base_version=3))


# Asks


def test_nothing_is_asked_without_a_wish_a_link_or_after_the_wish_was_withdrawn(
    tmp_path: Path,
) -> None:
    turn = turn_in(tmp_path)
    turn.on_link(is_up=True, now_s=0.0)
    assert turn.next_ask(MAINS, 0.0) is None
    cut_off = turn_in(tmp_path)
    cut_off.wish(3, ROWS, BUNDLE, inputs_of(ROWS))
    assert not cut_off.is_due(1000.0)
    turn = wishing(turn)
    assert turn.is_due(0.0)
    turn.withdraw()
    assert turn.next_ask(MAINS, 1000.0) is None


def test_an_agent_asks_at_once_and_then_about_every_ten_seconds(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    assert turn.decide(GRANTED, 0.0).action == "ask"
    first = asked(turn)
    assert (first.base_version, first.examples, first.power) == (3, ROWS, "mains")
    assert turn.decide(GRANTED, 0.0).reason == "asked to train, waiting for a turn"
    times = []
    now_s = 0.0
    while now_s < 200.0:
        now_s += 0.25
        if turn.next_ask(MAINS, now_s) is not None:
            times.append(now_s)
    gaps = np.diff(np.array(times))
    assert gaps.min() >= 8.0
    assert gaps.max() <= 12.25
    assert len(set(gaps.tolist())) > 3  # a fleet that connected at once drifts apart


def test_a_new_connection_asks_at_once_and_tells_the_histogram_again(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    told = asked(turn).novelty
    assert len(told) == NOVELTY_BINS
    assert asked(turn, 20.0).novelty == ()
    turn.on_link(is_up=False, now_s=21.0)
    assert turn.next_ask(MAINS, 50.0) is None
    turn.on_link(is_up=True, now_s=51.0)
    assert asked(turn, 51.0).novelty == told


def test_the_links_news_wake_the_learner_only_when_something_changed(tmp_path: Path) -> None:
    turn = turn_in(tmp_path)
    turn.on_link(is_up=False, now_s=0.0)
    assert not turn.changed.is_set()
    turn.on_link(is_up=True, now_s=1.0)
    assert turn.changed.is_set()


def test_the_loss_goes_out_with_two_digits_and_not_at_all_when_it_is_none(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    assert asked(turn).loss is None
    turn.made(turn.decide(GRANTED, 1.0), ("a", 1), 0.123456, 1.0)
    assert asked(wishing(turn), 1.0).loss == 0.12
    turn.made(turn.decide(GRANTED, 2.0), ("a", 2), float("nan"), 2.0)
    assert asked(wishing(turn), 2.0).loss is None


def test_the_time_of_an_uplink_is_the_smoothed_time_from_made_to_committed(
    tmp_path: Path,
) -> None:
    turn = wishing(turn_in(tmp_path))
    open_policy = turn.decide(Policy(), 0.0)

    def take(sequence: int, took_s: float, *, is_committed: bool = True) -> float:
        update = ("a", sequence)
        turn.made(open_policy, update, 0.5, 100.0 * sequence)
        turn.on_settled(update, 100.0 * sequence + took_s, is_committed=is_committed)
        return asked(wishing(turn), 100.0 * sequence + 50.0).uplink_s

    assert take(1, 10.0) == 10.0
    assert take(2, 20.0) == 13.0
    assert take(3, 90.0, is_committed=False) == 13.0  # refused: it says nothing about the link
    turn.on_settled(("a", 2), 1000.0, is_committed=True)  # folded, after committed
    turn.on_settled(("of a former process", 9), 1000.0, is_committed=True)
    assert take(4, 13.0) == 13.0


# Grants


def test_a_grant_is_leave_to_train_once(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    assert turn.decide(GRANTED, 0.0).action == "ask"
    turn.changed.clear()
    grant(turn, 8)
    assert turn.changed.is_set()
    decision = turn.decide(GRANTED, 1.0)
    assert (decision.action, decision.grant) == ("train", 8)
    assert turn.next_ask(MAINS, 1000.0) is None
    turn.begin()
    turn.made(decision, ("a", 1), 0.5, 2.0)
    turn.end()
    assert turn.decide(GRANTED, 2.0).action != "train"


def test_the_same_grant_again_and_older_ones_change_nothing(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    grant(turn, 8)
    turn.made(turn.decide(GRANTED, 1.0), ("a", 1), 0.5, 2.0)
    turn.changed.clear()
    for number in (8, 7):
        grant(turn, number)
    assert not turn.changed.is_set()
    assert turn.decide(GRANTED, 2.0).action == "ask"
    grant(turn, 9)
    assert turn.decide(GRANTED, 2.0).grant == 9


def test_the_training_child_is_the_learners_from_begin_to_end(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    taken = []
    for step in (turn.begin, turn.end, turn.begin):
        step()
        taken.append(turn.is_training)
    assert taken == [True, False, True]
    assert not turn.is_due(1000.0)  # nothing is asked for while it trains


def test_a_grant_outlives_the_link_and_a_training_that_failed(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    grant(turn, 8)
    turn.begin()
    turn.end()
    assert turn.decide(GRANTED, 1.0).grant == 8
    turn.on_link(is_up=False, now_s=2.0)
    assert turn.decide(GRANTED, 3.0).grant == 8


def test_an_agent_whose_grant_is_used_up_asks_at_once_for_the_next_version(
    tmp_path: Path,
) -> None:
    turn = wishing(turn_in(tmp_path))
    asked(turn)
    grant(turn, 8)
    decision = turn.decide(GRANTED, 1.0)
    turn.begin()
    turn.made(decision, ("a", 1), 0.5, 1.5)
    assert turn.next_ask(MAINS, 1.5) is None  # nothing to train yet
    turn.wish(4, ROWS, BUNDLE, inputs_of(ROWS))
    assert asked(turn, 2.0).base_version == 4


def test_an_agent_trains_without_a_link_or_a_grant_only_after_a_quarter_of_an_hour_of_silence(
    tmp_path: Path,
) -> None:
    up_s = 39_000.0  # a gateway's clock does not begin with the agent
    turn = turn_in(tmp_path)

    def action(now_s: float) -> str:
        return turn.decide(GRANTED, up_s + now_s).action

    assert [action(now_s) for now_s in (0.0, 899.0, 900.0)] == ["wait", "wait", "train"]
    turn.on_link(is_up=True, now_s=up_s + 1000.0)
    assert action(1000.0) == "ask"
    turn.on_link(is_up=False, now_s=up_s + 5000.0)
    assert [action(now_s) for now_s in (5000.0, 5899.0, 5900.0)] == ["wait", "wait", "train"]


# The histogram's file


def test_a_histogram_is_noised_once_and_told_as_it_is_after_a_restart(tmp_path: Path) -> None:
    told = asked(wishing(turn_in(tmp_path, seed=1))).novelty
    again = [asked(wishing(turn_in(tmp_path, seed=seed))).novelty for seed in (2, 3)]
    assert again == [told, told]
    assert len(set(told)) > 10


def test_as_many_fresh_rows_as_it_is_made_of_make_another_histogram(tmp_path: Path) -> None:
    turn = wishing(turn_in(tmp_path))
    told = asked(turn).novelty

    def told_at(rows: int) -> tuple[float, ...]:
        turn.taken = rows
        turn.on_link(is_up=False, now_s=0.0)
        return asked(wishing(turn)).novelty

    assert told_at(2 * ROWS - 1) == told
    assert told_at(2 * ROWS) != told


def test_rows_taken_in_before_the_history_forgot_them_still_count(tmp_path: Path) -> None:
    asked(wishing(turn_in(tmp_path, taken=5000)))
    assert turn_in(tmp_path, taken=ROWS).taken == 5000


def test_with_few_rows_or_for_another_bundle_no_histogram_is_told(tmp_path: Path) -> None:
    assert asked(wishing(turn_in(tmp_path, taken=100))).novelty == ()
    assert not (tmp_path / "novelty.json").exists()
    told = asked(wishing(turn_in(tmp_path))).novelty
    other = turn_in(tmp_path, seed=5)
    other.taken = 100  # too few for a histogram of the new bundle
    assert asked(wishing(other, bundle=OTHER)).novelty == ()
    assert asked(wishing(turn_in(tmp_path, seed=6), bundle=OTHER)).novelty not in ((), told)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _: b"\xff\x00 no JSON",
        lambda _: b"",
        lambda data: data.replace(b'"shares":[0.', b'"shares":[9.'),
        lambda data: data.replace(b"[", b"[" + b"0.5," * 64),
        lambda data: data.replace(b'"behind":300', b'"behind":-300'),
        lambda data: data + b" " * (64 << 10),
    ],
)
def test_a_damaged_file_is_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    told = asked(wishing(turn_in(tmp_path))).novelty
    path = tmp_path / "novelty.json"
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    again = asked(wishing(turn_in(tmp_path, seed=9))).novelty
    assert "novelty.json is made again" in caplog.text
    assert len(again) == NOVELTY_BINS
    assert again != told
    assert asked(wishing(turn_in(tmp_path, seed=10))).novelty == again


FULL = """
import asyncio, random, sys
from pathlib import Path
from agent.conditions import Conditions
from agent.turn import Turn
from shopfloor.faults.shim import Control
from tests.agent.test_turn import asked, turn_in, wishing

directory, control, error = Path(sys.argv[1]), Control(Path(sys.argv[2])), int(sys.argv[3])
turn = wishing(turn_in(directory))
control.fail(error)
assert asked(turn).novelty == ()
control.heal()
turn.on_link(is_up=False, now_s=1.0)
told = asked(wishing(turn)).novelty
assert len(told) == 64
turn.taken *= 10
control.fail(error)
turn.on_link(is_up=False, now_s=1.0)
assert asked(wishing(turn)).novelty == told
control.heal()
assert asked(wishing(turn_in(directory, seed=3))).novelty == told
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_histogram_that_the_disk_does_not_take_is_not_told_and_the_old_one_is(
    shim: Path, tmp_path: Path, repository: Path, error: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with Control.create(tmp_path / "control") as control:
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(state), str(control.path), str(error)],
            env={**os.environ, **environment(shim, control, state)},
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert control.failed >= 2
    assert done.stderr.count("the histogram of novelty stays the old one") == 2
