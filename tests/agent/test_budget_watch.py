"""A gateway that gets too hot, too busy or too full while it trains; the training is real."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest

import agent.learner
from agent.budget import Budget, BudgetTable, BudgetWatch, Readings, read_machine
from agent.config import Identity
from agent.learning.limits import IDLE, lower_this_thread, priority_of
from agent.learning.worker import TrainingProcess
from agent.making import Trained
from tests.agent.federation import POLICY, Federation, feed
from tests.agent.test_learner import (
    LONG,
    Site,
    expected_params,
    failing_rows,
    learned,
    learning,
)
from tests.agent.test_personal import TABLE, serving
from tests.agent.test_personal import Site as PersonalSite
from wire.messages import Policy
from wire.tensors import flatten

__all__ = ["learned"]

CHECKPOINT = "training.checkpoint"
AT_ONCE = BudgetTable(max_temperature_c=80, cool_down_c=8, min_pause_s=0)


@dataclass
class Weather:
    """A gateway in a cabinet: what its kernel tells is said here."""

    temperature_c: float = 40.0
    free_bytes: int = 1 << 30
    looked_s: float = 0.0
    tasks: set[int | None] = field(default_factory=set)

    def read(self, task: int | None) -> Readings:
        self.tasks.add(task)
        self.looked_s += 2.0
        return Readings(self.looked_s, temperature_c=self.temperature_c, free_bytes=self.free_bytes)


@asynccontextmanager
async def watched(site: Site, weather: Weather) -> AsyncIterator[Budget]:
    """Hold the learner of a site to a budget."""
    budget = site.learner.budget
    budget.limit(AT_ONCE)
    watch = BudgetWatch(budget, site.learner.process, weather.read, look_s=0.01)
    task = asyncio.create_task(watch.run())
    try:
        yield budget
        assert not task.done(), "the watch ended"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than a gateway need."""
    monkeypatch.setattr(agent.learner, "_PAUSE_LOOK_S", 0.01)


def begun(federation: Federation, site: Site, policy: Policy = LONG) -> None:
    site.history.append(failing_rows(400, start=1000))
    feed(site.adoption, federation.publish(1, policy=policy))


async def ended(site: Site) -> None:
    await site.until(lambda: site.status.learning == "waiting for a version after 0")


