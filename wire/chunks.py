"""Content as chunks: split, named by hash, put together again, checked as a whole.

Pure.  A chunk is accepted only when its SHA-256 is the one that the (signed) header lists, so that
chunks need no signature of their own and may arrive in any order, twice, or over two connections.
"""

import hashlib

from wire.errors import MalformedError
from wire.messages import MAX_CHUNKS, MAX_CONTENT_BYTES, Content

CHUNK_BYTES = 120_000
"""Precedent: AWS IoT caps a packet at 128 KB, the lowest limit of the common brokers."""


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def split(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """Cut `data` into chunks of `chunk_bytes`, the last one shorter."""
    return [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]


def describe(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Content:
    """Return the `Content` that names `data` and its chunks."""
    if not 0 < len(data) <= MAX_CONTENT_BYTES:
        reason = f"content of {len(data)} bytes; it must have 1 to {MAX_CONTENT_BYTES}"
        raise MalformedError(reason)
    chunks = tuple(sha256(chunk) for chunk in split(data, chunk_bytes))
    if len(chunks) > MAX_CHUNKS:
        reason = f"content of {len(chunks)} chunks; at most {MAX_CHUNKS}, use larger chunks"
        raise MalformedError(reason)
    return Content(digest=sha256(data), size=len(data), chunk_bytes=chunk_bytes, chunks=chunks)


def check_content(content: Content) -> None:
    """Raise `MalformedError` unless size and number of chunks agree."""
    expected = -(-content.size // content.chunk_bytes)
    if len(content.chunks) != expected:
        reason = (
            f"content of {content.size} bytes in chunks of {content.chunk_bytes} has {expected} "
            f"chunks, not {len(content.chunks)}"
        )
        raise MalformedError(reason)


class Assembly:
    """The chunks of one content that have arrived so far."""

    def __init__(self, content: Content) -> None:
        check_content(content)
        self.content = content
        self._chunks: list[bytes | None] = [None] * len(content.chunks)

    def add(self, index: int, chunk: bytes) -> bool:
        """Keep a chunk; return whether it was new.  A wrong one raises `MalformedError`."""
        if not 0 <= index < len(self._chunks):
            reason = f"chunk {index} of a content with {len(self._chunks)} chunks"
            raise MalformedError(reason)
        if len(chunk) > self.content.chunk_bytes or sha256(chunk) != self.content.chunks[index]:
            reason = f"chunk {index} ({len(chunk)} bytes) does not have the announced SHA-256"
            raise MalformedError(reason)
        was_missing = self._chunks[index] is None
        # A header that lies about a chunk's length never adds up (`join` says so), so nothing is
        # held for it: what is held is never more than the announced size.
        self._chunks[index] = chunk if len(chunk) == self._length(index) else b""
        return was_missing

    def _length(self, index: int) -> int:
        """Bytes that a chunk has when the header tells the truth."""
        start = index * self.content.chunk_bytes
        return min(self.content.chunk_bytes, self.content.size - start)

    @property
    def missing(self) -> list[int]:
        """Indices of the chunks that have not arrived."""
        return [index for index, chunk in enumerate(self._chunks) if chunk is None]

    def join(self) -> bytes:
        """Return the whole content, verified against its own SHA-256."""
        if self.missing:
            reason = f"chunks {self.missing[:10]} are missing"
            raise MalformedError(reason)
        data = b"".join(chunk for chunk in self._chunks if chunk is not None)
        # One chunk is the whole: its hash was checked when it came.
        digest = self.content.chunks[0] if len(self._chunks) == 1 else sha256(data)
        if len(data) != self.content.size or digest != self.content.digest:
            reason = "the chunks do not add up to the announced content"
            raise MalformedError(reason)
        return data


def to_bitmap(indices: list[int]) -> bytes:
    """Set bit i (least significant first) for every index."""
    bits = bytearray(max(indices, default=-1) // 8 + 1)
    for index in indices:
        bits[index // 8] |= 1 << (index % 8)
    return bytes(bits)


def from_bitmap(bitmap: bytes) -> list[int]:
    """Indices of the set bits, ascending."""
    return [8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1]
