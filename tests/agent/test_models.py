"""Model slots: what is kept, what rots, what is dropped, and what a kill leaves."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import pytest

from agent.models import Models
from tests.agent.federation import Federation, Publication
from wire.chunks import describe, sha256, split
from wire.database import DiskError, transaction
from wire.errors import MalformedError
from wire.messages import Content

DATA = bytes(range(256)) * 40
CHUNK_BYTES = 1000


def content_of(data: bytes = DATA) -> Content:
    return describe(data, CHUNK_BYTES)


def chunks_of(data: bytes = DATA) -> dict[int, bytes]:
    return dict(enumerate(split(data, CHUNK_BYTES)))


def rot(path: Path, digest: bytes, part: int) -> None:
    """Change the first byte of a stored part, as a dying memory card does."""
    with sqlite3.connect(path) as database:
        changed = database.execute(
            "UPDATE parts SET data = CAST(x'ff' || substr(data, 2) AS BLOB)"
            " WHERE digest = ? AND part = ?",
            (digest, part),
        )
        assert changed.rowcount == 1
    database.close()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process grows beyond this one's size."""
    before = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, before)


def test_a_content_is_whole_only_with_its_last_chunk(tmp_path: Path) -> None:
    content, chunks = content_of(), chunks_of()
    models = Models(tmp_path / "models.db")
    models.keep_parts((content.digest, at, chunks[at]) for at in range(5))
    assert models.parts(content.digest) == set(range(5))
    assert not models.has(content.digest)
    assert models.read(content.digest) is None
    assert models.finish(content, {at: chunks[at] for at in range(5, len(chunks))}) == []
    assert models.has(content.digest)
    assert models.read(content.digest) == DATA


def test_parts_and_contents_are_there_after_reopening(tmp_path: Path) -> None:
    content, chunks = content_of(), chunks_of()
    before = Models(tmp_path / "models.db")
    before.keep(sha256(b"other" * 500_000), b"other" * 500_000)
    before.keep_parts([(content.digest, 3, chunks[3])])
    before.close()
    after = Models(tmp_path / "models.db")
    assert after.parts(content.digest) == {3}
    assert after.read(sha256(b"other" * 500_000)) == b"other" * 500_000


def test_a_content_that_rotted_is_dropped_when_it_is_read(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    content = content_of()
    models.finish(content, chunks_of())
    rot(tmp_path / "models.db", content.digest, 4)
    assert models.has(content.digest)
    assert models.read(content.digest) is None
    assert not models.has(content.digest)
    assert models.parts(content.digest) == set()


def test_a_chunk_that_rotted_before_the_last_one_came_is_named(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    content, chunks = content_of(), chunks_of()
    last = chunks.popitem()
    models.keep_parts((content.digest, at, chunk) for at, chunk in chunks.items())
    rot(tmp_path / "models.db", content.digest, 4)
    assert models.finish(content, dict([last])) == [4]
    assert not models.has(content.digest)
    assert models.parts(content.digest) == {*range(len(content.chunks))} - {4}
    assert models.finish(content, {4: chunks[4]}) == []


def test_right_chunks_of_a_wrong_content_are_dropped(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    content = content_of()
    contradiction = Content(
        digest=bytes(32),
        size=content.size,
        chunk_bytes=content.chunk_bytes,
        chunks=content.chunks,
    )
    with pytest.raises(MalformedError, match="do not add up"):
        models.finish(contradiction, chunks_of())
    assert models.parts(bytes(32)) == set()


def test_a_file_that_is_no_database_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    path.write_bytes(b"no database at all" * 1000)
    models = Models(path)
    assert models.head_envelope is None
    models.keep(sha256(b"x"), b"x")
    assert models.read(sha256(b"x")) == b"x"
    assert models.set_aside == [tmp_path / "models.db.damaged-1"]
    assert models.set_aside[0].read_bytes() == b"no database at all" * 1000


def test_a_file_of_the_first_version_is_read_and_its_contents_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE contents (digest BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;"
            "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " envelope BLOB NOT NULL, in_use BLOB) STRICT;"
        )
        with transaction(database):
            database.execute("INSERT INTO contents VALUES (?, ?)", (sha256(DATA), DATA))
            database.execute("INSERT INTO head VALUES (1, x'0102', x'01')")
    database.close()
    models = Models(path)
    assert (models.head_envelope, models.head_in_use) == (b"\1\2", b"\1")
    assert not models.has(sha256(DATA))


def used(models: Models, publication: Publication) -> None:
    """Take everything that a head names, and use it."""
    models.accept_head(publication.envelope, publication.head, None)
    models.keep(publication.head.bundle.digest, b"bundle")
    models.keep(publication.head.train.content.digest, b"x" * publication.head.train.content.size)
    models.use_head(publication.envelope, publication.head)


def heads(federation: Federation, number: int) -> list[Publication]:
    return [
        federation.publish(at, version=at, train=federation.moved(0.1 * at))
        for at in range(1, number + 1)
    ]


def test_the_weights_trained_from_before_are_kept_to_go_back_to(
    tmp_path: Path, federation: Federation
) -> None:
    models = Models(tmp_path / "models.db")
    published = heads(federation, 4)
    for publication in published:
        used(models, publication)
    assert [models.has(each.head.train.content.digest) for each in published] == [
        False,
        False,
        True,
        True,
    ]


def test_large_weights_are_not_kept_beyond_their_head(
    tmp_path: Path, federation: Federation
) -> None:
    published = heads(federation, 2)
    models = Models(tmp_path / "models.db", previous_bytes=published[0].head.train.content.size - 1)
    for publication in published:
        used(models, publication)
    assert [models.has(each.head.train.content.digest) for each in published] == [False, True]


def test_a_new_head_drops_the_parts_that_it_does_not_name(
    tmp_path: Path, federation: Federation
) -> None:
    models = Models(tmp_path / "models.db")
    first, second = heads(federation, 2)
    content = content_of()
    models.accept_head(first.envelope, first.head, None)
    models.keep_parts([(content.digest, 0, b"stray"), (first.head.bundle.digest, 0, b"bundle")])
    models.accept_head(second.envelope, second.head, None)
    assert models.parts(content.digest) == set()
    assert models.parts(second.head.bundle.digest) == {0}


def test_a_disk_that_works_again_is_noticed_by_the_next_write_of_anything(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    with full_disk(tmp_path / "models.db"), pytest.raises(DiskError):
        models.keep(sha256(DATA * 100), DATA * 100)
    assert models.problem
    assert not models.has(sha256(DATA * 100))
    models.keep_parts(())
    assert not models.problem