def test_no_training_begins_on_a_gateway_that_is_too_hot(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    async def scenario(site: Site) -> None:
        async with watched(site, weather := Weather(temperature_c=81.0)) as budget:
            await site.until(lambda: budget.reason != "")
            begun(federation, site, POLICY)
            said = "waiting: 81 °C, training begins again below 72 °C"
            await site.until(lambda: site.status.learning == said)
            assert site.outbox.produced == 0
            assert not (tmp_path / CHECKPOINT).exists()
            weather.temperature_c = 60.0
            await ended(site)
        assert site.outbox.produced == 1

    learning(federation, identity, tmp_path, scenario)


def test_a_training_with_pauses_ends_as_one_without_and_makes_one_update(
    federation: Federation, identity: Identity, tmp_path: Path, learned: list[Trained]
) -> None:
    async def paused(site: Site, reason: str) -> bytes:
        """Wait for a pause; what is reached by then is on the disk, and nothing is added to it."""
        await site.until(lambda: site.status.learning.startswith(f"waiting: {reason}"))
        kept = (tmp_path / CHECKPOINT).read_bytes()
        await asyncio.sleep(0.2)  # four times as long as from one checkpoint to the next
        assert (tmp_path / CHECKPOINT).read_bytes() == kept
        return kept

    async def scenario(site: Site) -> None:
        process = site.learner.process
        async with watched(site, weather := Weather()) as budget:
            begun(federation, site)
            await site.until((tmp_path / CHECKPOINT).exists)
            weather.temperature_c = 90.0
            kept, first = await paused(site, "90 °C"), process.pid
            assert first in weather.tasks
            weather.temperature_c = 60.0
            await site.until(lambda: (tmp_path / CHECKPOINT).read_bytes() != kept)
            weather.free_bytes = 1 << 20
            await site.until(lambda: process.pid is None)  # and its memory is given back
            assert await paused(site, "1 MiB of memory are free") != kept
            assert (budget.kind, site.outbox.produced) == ("free memory", 0)
            weather.free_bytes = 1 << 30
            await ended(site)
            assert process.pid not in (None, first)

    learning(federation, identity, tmp_path, scenario)
    (trained,) = learned
    expected = expected_params(federation, tmp_path)
    assert np.array_equal(flatten(trained.params), flatten(expected))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_pause_ends_without_an_update_when_another_bundle_is_in_use(
    federation: Federation, identity: Identity, tmp_path: Path, learned: list[Trained]
) -> None:
    async def scenario(site: Site) -> None:
        async with watched(site, weather := Weather()):
            begun(federation, site)
            await site.until((tmp_path / CHECKPOINT).exists)
            weather.temperature_c = 90.0
            await site.until(lambda: site.status.learning.startswith("waiting: 90 °C"))
            other = federation.learning(name="another-job")
            feed(site.adoption, other.publish(2, policy=POLICY))
            await asyncio.sleep(0.1)
            weather.temperature_c = 60.0
            await ended(site)
        assert site.outbox.produced == 1

    learning(federation, identity, tmp_path, scenario)
    assert len(learned) == 1


def test_a_stop_during_a_pause_keeps_what_was_learned(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def hot(site: Site) -> None:
        async with watched(site, weather := Weather()):
            begun(federation, site, msgspec.structs.replace(LONG, epochs=300))
            await site.until((tmp_path / CHECKPOINT).exists)
            weather.temperature_c = 90.0
            await site.until(lambda: site.status.learning.startswith("waiting: 90 °C"))

    learning(federation, identity, tmp_path, hot)
    assert not learned
    assert "going on" not in caplog.text
    learning(federation, identity, tmp_path, ended)
    assert caplog.text.count("going on with the training from version 0") == 1
    assert len(learned) == 1


def test_a_model_of_the_sites_own_waits_as_well_and_is_chosen_afterwards(
    federation: Federation, tmp_path: Path
) -> None:
    slow = msgspec.structs.replace(
        TABLE,
        models=("global", "local"),
        local_normalisation=False,
        local_epochs=150,
        local_patience=150,
    )

    async def scenario(site: PersonalSite) -> None:
        personal, weather, budget = site.personal, Weather(), Budget(AT_ONCE)
        personal.withheld = lambda: budget.reason
        watch = BudgetWatch(budget, personal.process, weather.read, look_s=0.01)
        task = asyncio.create_task(watch.run())
        site.history.append(failing_rows(600))
        feed(site.adoption, federation.publish(1))
        await site.until(lambda: personal.state == "preparing")
        weather.temperature_c = 90.0
        await site.until(lambda: budget.reason != "")
        before = None
        while before != (before := read_machine(personal.process.pid).worker):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        assert not personal.changed.is_set()
        weather.temperature_c = 60.0
        await site.until_chosen()
        task.cancel()

    serving(federation, tmp_path, scenario, slow)


def session_nice(pid: int) -> str:
    """Priority of the session that a process leads; empty where the kernel has none."""
    group = Path(f"/proc/{pid}/autogroup")
    return " ".join(group.read_text().split()[1:]) if group.exists() else ""


def test_an_idle_child_takes_only_what_nobody_wants_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def run() -> None:
        async with TrainingProcess(nice=IDLE) as child:
            watch = BudgetWatch(Budget(), child, Weather().read, look_s=0.01)
            task = asyncio.create_task(watch.run())
            while "SCHED_IDLE" not in caplog.text:  # noqa: ASYNC110  the child says nothing itself
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            task.cancel()
            assert child.pid is not None
            assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
            assert session_nice(child.pid) in ("nice 19", "")

    asyncio.run(run())
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert caplog.text.count("training runs with priority nice 19, SCHED_IDLE") == 1


def test_a_thread_that_trains_gives_way_a_little_and_the_agent_does_not() -> None:
    async def run() -> str:
        def lowered() -> str:
            lower_this_thread()
            return priority_of(0)

        return await asyncio.to_thread(lowered)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(run()) == f"nice {min(before + 5, 19)}"
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_task_that_is_gone_has_no_priority() -> None:
    assert priority_of(1 << 22) == ""
