"""From sources to rows: several sources at once, gaps, statistics, samples on disk."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.acquisition import Acquisition
from agent.samples import SampleStore, StoreTable
from agent.sensors.source import Blocks, ChannelSettings, OpenSource, SourceContext, SourceReport
from agent.signals.block import Block, Gap, block_of
from agent.signals.cutting import Cutting, RowCutter
from agent.signals.quality import Quality
from agent.signals.rows import Rows, joined
from agent.sources import ConfiguredSource
from agent.status import Status
from wire.settings import Settings

NAMES = ("count", "torque", "temperature")
US = 1_000_000
START_US = 1_770_000_000_000_000


def source(key: str, first: int, channels: int, blocks: OpenSource) -> ConfiguredSource:
    named = tuple(ChannelSettings(name=NAMES[first + at]) for at in range(channels))
    return ConfiguredSource(key, "scripted", key, first, named, Settings(), blocks)


def scripted(*blocks: Block, ends: bool = False) -> OpenSource:
    """A source that gives these blocks, and then is silent or done."""

    async def give(_context: SourceContext, report: SourceReport) -> Blocks:
        for block in blocks:
            report.state = "reading"
            yield block
            await asyncio.sleep(0)
        report.state = "finished" if ends else "reading"
        if not ends:
            await asyncio.Event().wait()

    return give


def seconds(channel: int, *at: int, status: int = 0) -> Block:
    stamps = [START_US + each * US for each in at]
    return block_of([channel] * len(at), list(at), [status] * len(at), stamps)


class Line:
    """An acquisition of three channels, and everything it gave."""

    def __init__(self, folder: Path, *sources: ConfiguredSource) -> None:
        self.status = Status(agent="gateway-1", site="Ulm", federation="test", pid=1)
        self.folder = folder
        self.quality = Quality(NAMES)
        self.store = SampleStore(folder / "samples", NAMES, StoreTable())
        cutter = RowCutter(Cutting(channels=3, trigger=0, grace_s=0.3))
        self.acquisition = Acquisition(
            sources,
            SourceContext(folder, folder, "gateway-1"),
            cutter,
            self.store,
            self.quality,
            self.status,
        )

    def run_until(self, enough: Callable[[Rows], bool]) -> Rows:
        """Run until the rows are enough, then stop as the agent does."""

        async def run() -> Rows:
            parts: list[Rows] = []
            task = asyncio.create_task(self.acquisition.run())
            async with asyncio.timeout(20):
                while not parts or not enough(joined(parts)):
                    parts.append(await self.acquisition.rows())
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return joined(parts)

        return asyncio.run(run())

    def stored(self) -> list[Block]:
        store = SampleStore(self.folder / "samples", NAMES, StoreTable())
        found = list(store.read(0, START_US * 2))
        store.close()
        return found


def two_sources() -> tuple[ConfiguredSource, ConfiguredSource]:
    plc = scripted(seconds(0, 1, 2, 3), seconds(1, 1, 2, 3))
    instrument = scripted(seconds(0, 1, 2, 3))
    return source("plc", 0, 2, plc), source("instrument", 2, 1, instrument)


def test_channels_of_several_sources_meet_in_one_row(tmp_path: Path) -> None:
    rows = Line(tmp_path, *two_sources()).run_until(lambda rows: len(rows) == 3)
    assert rows.values.tolist() == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


def test_a_source_that_is_done_or_silent_holds_up_nobody(tmp_path: Path) -> None:
    done = source("file", 2, 1, scripted(seconds(0, 1), ends=True))
    line = Line(tmp_path, two_sources()[0], done)
    rows = line.run_until(lambda rows: len(rows) == 3)
    assert rows.values[:, 2].tolist() == [1.0, 1.0, 1.0]
    assert [report.state for report in line.acquisition.reports] == ["reading", "finished"]


def test_every_sample_is_counted_and_on_disk_after_a_stop(tmp_path: Path) -> None:
    bad = seconds(0, 4, status=0x808C0000)
    sources = two_sources()[0], source("probe", 2, 1, scripted(seconds(0, 1, 2, 3), bad))
    line = Line(tmp_path, *sources)
    line.run_until(lambda rows: len(rows) == 3)
    assert (line.status.samples, line.status.bad) == (10, 1)
    found = line.stored()
    assert sum(block.samples for block in found) == 10
    assert sum(int((~block.is_usable).sum()) for block in found) == 1
    assert [each.samples for each in line.quality.summary(START_US)] == [3, 3, 4]


def test_a_gap_is_counted_kept_and_breaks_the_run(tmp_path: Path) -> None:
    gap = Gap(1, START_US + 2 * US, START_US + 5 * US, "cable pulled")
    after = seconds(0, 1, 2, 5), Block(*_columns(seconds(1, 5)), gaps=(gap,))
    plc = scripted(seconds(1, 1, 2), *after)
    line = Line(tmp_path, source("plc", 0, 2, plc), source("probe", 2, 1, scripted(seconds(0, 5))))
    rows = line.run_until(lambda rows: bool((rows.source_timestamp_us == START_US + 5 * US).any()))
    assert not rows.follows[-1]
    assert line.status.gaps == 1
    assert [each.reason for block in line.stored() for each in block.gaps] == ["cable pulled"]


def _columns(block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return block.channel, block.value, block.status, block.source_timestamp_us


def test_a_source_with_a_defect_ends_the_agent(tmp_path: Path) -> None:
    async def broken(_context: SourceContext, _report: SourceReport) -> Blocks:
        yield seconds(0, 1)
        raise AssertionError("a defect")

    line = Line(tmp_path, source("broken", 0, 1, broken))
    with pytest.RaisesGroup(AssertionError):
        asyncio.run(line.acquisition.run())


def test_rows_that_nobody_takes_are_bounded_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.acquisition._MAX_WAITING_ROWS", 2)
    line = Line(tmp_path, *two_sources())

    async def run() -> Rows:
        task = asyncio.create_task(line.acquisition.run())
        async with asyncio.timeout(20):
            while line.status.rows_dropped == 0:
                for at in range(10, 20):
                    line.acquisition._take(seconds(0, at))  # noqa: SLF001  as a source would
                    for channel in (1, 2):
                        line.acquisition._take(seconds(channel, at))  # noqa: SLF001
                await asyncio.sleep(0)
        rows = line.acquisition.rows_now()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return rows

    rows = asyncio.run(run())
    assert len(rows) <= 2
    assert not rows.follows[0]
