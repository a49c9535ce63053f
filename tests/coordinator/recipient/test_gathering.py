"""Parts of a sum's ciphertexts become the whole that the manifest names, or nothing."""

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.recipient.gathering import Gathering
from wire.errors import MalformedError

WHOLE = bytes(range(256)) * 4


def gathering(whole: bytes = WHOLE) -> Gathering:
    return Gathering(hashlib.sha256(whole).digest(), len(whole))


@given(st.integers(1, 300), st.randoms(), st.booleans())
def test_parts_of_any_size_in_any_order_and_twice_are_the_whole(
    size: int, random: Random, is_twice: bool
) -> None:
    parts = [(at, WHOLE[at : at + size]) for at in range(0, len(WHOLE), size)]
    *early, last = random.sample(parts, len(parts))
    made = gathering()
    for at, part in early * (2 if is_twice else 1):
        assert made.add(at, part) is None
    assert made.add(*last) == WHOLE


@pytest.mark.parametrize(("offset", "size"), [(-1, 5), (0, 0), (0, 1025), (1020, 5), (1 << 40, 1)])
def test_a_part_that_does_not_fit_is_refused(offset: int, size: int) -> None:
    with pytest.raises(MalformedError):
        gathering().add(offset, bytes(size))


def test_parts_that_overlap_or_are_others_are_forgotten_and_may_come_again() -> None:
    made = gathering()
    assert made.add(0, WHOLE[:600]) is None
    with pytest.raises(MalformedError, match="overlap"):
        made.add(500, WHOLE[500:])
    assert made.add(0, WHOLE[:600]) is None
    with pytest.raises(MalformedError, match="not what its manifest names"):
        made.add(600, bytes(424))
    assert made.add(600, WHOLE[600:]) is None
    assert made.add(0, WHOLE[:600]) == WHOLE


@given(st.lists(st.tuples(st.integers(-5, 40), st.binary(max_size=40)), max_size=20))
def test_any_parts_give_nothing_but_the_whole_and_hold_no_more(
    parts: list[tuple[int, bytes]],
) -> None:
    made = gathering(WHOLE[:30])
    for offset, part in parts:
        try:
            assert made.add(offset, part) in (None, WHOLE[:30])
        except MalformedError:
            continue
        assert sum(map(len, made._parts.values())) <= 30  # noqa: SLF001
