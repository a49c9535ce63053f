"""Adoption through deltas: fewer bytes for who has an older version, and never another result."""

import logging
from pathlib import Path

import msgspec
import pytest

from agent.adoption import Adoption
from agent.models import Models
from tests.agent.federation import CHANNELS, CHUNK_BYTES, Federation, Publication, feed
from tests.agent.test_models import full_disk, rot
from wire.chunks import describe, sha256, split
from wire.deltas import encode
from wire.messages import Content, Delta
from wire.tensors import Params, write_params

STEP = 1e-4


def adoption_at(path: Path, federation: Federation) -> Adoption:
    return Adoption(Models(path / "models.db"), federation.trust, CHANNELS)


def version(federation: Federation, number: int) -> Params:
    """Weights some steps later; no two steps are alike."""
    return federation.moved(STEP * number * number)


def digest_of(params: Params) -> bytes:
    return sha256(write_params(params))


def edge(base: Params, target: Params, data: bytes | None = None) -> tuple[Delta, bytes]:
    """A delta and its bytes; the right ones unless others are given."""
    patch = data or encode(write_params(base), write_params(target))
    assert patch is not None
    content = describe(patch, CHUNK_BYTES)
    return Delta(base=digest_of(base), target=digest_of(target), content=content), patch


def with_deltas(
    federation: Federation, publication: Publication, edges: list[tuple[Delta, bytes]]
) -> Publication:
    """The same head with deltas, and their chunks."""
    deltas = tuple(delta for delta, _ in edges)
    head = msgspec.structs.replace(publication.head, deltas=deltas)
    chunks = dict(publication.chunks)
    for delta, data in edges:
        digest = delta.content.digest.hex()
        for at, chunk in enumerate(split(data, CHUNK_BYTES)):
            chunks[federation.topics.model(digest, at)] = chunk
    return Publication(head, federation.seal_head(head), chunks)


def newest(federation: Federation, number: int, steps: int = 3) -> Publication:
    """Head number + 1 of version `number`, with deltas over the last steps to it."""
    edges = [
        edge(version(federation, at), version(federation, at + 1))
        for at in range(max(0, number - steps), number)
    ]
    publication = federation.publish(number + 1, version=number, train=version(federation, number))
    return with_deltas(federation, publication, edges)


def serve_chunks(adoption: Adoption, publication: Publication) -> list[bytes]:
    """Give whatever is asked for until nothing more is; SHA-256 of the contents, in order."""
    fetched: dict[bytes, None] = {}
    for _ in range(10):
        for topic in adoption.wanted():
            fetched[bytes.fromhex(topic.split("/")[-2])] = None
            adoption.on_chunk(topic, publication.chunks[topic])
    assert adoption.wanted() == []
    return list(fetched)


