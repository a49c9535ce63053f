"""Ingest: chunks in any order, the budget, what is asked for and what is forgotten."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.ingest import FORGET_S, QUIET_S, SHARE, Ingest, Update, pledge
from tests.coordinator.small_federation import Site
from wire.chunks import describe, from_bitmap, split
from wire.errors import MalformedError
from wire.messages import Receipt, UpdateHeader, VersionRef
from wire.topics import UpdateTopic

BASE = VersionRef(version=0, content=describe(b"weights"))
DATA = np.random.default_rng(1).integers(-127, 128, 2000).astype(np.int8)
CHUNKS = split(DATA.tobytes(), 256)
BIG = describe(DATA.tobytes(), 256)


def big_update(agent: str = "press-1") -> UpdateHeader:
    return Site(agent).update(BASE, DATA).header


def at(header: UpdateHeader, chunk: int) -> UpdateTopic:
    return UpdateTopic(header.agent, header.incarnation, header.sequence, chunk)


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=5))
def test_chunks_make_the_update_in_any_order_and_however_often(
    order: list[int], again: list[int]
) -> None:
    ingest, header = Ingest(), big_update()
    assert ingest.on_header(header, 0.0) is None
    taken: list[Update | None] = []
    for index in order[:-1]:
        taken.append(ingest.on_chunk(at(header, index), CHUNKS[index], 0.0))
        taken += [
            ingest.on_chunk(at(header, twice), CHUNKS[twice], 0.0)
            for twice in again
            if twice in order[: order.index(index) + 1]
        ]
    assert taken == [None] * len(taken)
    last = ingest.on_chunk(at(header, order[-1]), CHUNKS[order[-1]], 0.0)
    assert last == Update(header, DATA.tobytes())
    assert ingest.pledged_bytes == 0


def test_a_chunk_that_was_not_announced_is_refused_and_the_rest_goes_on() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    with pytest.raises(MalformedError, match="chunk 1"):
        ingest.on_chunk(at(header, 1), CHUNKS[0], 0.0)
    with pytest.raises(MalformedError, match="chunk 8 of a content with 8"):
        ingest.on_chunk(at(header, 8), CHUNKS[0], 0.0)
    done = [ingest.on_chunk(at(header, index), CHUNKS[index], 0.0) for index in range(8)]
    assert done[-1] == Update(header, DATA.tobytes())


def test_a_chunk_without_a_header_is_nothing() -> None:
    assert Ingest().on_chunk(at(big_update(), 0), CHUNKS[0], 0.0) is None


def test_over_the_budget_the_answer_is_later() -> None:
    ingest = Ingest(budget_bytes=pledge(BIG) + 1000)
    first, second = big_update("press-1"), big_update("press-2")
    assert ingest.on_header(first, 0.0) is None
    answer = ingest.on_header(second, 0.0)
    assert isinstance(answer, Receipt)
    assert answer.status == "later"
    for index, chunk in enumerate(CHUNKS):
        ingest.on_chunk(at(first, index), chunk, 0.0)
    assert ingest.on_header(second, 1.0) is None


def test_one_agent_may_fill_its_share_of_the_budget_and_others_find_room() -> None:
    ingest, site = Ingest(budget_bytes=SHARE * 2 * pledge(BIG)), Site()
    first, second, third = (site.update(BASE, DATA).header for _ in range(3))
    assert [ingest.on_header(header, 0.0) for header in (first, second)] == [None, None]
    answer = ingest.on_header(third, 0.0)
    assert isinstance(answer, Receipt)
    assert answer.status == "later"
    assert ingest.on_header(big_update("press-2"), 0.0) is None


def test_one_update_larger_than_a_share_still_gets_in() -> None:
    assert Ingest(budget_bytes=pledge(BIG)).on_header(big_update(), 0.0) is None


def test_an_update_that_comes_in_smaller_chunks_than_before_starts_anew_with_those() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    ingest.on_chunk(at(header, 0), CHUNKS[0], 0.0)
    smaller = msgspec.structs.replace(header, content=describe(DATA.tobytes(), 1000))
    assert ingest.on_header(smaller, 1.0) is None
    assert ingest.pledged_bytes == pledge(smaller.content)
    pieces = split(DATA.tobytes(), 1000)
    assert ingest.on_chunk(at(smaller, 0), pieces[0], 1.0) is None
    assert ingest.on_chunk(at(smaller, 1), pieces[1], 1.0) == Update(smaller, DATA.tobytes())


def test_what_is_missing_is_asked_for_when_the_chunks_pause() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    for index in (0, 2, 7):
        ingest.on_chunk(at(header, index), CHUNKS[index], 1.0)
    assert ingest.ask(1.0 + QUIET_S / 2) == []
    ((agent, answer),) = ingest.ask(1.0 + QUIET_S)
    assert (agent, answer.status) == ("press-1", "wanted")
    assert from_bitmap(answer.wanted) == [1, 3, 4, 5, 6]
    assert ingest.ask(1.0 + QUIET_S + 0.1) == []


def test_an_update_offered_again_is_answered_soon() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    assert len(ingest.ask(QUIET_S)) == 1
    ingest.on_header(header, QUIET_S + 0.1)
    assert len(ingest.ask(QUIET_S + 0.2)) == 1


def test_an_abandoned_update_is_forgotten_and_gives_its_room_back() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    ingest.ask(FORGET_S + 1)
    assert ingest.pledged_bytes == 0
    assert ingest.on_chunk(at(header, 0), CHUNKS[0], FORGET_S + 2) is None


def test_an_update_that_is_still_offered_keeps_the_chunks_it_has() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    ingest.on_chunk(at(header, 0), CHUNKS[0], 0.0)
    ingest.on_header(header, FORGET_S - 1)
    ((_, answer),) = ingest.ask(FORGET_S + 1)
    assert from_bitmap(answer.wanted) == [1, 2, 3, 4, 5, 6, 7]


def test_the_same_id_with_other_content_is_refused_while_it_is_on_its_way() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    other = msgspec.structs.replace(header, content=describe(b"other", 256))
    with pytest.raises(MalformedError, match="two contents"):
        ingest.on_header(other, 0.0)


def test_a_header_whose_chunks_do_not_fit_its_size_is_refused() -> None:
    header = big_update()
    lying = msgspec.structs.replace(header.content, size=1_000_000)
    with pytest.raises(MalformedError, match="chunks"):
        Ingest().on_header(msgspec.structs.replace(header, content=lying), 0.0)


def test_a_tombstone_is_complete_at_once_and_ends_what_was_on_its_way() -> None:
    ingest, header = Ingest(), big_update()
    ingest.on_header(header, 0.0)
    tombstone = msgspec.structs.replace(header, dropped="quota")
    assert ingest.on_header(tombstone, 1.0) == Update(tombstone, b"")
    assert ingest.pledged_bytes == 0
