"""Links and servers fail in every way; every configured tag flows again, and no loss is silent.

The plant counts: a count that is missing is a sample that is missing.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.sensors.opcua import OpcUaSettings
from tests.agent.opcua_plant import (
    Plant,
    Taken,
    Wire,
    collecting,
    plant_settings,
    running_plant,
    until,
    until_more,
)

NAMES = ("Count", "Kept", "Wave", "State", "Span", "Still")
FAST = ("Count", "Kept", "Span")


@pytest.fixture(scope="module")
def plant(
    node_program: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    """A plant that these tests share: each leaves it as it found it."""
    folder, scratch = repository / "tests" / "node_opcua", tmp_path_factory.mktemp("plant")
    with running_plant(node_program, folder, scratch) as running:
        yield running


def assert_nothing_lost_and_nothing_twice(taken: Taken, *names: str) -> None:
    for name in names:
        assert not taken.missing(name), (name, taken.report)
        assert not taken.repeated(name), (name, taken.report)


def assert_every_loss_is_marked(taken: Taken, *names: str) -> None:
    for name in names:
        times = dict(zip(taken.values(name), taken.times_us(name), strict=True))
        spans = {(gap.from_us, gap.until_us) for gap in taken.gaps(name)}
        for before, after in taken.missing(name):
            assert (times[before], times[after]) in spans, (name, before, after, spans)
        assert not taken.repeated(name)


async def across(
    plant: Plant,
    settings: Callable[[str], OpcUaSettings],
    fault: Callable[[Wire, Taken], object],
) -> Taken:
    """What a source gave before, during and after a fault of the wire or the plant."""
    async with (
        Wire(plant.port).up() as wire,
        collecting(settings(plant.endpoint_at(wire.port)), plant.scratch) as taken,
    ):
        await until_more(taken, *FAST, number=20)
        await fault(wire, taken)  # type: ignore[misc]
        await until_more(taken, *FAST, number=20)
        await until_more(taken, "Wave", "State", number=1)
        return taken


def test_a_cut_of_four_seconds_loses_nothing(plant: Plant) -> None:
    async def cut(wire: Wire, _taken: Taken) -> None:
        wire.cut()
        await asyncio.sleep(4.0)
        wire.mend()

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES), cut))
    assert_nothing_lost_and_nothing_twice(taken, *FAST)
    assert not any(taken.gaps(name) for name in NAMES)
    assert taken.report.counters["connections_lost"] == 1
    assert any(block.is_replayed for block in taken.blocks)


def test_a_blackhole_of_ten_seconds_loses_nothing(plant: Plant) -> None:
    async def swallow(wire: Wire, _taken: Taken) -> None:
        wire.swallow()
        await asyncio.sleep(10.0)
        wire.mend()

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES), swallow))
    assert_nothing_lost_and_nothing_twice(taken, *FAST)
    assert not any(taken.gaps(name) for name in NAMES)


def test_a_restarted_server_gives_its_history_and_marks_the_rest(plant: Plant) -> None:
    async def restart(_wire: Wire, taken: Taken) -> None:
        plant.kill()
        await until(lambda: taken.report.state.startswith("lost"), taken)
        plant.start(keeps_history=True, without=[])

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES), restart))
    assert_nothing_lost_and_nothing_twice(taken, "Kept")
    assert not taken.gaps("Kept")
    assert len(taken.missing("Count")) == 1
    assert_every_loss_is_marked(taken, "Count", "Span")
    assert taken.report.counters["backfilled_samples"] > 0


def test_a_tag_that_is_missing_after_a_restart_is_reported_and_flows_when_it_comes_back(
    plant: Plant,
) -> None:
    names = (*NAMES, "Late")

    async def restart_without(_wire: Wire, taken: Taken) -> None:
        await until_more(taken, "Late")
        plant.kill()
        await until(lambda: taken.report.state.startswith("lost"), taken)
        plant.start(keeps_history=False, without=["Late"])
        await until_more(taken, *FAST, number=20)
        assert set(taken.report.problems) == {"Late"}
        assert "BadNodeIdUnknown" in taken.report.problems["Late"]
        plant.tell("add Late")
        await until_more(taken, "Late")

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *names), restart_without))
    assert not taken.report.problems
    assert_every_loss_is_marked(taken, "Count", "Late")


def test_a_tag_whose_node_is_removed_and_added_again_flows_again(plant: Plant) -> None:
    async def remove(_wire: Wire, taken: Taken) -> None:
        plant.tell("remove Late")
        await until(lambda: "Late" in taken.report.problems, taken)
        plant.tell("add Late")
        await until_more(taken, "Late")

    def settings(at: str) -> OpcUaSettings:
        return plant_settings(at, *NAMES, "Late", audit_s=0.5)

    taken = asyncio.run(across(plant, settings, remove))
    assert not taken.report.problems
    assert taken.report.counters["connections"] == 1
    assert_nothing_lost_and_nothing_twice(taken, *FAST)
    assert_every_loss_is_marked(taken, "Late")


def test_an_item_that_the_server_drops_without_a_word_is_noticed_and_made_again(
    plant: Plant,
) -> None:
    async def drop(_wire: Wire, taken: Taken) -> None:
        plant.tell("drop Count")
        await until(lambda: taken.report.counters.get("lost_items", 0) > 0, taken)

    def settings(at: str) -> OpcUaSettings:
        return plant_settings(at, *NAMES, audit_s=0.5)

    taken = asyncio.run(across(plant, settings, drop))
    assert taken.report.counters["connections"] == 1
    assert_nothing_lost_and_nothing_twice(taken, "Kept", "Span")
    assert_every_loss_is_marked(taken, "Count")


def test_subscriptions_that_the_server_ends_are_made_again(plant: Plant) -> None:
    async def end(_wire: Wire, taken: Taken) -> None:
        plant.tell("end")
        await until(lambda: taken.report.counters.get("connections_lost", 0) > 0, taken)

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES), end))
    assert_nothing_lost_and_nothing_twice(taken, "Kept")
    assert not taken.gaps("Kept")
    assert_every_loss_is_marked(taken, "Count", "Span")


def test_a_session_that_the_server_forgot_is_made_anew(plant: Plant) -> None:
    async def forget(wire: Wire, taken: Taken) -> None:
        wire.cut()
        plant.tell("forget")
        await until(lambda: taken.report.state.startswith("lost"), taken)
        wire.mend()

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES, history=True), forget))
    assert_nothing_lost_and_nothing_twice(taken, "Kept")
    assert not taken.gaps("Kept")
    assert_every_loss_is_marked(taken, "Count", "Span")
    assert ["history can not be read" in gap.reason for gap in taken.gaps("Count")] == [True]


def test_a_queue_of_the_server_that_overflows_is_a_gap(plant: Plant) -> None:
    async def cut(wire: Wire, _taken: Taken) -> None:
        wire.cut()
        await asyncio.sleep(1.5)
        wire.mend()

    taken = asyncio.run(across(plant, lambda at: plant_settings(at, *NAMES, queue_size=10), cut))
    assert taken.missing("Count")
    assert_every_loss_is_marked(taken, "Count", "Kept")
    assert any("overflowed" in gap.reason for gap in taken.gaps("Count"))
