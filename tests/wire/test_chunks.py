"""Chunks: any order, twice, or not at all; never a wrong one."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.chunks import (
    CHUNK_BYTES,
    Assembly,
    check_content,
    describe,
    from_bitmap,
    sha256,
    split,
    to_bitmap,
)
from wire.errors import MalformedError
from wire.messages import MAX_CHUNKS, MAX_CONTENT_BYTES

contents = st.binary(min_size=1, max_size=3000)
chunk_sizes = st.integers(256, 1000)


@given(contents, chunk_sizes)
def test_chunks_add_up_to_the_content(data: bytes, chunk_bytes: int) -> None:
    chunks = split(data, chunk_bytes)
    assert b"".join(chunks) == data
    assert all(0 < len(chunk) <= chunk_bytes for chunk in chunks)
    content = describe(data, chunk_bytes)
    check_content(content)
    assert content.chunks == tuple(map(sha256, chunks))
    assert (content.digest, content.size) == (sha256(data), len(data))


@given(contents, chunk_sizes, st.randoms())
def test_the_order_of_arrival_does_not_matter(
    data: bytes, chunk_bytes: int, rng: random.Random
) -> None:
    chunks = list(enumerate(split(data, chunk_bytes)))
    arriving = chunks + rng.choices(chunks, k=3)
    rng.shuffle(arriving)
    assembly = Assembly(describe(data, chunk_bytes))
    new = [assembly.add(index, chunk) for index, chunk in arriving]
    assert sum(new) == len(chunks)
    assert assembly.missing == []
    assert assembly.join() == data


def test_a_repeated_chunk_is_not_new() -> None:
    data = bytes(600)
    assembly = Assembly(describe(data, 256))
    assert assembly.add(2, data[512:])
    assert not assembly.add(2, data[512:])
    assert assembly.missing == [0, 1]


@given(contents, st.integers(-3, 30), st.binary(max_size=1200))
def test_a_wrong_chunk_changes_nothing(data: bytes, index: int, wrong: bytes) -> None:
    content = describe(data, 256)
    assembly = Assembly(content)
    is_right = 0 <= index < len(content.chunks) and sha256(wrong) == content.chunks[index]
    if is_right:
        return
    with pytest.raises(MalformedError):
        assembly.add(index, wrong)
    assert assembly.missing == list(range(len(content.chunks)))


def test_a_right_chunk_at_another_place_is_refused() -> None:
    data = random.Random(1).randbytes(600)
    assembly = Assembly(describe(data, 256))
    with pytest.raises(MalformedError, match=r"chunk 1 \(256 bytes\) does not have"):
        assembly.add(1, data[:256])


def test_an_incomplete_content_is_never_joined() -> None:
    assembly = Assembly(describe(bytes(600), 256))
    with pytest.raises(MalformedError, match=r"chunks \[0, 1, 2\] are missing"):
        assembly.join()


def test_chunks_that_do_not_add_up_to_the_announced_digest_are_refused() -> None:
    lie = msgspec.structs.replace(describe(b"some bytes"), digest=bytes(32))
    assembly = Assembly(lie)
    assembly.add(0, b"some bytes")
    with pytest.raises(MalformedError, match="do not add up"):
        assembly.join()


@pytest.mark.parametrize("change", [{"size": 513}, {"size": 256}, {"chunk_bytes": 512}])
def test_a_content_whose_size_and_chunks_disagree_is_refused(change: dict[str, int]) -> None:
    content = describe(bytes(512), 256)
    with pytest.raises(MalformedError, match="chunks, not 2"):
        Assembly(msgspec.structs.replace(content, **change))


@pytest.mark.parametrize("size", [0, MAX_CONTENT_BYTES + 1])
def test_empty_and_oversized_contents_are_not_described(size: int) -> None:
    with pytest.raises(MalformedError, match="must have 1 to"):
        describe(bytes(size))


def test_a_content_of_too_many_chunks_is_not_described() -> None:
    with pytest.raises(MalformedError, match="use larger chunks"):
        describe(bytes(256 * MAX_CHUNKS + 1), 256)


def test_a_chunk_fits_the_lowest_packet_limit_of_the_common_brokers() -> None:
    longest_topic = 300
    assert CHUNK_BYTES + longest_topic < 128_000


@given(st.sets(st.integers(0, MAX_CHUNKS - 1)))
def test_a_bitmap_gives_back_its_indices(indices: set[int]) -> None:
    bitmap = to_bitmap(sorted(indices))
    assert from_bitmap(bitmap) == sorted(indices)
    assert len(bitmap) <= MAX_CHUNKS // 8


def test_the_first_chunk_is_the_least_significant_bit_of_the_first_byte() -> None:
    assert to_bitmap([0]) == b"\x01"
    assert to_bitmap([0, 9]) == b"\x01\x02"
    assert to_bitmap([]) == b""
