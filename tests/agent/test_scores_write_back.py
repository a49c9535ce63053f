"""Scores written into a PLC's own server: the listed nodes, in their types, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua
from asyncua.common.node import Node
from asyncua.server.internal_server import InternalServer

from agent.sensors.opcua.certificates import parse_certificate
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings
from agent.sensors.opcua.trust_store import keep, pki_directory
from agent.serve.guarded import LIMITS
from agent.serve.outputs import Outputs
from agent.serve.score import STATUS_NO_SCORE
from agent.serve.settings import ScoresTable, WriteBackSettings
from agent.serve.standard_nodes import fill
from shopfloor.ports import free_port
from tests.agent.scores_peers import (
    WEAR,
    Answer,
    Program,
    context_in,
    node_script,
    running,
    score,
    until,
)

URI = "urn:journeyman:plc"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where all PLCs of this module have their one certificate."""
    return str(tmp_path_factory.mktemp("plc"))


@dataclass(frozen=True)
class Plc:
    """A PLC that listens on a port of this machine."""

    port: int
    program: Program

    async def values(self, is_so: Callable[[dict[str, Any]], bool] = lambda _: True) -> Answer:
        """What it holds, once it is as expected."""
        while True:
            answer = await self.program.ask("values")
            if is_so(answer["values"]):
                return answer
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def shared_plc(node_program: str, pki: str) -> Iterator[Plc]:
    port = free_port()
    with node_script(node_program, "plc.cjs", str(port), pki) as program:
        yield Plc(port, program)


@pytest.fixture
def plc(shared_plc: Plc) -> Plc:
    """The PLC of this module, as new."""
    asyncio.run(shared_plc.program.ask("reset"))
    return shared_plc


def _source(port: int, **security: Any) -> OpcUaSettings:
    channel = OpcUaChannel(name="torque", node="s=Torque")
    return OpcUaSettings(
        endpoint=f"opc.tcp://127.0.0.1:{port}",
        namespace_uri=URI,
        security=SecuritySettings(**security),
        channel=(channel,),
    )


def _table(port: int, *targets: dict[str, Any]) -> ScoresTable:
    return ScoresTable(
        write_back=tuple(
            WriteBackSettings(
                **{
                    "enabled": True,
                    "endpoint": f"opc.tcp://127.0.0.1:{port}",
                    "namespace_uri": URI,
                    "retry_s": 1.0,
                    **target,
                }
            )
            for target in targets
        )
    )


def test_every_listed_node_is_written_in_its_own_type(tmp_path: Path, plc: Plc) -> None:
    async def main() -> None:
        table = _table(
            plc.port,
            {"node": "s=Score"},
            {"node": "s=Level", "scale": 1000.0},
            {"node": "s=Alarm", "field": "alarm"},
            {"node": "s=Words", "field": "decision"},
            {"node": "s=Watchdog", "field": "count"},
            {"node": "s=Float", "model": "wear"},
        )
        async with running(table, tmp_path, (_source(plc.port),)) as outputs:
            await until(lambda: outputs.reports[0].state == "connected")
            outputs.take([score(0.1)] * 299 + [score(0.75, 1), score(float("nan"))])
            outputs.take([score(41.5, 2, WEAR, decision="41.5")])
            answer = await plc.values(lambda values: values["Float"] != 0)
            assert answer["values"] == {
                "Score": 41.5,
                "Level": 32767,  # 41,500 does not fit
                "Alarm": False,
                "Words": "41.5",
                "Watchdog": 301 % 256,
                "Float": 41.5,
                "Locked": 0,
            }
            assert outputs.reports[0].problems == {
                "s=Level": "a value beyond the range of Int16 was written as its end: see scale"
            }
            outputs.take([score(0.75, 3), score(0.0, 4, status=STATUS_NO_SCORE)])
            answer = await plc.values(lambda values: values["Alarm"])
            assert answer["values"]["Level"] == 750
            assert answer["values"]["Score"] == 0.75
            assert answer["values"]["Float"] == 41.5
            assert outputs.reports[0].problems == {}

    asyncio.run(main())


