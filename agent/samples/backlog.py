"""Blocks that wait in memory for the disk: bounded, the oldest go first.

Pure.  Invariant: what was put in is taken out in order, or returned to the caller as too much.
"""

from collections import deque
from dataclasses import replace

from agent.signals.block import ArraySample, Block

_BYTES_OF_SAMPLE = 24
_BYTES_OF_BLOCK = 700
"""Measured: a block of one sample, four small arrays and their objects."""


class Backlog:
    """A queue of blocks.

    Args:
      most_bytes: of samples that wait; more, and the oldest blocks are dropped.
      part_bytes: of samples of one block; larger ones are cut.
    """

    def __init__(self, most_bytes: int, part_bytes: int) -> None:
        self._most, self._part = most_bytes, part_bytes
        self._blocks: deque[Block] = deque()
        self.bytes = 0
        self.samples = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, block: Block) -> list[Block]:
        """Add a block; returns what had to go for it."""
        if bytes_of(block) <= self._part:
            self._add(block)
        else:
            for part in _parts(block, self._part):
                self._add(part)
        return self._excess()

    def take(self, most_bytes: int) -> list[Block]:
        """Remove the oldest blocks: at least one if there is any, of about so many bytes."""
        taken: list[Block] = []
        while self._blocks and (not taken or bytes_of(self._blocks[0]) <= most_bytes):
            taken.append(self._remove())
            most_bytes -= bytes_of(taken[-1])
        return taken

    def give_back(self, blocks: list[Block]) -> list[Block]:
        """Put what was taken before all others; returns what had to go for it."""
        for block in reversed(blocks):
            self._blocks.appendleft(block)
            self.bytes += bytes_of(block)
            self.samples += block.samples
        return self._excess()

    def _add(self, block: Block) -> None:
        self._blocks.append(block)
        self.bytes += bytes_of(block)
        self.samples += block.samples

    def _remove(self) -> Block:
        block = self._blocks.popleft()
        self.bytes -= bytes_of(block)
        self.samples -= block.samples
        return block

    def _excess(self) -> list[Block]:
        gone: list[Block] = []
        while self.bytes > self._most:
            gone.append(self._remove())
        return gone


def bytes_of(block: Block) -> int:
    """Memory of a block, about."""
    arrays = sum(each.value.nbytes + _BYTES_OF_BLOCK for each in block.arrays)
    gaps = len(block.gaps) * _BYTES_OF_BLOCK
    return _BYTES_OF_BLOCK + len(block) * _BYTES_OF_SAMPLE + arrays + gaps


def _parts(block: Block, part_bytes: int) -> list[Block]:
    """A large block in order: its gaps and first numbers, more numbers, its arrays."""
    step = max(1, part_bytes // _BYTES_OF_SAMPLE)
    parts = [_slice(block, slice(at, at + step)) for at in range(0, max(1, len(block)), step)]
    parts[0] = replace(parts[0], gaps=block.gaps)
    group: list[ArraySample] = []
    size = 0
    for sample in block.arrays:
        if group and size + sample.value.nbytes > part_bytes:
            parts.append(replace(_slice(block, slice(0, 0)), arrays=tuple(group)))
            group, size = [], 0
        group.append(sample)
        size += sample.value.nbytes
    return [*parts, replace(_slice(block, slice(0, 0)), arrays=tuple(group))] if group else parts


def _slice(block: Block, part: slice) -> Block:
    return Block(
        block.channel[part],
        block.value[part],
        block.status[part],
        block.source_timestamp_us[part],
        is_replayed=block.is_replayed,
    )
