"""Downloads: the cheapest way to each content, and chunks that survive a kill."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.downloads import FLUSH_BYTES, Downloads, Way, cheapest_ways
from agent.models import Models
from wire.chunks import describe, sha256, split
from wire.errors import MalformedError
from wire.messages import Content, Delta

CHUNK_BYTES = 100_000
SIZE = 50 * CHUNK_BYTES


def data_of(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def content_of(name: str, size: int) -> Content:
    """A content of which only name and size matter."""
    chunks = tuple(sha256(f"{name} {at}".encode()) for at in range(-(-size // 1000)))
    return Content(digest=sha256(name.encode()), size=size, chunk_bytes=1000, chunks=chunks)


FULL = {name: content_of(name, 10_000) for name in "abcd"}


def delta(base: str, target: str, size: int) -> Delta:
    return Delta(
        base=FULL[base].digest,
        target=FULL[target].digest,
        content=content_of(f"{base}->{target}", size),
    )


def size_of(content: Content) -> float:
    return content.size


def ways(
    wanted: str,
    held: str,
    *deltas: Delta,
    left_bytes: Callable[[Content], float] = size_of,
) -> list[tuple[str, int]]:
    """What is fetched for each target: its name, and how many deltas (0: in full)."""
    found = cheapest_ways(
        [FULL[name] for name in wanted], deltas, {FULL[name].digest for name in held}, left_bytes
    )
    names = {content.digest: name for name, content in FULL.items()}
    return [(names[way.target.digest], len(way.deltas)) for way in found]


def test_what_is_here_needs_no_way_and_without_deltas_all_is_fetched_in_full() -> None:
    assert ways("ab", "a") == [("b", 0)]
    assert ways("aab", "") == [("a", 0), ("b", 0)]


def test_a_delta_from_what_is_here_is_taken_when_it_is_smaller() -> None:
    assert ways("b", "a", delta("a", "b", 9_000)) == [("b", 1)]
    assert ways("b", "a", delta("a", "b", 11_000)) == [("b", 0)]
    assert ways("b", "", delta("a", "b", 9_000)) == [("b", 0)]


def test_a_chain_of_deltas_is_taken_when_all_of_it_is_smaller() -> None:
    chain = [delta("a", "b", 4_000), delta("b", "c", 3_000), delta("c", "d", 2_900)]
    assert ways("d", "a", *chain) == [("d", 3)]
    assert ways("d", "b", *chain) == [("d", 2)]
    assert ways("d", "a", chain[0], chain[1], delta("c", "d", 3_100)) == [("d", 0)]


def test_the_shortest_of_several_chains_is_taken_and_circles_end() -> None:
    circle = [delta("a", "b", 1_000), delta("b", "a", 10), delta("b", "c", 1_000)]
    assert ways("c", "a", *circle, delta("a", "c", 1_900)) == [("c", 1)]
    assert ways("c", "a", *circle, delta("a", "c", 2_100)) == [("c", 2)]
    assert ways("c", "", *circle) == [("c", 0)]


def test_a_later_content_may_start_from_an_earlier_one() -> None:
    assert ways("ab", "", delta("a", "b", 1_000)) == [("a", 0), ("b", 1)]
    assert ways("ba", "", delta("a", "b", 1_000)) == [("b", 0), ("a", 0)]


def test_a_way_that_was_begun_is_cheaper_by_what_is_here() -> None:
    begun = {FULL["b"].digest: 500.0}
    assert ways(
        "b",
        "a",
        delta("a", "b", 1_000),
        left_bytes=lambda content: begun.get(content.digest, content.size),
    ) == [("b", 0)]


def test_a_way_in_full_fetches_the_content_and_one_by_deltas_the_deltas() -> None:
    step = delta("a", "b", 10)
    assert Way(FULL["b"]).fetched == (FULL["b"],)
    assert Way(FULL["b"], (step,)).fetched == (step.content,)


def downloads_at(path: Path) -> Downloads:
    return Downloads(Models(path))


def test_chunks_are_stored_many_at_a_time_and_small_contents_at_once(tmp_path: Path) -> None:
    models = Models(tmp_path / "models.db")
    downloads = Downloads(models)
    large, small = data_of(1), data_of(2, 3 * CHUNK_BYTES)
    contents = {"model/a": describe(large, CHUNK_BYTES), "model/b": describe(small, CHUNK_BYTES)}
    downloads.expect(contents)
    stored = []
    for at, chunk in enumerate(split(large, CHUNK_BYTES)[:12]):
        assert not downloads.add("model/a", at, chunk)
        stored.append(len(models.parts(contents["model/a"].digest)))
    assert stored == [0] * 10 + [11] * 2
    assert FLUSH_BYTES > 10 * CHUNK_BYTES
    for at, chunk in enumerate(split(small, CHUNK_BYTES)):
        assert models.parts(contents["model/b"].digest) == set()
        assert downloads.add("model/b", at, chunk) == (at == 2)
    assert models.read(contents["model/b"].digest) == small


def test_what_is_missing_is_listed_in_order_of_urgency(tmp_path: Path) -> None:
    downloads = downloads_at(tmp_path / "models.db")
    first, second = data_of(1, 250_000), data_of(2, 250_000)
    downloads.expect(
        {"model/a": describe(first, CHUNK_BYTES), "model/b": describe(second, CHUNK_BYTES)}
    )
    downloads.add("model/a", 1, first[CHUNK_BYTES : 2 * CHUNK_BYTES])
    assert downloads.missing() == ["model/a/0", "model/a/2", "model/b/0", "model/b/1", "model/b/2"]
    assert downloads.missing(3) == ["model/a/0", "model/a/2", "model/b/0"]
    downloads.expect({"model/b": describe(second, CHUNK_BYTES)})
    assert downloads.missing() == ["model/b/0", "model/b/1", "model/b/2"]


def test_a_wrong_chunk_is_refused_and_the_rest_stays(tmp_path: Path) -> None:
    downloads = downloads_at(tmp_path / "models.db")
    data = data_of(1, 250_000)
    downloads.expect({"model/a": describe(data, CHUNK_BYTES)})
    for wrong in (b"", data[:CHUNK_BYTES][::-1], data):
        with pytest.raises(MalformedError, match="SHA-256"):
            downloads.add("model/a", 0, wrong)
    with pytest.raises(MalformedError, match="chunk 3 of"):
        downloads.add("model/a", 3, b"x")
    assert downloads.missing() == ["model/a/0", "model/a/1", "model/a/2"]


def test_a_content_that_the_head_describes_wrongly_is_not_asked_for_again(tmp_path: Path) -> None:
    downloads = downloads_at(tmp_path / "models.db")
    right = describe(data_of(1, CHUNK_BYTES), CHUNK_BYTES)
    wrong = Content(
        digest=bytes(32), size=right.size, chunk_bytes=right.chunk_bytes, chunks=right.chunks
    )
    downloads.expect({"model/a": wrong})
    assert downloads.add("model/a", 0, data_of(1, CHUNK_BYTES))
    assert downloads.broken == {wrong}
    assert downloads.left_bytes(wrong) == float("inf")
    downloads.expect({"model/a": wrong})
    assert downloads.missing() == []


KILLED = """
import os, random, signal, sys
from pathlib import Path
from agent.downloads import Downloads
from agent.models import Models
from wire.chunks import describe, split
data = random.Random(1).randbytes({size})
downloads = Downloads(Models(Path(sys.argv[1])))
downloads.expect({{"model/a": describe(data, {chunk_bytes})}})
for at, chunk in enumerate(split(data, {chunk_bytes})[:30]):
    downloads.add("model/a", at, chunk)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_download_goes_on_where_it_was_but_for_a_mebibyte(
    tmp_path: Path, repository: Path
) -> None:
    program = KILLED.format(size=SIZE, chunk_bytes=CHUNK_BYTES)
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "models.db")], cwd=repository, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    models = Models(tmp_path / "models.db")
    downloads, data = Downloads(models), data_of(1)
    content = describe(data, CHUNK_BYTES)
    downloads.expect({"model/a": content})
    missing = [int(at.removeprefix("model/a/")) for at in downloads.missing()]
    assert missing == list(range(22, 50))  # 11 chunks make a transaction; 8 were in memory
    chunks = split(data, CHUNK_BYTES)
    assert [downloads.add("model/a", at, chunks[at]) for at in missing].count(True) == 1
    assert models.read(content.digest) == data
