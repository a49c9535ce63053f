"""What the server is asked to watch, and what becomes of values that are no plain numbers."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from asyncua import ua

from agent.sensors.opcua import OpcUaChannel, OpcUaSettings, node_problem, problems
from agent.sensors.opcua.columns import ArrayValue, Columns
from agent.sensors.opcua.intake import Intake
from agent.sensors.opcua.items import create_request, kind_of
from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.session import Items, OtherValue
from agent.sensors.opcua.settings import UA_NAMESPACE, path_segments
from agent.sensors.opcua.structures import Structures
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.opcua.values import BAD_TYPE_MISMATCH, Values
from agent.sensors.source import SourceReport
from agent.signals.block import Block
from wire.settings import read_settings

HERE = Path(__file__).resolve().parents[2] / "agent" / "sensors" / "opcua"
BAD_SENSOR_FAILURE = 0x808C_0000
BAD_NODE_ID_UNKNOWN = 0x8034_0000


def source(*channels: OpcUaChannel, **keys: Any) -> OpcUaSettings:
    given: dict[str, Any] = {"namespace_uri": "urn:plant", **keys}
    return OpcUaSettings(endpoint="opc.tcp://10.0.0.5:4840", channel=channels, **given)


def channel(**keys: Any) -> OpcUaChannel:
    return OpcUaChannel(**{"name": "x", "node": "s=X", **keys})


@pytest.mark.parametrize("node", ["s=Torque", "i=1234", "g=09087e75-8e5e-499b-954f-f2a9603db28a"])
def test_the_kinds_of_identifiers_are_accepted(node: str) -> None:
    assert node_problem(node) == ""
    assert not list(problems(source(channel(node=node))))


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"node": "ns=2;s=Torque"}, "channel[0].node"),
        ({"node": "i=one"}, "channel[0].node"),
        ({"node": ""}, "channel[0].node"),
        ({"path": "/Objects/X"}, "channel[0].node"),
        ({"node": "", "path": "/Objects/2:X"}, "channel[0].path"),
        ({"node": "", "path": "Objects"}, "channel[0].path"),
        ({"shape": (3,), "states": {"RUN": 1.0}}, "channel[0].states"),
        ({"deadband": 101.0, "deadband_type": "percent"}, "channel[0].deadband"),
        ({"deadband": 1.0, "states": {"RUN": 1.0}}, "channel[0].deadband"),
        ({"field": "Vibration..Rms"}, "channel[0].field"),
    ],
)
def test_a_channel_that_can_not_be_right_is_refused_by_its_key(
    keys: dict[str, Any], key: str
) -> None:
    assert [found for found, _ in problems(source(channel(**keys)))] == [key]


@pytest.mark.parametrize("endpoint", ["10.0.0.5:4840", "opc.tcp://10.0.0.5", "http://x:1", ""])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    settings = msgspec.structs.replace(source(channel()), endpoint=endpoint)
    assert [key for key, _ in problems(settings)] == ["endpoint"]


def test_a_node_without_a_namespace_is_refused() -> None:
    assert [k for k, _ in problems(source(channel(), namespace_uri=""))] == [
        "channel[0].namespace_uri"
    ]
    assert not list(problems(source(channel(namespace_uri="urn:own"), namespace_uri="")))


def test_a_browse_path_has_a_namespace_for_each_of_its_names() -> None:
    path = "/Objects/{http://vendor/UA/}Press 1/Axis&/X/0:EURange"
    assert path_segments(path, "urn:plant") == [
        (UA_NAMESPACE, "Objects"),
        ("http://vendor/UA/", "Press 1"),
        ("urn:plant", "Axis/X"),
        (UA_NAMESPACE, "EURange"),
    ]


def test_an_item_asks_for_what_its_channel_says_and_else_for_what_the_source_says() -> None:
    settings = source(
        channel(),
        channel(name="y", sampling_interval_ms=20.0, queue_size=7, deadband=2.5),
        channel(name="z", deadband=10.0, deadband_type="percent"),
        sampling_interval_ms=100.0,
        queue_size=50,
    )
    node_id = ua.NodeId.from_string("ns=1;s=X")
    plain, own, percent = (create_request(settings, at, node_id) for at in range(3))
    asked = plain.RequestedParameters
    assert (asked.ClientHandle, asked.SamplingInterval, asked.QueueSize) == (0, 100.0, 50)
    assert asked.Filter.Trigger == ua.DataChangeTrigger.StatusValueTimestamp
    assert asked.DiscardOldest
    asked = own.RequestedParameters
    assert (asked.ClientHandle, asked.SamplingInterval, asked.QueueSize) == (1, 20.0, 7)
    assert (asked.Filter.DeadbandType, asked.Filter.DeadbandValue) == (1, 2.5)
    assert asked.Filter.Trigger == ua.DataChangeTrigger.StatusValue
    assert percent.RequestedParameters.Filter.DeadbandType == 2


def test_numbers_have_a_subscription_of_their_own() -> None:
    assert kind_of(channel()) == "numbers"
    for keys in ({"shape": (8,)}, {"states": {"RUN": 1.0}}, {"field": "Low"}):
        assert kind_of(channel(**keys)) == "others"


def taken(settings: OpcUaSettings, items: Items) -> tuple[Block, Values, list[int]]:
    """One block of what an intake makes of items, and the channels that vanished."""
    vanished: list[int] = []
    count = len(settings.channel)
    pending, timeline = Pending(count, 1000, SourceReport("opcua")), Timeline(count)
    values = Values(settings.channel, Structures())
    Intake(count, values, timeline, pending, vanished.extend).take(items)
    return asyncio.run(pending.get()), values, vanished


def columns(*rows: tuple[int, float, int]) -> Columns:
    handle, value, status = zip(*rows, strict=True) if rows else ((), (), ())
    return Columns(
        np.array(handle, np.uint32),
        np.array(value, np.float64),
        np.array(status, np.uint32),
        np.arange(len(rows), dtype=np.int64),
    )


def test_texts_are_states_and_other_texts_are_bad() -> None:
    settings = source(channel(states={"RUN": 1.0, "STOP": 0.0}))
    texts = ("STOP", "RUN", "SABOTAGE", ua.LocalizedText("RUN"))
    others = tuple(OtherValue(0, text, 0, at) for at, text in enumerate(texts))
    block, values, _ = taken(settings, Items(columns(), (), others))
    assert block.value[[0, 1, 3]].tolist() == [0.0, 1.0, 1.0]
    assert np.isnan(block.value[2])
    assert block.status.tolist() == [0, 0, BAD_TYPE_MISMATCH, 0]
    assert "SABOTAGE" in values.mismatches[0]


def test_a_field_of_a_structure_is_a_number() -> None:
    settings = source(channel(field="High"), channel(name="y", field="Middle"))
    others = tuple(OtherValue(at, ua.Range(Low=1.0, High=2.5), 0, 7) for at in range(2))
    block, values, _ = taken(settings, Items(columns(), (), others))
    assert block.value[0] == 2.5
    assert block.status.tolist() == [0, BAD_TYPE_MISMATCH]
    assert "'Middle'" in values.mismatches[1]
    assert "'Low'" in values.mismatches[1]


def test_an_array_has_its_shape_or_is_bad() -> None:
    settings = source(channel(shape=(2, 2)), channel(name="y"))
    four, three = np.arange(4, dtype=np.float32), np.arange(3, dtype=np.float32)
    arrays = tuple(
        ArrayValue(handle, value, 0, 9) for handle, value in ((0, four), (0, three), (1, four))
    )
    pending = Pending(2, 1000, SourceReport("opcua"))
    Intake(2, Values(settings.channel, Structures()), Timeline(2), pending, print).take(
        Items(columns(), arrays, ())
    )
    numbers, whole, broken = (asyncio.run(pending.get()) for _ in range(3))
    assert numbers.status.tolist() == [BAD_TYPE_MISMATCH]
    assert whole.arrays[0].value.tolist() == [[0, 1], [2, 3]]
    assert broken.arrays[0].status == BAD_TYPE_MISMATCH
    assert np.isnan(broken.arrays[0].value).all()


def test_an_array_that_is_not_there_is_an_array_of_nothing_with_its_status() -> None:
    items = Items(columns((0, np.nan, BAD_SENSOR_FAILURE)), (), ())
    block, values, _ = taken(source(channel(shape=(3,))), items)
    assert block.arrays[0].status == BAD_SENSOR_FAILURE
    assert np.isnan(block.arrays[0].value).all()
    assert not values.mismatches


def test_a_handle_that_no_channel_has_is_left_out() -> None:
    block, _, _ = taken(source(channel()), Items(columns((7, 1.0, 0), (0, 2.0, 0)), (), ()))
    assert block.value.tolist() == [2.0]


def test_a_node_that_the_server_does_not_know_any_more_is_told() -> None:
    settings = source(channel(), channel(name="y"))
    items = Items(columns((0, 1.0, BAD_SENSOR_FAILURE), (1, 1.0, BAD_NODE_ID_UNKNOWN)), (), ())
    assert taken(settings, items)[2] == [1]


def test_samples_that_are_held_wait_for_their_history_and_others_do_not() -> None:
    settings = source(channel(), channel(name="y"))
    pending = Pending(2, 1000, SourceReport("opcua"))
    timeline = Timeline(2)
    intake = Intake(2, Values(settings.channel, Structures()), timeline, pending, print)
    intake.hold([1])
    intake.take(Items(columns((0, 1.0, 0), (1, 2.0, 0)), (), ()))
    assert asyncio.run(pending.get()).value.tolist() == [1.0]
    assert intake.first_held_us(1) == 1
    intake.release([1])
    assert asyncio.run(pending.get()).value.tolist() == [2.0]
    assert intake.first_held_us(1) is None


def test_what_is_held_is_bounded() -> None:
    settings = source(channel())
    pending = Pending(1, 1000, SourceReport("opcua"))
    intake = Intake(1, Values(settings.channel, Structures()), Timeline(1), pending, print)
    intake.hold([0])
    for _ in range(2):
        intake.take(Items(columns(*[(0, 1.0, 0)] * 500), (), ()))
    assert intake.is_held(0)
    intake.take(Items(columns((0, 1.0, 0)), (), ()))
    assert not intake.is_held(0)
    assert len(asyncio.run(pending.get())) == 500


class _SampleFile(msgspec.Struct, forbid_unknown_fields=True):
    source: "_SampleSource"


class _SampleSource(msgspec.Struct, forbid_unknown_fields=True):
    opcua: tuple[OpcUaSettings, ...]


def test_the_annotated_sample_is_a_valid_configuration_with_every_key() -> None:
    path = HERE / "sample.toml"
    (settings,) = read_settings(path, _SampleFile).source.opcua
    assert not list(problems(settings))
    text = path.read_text()
    for struct in (OpcUaSettings, OpcUaChannel):
        for field in struct.__struct_fields__:
            assert f"{field} =" in text or f"opcua.{field}]" in text, field
