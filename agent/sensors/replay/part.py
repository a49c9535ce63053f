"""Samples of a batch of rows, which can be given away a few rows at a time.

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.rows import Point
from agent.signals.block import Block, block_of


@dataclass
class Findings:
    """What is to be reported: problems by channel or file, and counters."""

    problems: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def note(self, counter: str, subject: str, problem: str) -> None:
        """One more of a kind; the latest of a subject is shown."""
        self.problems[subject] = problem
        self.counters[counter] = self.counters.get(counter, 0) + 1


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of R rows, and where to go on before each of them.

    Attributes:
      row_us: int64 (R,), source timestamp of each row; -1 where it has none.
      block: all samples.
      row: int64, the row of each of the block's samples of numbers, ascending.
      array_row, gap_row: the same for its arrays and gaps.
      points: (R + 1), where the rows begin, and where the next one does.
      findings: what to report.
    """

    row_us: NDArray[np.int64]
    block: Block
    row: NDArray[np.int64]
    array_row: tuple[int, ...]
    gap_row: tuple[int, ...]
    points: tuple[Point, ...]
    findings: Findings = field(default_factory=Findings)

    def block_between(self, first: int, until: int) -> Block:
        """The samples of rows `first` to `until`, without the latter."""
        block = self.block
        if first == 0 and until == len(self.row_us):
            return block
        low, high = np.searchsorted(self.row, (first, until))
        here = slice(int(low), int(high))
        return block_of(
            block.channel[here],
            block.value[here],
            block.status[here],
            block.source_timestamp_us[here],
            arrays=tuple(_between(block.arrays, self.array_row, first, until)),
            gaps=tuple(_between(block.gaps, self.gap_row, first, until)),
            is_replayed=block.is_replayed,
        )


def _between(items: Sequence[Any], rows: Sequence[int], first: int, until: int) -> list[Any]:
    return [item for item, row in zip(items, rows, strict=True) if first <= row < until]


def moved_in_time(block: Block, by_us: int) -> Block:
    """The same block with all its source timestamps moved."""
    return replace(
        block,
        source_timestamp_us=block.source_timestamp_us + by_us,
        arrays=tuple(
            replace(each, source_timestamp_us=each.source_timestamp_us + by_us)
            for each in block.arrays
        ),
        gaps=tuple(
            replace(each, from_us=each.from_us + by_us, until_us=each.until_us + by_us)
            for each in block.gaps
        ),
    )
