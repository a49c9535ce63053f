"""Runs a replay to its end and keeps what it gave."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay import ReplaySettings, problems, replay_blocks
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import ArraySample, Block, Gap

T0 = 1_700_000_000_000_000


class Replayed:
    """All blocks of one run."""

    def __init__(self, blocks: list[Block], report: SourceReport) -> None:
        self.blocks, self.report = blocks, report

    @property
    def gaps(self) -> list[Gap]:
        return [gap for block in self.blocks for gap in block.gaps]

    @property
    def arrays(self) -> list[ArraySample]:
        return [each for block in self.blocks for each in block.arrays]

    def rows(self) -> list[tuple[int, float, int, int]]:
        """Channel, value, status and microseconds after T0 of each number."""
        return [
            (int(channel), float(value), int(status), int(stamp) - T0)
            for block in self.blocks
            for channel, value, status, stamp in zip(
                block.channel, block.value, block.status, block.source_timestamp_us, strict=True
            )
        ]

    def values(self, channel: int = 0) -> list[float]:
        return [value for at, value, _, _ in self.rows() if at == channel]

    def times_s(self, channel: int = 0) -> NDArray[np.float64]:
        return np.array([us / 1e6 for at, _, _, us in self.rows() if at == channel])


def settings_of(**keys: Any) -> ReplaySettings:
    settings = msgspec.convert({"speed": 0.0, **keys}, ReplaySettings)
    assert list(problems(settings)) == []
    return settings


def channels(*columns: str) -> list[dict[str, Any]]:
    return [{"name": column.title(), "column": column} for column in columns]


def replayed(
    folder: Path,
    settings: ReplaySettings,
    *,
    until: Callable[[list[Block]], bool] = lambda _: False,
) -> Replayed:
    """Run it to its end, or until enough was given."""
    report = SourceReport("replay")

    async def run() -> list[Block]:
        blocks: list[Block] = []
        context = SourceContext(folder, folder / "state", "agent-1")
        async with asyncio.timeout(20), aclosing(replay_blocks(settings, context, report)) as some:
            async for block in some:
                blocks.append(block)
                if until(blocks):
                    break
        return blocks

    return Replayed(asyncio.run(run()), report)
