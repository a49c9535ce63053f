"""The OPC UA source against a server of another make that works as it should."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from agent.sensors.opcua import OpcUaChannel, OpcUaSettings, opcua_blocks
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block
from shopfloor.ports import free_port
from tests.agent.opcua_plant import (
    DEADLINE_S,
    Plant,
    Taken,
    collecting,
    plant_settings,
    running_plant,
    until,
    until_more,
)

BAD_SENSOR_FAILURE = 0x808C0000
UNCERTAIN_LAST_USABLE_VALUE = 0x40900000
NAMES = ("Temperature", "Torque", "Count", "Broken", "Stale")


def settings(endpoint: str, *names: str, uri: str = "urn:journeyman:test") -> OpcUaSettings:
    return OpcUaSettings(
        endpoint=endpoint,
        namespace_uri=uri,
        publishing_interval_ms=50.0,
        retry_max_s=1.0,
        channel=tuple(OpcUaChannel(name=name, node=f"s={name}") for name in names),
    )


async def read(source: OpcUaSettings, number: int, folder: Path) -> Taken:
    async with collecting(source, folder) as taken:
        await until(lambda: sum(len(block) for block in taken.blocks) >= number, taken)
    return taken


@pytest.fixture(scope="module")
def plant(
    node_program: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    folder, scratch = repository / "tests" / "node_opcua", tmp_path_factory.mktemp("plant")
    options = {"numbers": 25, "max_items_per_call": 7}
    with running_plant(node_program, folder, scratch, **options) as running:
        yield running


@pytest.fixture(scope="module")
def taken(node_opcua_server: str, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """About half a second of every variable of the foreign server."""
    folder = tmp_path_factory.mktemp("source")
    return asyncio.run(read(settings(node_opcua_server, *NAMES), 150, folder))


def statuses(taken: Taken, name: str) -> set[int]:
    at = taken.channels.index(name)
    return {int(each) for block in taken.blocks for each in block.status[block.channel == at]}


def test_good_values_come_as_they_are(taken: Taken) -> None:
    for name, low, high in (("Temperature", 20, 30), ("Torque", 30, 50)):
        values = taken.values(name)
        assert len(values) > 10
        assert statuses(taken, name) == {0}
        assert all(low <= value <= high for value in values)


def test_values_of_one_channel_come_in_the_order_of_their_making(taken: Taken) -> None:
    for column in (taken.values("Count"), taken.times_us("Count")):
        assert column == sorted(set(column))


def test_a_bad_value_keeps_its_status_code_and_is_not_a_number(taken: Taken) -> None:
    assert statuses(taken, "Broken") == {BAD_SENSOR_FAILURE}
    assert np.isnan(taken.values("Broken")).all()


def test_an_uncertain_value_is_marked_and_kept(taken: Taken) -> None:
    assert statuses(taken, "Stale") == {UNCERTAIN_LAST_USABLE_VALUE}
    assert all(1500 <= value <= 1506 for value in taken.values("Stale"))


def test_an_unchanged_value_with_a_new_source_timestamp_is_a_sample_too(taken: Taken) -> None:
    stamps = taken.times_us("Broken")
    assert len(stamps) > 10
    assert stamps == sorted(set(stamps))


def test_source_timestamps_are_the_servers_own_and_one_per_scan(taken: Taken) -> None:
    scans = [set(taken.times_us(name)) for name in ("Count", "Torque")]
    assert len(scans[0] & scans[1]) > len(scans[0]) / 2
    assert all(abs(at - time.time() * 1e6) < 120e6 for at in scans[0])


def test_the_first_block_is_empty_and_says_that_everything_is_subscribed(
    node_opcua_server: str, tmp_path: Path
) -> None:
    report = SourceReport("opcua")

    async def first() -> Block:
        context = SourceContext(tmp_path, tmp_path, "agent-1")
        source = opcua_blocks(settings(node_opcua_server, *NAMES), context, report)
        async with asyncio.timeout(DEADLINE_S), aclosing(source) as blocks:
            return await anext(blocks)

    assert asyncio.run(first()).samples == 0
    assert report.state == "subscribed"


def test_what_is_not_on_the_server_is_reported_while_the_others_flow(
    node_opcua_server: str, tmp_path: Path
) -> None:
    channels = (
        OpcUaChannel(name="count", node="s=Count"),
        OpcUaChannel(name="nowhere", node="s=Nowhere"),
        OpcUaChannel(name="nobody", node="s=Count", namespace_uri="urn:nobody"),
        OpcUaChannel(name="lost", path="/Objects/Line1/Nothing"),
    )
    source = OpcUaSettings(
        endpoint=node_opcua_server, namespace_uri="urn:journeyman:test", channel=channels
    )
    problems = asyncio.run(read(source, 5, tmp_path)).report.problems
    assert set(problems) == {"nowhere", "nobody", "lost"}
    assert "s=Nowhere: BadNodeIdUnknown" in problems["nowhere"]
    assert "'urn:nobody'" in problems["nobody"]
    assert "urn:journeyman:test" in problems["nobody"]
    assert "BadNoMatch" in problems["lost"]


def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> Taken:
        source = settings(f"opc.tcp://127.0.0.1:{free_port()}/nothing", "Count")
        async with collecting(source, tmp_path) as taken:
            await until(lambda: taken.report.state.startswith("lost: "), taken)
            await asyncio.sleep(0.5)
        return taken

    assert asyncio.run(scenario()).samples == 0


def test_everything_is_created_within_the_servers_limits_and_by_browse_path(
    plant: Plant,
) -> None:
    names = [f"N{at}" for at in range(25)]
    source = plant_settings(plant.endpoint, *names)
    by_path = tuple(OpcUaChannel(name=f"P{at}", path=f"/Objects/Line1/N{at}") for at in range(25))
    source = plant_settings(plant.endpoint, channel=source.channel + by_path)

    async def scenario() -> Taken:
        async with collecting(source, plant.scratch) as taken:
            await until_more(taken, *taken.channels)
        return taken

    taken = asyncio.run(scenario())
    assert not taken.report.problems
    for at in range(25):
        offsets = {
            taken.values(name)[-1] - (taken.times_us(name)[-1] // 1000 - plant.start_ms) / 20
            for name in (f"N{at}", f"P{at}")
        }
        assert offsets == {float(at)}


def test_arrays_texts_and_structures_come_beside_numbers(plant: Plant) -> None:
    async def scenario() -> Taken:
        source = plant_settings(plant.endpoint, "Count", "Wave", "State", "Span")
        async with collecting(source, plant.scratch) as taken:
            await until_more(taken, "Count", "Span", number=20)
            await until_more(taken, "Wave", "State", number=1)
        return taken

    taken = asyncio.run(scenario())
    waves = taken.arrays("Wave")
    assert all((wave - wave[0]).tolist() == list(range(8)) for wave in waves)
    assert set(taken.values("State")) <= {0.0, 1.0}
    span = dict(zip(taken.times_us("Span"), taken.values("Span"), strict=True))
    count = dict(zip(taken.times_us("Count"), taken.values("Count"), strict=True))
    both = span.keys() & count.keys()
    assert len(both) > 10
    assert all(span[at] == count[at] + 1 for at in both)


def test_a_deadband_holds_small_changes_back(plant: Plant) -> None:
    async def scenario() -> Taken:
        channels = (
            OpcUaChannel(name="absolute", node="s=Count", deadband=10.0),
            OpcUaChannel(name="percent", node="s=Ranged", deadband=10.0, deadband_type="percent"),
            OpcUaChannel(name="refused", node="s=Late", deadband=10.0, deadband_type="percent"),
        )
        source = plant_settings(plant.endpoint, channel=channels)
        async with collecting(source, plant.scratch) as taken:
            await until_more(taken, "absolute", "percent", number=4)
            await until_more(taken, "refused", number=20)
        return taken

    taken = asyncio.run(scenario())
    for name in ("absolute", "percent"):
        assert min(abs(np.diff(taken.values(name)))) > 10
    assert "refuses the deadband" in taken.report.problems["refused"]
    assert max(np.diff(taken.values("refused"))) == 1


def test_stopping_takes_no_longer_than_its_goodbye(plant: Plant) -> None:
    async def scenario() -> float:
        async with collecting(plant_settings(plant.endpoint, "Count"), plant.scratch) as taken:
            await until_more(taken, "Count")
            started = time.monotonic()
        return time.monotonic() - started

    assert asyncio.run(scenario()) < DEADLINE_S / 10
