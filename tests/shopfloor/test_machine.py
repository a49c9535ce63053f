"""The machine program, in its own process, seen by asyncua's own client."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from shopfloor.machine import (
    CHANNELS,
    NAMESPACE_URI,
    PRODUCT_INTERVAL,
    SIMULATED_START,
    VARIABLES,
    Fault,
    draw_faults,
    readings_of,
)
from shopfloor.milling import INPUTS, Table, generate, write_csv
from shopfloor.ports import free_port

ROOT = Path(__file__).parents[2]
ROWS = 400
SEED = 6
BAD_SHARE = 0.1

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:asyncua")


def start_program(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "shopfloor.machine", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running_machine(table: Table, folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    write_csv(table, folder / "table.csv")
    port = free_port()
    program = start_program(
        f"--table={folder / 'table.csv'}",
        f"--port={port}",
        "--rows-per-s=2000",
        "--name=L",
        f"--seed={SEED}",
        f"--bad-share={BAD_SHARE}",
        f"--parent-pid={os.getpid()}",
    )
    try:
        assert program.stdout is not None
        url = f"opc.tcp://127.0.0.1:{port}/machine"
        assert program.stdout.readline() == f"ready {url}\n"
        yield url, program
    finally:
        program.kill()
        program.communicate()


class Change(NamedTuple):
    """One data change as the client decoded it."""

    value: Any
    data_type: ua.VariantType
    status: int
    source: datetime | None


class Received:
    """Every data change, by variable, in order of arrival, until all of `rows` products came."""

    def __init__(self, rows: int) -> None:
        self.changes: dict[str, list[Change]] = defaultdict(list)
        self.complete = asyncio.Event()
        self._rows = rows

    def datachange_notification(self, node: Node, _value: object, data: Any) -> None:
        got = data.monitored_item.Value
        change = Change(
            got.Value.Value, got.Value.VariantType, got.StatusCode.value, got.SourceTimestamp
        )
        self.changes[str(node.nodeid.Identifier)].append(change)
        # Within one message, items come in no particular order: the state may come first.
        finished = any(each.value == "finished" for each in self.changes["State"])
        if finished and all(len(self.changes[name]) > self._rows for name in VARIABLES):
            self.complete.set()


class Machine:
    """A connected client's view of the machine."""

    def __init__(self, client: Client, index: int) -> None:
        self.client = client
        self._index = index

    def node(self, name: str) -> Node:
        return self.client.get_node(f"ns={self._index};s={name}")

    async def start_production(self) -> None:
        await self.node("Machine").call_method(self.node("StartProduction").nodeid)

    async def subscribe(self, received: Received) -> None:
        subscription = await self.client.create_subscription(50, received)
        requests = [
            ua.MonitoredItemCreateRequest(
                ItemToMonitor=ua.ReadValueId(
                    NodeId=self.node(name).nodeid, AttributeId=AttributeIds.Value
                ),
                MonitoringMode=ua.MonitoringMode.Reporting,
                RequestedParameters=ua.MonitoringParameters(
                    ClientHandle=handle,
                    SamplingInterval=0.0,
                    Filter=ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp),
                    QueueSize=10_000,
                    DiscardOldest=True,
                ),
            )
            for handle, name in enumerate((*VARIABLES, "State"), start=1)
        ]
        await subscription.create_monitored_items(requests)


async def connected(url: str) -> Machine:
    client = Client(url, timeout=20)
    # As the server caps it; asking for asyncua's default of an hour earns a warning.
    client.session_timeout = 600_000
    await client.connect()
    return Machine(client, await client.get_namespace_index(NAMESPACE_URI))


async def all_products(machine: Machine, rows: int) -> dict[str, list[Change]]:
    """Subscribe, start production and wait for the last of `rows` products."""
    received = Received(rows)
    await machine.subscribe(received)
    assert await machine.node("State").read_value() == "idle"
    await machine.start_production()
    async with asyncio.timeout(60):
        await received.complete.wait()
    return received.changes


@pytest.fixture(scope="module")
def table() -> Table:
    return generate(ROWS, seed=1)


@pytest.fixture(scope="module")
def received(table: Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Change]]:
    """What one subscriber got of all products, and first the state before any."""

    async def run(url: str) -> dict[str, list[Change]]:
        machine = await connected(url)
        try:
            return await all_products(machine, ROWS)
        finally:
            await machine.client.disconnect()

    with running_machine(table, tmp_path_factory.mktemp("machine")) as (url, _):
        return asyncio.run(run(url))


def test_before_production_every_variable_waits_for_its_first_value(
    received: dict[str, list[Change]],
) -> None:
    for name in VARIABLES:
        assert received[name][0].status == StatusCodes.BadWaitingForInitialData


def test_every_product_arrives_exactly_once_with_one_source_timestamp_on_all_channels(
    received: dict[str, list[Change]],
) -> None:
    expected = [SIMULATED_START + row * PRODUCT_INTERVAL for row in range(ROWS)]
    for name in VARIABLES:
        assert [change.source for change in received[name][1:]] == expected
    counts = [change.value for change in received["ProductCount"][1:]]
    assert counts == list(range(1, ROWS + 1))
    assert received["ProductCount"][1].data_type == ua.VariantType.UInt32


def test_labels_and_qualities_are_those_of_the_table(
    received: dict[str, list[Change]], table: Table
) -> None:
    failures = [change.value for change in received["MachineFailure"][1:]]
    assert failures == table.machine_failure.tolist()
    qualities = [change.value for change in received["ProductQuality"][1:]]
    assert qualities == table.quality.tolist()


