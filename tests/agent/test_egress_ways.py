"""Every other way out of a gateway is counted as a proxy counts: TLS, scores, HTTP, enrolment."""

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from asyncua import Client

from agent.egress import Egress, Line
from agent.egress.enrolment import enrolment_lines
from agent.health import Board, MetricsTable, Progress
from agent.health.server import health_server
from agent.labels import LabelChannel, Labels, LabelsTable
from agent.labels.form import label_form
from agent.main import main as agent_main
from agent.sensors.opcua.settings import OpcUaSettings
from agent.serve.outputs import Outputs
from agent.serve.settings import ScoresTable
from shopfloor.enrolment_http import enrolment_server
from shopfloor.enrolment_office import Office
from shopfloor.links import FlakyLink
from shopfloor.links import Link as Ports
from shopfloor.main import main as plant_main
from shopfloor.ports import free_port
from tests.agent.conftest import Broker
from tests.agent.federation import AGENT, FEDERATION
from tests.agent.scores_peers import context_in, score, until
from tests.agent.test_scores_write_back import _source, _table, asyncua_plc
from wire.certificates import CA_CERTIFICATE, issue_broker, issue_client, make_authority
from wire.keys import make_federation
from wire.mqtt import BrokerSettings, Will, connect
from wire.topics import Topics


def lines_of(egress: Egress) -> dict[tuple[str, str], Line]:
    return {(line.destination, line.category): line for line in egress.account().lines}


def total(egress: Egress) -> int:
    return sum(line.bytes for line in egress.account().lines)


@asynccontextmanager
async def scoring(table: ScoresTable, folder: Path, egress: Egress) -> AsyncIterator[Outputs]:
    """Outputs that run until the end of the block."""
    outputs = Outputs(table, context_in(folder), "lyon", (), egress)
    task = asyncio.create_task(outputs.run())
    try:
        yield outputs
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_tls_is_what_is_left_of_what_tcp_carried(broker: Broker, tmp_path: Path) -> None:
    keys, port = tmp_path / "keys", free_port()
    make_federation(keys, FEDERATION)
    make_authority(keys, FEDERATION)
    issue_broker(keys, ["127.0.0.1"])
    issue_client(keys, AGENT)
    broker.kill()
    files = {"cafile": "ca.crt", "certfile": "broker.crt", "keyfile": "broker.key"}
    broker.start("".join(f"{key} {keys / name}\n" for key, name in files.items()))
    settings = BrokerSettings(
        port=port,
        ca_file=str(keys / CA_CERTIFICATE),
        cert_file=str(keys / f"{AGENT}.crt"),
        key_file=str(keys / f"{AGENT}.tls.key"),
    )
    egress, topic = Egress(), Topics(FEDERATION).state(AGENT)

    async def talk() -> int:
        async with FlakyLink(Ports(AGENT, port, broker.port)) as proxy:
            will = Will(topic, b"w" * 100)
            async with connect(settings, AGENT, will, egress.broker("b", 1)) as link:
                await link.publish(topic, b"x" * 5000)
            await until(lambda: proxy.up_bytes >= total(egress))
            return proxy.up_bytes

    carried = asyncio.run(talk())
    found = {category: line.bytes for (_, category), line in lines_of(egress).items()}
    assert found["birth and will"] == 5100
    assert found["TLS"] > 500, "a handshake with a client's certificate"
    assert sum(found.values()) == carried


def test_scores_are_counted_as_their_broker_gets_them(broker: Broker, tmp_path: Path) -> None:
    egress, port = Egress(), free_port()
    table = msgspec.convert({"mqtt": {"port": port}}, ScoresTable)

    async def talk() -> int:
        async with (
            FlakyLink(Ports(AGENT, port, broker.port)) as proxy,
            scoring(table, tmp_path, egress) as outputs,
        ):
            outputs.take([score(0.1 * at, at) for at in range(5)])
            await until(lambda: outputs.reports[0].sent == 5)
            return proxy.up_bytes

    carried = asyncio.run(talk())
    lines = lines_of(egress)
    where = f"scores' broker 127.0.0.1:{port}"
    assert lines[where, "scores: MQTT"].messages == 5
    assert lines[where, "scores: availability"].messages == 2  # birth and will
    assert total(egress) == carried


