import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from asyncua import Client, Node, Server, ua
from asyncua.common.subscription import Subscription
from asyncua.common.utils import Buffer
from asyncua.ua.uaerrors import UaStructParsingError

from agent.sensors.opcua.decode import ArrayValue, Columns, Decoder, Publish
from agent.sensors.opcua.session import FastSession, columns_of, install, items_of
from shopfloor.ports import free_port
from tests.agent.opcua_messages import assert_equals_asyncua, response

WAITS_S = 20.0
AT = ua.DateTime(2026, 3, 4, 5, 6, 7, 80, tzinfo=UTC)
AT_US = 1_772_600_767_000_080
OVERFLOW = 0x480


@dataclass
class Received:
    """What came, by the way it came."""

    messages: list[tuple[int, int, Columns, tuple[ArrayValue, ...]]] = field(default_factory=list)
    answers: list[ua.PublishResult] = field(default_factory=list)

    def sink(
        self, subscription: int, sequence: int, columns: Columns, arrays: tuple[ArrayValue, ...]
    ) -> None:
        self.messages.append((subscription, sequence, columns, arrays))

    def callback(self, result: ua.PublishResult) -> None:
        self.answers.append(result)

    def has_messages(self, count: int) -> bool:
        return len(self.messages) == count

    def numbers(self, handle: int) -> list[float]:
        return [
            value
            for _, _, columns, _ in self.messages
            for value in columns.value[columns.handle == handle].tolist()
        ]


@dataclass
class Plant:
    """A real server with one node of each kind, and a client with a `FastSession`."""

    server: Server
    client: Client
    nodes: dict[str, Node]
    received: Received

    async def subscribe(self, *names: str) -> int:
        """Monitor nodes, in this order with handles 0, 1, ..., without asyncua's Subscription."""
        transport = self.client.uaclient.session
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=ua.Duration(10),
            RequestedLifetimeCount=ua.Counter(3000),
            RequestedMaxKeepAliveCount=ua.Counter(5),
            PublishingEnabled=True,
        )
        created = await transport.create_subscription(parameters, self.received.callback)
        items = ua.CreateMonitoredItemsParameters(
            SubscriptionId=created.SubscriptionId,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ItemsToCreate=[self._item(name, at) for at, name in enumerate(names)],
        )
        results = await transport.create_monitored_items(items)
        assert all(result.StatusCode.is_good() for result in results)
        return int(created.SubscriptionId)

    def _item(self, name: str, handle: int) -> ua.MonitoredItemCreateRequest:
        value = ua.AttributeIds.Value
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=self.nodes[name].nodeid, AttributeId=value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=ua.UInt32(handle), QueueSize=ua.Counter(1000)
            ),
        )

    async def write(self, name: str, value: ua.DataValue) -> None:
        await self.server.write_attribute_value(self.nodes[name].nodeid, value)

    async def write_in_turn(self, name: str, times: int) -> None:
        """Write when the sink has the message before; each comes in a message of its own."""
        for before in range(1, times + 1):
            await until(partial(self.received.has_messages, before))
            await self.write(name, good(before))
        await until(partial(self.received.has_messages, times + 1))


VARIABLES: dict[str, ua.Variant] = {
    "Temperature": ua.Variant(0.5, ua.VariantType.Double),
    "Count": ua.Variant(1, ua.VariantType.UInt64),
    "Running": ua.Variant(Value=True, VariantType=ua.VariantType.Boolean),
    "State": ua.Variant("RUN", ua.VariantType.String),
    "Wave": ua.Variant([1.0, 2.0, 3.0], ua.VariantType.Float),
    "Unit": ua.Variant(ua.EUInformation(UnitId=ua.Int32(7)), ua.VariantType.ExtensionObject),
}


Scenario = Callable[[Plant], Awaitable[None]]
Run = Callable[[Scenario], None]


async def _started() -> tuple[Server, dict[str, Node]]:
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}/line")
    index = await server.register_namespace("urn:journeyman:test")
    nodes = {
        name: await server.nodes.objects.add_variable(f"ns={index};s={name}", name, variant)
        for name, variant in VARIABLES.items()
    }
    await server.start()
    return server, nodes


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a scenario with a client of its own; the server, in the same loop, is everybody's."""
    with asyncio.Runner() as runner:
        server, nodes = runner.run(_started())

        async def scene(scenario: Scenario) -> None:
            for name, variant in VARIABLES.items():
                await server.write_attribute_value(nodes[name].nodeid, ua.DataValue(variant))
            received = Received()
            client = Client(server.endpoint.geturl(), timeout=10)
            install(client, received.sink)
            async with client:
                await scenario(Plant(server, client, nodes, received))

        yield lambda scenario: runner.run(scene(scenario))
        runner.run(server.stop())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAITS_S):
        while not condition():  # noqa: ASYNC110 (what changes is the library's, without an event)
            await asyncio.sleep(0.01)