def test_readings_are_good_missing_or_stale_as_the_seed_says(
    received: dict[str, list[Change]], table: Table
) -> None:
    faults = draw_faults(ROWS, BAD_SHARE, SEED)
    readings = readings_of(table, faults)
    for number, channel in enumerate(CHANNELS):
        for row, change in enumerate(received[channel.name][1:]):
            if np.isnan(readings[row, number]):
                assert change.status == StatusCodes.BadSensorFailure
                assert change.value is None
                continue
            stale = faults[row, number] == Fault.STALE
            status = StatusCodes.UncertainLastUsableValue if stale else StatusCodes.Good
            assert change.status == status
            assert change.data_type == ua.VariantType.Double
            assert change.value == readings[row, number]
            if not stale:
                assert change.value == table.inputs()[row, number]


def test_units_ranges_types_and_method_are_described_and_failure_modes_are_not_there(
    table: Table, tmp_path: Path
) -> None:
    async def run(url: str) -> None:
        machine = await connected(url)
        for channel, code in zip(CHANNELS, ("KEL", "KEL", "RPM", "NU", "MIN"), strict=True):
            node = machine.node(channel.name)
            definition = await node.read_type_definition()
            assert definition is not None
            assert definition.Identifier == ObjectIds.AnalogItemType
            unit = await (await node.get_child("0:EngineeringUnits")).read_value()
            assert unit.UnitId == sum(ord(c) << 8 * i for i, c in enumerate(reversed(code)))
            assert unit.NamespaceUri == "http://www.opcfoundation.org/UA/units/un/cefact"
            assert unit.DisplayName.Text == channel.unit_symbol
            span = await (await node.get_child("0:EURange")).read_value()
            column = getattr(table, channel.column)
            assert span.Low <= column.min() <= column.max() <= span.High
        children = {
            (await child.read_browse_name()).Name
            for child in await machine.node("Machine").get_children()
        }
        assert children == {*VARIABLES, "State", "StartProduction"}
        with pytest.raises(UaStatusCodeError):
            await machine.node("Torque").write_value(1.0)
        await machine.client.disconnect()

    with running_machine(table, tmp_path) as (url, _):
        asyncio.run(run(url))


def test_starting_twice_makes_no_product_twice(tmp_path: Path) -> None:
    async def run(url: str) -> None:
        machine = await connected(url)
        changes = await all_products(machine, 50)
        await machine.start_production()
        assert await machine.node("State").read_value() == "finished"
        assert await machine.node("ProductCount").read_value() == 50
        assert len(changes["ProductCount"]) == 51
        await machine.client.disconnect()

    with running_machine(generate(50, seed=1), tmp_path) as (url, _):
        asyncio.run(run(url))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_cleanly_when_told_while_a_client_is_connected(
    number: signal.Signals, table: Table, tmp_path: Path
) -> None:
    async def run(url: str, program: "subprocess.Popen[str]") -> None:
        machine = await connected(url)
        await machine.start_production()
        program.send_signal(number)
        assert await asyncio.to_thread(program.wait, 20) == 0
        machine.client.disconnect_socket()

    with running_machine(table, tmp_path) as (url, program):
        asyncio.run(run(url, program))
        assert program.stderr is not None
        assert program.stderr.read() == ""


def test_the_program_ends_when_its_parent_is_another_process(tmp_path: Path) -> None:
    write_csv(generate(5, seed=1), tmp_path / "table.csv")
    arguments = (f"--table={tmp_path / 'table.csv'}", f"--port={free_port()}", "--rows-per-s=1")
    with start_program(*arguments, "--parent-pid=1") as program:
        assert program.wait(30) == 0


def test_a_taken_port_and_a_wrong_table_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(generate(5, seed=1), path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start_program(f"--table={path}", f"--port={port}", "--rows-per-s=1") as program:
            _, message = program.communicate(timeout=30)
    assert program.returncode == 2
    assert message == f"port {port} is taken on 127.0.0.1: choose another --port\n"
    path.write_text("Type\nL\n")
    with start_program(f"--table={path}", f"--port={free_port()}", "--rows-per-s=1") as program:
        _, message = program.communicate(timeout=30)
    assert program.returncode == 2
    assert message.startswith(f"{path}, line 1: the header lacks the columns")
    assert message.count("\n") == 1


def test_faults_have_their_share_and_half_of_them_are_stale() -> None:
    faults = draw_faults(20_000, 0.1, seed=1)
    assert (faults == Fault.MISSING).mean() == pytest.approx(0.05, abs=0.005)
    assert (faults == Fault.STALE).mean() == pytest.approx(0.05, abs=0.005)
    np.testing.assert_array_equal(faults, draw_faults(20_000, 0.1, seed=1))
    assert not draw_faults(100, 0.0, seed=1).any()


def test_a_stale_reading_repeats_the_last_one_and_a_missing_one_is_not_a_number() -> None:
    table = generate(6, seed=1)
    faults = np.zeros((6, len(INPUTS)), dtype=np.uint8)
    faults[:, 3] = [Fault.MISSING, Fault.STALE, 0, Fault.STALE, Fault.MISSING, Fault.STALE]
    torque = table.torque_nm
    expected = [np.nan, np.nan, torque[2], torque[2], np.nan, torque[2]]
    np.testing.assert_array_equal(readings_of(table, faults)[:, 3], expected)
    np.testing.assert_array_equal(readings_of(table, faults)[:, 0], table.air_temperature_k)


def test_simulated_time_is_a_minute_for_each_product_and_has_a_time_zone() -> None:
    assert timedelta(minutes=1) == PRODUCT_INTERVAL
    assert isinstance(SIMULATED_START, datetime)
    assert SIMULATED_START.utcoffset() == timedelta(0)