def assert_in_use(adoption: Adoption, number: int, params: Params) -> None:
    assert adoption.current is not None
    assert adoption.current.head.sequence == number
    assert write_params(adoption.current.train) == write_params(params)


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_an_agent_up_to_three_versions_behind_fetches_deltas_only(
    tmp_path: Path, federation: Federation, behind: int
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    publication = newest(federation, 1 + behind)
    assert adoption.on_head(publication.envelope)
    fetched = serve_chunks(adoption, publication)
    assert fetched == [each.content.digest for each in publication.head.deltas[-behind:]]
    assert_in_use(adoption, 2 + behind, version(federation, 1 + behind))
    again = adoption_at(tmp_path, federation)
    assert again.wanted() == []
    assert_in_use(again, 2 + behind, version(federation, 1 + behind))


def test_an_agent_four_versions_behind_fetches_the_content(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    publication = newest(federation, 5)
    adoption.on_head(publication.envelope)
    assert serve_chunks(adoption, publication) == [publication.head.train.content.digest]
    assert_in_use(adoption, 6, version(federation, 5))


def test_a_late_joiner_fetches_the_contents_and_no_delta(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    publication = newest(federation, 3)
    adoption.on_head(publication.envelope)
    assert serve_chunks(adoption, publication) == [
        publication.head.bundle.digest,
        publication.head.train.content.digest,
    ]
    assert_in_use(adoption, 4, version(federation, 3))


def test_a_candidate_may_come_by_a_delta_from_weights_of_the_same_head(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    train, candidate = version(federation, 1), version(federation, 2)
    edges = [edge(train, candidate)]
    publication = with_deltas(
        federation, federation.publish(1, train=train, candidate=candidate), edges
    )
    adoption.on_head(publication.envelope)
    fetched = serve_chunks(adoption, publication)
    assert edges[0][0].content.digest in fetched
    assert digest_of(candidate) not in fetched
    assert adoption.current is not None
    assert adoption.current.candidate is not None
    assert write_params(adoption.current.candidate) == write_params(candidate)


def test_heads_that_came_while_deltas_were_fetched_are_reached_by_more_deltas(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    adoption.on_head(newest(federation, 2).envelope)
    adoption.on_head(newest(federation, 3).envelope)
    publication = newest(federation, 4)
    adoption.on_head(publication.envelope)
    assert serve_chunks(adoption, publication) == [
        each.content.digest for each in publication.head.deltas
    ]
    assert_in_use(adoption, 5, version(federation, 4))


def wrong_edges(federation: Federation) -> dict[str, tuple[Delta, bytes]]:
    first, second, third = (version(federation, number) for number in (1, 2, 3))
    right, data = edge(first, second)
    other = Content(
        digest=bytes(32),
        size=right.content.size,
        chunk_bytes=right.content.chunk_bytes,
        chunks=right.content.chunks,
    )
    return {
        "leads elsewhere": edge(first, second, encode(write_params(first), write_params(third))),
        "malformed": edge(first, second, b"no delta"),
        "cut short": edge(first, second, data[:-1]),
        "does not add up": (msgspec.structs.replace(right, content=other), data),
    }


@pytest.mark.parametrize("case", ["leads elsewhere", "malformed", "cut short", "does not add up"])
def test_a_wrong_delta_is_told_once_and_the_content_fetched(
    tmp_path: Path, federation: Federation, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    wrong, data = wrong_edges(federation)[case]
    plain = federation.publish(3, version=2, train=version(federation, 2))
    publication = with_deltas(federation, plain, [(wrong, data)])
    adoption.on_head(publication.envelope)
    with caplog.at_level(logging.WARNING):
        fetched = serve_chunks(adoption, publication)
    assert fetched == [wrong.content.digest, publication.head.train.content.digest]
    assert caplog.text.count("not used") == 1
    assert_in_use(adoption, 3, version(federation, 2))
    following = with_deltas(
        federation,
        federation.publish(4, version=2, train=version(federation, 3)),
        [(wrong, data), edge(version(federation, 2), version(federation, 3))],
    )
    adoption.on_head(following.envelope)
    assert serve_chunks(adoption, following) == [following.head.deltas[1].content.digest]


def test_a_wrong_delta_at_the_end_of_a_chain_is_gone_around(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    first, second, third = (version(federation, number) for number in (1, 2, 3))
    direct = edge(first, third)
    edges = [edge(first, second), edge(second, third, b"no delta"), direct]
    plain = federation.publish(4, version=3, train=third)
    publication = with_deltas(federation, plain, edges)
    adoption.on_head(publication.envelope)
    fetched = serve_chunks(adoption, publication)
    assert digest_of(third) not in fetched
    assert direct[0].content.digest in fetched
    assert_in_use(adoption, 4, third)


def test_a_base_that_rotted_on_the_disk_makes_the_content_be_fetched(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    rot(tmp_path / "models.db", digest_of(version(federation, 1)), 0)
    publication = newest(federation, 2)
    adoption.on_head(publication.envelope)
    fetched = serve_chunks(adoption, publication)
    assert fetched[-1] == publication.head.train.content.digest
    assert_in_use(adoption, 3, version(federation, 2))


def test_weights_that_rotted_while_the_agent_was_off_are_fetched_again(
    tmp_path: Path, federation: Federation
) -> None:
    publication = newest(federation, 1)
    feed(adoption_at(tmp_path, federation), publication)
    rot(tmp_path / "models.db", publication.head.train.content.digest, 0)
    adoption = adoption_at(tmp_path, federation)
    assert adoption.current is None
    assert serve_chunks(adoption, publication) == [publication.head.train.content.digest]
    assert_in_use(adoption, 2, version(federation, 1))


def test_a_damaged_file_is_set_aside_and_everything_fetched_again(
    tmp_path: Path, federation: Federation
) -> None:
    publication = newest(federation, 1)
    models = Models(tmp_path / "models.db")
    feed(Adoption(models, federation.trust, CHANNELS), publication)
    models.close()
    (tmp_path / "models.db").write_bytes(b"\xff" * 100_000)
    adoption = adoption_at(tmp_path, federation)
    assert adoption.head is None
    adoption.on_head(publication.envelope)
    assert serve_chunks(adoption, publication)
    assert_in_use(adoption, 2, version(federation, 1))


def test_on_a_full_disk_the_model_stays_in_use_and_fetching_goes_on_when_there_is_room(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, newest(federation, 1))
    publication = newest(federation, 2, steps=0)
    with full_disk(tmp_path / "models.db"):
        assert adoption.on_head(publication.envelope)
        for topic in adoption.wanted():
            adoption.on_chunk(topic, publication.chunks[topic])
        assert adoption.stalled
        adoption.retry()
        assert adoption.stalled
        assert_in_use(adoption, 2, version(federation, 1))
    adoption.retry()
    assert not adoption.stalled
    serve_chunks(adoption, publication)
    assert_in_use(adoption, 3, version(federation, 2))
    assert_in_use(adoption_at(tmp_path, federation), 3, version(federation, 2))