def test_nothing_is_even_connected_that_is_not_enabled(tmp_path: Path) -> None:
    async def main() -> None:
        table = _table(4840, {"node": "s=Score", "enabled": False})
        outputs = Outputs(table, context_in(tmp_path), "lyon", (_source(4840),))
        assert outputs.reports == []
        outputs.take([score(0.75)])
        await outputs.run()  # has nothing to do

    asyncio.run(main())


def test_a_refused_write_is_reported_and_made_later_with_the_newest_value(
    tmp_path: Path, plc: Plc
) -> None:
    async def main() -> None:
        table = _table(
            plc.port,
            {"node": "s=Locked"},
            {"node": "s=Score"},
            {"node": "s=Nowhere"},
            {"node": "s=Series"},
            {"node": "s=Alarm"},
            {"node": "s=Words", "namespace_uri": "urn:other"},
        )
        async with running(table, tmp_path, (_source(plc.port),)) as outputs:
            report = outputs.reports[0]
            outputs.take([score(0.25)])
            await until(lambda: len(report.problems) == 5)
            assert "BadNotWritable" in report.problems["s=Locked"]
            assert "BadNodeIdUnknown" in report.problems["s=Nowhere"]
            assert "array" in report.problems["s=Series"]
            assert "use field = 'alarm'" in report.problems["s=Alarm"]
            assert "no namespace 'urn:other'" in report.problems["s=Words"]
            assert (await plc.values())["values"]["Score"] == 0.25
            outputs.take([score(0.35, 1)])
            outputs.take([score(0.45, 2)])
            assert await plc.program.ask("unlock") == {"ok": True}
            answer = await plc.values(lambda values: values["Locked"] != 0)
            assert answer["values"]["Locked"] == 0.45
            assert "s=Locked" not in report.problems

    asyncio.run(main())


class SmallServer(InternalServer):
    """asyncua's server without most of the standard's nodes, which take seconds to fill in."""

    async def load_standard_address_space(self, shelf_file: object = None) -> None:  # noqa: ARG002
        fill(self.node_mgt_service, LIMITS)


@asynccontextmanager
async def asyncua_plc(port: int) -> AsyncIterator[Node]:
    """A server with one variable, s=Score, which everybody writes."""
    server = Server(SmallServer())
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    namespace = await server.register_namespace(URI)
    node = await server.nodes.objects.add_variable(f"ns={namespace};s=Score", "Score", 0.0)
    await node.set_writable()
    async with server:
        yield node


def test_a_server_that_was_away_gets_the_newest_value_when_it_is_back(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        table = _table(port, {"node": "s=Score"})
        async with running(table, tmp_path, (_source(port),)) as outputs:
            report = outputs.reports[0]
            for newest in (1999, 3999):
                await until(lambda: report.state not in ("connecting", "connected"))
                sent = report.sent
                outputs.take([score(0.01 * step) for step in range(newest - 1999, newest + 1)])
                async with asyncua_plc(port) as node:
                    await until(lambda: report.sent > sent)  # noqa: B023  awaited here
                    assert await node.read_value() == 0.01 * newest
                    assert report.sent == sent + 1

    asyncio.run(main())


def test_write_back_is_secured_as_its_source_is(tmp_path: Path, plc: Plc) -> None:
    async def main() -> None:
        table = _table(plc.port, {"node": "s=Score"})
        source = _source(plc.port, policy="Basic256Sha256")
        async with running(table, tmp_path, (source,)) as outputs:
            outputs.take([score(0.25)])
            await until(lambda: "trust add" in outputs.reports[0].state)
            assert (await plc.values())["values"]["Score"] == 0
            certificate = parse_certificate(plc.program.certificate.read_bytes())
            keep(pki_directory(tmp_path / "state"), "trusted", certificate)
            await plc.values(lambda values: values["Score"] == 0.25)

    asyncio.run(main())
