"""What `[scores]` refuses, and what its documents say."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings
from agent.serve.document import ScoreDocument, schema
from agent.serve.nodes import _DRIVERS, _VARIABLES
from agent.serve.score import Score
from agent.serve.settings import (
    MqttSettings,
    OpcUaServerSettings,
    ScoresTable,
    WriteBackSettings,
    filled,
    is_loopback,
    problems,
)

NODES = {**_VARIABLES, **_DRIVERS}
SERVE = Path("agent") / "serve"
ENDPOINT = "opc.tcp://10.0.0.5:4840"
SOURCE = OpcUaSettings(
    endpoint=ENDPOINT,
    namespace_uri="urn:machine",
    channel=(OpcUaChannel(name="torque", node="s=Torque"),),
)


def _wrong(**tables: Any) -> dict[str, str]:
    return dict(problems(ScoresTable(**tables), (SOURCE,)))


def _target(**keys: Any) -> WriteBackSettings:
    given = {"endpoint": ENDPOINT, "namespace_uri": "urn:plc", "node": "s=Score", **keys}
    return WriteBackSettings(**given)


def test_nothing_leaves_the_agent_by_default() -> None:
    table = msgspec.convert({}, ScoresTable)
    assert (table.mqtt, table.opcua, table.write_back) == (None, None, ())
    assert not _target().enabled
    assert _wrong() == {}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (MqttSettings(topic="scores/+"), "mqtt.topic"),
        (MqttSettings(topic="$SYS/scores"), "mqtt.topic"),
        (MqttSettings(topic="a", availability_topic="a"), "mqtt.availability_topic"),
        (MqttSettings(key_file="k", ca_file="a"), "mqtt.key_file"),
        (MqttSettings(cert_file="c"), "mqtt.cert_file"),
        (MqttSettings(password_file="p"), "mqtt.password_file"),
    ],
)
def test_a_contradiction_in_the_brokers_table_is_named(settings: MqttSettings, key: str) -> None:
    assert list(_wrong(mqtt=settings)) == [key]


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:4841", "http://127.0.0.1:4841", "opc.tcp://127.0.0.1", "opc.tcp://h:x"]
)
def test_an_address_to_listen_on_has_scheme_host_and_port(listen: str) -> None:
    assert list(_wrong(opcua=OpcUaServerSettings(listen=listen))) == ["opcua.listen"]
    assert _wrong(opcua=OpcUaServerSettings()) == {}


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (_target(endpoint="opc.tcp://10.0.0.6:4840"), "endpoint"),
        (_target(node="Score"), "node"),
        (_target(node="ns=2;s=Score"), "node"),
        (_target(scale=0.0), "scale"),
        (_target(scale=10.0, field="count"), "scale"),
    ],
)
def test_what_may_not_be_written_is_named_with_its_key(target: WriteBackSettings, key: str) -> None:
    assert list(_wrong(write_back=(_target(node="i=7"), target))) == [f"write_back[1].{key}"]


def test_one_node_is_listed_once() -> None:
    wrong = _wrong(write_back=(_target(), _target(field="alarm")))
    assert wrong == {"write_back[1].node": "this node is listed twice"}


def test_only_addresses_of_this_machine_alone_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gateway", "")))


def test_topics_get_the_names_of_site_and_agent() -> None:
    assert filled(MqttSettings().topic, site="lyon", agent="gw-1") == "journeyman/lyon/gw-1/score"


def test_the_schema_file_is_that_of_the_documents(repository: Path) -> None:
    assert json.loads((repository / SERVE / "score.schema.json").read_text()) == schema()


def test_the_readme_explains_every_key_of_the_document_and_every_node(repository: Path) -> None:
    text = (repository / SERVE / "README.md").read_text()
    example = msgspec.json.decode(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    named = {field.encode_name for field in msgspec.structs.fields(ScoreDocument)}
    assert set(example) == named
    assert msgspec.convert(example, ScoreDocument).unit == ""
    table = re.findall(r"`(\w+)`", text.partition("| Key |")[2].partition("\n\n")[0])
    assert named <= set(table)
    assert all(re.search(rf"\b{name}\b", text) for name in NODES)
    assert {field.name for field in fields(Score)} >= {"source_timestamp_us", "status"}
