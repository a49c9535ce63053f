"""Births and wills in any order, any number of times: the newest connection counts."""

import itertools
import random

from wire.codec import Counter
from wire.presence import Presence, is_will

Said = tuple[int, int, bool]
"""Session, connection, online."""


def heard(states: list[Said]) -> bool:
    peer = Presence()
    for session, connection, is_online in states:
        peer.hear(is_online=is_online, session=session, connection=connection)
    return peer.is_there


def test_whatever_the_order_a_peer_is_there_when_its_newest_connection_has_no_will() -> None:
    life = [(1, 1, True), (1, 1, False), (1, 2, True), (1, 2, False), (2, 1, True)]
    for states in itertools.permutations(life):
        assert heard(list(states))
        assert not heard([*states, (2, 1, False)])
        assert not heard([(2, 1, False), *states])


def test_what_comes_twice_changes_nothing() -> None:
    rng = random.Random(5)
    life = [(session, 1, is_online) for session in range(1, 5) for is_online in (True, False)]
    for _ in range(200):
        ended = [*life, *rng.choices(life, k=6)]
        rng.shuffle(ended)
        assert not heard(ended)
        assert heard([*ended, (5, 1, True), *rng.choices(life, k=4)])


def test_what_is_older_is_said_to_be() -> None:
    peer = Presence()
    assert peer.hear(is_online=True, session=4, connection=2)
    assert not peer.hear(is_online=False, session=4, connection=1)
    assert not peer.hear(is_online=False, session=3, connection=9)
    assert peer.is_there
    assert peer.hear(is_online=False, session=4, connection=2)
    assert not peer.hear(is_online=True, session=4, connection=2)
    assert not peer.is_there


def test_of_a_peer_that_does_not_count_its_connections_the_last_word_of_a_session_counts() -> None:
    assert heard([(3, 0, True), (3, 0, False), (3, 0, True)])
    assert not heard([(3, 0, True), (3, 0, False)])
    assert heard([(3, 0, True), (2, 0, False)])


def test_a_will_is_what_a_session_signs_first() -> None:
    counter = Counter(7)
    assert [is_will(counter.next()) for _ in range(4)] == [True, False, False, False]