def good(value: float, at: ua.DateTime = AT) -> ua.DataValue:
    return ua.DataValue(ua.Variant(value, ua.VariantType.Double), SourceTimestamp=at)


def test_numbers_come_as_columns_with_their_status_and_source_timestamp(run: Run) -> None:
    async def test(line: Plant) -> None:
        subscription = await line.subscribe("Temperature", "Count", "Running")
        await until(lambda: len(line.received.numbers(2)) == 1)
        overflown = ua.StatusCode(ua.UInt32(OVERFLOW))
        value = ua.Variant(2.5, ua.VariantType.Double)
        await line.write("Temperature", ua.DataValue(value, overflown, AT))
        await until(lambda: len(line.received.numbers(0)) == 2)
        last = line.received.messages[-1]
        assert last[0] == subscription
        assert (last[2].handle.tolist(), last[2].value.tolist()) == ([0], [2.5])
        assert last[2].status.tolist() == [OVERFLOW]
        assert last[2].source_timestamp_us.tolist() == [AT_US]
        assert [line.received.numbers(handle) for handle in range(3)] == [[0.5, 2.5], [1.0], [1.0]]

    run(test)


def test_waveforms_come_beside_the_numbers(run: Run) -> None:
    async def test(line: Plant) -> None:
        await line.subscribe("Wave", "Temperature")
        await until(lambda: bool(line.received.messages))
        _, _, columns, arrays = line.received.messages[0]
        assert columns.handle.tolist() == [1]
        assert [(each.handle, each.value.tolist()) for each in arrays] == [(0, [1.0, 2.0, 3.0])]

    run(test)


def test_a_message_with_a_text_goes_to_the_callback_alone_with_all_its_items(run: Run) -> None:
    async def test(line: Plant) -> None:
        await line.subscribe("Temperature", "State", "Unit")
        received = line.received
        await until(lambda: bool(received.answers))
        parsed = columns_of(received.answers[0].NotificationMessage)
        assert received.messages == []
        assert (parsed.columns.handle.tolist(), parsed.columns.value.tolist()) == ([0], [0.5])
        state, unit = parsed.others
        assert (state.handle, state.value, state.status) == (1, "RUN", 0)
        assert isinstance(unit.value, ua.EUInformation)
        assert unit.value.UnitId == 7

    run(test)


def test_asyncua_sees_each_message_of_the_sink_without_its_items(run: Run) -> None:
    async def test(line: Plant) -> None:
        subscription = await line.subscribe("Temperature")
        await line.write_in_turn("Temperature", 3)
        with_items = [
            each for each in line.received.answers if each.NotificationMessage.NotificationData
        ]
        assert [each.NotificationMessage.SequenceNumber for each in with_items] == [1, 2, 3, 4]
        assert {each.SubscriptionId for each in with_items} == {subscription}
        assert all(len(columns_of(each.NotificationMessage).columns) == 0 for each in with_items)

    run(test)


def test_keep_alives_reach_the_callback_and_not_the_sink(run: Run) -> None:
    async def test(line: Plant) -> None:
        await line.subscribe("Temperature")
        await until(lambda: len(line.received.answers) >= 4)
        assert len(line.received.messages) == 1
        assert line.received.answers[-1].NotificationMessage.NotificationData == []

    run(test)


def kept_by(server: Server, subscription: int) -> dict[int, ua.PublishResult]:
    """Messages that the server keeps for Republish, by SequenceNumber."""
    internal = server.iserver.subscription_service.subscriptions[subscription]
    return internal._not_acknowledged_results  # noqa: SLF001 (nothing else tells)


def test_messages_are_acknowledged_so_that_the_server_need_not_keep_them(run: Run) -> None:
    async def test(line: Plant) -> None:
        subscription = await line.subscribe("Temperature")
        await line.write_in_turn("Temperature", 5)
        await until(lambda: not kept_by(line.server, subscription))

    run(test)


def test_what_republish_answers_becomes_the_same_columns(run: Run) -> None:
    async def test(line: Plant) -> None:
        subscription = await line.subscribe("Temperature")
        transport = line.client.uaclient.session
        await until(lambda: bool(line.received.messages))
        await until(lambda: not kept_by(line.server, subscription))
        assert transport._publish_task is not None  # noqa: SLF001 (so that nobody acknowledges)
        transport._publish_task.cancel()  # noqa: SLF001
        await line.write("Temperature", good(9.0))
        await until(lambda: bool(kept_by(line.server, subscription)))
        again = columns_of(await transport.republish(subscription, 2)).columns
        assert (again.handle.tolist(), again.value.tolist()) == ([0], [9.0])
        assert again.source_timestamp_us.tolist() == [AT_US]
        assert line.received.numbers(0) == [0.5]

    run(test)


