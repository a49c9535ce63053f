"""Sums of masks, computed beside the event loop, in bounded memory.

A sum over thousands of reports of millions of integers takes minutes of one core, so it is cut into
pieces of some members each; between two pieces the task beats and can be cancelled.  At any time
one bucket's vector, one partial sum and the finished answers of `Answers` are in memory, never one
vector for each member.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence

import numpy as np

from coordinator.helper.releasing import Opening
from wire.masking import DTYPES, Ring, Term, masks_of
from wire.progress import Beat

_PIECE_BYTES = 512 << 20
"""Of keystream in one piece: about a second."""
CACHED_BYTES = 64 << 20
"""Of finished answers; the last one is kept whatever its size."""


class Answers:
    """Finished answers, so that a chunk that was lost costs no second computation."""

    def __init__(self, most_bytes: int = CACHED_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[bytes, tuple[int, ...]], bytes] = OrderedDict()

    async def of(self, opening: Opening, beat: Beat) -> bytes:
        """The answer to a release: bucket after bucket, little-endian.

        Args:
          opening: what may be given.
          beat: of the task that waits.
        """
        key = (opening.release.manifest, tuple(opening.release.seeds))
        found = self._kept.pop(key, None)
        if found is None:
            found = b"".join([each async for each in _buckets(opening, beat)])
        self._kept[key] = found
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most_bytes:
            self._kept.popitem(last=False)
        return found


async def _buckets(opening: Opening, beat: Beat) -> AsyncIterator[bytes]:
    for terms in opening.buckets:
        total = np.zeros(opening.count, DTYPES[opening.ring])
        for piece in pieces(terms, opening.count, opening.ring):
            beat()
            part = await asyncio.to_thread(masks_of, piece, opening.count, opening.ring)
            np.add(total, part, out=total)
        yield total.tobytes()


def pieces(terms: Sequence[Term], count: int, ring: Ring) -> Iterator[Sequence[Term]]:
    """Cut the terms of a sum so that each piece takes about a second."""
    each = count * ring // 8 * max(len(term.seeds) for term in terms)
    size = max(1, _PIECE_BYTES // each)
    for start in range(0, len(terms), size):
        yield terms[start : start + size]
