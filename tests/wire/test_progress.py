"""Progress of tasks: who is stuck, who may wait, and when the watchdog is fed."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator

import pytest

from wire import waiting
from wire.progress import Progress
from wire.waiting import no_beat, rest, until
from wire.watchdog import keep_watch


def looks(progress: Progress, until_s: int, each: Callable[[], None] = no_beat) -> list[str]:
    """Look every second from where the last look was; who is stuck at the end."""
    begin = int(progress.looked_s or 0)
    for now_s in range(begin, until_s + 1):
        each()
        progress.look(float(now_s))
    return [stall.name for stall in progress.stalled]


async def eventually(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.002)


def test_a_task_that_beats_is_never_stuck_and_one_that_does_not_is_after_its_own_time() -> None:
    progress = Progress()
    with (
        progress.watching("acquisition", 30) as acquires,
        progress.watching("delivery", 600) as sends,
    ):
        assert looks(progress, 600, acquires) == []
        assert looks(progress, 601, acquires) == ["delivery"]
        assert str(progress.stalled[0]) == "delivery (silent for 601 s)"
        sends()
        assert looks(progress, 602, acquires) == []
        assert looks(progress, 631) == []
        assert looks(progress, 632) == ["acquisition"]


def test_time_in_which_nobody_could_run_makes_nobody_guilty() -> None:
    progress = Progress()
    with progress.watching("acquisition", 30):
        progress.look(0.0)
        assert progress.look(3600.0) == ()
        assert progress.silences() == {"acquisition": 5.0}


def test_a_task_that_is_over_may_be_silent_and_can_begin_again() -> None:
    progress = Progress()
    with progress.watching("source.replay", 1):
        assert looks(progress, 50) == ["source.replay"]
    assert looks(progress, 100) == []
    assert progress.silences() == {}
    with progress.watching("source.replay", 1):
        assert looks(progress, 101) == []


def test_two_tasks_of_one_name_are_a_mistake() -> None:
    progress = Progress()
    with (
        progress.watching("delivery", 1),
        pytest.raises(ValueError, match="'delivery' is watched already"),
        progress.watching("delivery", 1),
    ):
        pass
    assert progress.silences() == {}


def test_whoever_rests_or_waits_for_an_event_beats_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_SLICE_S", 0.005)
    beats = itertools.count()

    def beat() -> None:
        next(beats)

    async def run() -> None:
        began_s = time.monotonic()
        await rest(0.1, beat)
        assert time.monotonic() - began_s >= 0.1
        assert next(beats) >= 3
        event = asyncio.Event()
        waits = asyncio.create_task(until(event, beat))
        before = next(beats)
        await eventually(lambda: next(beats) >= before + 20)
        assert not waits.done()
        event.set()
        await waits

    asyncio.run(run())


def test_waiting_ends_with_its_task() -> None:
    async def run() -> None:
        for waits in (rest(3600, no_beat), until(asyncio.Event(), no_beat)):
            task = asyncio.create_task(waits)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "wire.watchdog"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_the_watchdog_is_fed_while_all_make_progress_and_not_while_one_is_stuck(
    errors: Callable[[], list[str]],
) -> None:
    told: list[str] = []
    progress = Progress()

    async def never_comes() -> None:
        await asyncio.get_running_loop().create_future()

    async def run(beat: Callable[[], None]) -> None:
        watch = asyncio.create_task(keep_watch(progress, told.append, every_s=0.002))
        stuck = asyncio.create_task(never_comes(), name="deliver")
        await eventually(errors)
        fed = len(told)
        assert set(told) == {"WATCHDOG=1"}
        await asyncio.sleep(0.05)
        assert len(told) == fed
        while len(told) == fed:  # it comes around again
            beat()
            await asyncio.sleep(0.002)
        for task in (watch, stuck):
            task.cancel()
        await asyncio.wait((watch, stuck))

    with progress.watching("acquisition", 3600), progress.watching("delivery", 0.05) as beat:
        asyncio.run(run(beat))
    stall, *later = errors()
    assert "the watchdog is not fed: delivery (silent for" in stall
    assert "acquisition" not in stall
    assert "deliver waits at test_progress.py:" in stall
    assert later[:1] == ["every task makes progress again; the watchdog is fed"]


def test_a_service_manager_that_is_away_does_not_end_the_watch() -> None:
    tries = itertools.count()

    def away(_: str) -> None:
        next(tries)
        raise ConnectionRefusedError

    async def run() -> None:
        watch = asyncio.create_task(keep_watch(Progress(), away, every_s=0.001))
        await eventually(lambda: next(tries) >= 20)
        assert not watch.done()
        watch.cancel()
        await asyncio.wait((watch,))

    asyncio.run(run())
