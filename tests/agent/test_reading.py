"""One source, changed while it is read: nothing is lost, nothing comes twice."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from agent import reading
from agent.reading import Reading
from agent.sensors.source import Blocks, ChannelSettings, SourceContext, SourceReport
from agent.signals.block import EMPTY, Block, Gap, block_of
from agent.sources import ConfiguredSource
from wire.progress import Progress
from wire.settings import Settings

CONTEXT = SourceContext(Path(), Path(), "press-1")
FIRST = 5


class Machine:
    """Makes a sample of each of two channels every few milliseconds of its own time."""

    def __init__(self) -> None:
        self.now_us = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.002)
            self.now_us += 1


def session(machine: Machine, every_s: float) -> Callable[[SourceContext, SourceReport], Blocks]:
    """A source that publishes all samples since its begin, every so often."""

    async def blocks(_: SourceContext, report: SourceReport) -> AsyncGenerator[Block, None]:
        report.state = "reading"
        sent_us = machine.now_us - 1
        while True:
            until_us = machine.now_us
            times = [each for each in range(sent_us + 1, until_us + 1) for _ in range(2)]
            yield block_of([0, 1] * (len(times) // 2), times, [0] * len(times), times)
            sent_us = until_us
            await asyncio.sleep(every_s)

    return blocks


async def _silent(_: SourceContext, report: SourceReport) -> AsyncGenerator[Block, None]:
    report.state = "port is in use"
    while True:
        yield EMPTY
        await asyncio.sleep(0.01)


def configured(open_: Callable[[SourceContext, SourceReport], Blocks]) -> ConfiguredSource:
    channels = (ChannelSettings(name="a"), ChannelSettings(name="b"))
    return ConfiguredSource("source.opcua", "opcua", "opcua x", FIRST, channels, Settings(), open_)


class Taken:
    """What came, by channel."""

    def __init__(self) -> None:
        self.times: dict[int, list[int]] = {FIRST: [], FIRST + 1: []}
        self.gaps: list[Gap] = []

    def take(self, block: Block) -> None:
        self.gaps += block.gaps
        for channel, time in zip(
            block.channel.tolist(), block.source_timestamp_us.tolist(), strict=True
        ):
            self.times[channel].append(time)

    async def reach(self, time_us: int) -> None:
        """Wait until both channels have come so far."""
        async with asyncio.timeout(30):
            # Nobody who takes blocks knows that somebody waits.
            while min(times[-1] if times else 0 for times in self.times.values()) < time_us:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    def newest_us(self) -> dict[int, int]:
        return {channel: max(times) for channel, times in self.times.items() if times}


def read(change: Callable[[Machine, Reading], None], more: int = 150) -> Taken:
    """Read some samples, change, and read so many more."""
    taken = Taken()

    async def scenario() -> None:
        machine = Machine()
        made = Reading(
            configured(session(machine, 0.05)), CONTEXT, Progress(), taken.take, taken.newest_us
        )
        tasks = [asyncio.ensure_future(machine.run()), asyncio.ensure_future(made.run())]
        await taken.reach(50)
        change(machine, made)
        await taken.reach(machine.now_us + more)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
    return taken


@pytest.mark.parametrize("every_s", [0.01, 0.05, 0.12])
def test_a_changed_source_loses_no_sample_and_gives_none_twice(every_s: float) -> None:
    taken = read(lambda machine, made: made.change(configured(session(machine, every_s))))
    for times in taken.times.values():
        assert times == list(range(times[0], times[-1] + 1))
    assert taken.gaps == []


def test_where_only_one_session_is_possible_what_was_missed_is_a_marked_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_PATIENCE_S", 0.1)

    def exclusive(machine: Machine) -> Callable[[SourceContext, SourceReport], Blocks]:
        async def blocks(context: SourceContext, report: SourceReport) -> Blocks:
            silent = _silent(context, report)
            for _ in range(20):
                yield await anext(silent)
            await silent.aclose()
            async for block in session(machine, 0.01)(context, report):
                yield block

        return blocks

    taken = read(lambda machine, made: made.change(configured(exclusive(machine))))
    assert [(gap.channel, gap.reason) for gap in taken.gaps] == [
        (FIRST, "the configuration was changed"),
        (FIRST + 1, "the configuration was changed"),
    ]
    for gap in taken.gaps:
        times = taken.times[gap.channel]
        before = times.index(gap.from_us)
        assert times[before + 1] == gap.until_us
        assert times == sorted(set(times))


def test_a_session_that_fails_ends_the_reading_with_its_error() -> None:
    async def broken(_: SourceContext, __: SourceReport) -> AsyncGenerator[Block, None]:
        yield EMPTY
        raise RuntimeError("a driver's mistake")

    async def scenario() -> None:
        taken = Taken()
        made = Reading(configured(broken), CONTEXT, Progress(), taken.take, taken.newest_us)
        with pytest.raises(RuntimeError, match="a driver's mistake"):
            await made.run()

    asyncio.run(scenario())