def test_answers_to_opcua_clients_are_counted(tmp_path: Path) -> None:
    egress, port, front = Egress(), free_port(), free_port()
    table = msgspec.convert({"opcua": {"listen": f"opc.tcp://127.0.0.1:{port}"}}, ScoresTable)

    async def talk() -> int:
        async with (
            FlakyLink(Ports("plc", front, port)) as proxy,
            scoring(table, tmp_path, egress) as outputs,
        ):
            await until(lambda: outputs.reports[0].state.startswith("listening"))
            outputs.take([score(0.5)])
            await until(lambda: outputs.reports[0].sent)
            async with Client(f"opc.tcp://127.0.0.1:{front}") as client:
                assert await client.get_node("ns=1;s=press/Health").read_value() == "ok"
            await until(lambda: proxy.down_bytes >= total(egress))
            return proxy.down_bytes

    carried = asyncio.run(talk())
    assert [*lines_of(egress)] == [("OPC UA client 127.0.0.1", "scores: OPC UA")]
    assert total(egress) == carried


def test_what_is_written_back_is_counted_by_its_values(tmp_path: Path) -> None:
    egress, port = Egress(), free_port()

    async def talk() -> str:
        source: OpcUaSettings = _source(port)
        table = _table(port, {"node": "s=Score"})
        async with asyncua_plc(port):
            outputs = Outputs(table, context_in(tmp_path), "lyon", (source,), egress)
            task = asyncio.create_task(outputs.run())
            await until(lambda: outputs.reports[0].state == "connected")
            outputs.take([score(0.5)])
            await until(lambda: outputs.reports[0].sent)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return source.endpoint

    endpoint = asyncio.run(talk())
    line = lines_of(egress)[endpoint, "scores: written back"]
    assert (line.messages, line.bytes) == (1, 9)  # a type and a double


def ask(front: int, path: str) -> None:
    link = http.client.HTTPConnection("127.0.0.1", front, timeout=20)
    link.request("GET", path)
    assert link.getresponse().read()
    link.close()


@pytest.mark.parametrize("category", ["health and figures", "label form"])
def test_answers_over_http_are_counted(category: str, tmp_path: Path) -> None:
    egress = Egress()

    async def talk() -> int:
        front = free_port()
        if category == "label form":
            table = LabelsTable(
                listen="127.0.0.1:0", channel=(LabelChannel(name="verdict", states={"fine": 0}),)
            )
            labels = Labels(tmp_path / "labels.db", table, ["verdict"], tmp_path)
            server = label_form(labels, table, "gateway", egress)
        else:
            board = Board(Progress(), "journeyman-agent", 0)
            server = health_server(board, MetricsTable(listen="127.0.0.1:0"), egress)
        async with server as address:
            port = int(address.rstrip("/").rpartition(":")[2])
            async with FlakyLink(Ports("person", front, port)) as proxy:
                await asyncio.to_thread(ask, front, "/metrics")
                await asyncio.to_thread(ask, front, "/nothing")
                await until(lambda: proxy.down_bytes >= total(egress) > 0)
                await until(
                    lambda: lines_of(egress)["HTTP client 127.0.0.1", category].messages == 2
                )
                return proxy.down_bytes

    carried = asyncio.run(talk())
    assert total(egress) == carried


def test_each_attempt_to_enrol_is_kept_beside_the_credential(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, gateway, front = tmp_path / "authority", tmp_path / "gateway", free_port()
    make_federation(authority, FEDERATION)
    make_authority(authority, FEDERATION)
    token = tmp_path / "token"
    words = ["token", str(authority), AGENT, "--site", "lyon", "--out", str(token)]
    assert plant_main(["enrolment", *words]) == 0

    def enrol() -> int:
        there = f"http://127.0.0.1:{front}"
        return agent_main(["enrol", "--token", str(token), "--from", there, "--dir", str(gateway)])

    async def talk() -> int:
        with enrolment_server(Office(authority, 30), ("127.0.0.1", 0)) as url:
            async with FlakyLink(Ports(AGENT, front, int(url.rpartition(":")[2]))) as proxy:
                assert await asyncio.to_thread(enrol) == 0
                return proxy.up_bytes

    assert enrol() == 2  # nobody listens: nothing left
    assert not enrolment_lines(gateway / f"{AGENT}.credential")
    carried = asyncio.run(talk())
    capsys.readouterr()
    lines = enrolment_lines(gateway / f"{AGENT}.credential")
    assert {line.category for line in lines} == {"enrolment request", "protocol"}
    assert {line.destination for line in lines} == {f"enrolment authority 127.0.0.1:{front}"}
    assert sum(line.bytes for line in lines) == carried


def test_many_clients_are_few_lines() -> None:
    egress = Egress()
    add: Callable[[str, str, str, int], None] = egress.count_client
    for at in range(300):
        add("HTTP", f"10.0.{at // 250}.{at % 250}", "label form", 1)
    assert len(egress.account().lines) == 129
    assert lines_of(egress)["other clients", "label form"].bytes == 300 - 128
