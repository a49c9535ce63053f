"""`journeyman-agent browse`: what a server has, within bounds, and tables that load."""

import argparse
import asyncio
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncua import Client, Server, ua
from hypothesis import given
from hypothesis import strategies as st

from agent.browse.facts import number_paths
from agent.browse.found import Bounds, Facts, Node, Walk
from agent.browse.paste import channel_name, quoted, tables
from agent.browse.tree import tree
from agent.browse.walk import PathError, walk
from agent.browse_command import add_browse
from agent.config import read_agent_settings
from agent.sensors.opcua import OpcUaSettings, problems
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.opcua.trust_store import pki_directory
from agent.sources import SourceTable
from shopfloor.ports import free_port
from tests.agent.federation import Federation, agent_toml
from wire.errors import SettingsError
from wire.settings import parse_settings

URI, OTHER_URI = "urn:journeyman:plant", "urn:journeyman:other"
OPEN = SecuritySettings()


def named(index: int, identifier: str | int) -> ua.NodeId:
    """A NodeId in this namespace."""
    if isinstance(identifier, int):
        return ua.NodeId(ua.Int32(identifier), ua.Int16(index))
    return ua.NodeId(ua.String(identifier), ua.Int16(index))


def browse(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_browse(parser.add_subparsers())
    options = parser.parse_args(["browse", *words])
    return int(options.command(options))


def loaded(text: str) -> OpcUaSettings:
    """The source in tables that were printed, as the agent reads them."""
    table = parse_settings(
        text.replace("[[source.", "[[").replace("[source.", "["), SourceTable, ""
    )
    assert isinstance(table.opcua, tuple)
    (settings,) = table.opcua
    assert list(problems(settings)) == []
    return settings


async def plant(server: Server) -> None:
    """Objects with what PLCs have, and two ways to the same ones."""
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(URI)
    other = await server.register_namespace(OTHER_URI)
    line = await server.nodes.objects.add_object(named(index, "Line1"), f"{index}:Line1")
    await line.add_variable(named(index, "Line1.Temperature"), "Temperature", 21.5)
    await line.add_variable(named(index, "Wave"), "Wave", [0.5] * 64, ua.VariantType.Float)
    written = await line.add_variable(named(other, 7001), "SetPoint", 3, ua.VariantType.Int32)
    await written.set_writable()
    await line.add_variable(named(index, "Line1.State"), "State", 'RUN "fast"')
    await line.add_variable(named(index, "Line1.Empty"), "Empty", [], ua.VariantType.Double)
    await line.add_variable(named(index, "Line1.When"), "When", b"\0", ua.VariantType.ByteString)
    axis = await line.add_object(named(index, "Axis"), f"{index}:Axis")
    await axis.add_variable(named(index, 'odd; "name" \\ ü'), "Temperature", 1.5)
    await axis.add_variable(named(index, "Limits"), "Limits", ua.Range(Low=1.0, High=2.0))
    await axis.add_reference(line, ua.ObjectIds.Organizes)  # a cycle


LOOKS: dict[str, tuple[str, Bounds]] = {
    "whole": ("/Objects/Line1", Bounds()),
    "shallow": ("/Objects/Line1", Bounds(depth=1)),
    "few": ("/Objects", Bounds(nodes=5)),
    "late": ("/Objects", Bounds(seconds=0.0)),
    "named": ("/Objects/{" + URI + "}Line1/Axis", Bounds(depth=1)),
    "absent": ("/Objects/Line9", Bounds()),
    "foreign": ("/Objects/{" + OTHER_URI + "}Line1", Bounds()),
    "no path": ("Objects", Bounds()),
}


@pytest.fixture(scope="module")
def looks() -> dict[str, Walk | PathError]:
    """Walks over one plant, for its server takes seconds to start."""
    found: dict[str, Walk | PathError] = {}

    async def look() -> None:
        server = Server()
        await server.init()
        endpoint = f"opc.tcp://127.0.0.1:{free_port()}/plant"
        server.set_endpoint(endpoint)
        await plant(server)
        async with server, Client(endpoint) as client:
            for name, (path, bounds) in LOOKS.items():
                try:
                    found[name] = await walk(client.uaclient.session, path, bounds)
                except PathError as error:
                    found[name] = error

    asyncio.run(look())
    return found


@pytest.fixture
def whole(looks: dict[str, Walk | PathError]) -> Walk:
    walked = looks["whole"]
    assert isinstance(walked, Walk)
    return walked


def test_the_tree_shows_types_values_units_and_what_the_user_may_do(whole: Walk) -> None:
    lines = {line.split()[0]: line for line in tree(whole) if line}
    text = "\n".join(tree(whole))
    assert "Double" in lines["Temperature"]
    assert "Float[64]" in lines["Wave"]
    assert "0.5, 0.5, 0.5, ..." in lines["Wave"]
    assert "rw-" in lines["SetPoint"]
    assert "r--" in lines["Wave"]
    assert "numbers: Low, High" in lines["Limits"]
    assert f"namespace 2: {URI}" in text
    assert "see above" in lines["Line1"] or text.count("see above") == 1
    assert "there may be more" not in text


def test_what_is_printed_loads_as_the_agents_own_settings(whole: Walk) -> None:
    text = "\n".join(tables(whole, "opc.tcp://h:4840", OPEN))
    settings = loaded(text)
    channels = {channel.name: channel for channel in settings.channel}
    assert settings.namespace_uri == URI
    assert channels["temperature"].node == "s=Line1.Temperature"
    assert channels["axis_temperature"].node == 's=odd; "name" \\ ü'
    assert channels["wave"].shape == (64,)
    assert channels["set_point"].node == "i=7001"
    assert channels["set_point"].namespace_uri == OTHER_URI
    assert channels["limits_low"].field == "Low"
    assert set(channels) == {
        "temperature",
        "axis_temperature",
        "wave",
        "set_point",
        "limits_low",
        "limits_high",
    }
    assert '# states = { "RUN \\"fast\\"" = 1 }' in text
    assert "# Empty: left out, an array of shape [0]" in text


def test_a_text_becomes_a_channel_when_the_comment_marks_are_taken_away(whole: Walk) -> None:
    text = "\n".join(tables(whole, "opc.tcp://h:4840", OPEN))
    lines = text.splitlines()
    at = lines.index('# name = "state"')
    lines[at - 1 : at + 3] = [line.removeprefix("# ") for line in lines[at - 1 : at + 3]]
    channels = {channel.name: channel for channel in loaded("\n".join(lines)).channel}
    assert channels["state"].states == {'RUN "fast"': 1.0}


def test_bounds_of_depth_nodes_and_time_are_kept_and_told(
    looks: dict[str, Walk | PathError],
) -> None:
    shallow, few, late = looks["shallow"], looks["few"], looks["late"]
    assert isinstance(shallow, Walk)
    assert isinstance(few, Walk)
    assert isinstance(late, Walk)
    assert {node.depth for node in shallow.nodes} == {0, 1}
    assert [node.note for node in shallow.nodes if node.name == "Axis"] == ["not entered: --depth"]
    assert len(few.nodes) == 5
    assert "stopped after 5 nodes" in few.cut
    assert "# This is not all" in "\n".join(tables(few, "opc.tcp://h:1", OPEN))
    assert "stopped after 0 s" in late.cut
    assert len(late.nodes) == 1


def test_a_path_that_is_not_there_says_what_is(looks: dict[str, Walk | PathError]) -> None:
    assert re.search(r"Objects has no 'Line9'; it has .*'Line1'", str(looks["absent"]))
    assert "Objects has no 'Line1'" in str(looks["foreign"])
    assert "not a browse path" in str(looks["no path"])
    axis = looks["named"]
    assert isinstance(axis, Walk)
    assert axis.nodes[0].name == "Axis"


def test_a_foreign_server_gives_units_and_its_tables_make_a_whole_configuration(
    node_opcua_server: str,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert browse(node_opcua_server, "--path", "/Objects/Line1") == 0
    shown = capsys.readouterr().out
    assert "N.m" in shown
    assert "Bad (BadSensorFailure)" in shown
    assert "Uncertain (UncertainLastUsableValue)" in shown
    assert browse(node_opcua_server, "--path", "/Objects/Line1", "--toml") == 0
    source = capsys.readouterr().out
    whole = agent_toml(federation)
    head = whole[: whole.index("[source.opcua]")].replace("product_count", "count")
    (tmp_path / "agent.toml").write_text(head + source)
    settings = read_agent_settings(tmp_path / "agent.toml")
    assert {(channel.name, channel.unit) for channel in settings.channels} >= {
        ("temperature", "°C"),
        ("torque", "N.m"),
        ("stale", "r/min"),
    }
    assert browse(node_opcua_server, "--nodes", "50") == 0
    assert "--path /Objects/Server" in capsys.readouterr().out


def test_a_file_without_channels_yet_gives_endpoint_security_and_trust(
    node_opcua_server: str,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = agent_toml(federation)
    config = tmp_path / "agent.toml"
    config.write_text(
        whole[: whole.index("[source.opcua]")]
        + f'[[source.opcua]]\nendpoint = "{node_opcua_server}"\n'
        + '[source.opcua.security]\npolicy = "Basic256Sha256"\n'
    )
    assert browse(str(config), "--path", "/Objects/Line1") == 1
    assert "journeyman-agent trust add CONFIG" in capsys.readouterr().err
    pki = pki_directory(tmp_path / "state")
    (rejected,) = (pki / "rejected").iterdir()
    (pki / "trusted").mkdir(exist_ok=True)
    rejected.rename(pki / "trusted" / "line.der")
    assert browse(str(config), "--path", "/Objects/Line1", "--toml") == 0
    source = capsys.readouterr().out
    assert loaded(source).security.policy == "Basic256Sha256"


def test_what_can_not_be_asked_is_an_error_that_says_what_to_do(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert browse(f"opc.tcp://127.0.0.1:{free_port()}") == 1
    assert "Connect call failed" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="give --config"):
        browse("opc.tcp://127.0.0.1:1", "--policy", "Basic256Sha256")
    with pytest.raises(SettingsError, match="cross the network unprotected"):
        browse("opc.tcp://127.0.0.1:1", "--user", "u", "--password-file", "p")
    config = tmp_path / "agent.toml"
    whole = agent_toml(federation)
    config.write_text(whole[: whole.index("[source.opcua]")])
    with pytest.raises(SettingsError, match="give the endpoint"):
        browse(str(config))


@given(st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=8), st.text(max_size=150))
def test_names_that_strangers_gave_make_tables_that_load(names: list[str], unit: str) -> None:
    facts = Facts("Double", ua.VariantType.Double.value, 1.0, unit=unit, access=1)
    nodes = [Node(named(1, "root"), "root", 0, -1)]
    nodes += [Node(named(1, name), name, 1, 0, facts) for name in names]
    text = "\n".join(tables(Walk(["", "urn:x"], nodes), "opc.tcp://h:4840", OPEN))
    assert len(loaded(text).channel) == len(names)


@given(st.text())
def test_any_text_survives_as_a_toml_string(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}")["a"] == text


def test_names_are_unique_however_many_nodes_are_called_the_same() -> None:
    nodes = [Node(named(0, 1), "A" * 120, 0, -1)]
    nodes += [Node(named(0, at), "B" * 120, 1, 0) for at in range(1, 15)]
    taken: set[str] = set()
    names = [channel_name(Walk([], nodes), node, "", taken) for node in nodes[1:]]
    assert len(set(names)) == 14
    assert all(0 < len(name) <= 100 for name in names)


def test_numbers_are_found_in_structures_however_they_were_parsed() -> None:
    value = {"Serial": 7, "Axes": [{"Rms": 0.5, "Name": "x"}], "Main": ua.Range(Low=1, High=2)}
    assert list(number_paths(value)) == ["Serial", "Axes.0.Rms", "Main.Low", "Main.High"]
    endless: dict[str, object] = {}
    endless["Again"] = endless
    assert list(number_paths(endless)) == []


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("asyncua").setLevel(logging.WARNING)
