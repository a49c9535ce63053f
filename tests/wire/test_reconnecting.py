"""Waiting before the next connection: short after a cut, spread out after a long outage."""

import random
from itertools import islice, pairwise

from wire.reconnecting import Reconnecting, backoff


def test_a_wait_is_at_most_three_times_the_one_before_and_at_most_the_longest() -> None:
    waits = list(islice(backoff(0.5, 30.0, random.Random(1)), 500))
    assert all(0.5 <= wait <= 30.0 for wait in waits)
    assert waits[0] <= 1.5
    assert all(later <= 3 * earlier for earlier, later in pairwise(waits))
    assert waits.count(30.0) > 10
    assert len(set(waits)) > 200


def test_a_connection_that_lived_makes_the_next_wait_short_and_one_that_was_dropped_does_not() -> (
    None
):
    waits = Reconnecting(0.1, 30.0, random.Random(2))
    kicked = [waits.wait_s(0.2) for _ in range(200)]
    assert max(kicked) == 30.0
    assert sum(kicked[20:]) / 180 > 5.0
    assert waits.wait_s(1.0) <= 0.3


def test_a_thousand_gateways_do_not_come_back_at_the_same_moment() -> None:
    back = []
    for seed in range(1000):
        waits, at_s = Reconnecting(0.1, 30.0, random.Random(seed)), 0.0
        at_s += waits.wait_s(3600.0)  # all lost the broker at second 0
        while at_s < 60.0:  # it is away for a minute
            at_s += waits.wait_s(0.0)
        back.append(at_s - 60.0)
    busiest = max(sum(start <= at < start + 1.0 for at in back) for start in range(40))
    assert busiest < 200
    assert max(back) < 31.0


def test_a_gateway_is_back_soon_after_a_short_outage() -> None:
    over: list[float] = []
    for seed in range(2000):
        waited = 0.0
        waits = backoff(0.5, 30.0, random.Random(seed))
        while waited < 3.0:
            waited += next(waits)
        over.append(waited - 3.0)
    assert max(over) < 9.0
    assert sorted(over)[1900] < 4.5