def test_a_subscription_of_asyncua_keeps_its_watchdog_and_its_sequence_number(run: Run) -> None:
    async def test(line: Plant) -> None:
        subscription: Subscription = await line.client.create_subscription(10)
        await subscription.subscribe_data_change(
            line.client.get_node(line.nodes["Temperature"].nodeid)
        )
        await until(lambda: bool(line.received.messages))
        await until(lambda: subscription.last_sequence_number == 1)
        assert subscription.last_publish_at is not None
        await subscription.delete()

    run(test)


def test_a_client_that_is_connected_cannot_be_given_a_session(run: Run) -> None:
    async def test(line: Plant) -> None:
        with pytest.raises(ValueError, match="before connect"):
            install(line.client, line.received.sink)
        state = line.client.nodes.server_state  # the shortcuts use the new session
        assert await state.read_value() == ua.ServerState.Running

    run(test)


class _Canned(FastSession):
    """A session whose server answers every PublishRequest with these bytes."""

    answer = b""

    async def _send_request(self, *_: object, **__: object) -> Buffer:
        return Buffer(self.answer)


@pytest.mark.parametrize("cut", [0, 3, 30, 60])
def test_a_broken_answer_is_told_to_asyncua_as_it_expects(cut: int) -> None:
    received = Received()
    broken = _Canned(Client("opc.tcp://127.0.0.1:1").uaclient, received.sink)
    broken.answer = response()[:cut]
    with pytest.raises(UaStructParsingError):
        asyncio.run(broken.publish([]))
    assert received.messages == []


def test_values_of_a_history_become_the_same_columns() -> None:
    earlier = datetime(2026, 3, 4, 5, 6, 6, 80, tzinfo=UTC)
    values = [
        good(1.0),
        ua.DataValue(ua.Variant(2.0), ua.StatusCode(ua.UInt32(0x80310000)), AT),
        ua.DataValue(ua.Variant(3.0), ServerTimestamp=AT),
        ua.DataValue(ua.Variant(4.0), ServerTimestamp=AT, SourcePicoseconds=ua.UInt16(1)),
        ua.DataValue(ua.Variant(), ua.StatusCode(ua.UInt32(OVERFLOW))),
        ua.DataValue(ua.Variant([[1, 2], [3, 4]], ua.VariantType.Int64), SourceTimestamp=AT),
        ua.DataValue(ua.Variant([[1], []], ua.VariantType.Int16), SourceTimestamp=AT),
        ua.DataValue(ua.Variant(AT, ua.VariantType.DateTime), SourceTimestamp=AT),
    ]
    found = items_of(((7, value) for value in values), earlier)
    columns = found.columns
    assert np.array_equal(columns.value, [1.0, np.nan, 3.0, 4.0, np.nan], equal_nan=True)
    assert columns.status.tolist() == [0, 0x80310000, 0, 0, OVERFLOW]
    stamps_us = [AT_US, AT_US, AT_US, AT_US - 1_000_000, AT_US - 1_000_000]
    assert columns.source_timestamp_us.tolist() == stamps_us
    assert [each.value.tolist() for each in found.arrays] == [[[1.0, 2.0], [3.0, 4.0]]]
    assert [each.value for each in found.others] == [[[1], []], AT]


def test_no_values_are_no_columns() -> None:
    assert len(items_of([], AT).columns) == 0
    assert len(columns_of(ua.NotificationMessage()).columns) == 0


def test_messages_of_node_opcua_are_read_as_asyncua_reads_them(
    node_opcua_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[bytes] = []
    decode = Decoder.decode

    def recording(self: Decoder, body: bytes) -> Publish | None:
        bodies.append(body)
        return decode(self, body)

    received = Received()

    async def scenario() -> None:
        client = Client(node_opcua_server, timeout=10)
        install(client, received.sink)
        async with client:
            index = await client.get_namespace_index("urn:journeyman:test")
            names = ("Temperature", "Torque", "Count", "Broken", "Stale")
            nodes = [client.get_node(f"ns={index};s={name}") for name in names]
            subscription: Subscription = await client.create_subscription(50)
            await subscription.subscribe_data_change(
                nodes, queuesize=100, sampling_interval=ua.Duration(20)
            )
            await until(lambda: len(received.messages) >= 20)
            await subscription.delete()

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "decode", recording)
        asyncio.run(scenario())
    read = [assert_equals_asyncua(body) for body in bodies]
    statuses = {status for each in read for status in each.columns.status.tolist()}
    assert {0, 0x808C0000, 0x40900000} <= statuses
    sunk = [len(columns) for _, _, columns, _ in received.messages]
    assert [len(each.columns) for each in read if not each.is_keep_alive] == sunk
