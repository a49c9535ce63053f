"""The OPC UA source against a server of another make, and against one that dies."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from agent.sensors.opcua import ChannelSettings, OpcUaSettings, SourceLostError, opcua_samples
from agent.signals.sample import Sample
from shopfloor.machine import NAMESPACE_URI
from tests.agent.conftest import StartMachine

BAD_SENSOR_FAILURE = 0x808C0000
UNCERTAIN_LAST_USABLE_VALUE = 0x40900000
NAMES = ("Temperature", "Torque", "Count", "Broken", "Stale")


def settings(
    endpoint: str,
    names: tuple[str, ...] = NAMES,
    namespace_uri: str = "urn:journeyman:test",
) -> OpcUaSettings:
    return OpcUaSettings(
        endpoint=endpoint,
        namespace_uri=namespace_uri,
        publishing_interval_ms=50.0,
        channel=tuple(ChannelSettings(name=name.lower(), node=f"s={name}") for name in names),
    )


async def some(batches: AsyncGenerator[list[Sample], None], number: int) -> list[Sample]:
    taken: list[Sample] = []
    async for batch in batches:
        taken += batch
        if len(taken) >= number:
            break
    return taken


async def read(source: OpcUaSettings, number: int) -> list[Sample]:
    async with asyncio.timeout(30), aclosing(opcua_samples(source)) as batches:
        return await some(batches, number)


@pytest.fixture(scope="module")
def read_samples(node_opcua_server: str) -> dict[str, list[Sample]]:
    """About half a second of every variable of the foreign server, by name."""
    samples = asyncio.run(read(settings(node_opcua_server), 150))
    return {
        name: [sample for sample in samples if sample.channel == channel]
        for channel, name in enumerate(NAMES)
    }


def test_good_values_come_as_they_are(read_samples: dict[str, list[Sample]]) -> None:
    for name, low, high in (("Temperature", 20, 30), ("Torque", 30, 50)):
        samples = read_samples[name]
        assert len(samples) > 10
        assert all(sample.is_good and low <= sample.value <= high for sample in samples)


def test_values_of_one_channel_come_in_the_order_of_their_making(
    read_samples: dict[str, list[Sample]],
) -> None:
    samples = read_samples["Count"]  # the server samples, so it may leave some out
    for of in ("value", "source_timestamp_us"):
        found = [getattr(sample, of) for sample in samples]
        assert found == sorted(set(found))


def test_a_bad_value_keeps_its_status_code_and_is_not_a_number(
    read_samples: dict[str, list[Sample]],
) -> None:
    samples = read_samples["Broken"]
    assert {sample.status for sample in samples} == {BAD_SENSOR_FAILURE}
    assert all(math.isnan(sample.value) for sample in samples)
    assert not any(sample.is_good or sample.is_uncertain for sample in samples)


def test_an_uncertain_value_is_marked_and_kept(read_samples: dict[str, list[Sample]]) -> None:
    samples = read_samples["Stale"]
    assert {sample.status for sample in samples} == {UNCERTAIN_LAST_USABLE_VALUE}
    assert all(sample.is_uncertain and 1500 <= sample.value <= 1506 for sample in samples)


def test_an_unchanged_value_with_a_new_source_timestamp_is_a_sample_too(
    read_samples: dict[str, list[Sample]],
) -> None:
    stamps = [sample.source_timestamp_us for sample in read_samples["Broken"]]
    assert len(stamps) > 10
    assert stamps == sorted(set(stamps))


def test_source_timestamps_are_the_servers_own_and_one_per_scan(
    read_samples: dict[str, list[Sample]],
) -> None:
    scans = [{s.source_timestamp_us for s in read_samples[name]} for name in ("Count", "Torque")]
    assert len(scans[0] & scans[1]) > len(scans[0]) / 2
    assert all(abs(at - time.time() * 1e6) < 120e6 for at in scans[0])


def test_the_first_batch_says_that_the_subscription_stands(node_opcua_server: str) -> None:
    async def first() -> list[Sample]:
        async with aclosing(opcua_samples(settings(node_opcua_server))) as batches:
            return await anext(batches)

    assert asyncio.run(first()) == []


def test_a_node_that_does_not_exist_is_named(node_opcua_server: str) -> None:
    with pytest.raises(SourceLostError, match=r"s=Nowhere \(nowhere\): BadNodeIdUnknown"):
        asyncio.run(read(settings(node_opcua_server, ("Torque", "Nowhere")), 1))


def test_a_namespace_that_does_not_exist_is_named_with_those_that_do(
    node_opcua_server: str,
) -> None:
    wrong = settings(node_opcua_server, namespace_uri="urn:nobody")
    with pytest.raises(SourceLostError, match=r"'urn:nobody'.*urn:journeyman:test"):
        asyncio.run(read(wrong, 1))


def test_a_server_that_is_not_there_is_a_lost_source() -> None:
    with pytest.raises(SourceLostError, match=r"opc\.tcp://127\.0\.0\.1:1/"):
        asyncio.run(read(settings("opc.tcp://127.0.0.1:1/nothing"), 1))


def test_a_killed_server_is_a_lost_source_within_seconds(start_machine: StartMachine) -> None:
    machine = start_machine()
    source = settings(machine.endpoint, ("Torque", "ProductCount"), NAMESPACE_URI)

    async def scenario() -> None:
        async with asyncio.timeout(30), aclosing(opcua_samples(source)) as batches:
            assert len(await some(batches, 20)) >= 20
            machine.process.kill()
            with pytest.raises(SourceLostError, match=r"opc\.tcp://127\.0\.0\.1"):
                await some(batches, 1_000_000)

    started = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - started < 20
