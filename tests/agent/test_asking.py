"""When an agent asks, trains or waits, and what it tells when it asks."""

import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from agent.asking import (
    ASK_EVERY_S,
    OFFLINE_AFTER_S,
    Decision,
    Shown,
    Standing,
    decide,
    is_due,
    next_ask_s,
    next_shown,
    readiness,
)
from agent.conditions import Conditions
from wire.messages import NOVELTY_BINS, Policy, Readiness

OPEN, GRANTED = Policy(), Policy(admission="granted")
ONLINE_ONLY = Policy(offline_training=False)
GRANTED_ONLINE_ONLY = Policy(admission="granted", offline_training=False)
LINKED = Standing(is_linked=True)
CUT_OFF = Standing(is_linked=False, silent_s=OFFLINE_AFTER_S)
BUNDLE, OTHER = bytes(32), bytes([1] * 32)
MAINS = Conditions()


def rows(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(number).normal(size=(number, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("policy", "standing", "action"),
    [
        (OPEN, LINKED, "train"),
        (OPEN, replace(CUT_OFF, silent_s=0.0), "train"),
        (ONLINE_ONLY, LINKED, "train"),
        (ONLINE_ONLY, CUT_OFF, "wait"),
        (GRANTED, LINKED, "ask"),
        (GRANTED, replace(LINKED, due_s=0.1), "wait"),
        (GRANTED, replace(LINKED, silent_s=10 * OFFLINE_AFTER_S, due_s=0.1), "wait"),
        (GRANTED, replace(LINKED, granted=5, used=4), "train"),
        (GRANTED, replace(LINKED, granted=5, used=5), "ask"),
        (GRANTED, replace(LINKED, granted=4, used=5), "ask"),
        (GRANTED, replace(CUT_OFF, silent_s=OFFLINE_AFTER_S - 1), "wait"),
        (GRANTED, CUT_OFF, "train"),
        (GRANTED, replace(CUT_OFF, silent_s=0.0, granted=5, used=4), "train"),
        (GRANTED_ONLINE_ONLY, CUT_OFF, "wait"),
        (GRANTED_ONLINE_ONLY, replace(CUT_OFF, granted=5, used=4), "wait"),
        (GRANTED_ONLINE_ONLY, LINKED, "ask"),
    ],
)
def test_what_an_agent_does(policy: Policy, standing: Standing, action: str) -> None:
    decision = decide(policy, standing)
    assert decision.action == action
    assert bool(decision.reason) == (action == "wait")


def test_a_training_names_the_grant_that_it_uses_up() -> None:
    granted = replace(LINKED, granted=7, used=6)
    assert decide(GRANTED, granted) == Decision("train", grant=7)
    assert decide(GRANTED, replace(granted, used=7)).action == "ask"
    assert decide(GRANTED, CUT_OFF).grant == 0
    assert decide(OPEN, granted).grant == 0


def test_while_it_waits_it_says_for_what() -> None:
    assert decide(ONLINE_ONLY, CUT_OFF).reason == (
        "waiting for the link: the policy forbids training without one"
    )
    soon = replace(CUT_OFF, silent_s=OFFLINE_AFTER_S - 90)
    assert decide(GRANTED, soon).reason == "waiting for the link: training without one in 90 s"
    assert (
        decide(GRANTED, replace(LINKED, due_s=3.0)).reason == "asked to train, waiting for a turn"
    )


def test_a_fleet_that_connected_at_once_asks_at_different_times() -> None:
    rng = random.Random(1)
    waits = [next_ask_s(rng) for _ in range(200)]
    assert min(waits) >= 0.8 * ASK_EVERY_S
    assert max(waits) <= 1.2 * ASK_EVERY_S
    assert max(waits) - min(waits) > 0.3 * ASK_EVERY_S


def test_a_histogram_is_made_anew_only_when_as_many_rows_are_fresh_as_it_was_made_of() -> None:
    assert not is_due(None, BUNDLE, 255)
    assert is_due(None, BUNDLE, 256)
    shown = next_shown(BUNDLE, 400, rows(400), random.Random(1))
    assert (shown.rows, shown.behind, len(shown.shares)) == (400, 400, NOVELTY_BINS)
    assert not is_due(shown, BUNDLE, 400)
    assert not is_due(shown, BUNDLE, 799)
    assert is_due(shown, BUNDLE, 800)
    assert is_due(shown, OTHER, 400)


@pytest.mark.parametrize("capacity", [1000, 200_000])
def test_no_row_is_in_many_histograms(capacity: int) -> None:
    """Each costs epsilon for the rows that it was made of: the newest `capacity` of them."""
    releases: list[Shown] = []
    for number in range(0, 4 * capacity, 16):
        if is_due(releases[-1] if releases else None, BUNDLE, number):
            releases.append(Shown(BUNDLE, number, min(number, capacity), ()))

    def in_how_many(row: int) -> int:
        return sum(shown.rows - shown.behind <= row < shown.rows for shown in releases)

    assert in_how_many(0) <= 1 + np.log2(capacity / 256) + 1
    assert max(in_how_many(row) for row in range(capacity, 3 * capacity, 97)) <= 2


def test_a_histogram_survives_a_restart_as_it_was_noised() -> None:
    shown = next_shown(BUNDLE, 300, rows(300), random.SystemRandom())
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(shown), type=Shown)
    assert kept == shown
    assert next_shown(BUNDLE, 300, rows(300), random.SystemRandom()) != shown


def test_an_ask_tells_what_the_agent_has_and_no_digit_more_than_ranks_it() -> None:
    asked = readiness(
        12,
        5000,
        Conditions("battery", 0.61342, 48.712),
        loss=0.123456,
        uplink_s=3.14159,
    )
    assert asked == Readiness(
        base_version=12,
        examples=5000,
        loss=0.12,
        uplink_s=3.1,
        power="battery",
        battery=0.61,
        temperature_c=49.0,
    )
    assert readiness(0, 64, MAINS) == Readiness(base_version=0, examples=64)


def test_the_histogram_goes_with_the_first_ask_and_with_every_sixth() -> None:
    shown = next_shown(BUNDLE, 300, rows(300), random.Random(2))
    asks = [readiness(0, 300, MAINS, shown=shown, asks=at) for at in range(13)]
    told = [at for at, ask in enumerate(asks) if ask.novelty]
    assert told == [0, 6, 12]
    assert asks[6].novelty == asks[0].novelty == shown.shares


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), -1.0, 1e13])
def test_a_loss_that_is_none_is_not_told(loss: float | None) -> None:
    assert readiness(0, 64, MAINS, loss=loss).loss is None


@pytest.mark.parametrize(
    ("loss", "told"), [(0.0, 0.0), (0.994, 0.99), (0.996, 1.0), (1234.0, 1200.0), (1e12, 1e12)]
)
def test_a_loss_has_two_digits(loss: float, told: float) -> None:
    assert readiness(0, 64, MAINS, loss=loss).loss == told


@pytest.mark.parametrize("degrees", [-0.4, 0.0, 80.4])
def test_every_reading_fits_the_message(degrees: float) -> None:
    asked = readiness(0, 64, Conditions("mains", None, degrees), uplink_s=1e9)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Readiness) == asked
    assert asked.temperature_c == round(degrees)
