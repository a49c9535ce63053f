"""The independent OPC UA server really serves what tests of the agent will rely on."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from asyncua import Client, ua

NAMES = ("Temperature", "Torque", "Count", "Broken", "Stale")


async def _read(url: str) -> tuple[dict[str, ua.DataValue], dict[str, str]]:
    values: dict[str, ua.DataValue] = {}
    units: dict[str, str] = {}
    async with Client(url) as client:
        index = await client.get_namespace_index("urn:journeyman:test")
        for name in NAMES:
            node = client.get_node(f"ns={index};s={name}")
            values[name] = await node.read_data_value(raise_on_bad_status=False)
            unit = await (await node.get_child("0:EngineeringUnits")).read_value()
            units[name] = unit.DisplayName.Text
    return values, units


@pytest.fixture(scope="module")
def reading(node_opcua_server: str) -> tuple[dict[str, ua.DataValue], dict[str, str]]:
    return asyncio.run(_read(node_opcua_server))


def test_the_peer_serves_good_uncertain_and_bad_values(
    reading: tuple[dict[str, ua.DataValue], dict[str, str]],
) -> None:
    values, _ = reading
    assert {name: value.StatusCode and value.StatusCode.name for name, value in values.items()} == {
        "Temperature": "Good",
        "Torque": "Good",
        "Count": "Good",
        "Broken": "BadSensorFailure",
        "Stale": "UncertainLastUsableValue",
    }


def test_the_peer_gives_units_and_fresh_source_timestamps(
    reading: tuple[dict[str, ua.DataValue], dict[str, str]],
) -> None:
    values, units = reading
    assert units == {
        "Temperature": "°C",
        "Torque": "N.m",
        "Count": "1",
        "Broken": "°C",
        "Stale": "r/min",
    }
    oldest = datetime.now(UTC) - timedelta(minutes=1)
    assert all(
        value.SourceTimestamp and value.SourceTimestamp > oldest for value in values.values()
    )
