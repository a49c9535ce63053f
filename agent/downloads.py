"""What to fetch, and what of it is here: the cheapest way to each content, and its chunks.

A way to a content is the content itself, or deltas (`wire/deltas.py`) one after the other from a
content that is here.  Ways are compared by the bytes that are still to come, so one that was begun
is not left for another.

Chunks are checked against the head's hashes, gathered, and stored many at a time (an fsync costs
8 ms on common disks, more on a memory card); no more than `FLUSH_BYTES` is lost by a kill.
"""

import logging
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from agent.models import Models
from wire.chunks import sha256
from wire.errors import MalformedError
from wire.messages import Content, Delta

logger = logging.getLogger(__name__)

FLUSH_BYTES = 1 << 20
"""Chunks in memory before they are stored; a smaller content is written once, when whole."""


@dataclass(frozen=True)
class Way:
    """How to come by `target`: in full, or by `deltas` in this order, from the first one's base."""

    target: Content
    deltas: tuple[Delta, ...] = ()

    @property
    def fetched(self) -> tuple[Content, ...]:
        """What has to be fetched for it."""
        return tuple(delta.content for delta in self.deltas) or (self.target,)


def cheapest_ways(
    wanted: Sequence[Content],
    deltas: Sequence[Delta],
    held: Container[bytes],
    left_bytes: Callable[[Content], float],
) -> list[Way]:
    """Choose a way to each content that is not held, most urgent first.

    Args:
      wanted: what the head names, in order of urgency.  A later one may start from an earlier one,
        which will be here by then.
      deltas: what may be used.
      held: SHA-256 of the contents that are here.
      left_bytes: bytes of a content that are still to come.
    """
    ways: list[Way] = []
    coming: set[bytes] = set()
    for target in wanted:
        if target.digest in held or target.digest in coming:
            continue
        paths = [path for path in _paths(target.digest, deltas) if path]
        usable = [path for path in paths if path[0].base in held or path[0].base in coming]
        candidates = [Way(target), *(Way(target, path) for path in usable)]
        ways.append(min(candidates, key=lambda way: sum(map(left_bytes, way.fetched))))
        coming.add(target.digest)
    return ways


def _paths(target: bytes, deltas: Sequence[Delta]) -> Iterator[tuple[Delta, ...]]:
    """Every chain of different deltas that ends at `target`; few, as a head names few deltas."""
    yield ()
    for delta in deltas:
        if delta.target == target:
            others = [other for other in deltas if other is not delta]
            for path in _paths(delta.base, others):
                yield (*path, delta)


@dataclass
class _Download:
    """One content on its way in."""

    content: Content
    here: set[int]
    """Chunks that are stored or wait in `fresh`."""
    fresh: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.here) >= len(self.content.chunks)


class Downloads:
    """Contents on their way in, by the topic level that names them, most urgent first.

    Attributes:
      broken: contents, as the head describes them, that can never become what they should: it
        contradicts itself, or they are deltas that did not make their target.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._downloads: dict[str, _Download] = {}
        self._fresh_bytes = 0
        self.broken: set[Content] = set()

    def expect(self, contents: Mapping[str, Content]) -> None:
        """Fetch these from now on, in this order, and go on where an earlier fetch ended."""
        held = {
            key: each for key, each in self._downloads.items() if each.content == contents.get(key)
        }
        self._downloads = {
            key: held.get(key) or _Download(content, self._stored(content))
            for key, content in contents.items()
            if content not in self.broken
        }
        self._count_fresh()

    def forget_broken_but(self, named: Iterable[Content]) -> None:
        """Remember of what was broken only what a head still names."""
        self.broken.intersection_update(named)

    def _stored(self, content: Content) -> set[int]:
        """Stored chunks; all of them would have been whole, so then one is asked for again."""
        stored = {part for part in self._models.parts(content.digest) if part < len(content.chunks)}
        if len(stored) == len(content.chunks):
            stored.remove(0)
        return stored

    def left_bytes(self, content: Content) -> float:
        """About how many bytes of a content are still to come; infinite for a broken one."""
        if content in self.broken:
            return math.inf
        if self._models.has(content.digest):
            return 0.0
        known = [each for each in self._downloads.values() if each.content == content]
        here = known[0].here if known else self._stored(content)
        return content.size * (1 - len(here) / len(content.chunks))

    def missing(self, limit: int | None = None) -> list[str]:
        """`{key}/{chunk}` of the first chunks that are not here."""
        keys = (
            f"{key}/{chunk}"
            for key, download in self._downloads.items()
            for chunk in range(len(download.content.chunks))
            if chunk not in download.here
        )
        return list(islice(keys, limit))

    def lacks(self, key: str, chunk: int) -> bool:
        """Whether `missing()` has this chunk."""
        download = self._downloads.get(key)
        return (
            download is not None
            and 0 <= chunk < len(download.content.chunks)
            and chunk not in download.here
        )

    def add(self, key: str, chunk: int, data: bytes) -> bool:
        """Take a chunk; return whether that made a content whole.

        Raises:
          MalformedError: it is not the one that the head announced.
          DiskError: it is kept in memory; `flush` tries again.
        """
        download = self._downloads.get(key)
        if download is None or chunk in download.here:
            return False
        _check(download.content, chunk, data)
        download.here.add(chunk)
        download.fresh[chunk] = data
        self._fresh_bytes += len(data)
        if download.is_complete or self._fresh_bytes >= FLUSH_BYTES:
            return self.flush()
        return False

    def flush(self) -> bool:
        """Store the chunks in memory; return whether they completed something.

        Raises:
          DiskError: the chunks stay in memory.
        """
        complete = {key: each for key, each in self._downloads.items() if each.is_complete}
        part = [each for each in self._downloads.values() if not each.is_complete and each.fresh]
        if part:
            self._models.keep_parts(
                (each.content.digest, chunk, data)
                for each in part
                for chunk, data in each.fresh.items()
            )
            for each in part:
                each.fresh.clear()
        for key, download in complete.items():
            self._finish(key, download)
        self._count_fresh()
        return bool(complete)

    def _finish(self, key: str, download: _Download) -> None:
        try:
            rotten = self._models.finish(download.content, download.fresh)
        except MalformedError as error:  # asked for again, it would be as wrong again
            logger.error("not used: %s; the head contradicts itself", error)  # noqa: TRY400
            self.broken.add(download.content)
            del self._downloads[key]
            return
        download.fresh.clear()
        download.here.difference_update(rotten)
        if not rotten:
            del self._downloads[key]

    def _count_fresh(self) -> None:
        self._fresh_bytes = sum(
            len(data) for each in self._downloads.values() for data in each.fresh.values()
        )


def _check(content: Content, chunk: int, data: bytes) -> None:
    if not 0 <= chunk < len(content.chunks):
        reason = f"chunk {chunk} of a content with {len(content.chunks)} chunks"
        raise MalformedError(reason)
    if len(data) > content.chunk_bytes or sha256(data) != content.chunks[chunk]:
        reason = f"chunk {chunk} ({len(data)} bytes) does not have the announced SHA-256"
        raise MalformedError(reason)
